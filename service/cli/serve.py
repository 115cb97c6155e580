"""``serve``: becomes gunicorn, once it is clear that it can start."""

import argparse
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import NoReturn

import structlog

from service import settings
from service.cli.output import answer
from service.log import configure
from service.settings import Settings

BIND_ATTEMPTS = 3


def run(options: argparse.Namespace) -> int:
    """Becomes gunicorn, once it is clear that it can start."""
    given = settings.load()
    if given.health_checks or given.startup_tasks:
        command = [sys.executable, "-m", "service", "preflight", "--only-checks"]
        status = subprocess.run(command, env=settings.environment(), check=False).returncode  # noqa: S603
        if status:
            return status
    for variable in () if settings.activated() else ("port", "health_port"):
        why = _cannot_bind(given.bind_host, getattr(given, variable))
        if why:
            return answer(f"{variable.upper()} {getattr(given, variable)}: {why}", 1)
    _say_where(given)
    # The script, not `-m gunicorn`: USR2 starts again what was started, by its first argument.
    gunicorn = Path(sysconfig.get_path("scripts")) / "gunicorn"
    command = [sys.executable, str(gunicorn), "--config", str(_configuration())]
    return _become([*command, *options.gunicorn])


def _become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _configuration() -> Path:
    """gunicorn.conf.py, beside the package in a checkout and inside it when installed."""
    package = Path(__file__).parents[1]
    inside = package / "gunicorn.conf.py"
    return inside if inside.exists() else package.parent / "gunicorn.conf.py"


def _cannot_bind(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(BIND_ATTEMPTS):
            try:
                probe.bind((host, port))
            except OSError as error:
                why = f"cannot listen there: {error.strerror or error}"
            else:
                return None
            threading.Event().wait(1.0)  # a predecessor may be just leaving
    return why


def _say_where(given: Settings) -> None:
    """One log line for each address worth trying."""
    configure(given.log_level)
    log = structlog.get_logger("service")
    web, health = f"http://localhost:{given.port}", f"http://localhost:{given.health_port}"
    log.info("is the pod well?", url=f"{web}/health")
    log.info("a page for people", url=f"{health}/status")
    log.info("everything there is to know", url=f"{web}/api/system/health/detailed")
    log.info("for Prometheus", url=f"{web}/metrics")
    log.info("for probes, never starved by traffic", url=f"{health}/api/system/health/readiness")
