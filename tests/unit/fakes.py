"""What the unit tests pass in place of clocks, and short ways to say what a run found."""

import threading
import time
from collections.abc import Callable
from typing import Any

from service.health import Check, CheckState, Result, Run, Status
from service.health.tasks import TaskState

PATIENCE = 60.0

HEALTHY = Result()
WARNING = Result.failed("slow_response", "it took long")
UNHEALTHY = Result.failed("connection_refused", "nobody listens")
# One letter a run, and one a published status; "_" is a silence until the result has expired.
RESULTS = {".": HEALTHY, "w": WARNING, "x": UNHEALTHY}
LETTERS = {
    Status.NOT_CONFIGURED: "N",
    Status.HEALTHY: "H",
    Status.WARNING: "W",
    Status.UNKNOWN: "?",
    Status.UNHEALTHY: "U",
}


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def nanoseconds(self) -> int:
        """The same moment as the scoreboard wants it."""
        return round(self.now * 1_000_000_000)

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds


def until(condition: Callable[[], Any], what: str = "it") -> None:
    """Waits for what another thread or process is about to do."""
    deadline, never = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE} s"
        never.wait(0.001)


def run(
    result: Result = HEALTHY,
    finished: float = 1000.0,
    *,
    at: float = 1_700_000_000.0,
    duration: float = 0.01,
) -> Run:
    """One finished run."""
    return Run(result, finished, at, duration)


def after(check: Check, history: str, *, step: float = 1.0) -> CheckState:
    """Where a check stands after a history such as ``.xx``, a run each ``step`` seconds."""
    state = CheckState.initial(check)
    for count, letter in enumerate(history):
        state = state.observe(run(RESULTS[letter], finished=1000.0 + step * count))
    return state


class Startup:
    """Startup tasks whose states a test sets by hand."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskState] = {}
        self.changed: Callable[[], None] | None = None
        self.stopped = False

    def states(self) -> dict[str, TaskState]:
        return self.tasks

    def start(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def retire(self) -> None:
        self.stopped = True

    def stop(self) -> None:
        self.stopped = True
