"""The running pod as commands see it: through the scoreboard, without HTTP."""

import logging

import structlog

from service import checks
from service.scoreboard import find
from service.settings import Settings
from service.web.reader import Reader


def reader(given: Settings) -> Reader:
    """Eyes on the pod that runs with these settings.

    Raises:
        ScoreboardError: There is none, or none that may be read.
    """
    # What the reader would log, the commands say: see ``Pod.obstacles``.
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    return Reader(
        find(given.directory), checks.definitions(given, redis=True), checks.limits(given)
    )
