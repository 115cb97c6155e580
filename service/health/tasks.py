"""Work to be done before a pod serves: what is asked for, and how far it has come.

               begin            succeed
    UNKNOWN ----------> WARNING --------> HEALTHY
                         |   ^ begin again
                    fail +---+---------> UNHEALTHY, given up after 1 + retries attempts

A required task must end HEALTHY before the pod serves, an optional one only end. The code of
a task that runs for the first time is ``not_yet_checked``; of one that runs again, that of the
attempt before.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from service.health.check import Scope
from service.health.status import Status

MAX_PAUSE = 30.0

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class StartupTask:
    """Definition of one task.

    Attributes:
        name: Lower-case identifier; on the wire, in the log and in the ledger.
        once: ``release``: its effect is committed once for each release, whatever number of
            pods start. ``pod``: each pod does it once, however often its workers restart.
        timeout: Seconds one attempt may take; beyond it the attempt has failed, ``timeout``.
        retries: Attempts after the first one that failed, >= 0.
        backoff: Seconds from the first failure to the next attempt; doubled for each further
            one, up to 30.
        required: Whether the pod must not serve without it.
    """

    name: str
    once: Literal["release", "pod"] = "release"
    timeout: float = 60.0
    retries: int = 3
    backoff: float = 1.0
    required: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"task name {self.name!r} must match {_NAME.pattern}")
        if self.once not in ("release", "pod"):
            raise ValueError(f"task {self.name}: once must be release or pod, not {self.once!r}")
        for field in ("timeout", "backoff"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ValueError(f"task {self.name}: {field} must be more than 0 seconds")
        if self.retries < 0:
            raise ValueError(f"task {self.name}: retries must be at least 0")

    def pause(self, failures: int) -> float:
        """Seconds from the end of so many failed attempts to the next."""
        return min(MAX_PAUSE, self.backoff * 2.0 ** min(failures - 1, 16))

    @property
    def patience(self) -> float:
        """Seconds all of its attempts may take, pauses included."""
        pauses = sum(self.pause(failures) for failures in range(1, self.retries + 1))
        return (1 + self.retries) * self.timeout + pauses


@dataclass(frozen=True, slots=True)
class TaskState:
    """How far a task has come.

    Attributes:
        status: UNKNOWN not begun, WARNING running or to be tried again, HEALTHY done,
            UNHEALTHY given up.
        code: Why, a word of the vocabulary; None exactly when HEALTHY.
        attempt: Attempts begun, those of other pods included where the work is theirs too.
        duration: Seconds the newest finished attempt took, or None.
        scope: Among whom the one that does the work is chosen.
        required: Whether the pod must not serve without it.
    """

    status: Status = Status.UNKNOWN
    code: str | None = "not_yet_checked"
    attempt: int = 0
    duration: float | None = None
    scope: Scope = Scope.POD
    required: bool = True

    @property
    def done(self) -> bool:
        """Whether it has succeeded."""
        return self.status is Status.HEALTHY

    @property
    def given_up(self) -> bool:
        """Whether nobody tries it any more."""
        return self.status is Status.UNHEALTHY

    @property
    def holds_up(self) -> bool:
        """Whether the pod must not serve yet."""
        return not self.done and (self.required or not self.given_up)

    def waiting(self, code: str) -> "TaskState":
        """Nobody can begin it, or begin it again, for a reason."""
        return replace(self, status=Status.WARNING if self.attempt else Status.UNKNOWN, code=code)

    def running(self, attempt: int) -> "TaskState":
        """An attempt has begun."""
        code = self.code or "not_yet_checked"
        return replace(self, status=Status.WARNING, code=code, attempt=attempt)

    def failed(self, code: str, duration: float | None, attempt: int) -> "TaskState":
        """An attempt has failed, and there will be another."""
        return replace(self, status=Status.WARNING, code=code, duration=duration, attempt=attempt)

    def abandoned(self, code: str) -> "TaskState":
        """There will be no further attempt."""
        return replace(self, status=Status.UNHEALTHY, code=code)

    def succeeded(self, duration: float | None, attempt: int) -> "TaskState":
        """The work is done."""
        return replace(self, status=Status.HEALTHY, code=None, duration=duration, attempt=attempt)

    def resumed(self, task: StartupTask, scope: Scope, *, serving: bool) -> "TaskState":
        """Where the successor of the process that published this begins.

        Args:
            task: The definition now.
            scope: The scope now.
            serving: Whether the pod has served already: then nothing is tried anew.
        """
        known = replace(self, scope=scope, required=task.required)
        if self.given_up and not serving:
            return TaskState(scope=scope, required=task.required)
        return known
