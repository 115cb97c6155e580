"""What one run of a probe found, and when."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from service.health.codes import is_code, status_of
from service.health.status import Status


@dataclass(frozen=True, slots=True)
class Result:
    """What one run found.

    Attributes:
        status: HEALTHY, WARNING or UNHEALTHY.
        code: Word of the vocabulary; None exactly when the status is HEALTHY.
        response_time: Seconds the service took to answer; None if it did not answer.
        retry_after: Seconds the service asked to be left alone for, or None.
        reason: The full story, for the log only. Never put on the wire.
        details: What was measured, as JSON values, in the shape its endpoint shows.
    """

    status: Status = Status.HEALTHY
    code: str | None = None
    response_time: float | None = None
    retry_after: float | None = None
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in (Status.HEALTHY, Status.WARNING, Status.UNHEALTHY):
            raise ValueError(f"a run ends healthy, warning or unhealthy, not {self.status.word}")
        if (self.code is None) != (self.status is Status.HEALTHY):
            raise ValueError("a code is given exactly when the status is not healthy")
        if self.code is not None and not is_code(self.code):
            raise ValueError(f"{self.code!r} is not a documented code")
        for seconds in (self.response_time, self.retry_after):
            if seconds is not None and not 0 <= seconds < inf:
                raise ValueError(f"{seconds!r} is no number of seconds")

    @classmethod
    def failed(cls, code: str, reason: str = "", **more: Any) -> "Result":
        """The result a code leads to by itself: unhealthy, or warning for the mild ones."""
        return cls(status_of(code), code, reason=reason, **more)


class CheckFailed(Exception):  # noqa: N818 - what happened, not what kind of object it is
    """Raised by a probe that knows why it fails.

    Attributes:
        code: Word of the vocabulary, such as ``connection_refused``.
        reason: The full story, for the log only.
        result: The two as what a run found.

    Raises:
        KeyError: The code is not in the vocabulary.
        ValueError: The code does not stand for a failure or a warning.
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(reason or code)
        self.code = code
        self.reason = reason
        self.result = Result.failed(code, reason)


# Returning nothing means healthy. A probe may have a ``close()``: the monitor calls it, from
# its own thread, when a run overran; it drops what the probe holds and so wakes a stuck call.
Probe = Callable[[], Result | None]


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a probe.

    Attributes:
        result: What it found.
        finished: When it ended, seconds on the monotonic clock.
        finished_at: When it ended, Unix seconds; for display only.
        duration: How long it took, seconds.
    """

    result: Result
    finished: float
    finished_at: float
    duration: float
