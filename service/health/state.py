"""The state machine of one check: hysteresis between results and published status.

             failure x thresholds.failure
    HEALTHY ------------------------------->  UNHEALTHY
            <-------------------------------
             success x thresholds.success

Until the failures are confirmed the check is WARNING, with the code of the failing run.
Time enters only as the ``finished`` of a run, so a test can write its own history.
The first result ever counts at once, and so does the first after an expiry: an unknown
check has no reputation to protect.
"""

from dataclasses import dataclass, replace

from service.health.check import Check
from service.health.history import History
from service.health.result import Run
from service.health.status import Status

NO_HISTORY = History()


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody outside was last told about a check; see ``notices``.

    Attributes:
        trouble: How bad it was said to be, the number of a ``Trouble``.
        code: Why, a word of the vocabulary; None when it was said to work.
        since_at: Since when it was like that, Unix seconds.
        at: When that was told, Unix seconds.
        pod: Id of the pod that told it.
        alone: Whether that pod spoke for itself, and not for the fleet.
    """

    trouble: int
    code: str | None
    since_at: float
    at: float
    pod: str
    alone: bool

    def owed_by(self, pod: str) -> bool:
        """Whether a pod has told a failure for itself alone, and so has to tell its end."""
        return self.alone and self.trouble > 0 and self.pod == pod


@dataclass(frozen=True, slots=True)
class CheckState:
    """Where a check stands.

    Attributes:
        check: Its definition.
        status: The published status.
        code: Why, a word of the vocabulary; None exactly when HEALTHY.
        streak: Results in a row that speak against the published status.
        run: The newest finished run, undamped; None when none has finished.
        passed_once: Whether it has ever been HEALTHY or WARNING in the pod's life.
        failed_runs: Unhealthy runs since the pod started.
        passed_at: End of the newest run that was not unhealthy, Unix seconds, or None.
        history: The newest runs and turns; nothing follows from it.
        since: When the published status began, monotonic seconds; None before the first result.
        since_at: The same, Unix seconds.
        told: What was last told about it, None when nothing ever was; of several receivers what
            the one knows that has most to hear.
    """

    check: Check
    status: Status = Status.UNKNOWN
    code: str | None = "not_yet_checked"
    streak: int = 0
    run: Run | None = None
    passed_once: bool = False
    failed_runs: int = 0
    passed_at: float | None = None
    history: History = NO_HISTORY
    since: float | None = None
    since_at: float | None = None
    told: Told | None = None

    @classmethod
    def initial(cls, check: Check) -> "CheckState":
        """The state before the first result."""
        if check.unconfigured:
            return cls(check, Status.NOT_CONFIGURED, check.unconfigured, passed_once=True)
        return cls(check)

    @property
    def failing(self) -> bool:
        """From the first unhealthy result until the status has left UNHEALTHY again."""
        newest = self.run and self.run.result.status
        return Status.UNHEALTHY in (newest, self.status)

    def expired(self, now: float) -> bool:
        """Whether the newest result is too old to say anything at ``now``."""
        return self.run is not None and now - self.run.finished > self.check.expiry

    def at(self, now: float) -> "CheckState":
        """The state as a reader must report it at ``now``, whatever became of the writer."""
        if self.run is None or not self.expired(now):
            return self
        bare = replace(self.run.result, details={}, response_time=None)
        return replace(
            self,
            status=Status.UNKNOWN,
            code="stale",
            run=replace(self.run, result=bare),
            since=self.run.finished + self.check.expiry,
            since_at=self.run.finished_at + self.check.expiry,
        )

    def bare(self) -> "CheckState":
        """The same without what its newest run measured, for where there is no room for it."""
        if self.run is None:
            return self
        return replace(self, run=replace(self.run, result=replace(self.run.result, details={})))

    def observe(self, run: Run) -> "CheckState":
        """The state after one more run."""
        unhealthy = run.result.status is Status.UNHEALTHY
        status, code, streak = self._damped(run, unhealthy=unhealthy)
        before = self.at(run.finished).status
        lasts = self.since is not None and status is before
        return replace(
            self,
            status=status,
            code=code,
            streak=streak,
            run=run,
            passed_once=self.passed_once or status.passes,
            failed_runs=self.failed_runs + unhealthy,
            passed_at=self.passed_at if unhealthy else run.finished_at,
            history=self.history.after(run, before, status, code),
            since=self.since if lasts else run.finished,
            since_at=self.since_at if lasts else run.finished_at,
        )

    def _damped(self, run: Run, *, unhealthy: bool) -> tuple[Status, str | None, int]:
        found = run.result.status, run.result.code
        if self.status is Status.UNKNOWN or self.expired(run.finished):
            return *found, 0
        if unhealthy == (self.status is Status.UNHEALTHY):
            return *found, 0
        streak = self.streak + 1
        thresholds = self.check.thresholds
        if streak >= (thresholds.failure if unhealthy else thresholds.success):
            return *found, 0
        if unhealthy:
            return Status.WARNING, run.result.code, streak
        return self.status, self.code, streak
