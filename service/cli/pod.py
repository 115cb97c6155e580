"""The running pod as commands see it: through the scoreboard, without HTTP."""

import logging
from typing import Any

import structlog

from service import checks
from service.health import CheckState, Lifecycle, Pod, Status
from service.scoreboard import find
from service.settings import Settings
from service.web.payload import summary
from service.web.reader import Reader

UNREADABLE = "the newest publication cannot be read"


def reader(given: Settings) -> Reader:
    """Eyes on the pod that runs with these settings.

    Raises:
        ScoreboardError: There is none, or none that may be read.
    """
    # What the reader would log, the commands say: see obstacles.
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    return Reader(
        find(given.directory), checks.definitions(given, redis=True), checks.limits(given)
    )


def check_document(state: CheckState, now: float) -> dict[str, Any]:
    """A check as endpoints show it, with what only matters to people who look at it."""
    return {
        **summary(state),
        "age_seconds": round(max(0.0, now - state.run.finished), 1) if state.run else None,
        "critical": state.check.critical,
    }


def obstacles(pod: Pod) -> list[str]:
    """Why the pod is not ready, in words; nothing when it is."""
    snapshot = pod.snapshot
    starting = snapshot.lifecycle is Lifecycle.STARTING
    if not pod.readable:
        return [UNREADABLE]
    found = [] if snapshot.lifecycle is Lifecycle.SERVING else [snapshot.lifecycle.value]
    found += [
        obstacle(name, state.status, state.code)
        for name, state in snapshot.states.items()
        if not state.status.passes
        and (state.check.critical or (starting and _needed_to_start(state)))
    ]
    found += [
        obstacle(f"task {name}", task.status, task.code)
        for name, task in snapshot.tasks.items()
        if starting and task.holds_up
    ]
    return found


def obstacle(name: str, status: Status, code: str | None) -> str:
    """What keeps a pod, such as ``redis unhealthy (timeout)``."""
    return f"{name} {status.word} ({code})"


def _needed_to_start(state: CheckState) -> bool:
    return state.run is None or (state.check.startup and not state.passed_once)
