"""Logs: one JSON line an event on standard error, gunicorn's own lines included.

On a terminal the lines are for people. Successful requests to health paths leave no line in
the access log; failed ones do.
"""

import logging
import logging.config
import sys
from datetime import timedelta
from typing import Any

import structlog
from gunicorn.glogging import Logger

from service.web.front import HOT, is_ours

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def dict_config(level: str) -> dict[str, Any]:
    """The configuration of the standard library's logging, for gunicorn too."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        "foreign_pre_chain": _SHARED,
    }
    quiet = {"level": level, "handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": formatter},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "lines",
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {"gunicorn.error": quiet, "gunicorn.access": quiet},
    }


def configure(level: str) -> dict[str, Any]:
    """Sets up logging for this process and its children; returns ``dict_config``'s."""
    config = dict_config(level)
    logging.config.dictConfig(config)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    return config


class AccessLog(Logger):
    """gunicorn's logger, without the lines nobody reads."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: timedelta) -> None:
        """Writes one line for a request, but for a health question that was answered 200."""
        if not self.access_log.isEnabledFor(logging.INFO):
            return
        path = environ.get("PATH_INFO", "")
        if not (str(resp.status).startswith("200") and (path in HOT or is_ours(path))):
            super().access(resp, req, environ, request_time)
