"""What is watched: the definition of one concern, without the I/O that probes it.

A check never counts for liveness: there is no way to say so here, because a
restart repairs nothing outside the pod. Liveness comes from the workers' own
stamps (see ``workers.py``).
"""

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Kind(Enum):
    """Which question is asked."""

    LIVENESS = "liveness"
    READINESS = "readiness"
    STARTUP = "startup"


class Scope(StrEnum):
    """Who runs the probe: every pod for itself, or one pod of the fleet for all."""

    POD = "pod"
    FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many results in a row it takes to change the published status.

    Attributes:
        failure: Unhealthy results before a working check is called unhealthy, >= 1.
        success: Other results before an unhealthy check is believed again, >= 1.
    """

    failure: int = 2
    success: int = 2

    def __post_init__(self) -> None:
        if self.failure < 1 or self.success < 1:
            raise ValueError(f"thresholds count from 1, not {self.failure} and {self.success}")


@dataclass(frozen=True, slots=True)
class Check:
    """Definition of one check.

    Attributes:
        name: Lower-case identifier; on the wire, in metrics and in settings.
        interval: Seconds from the end of a run to the start of the next.
        timeout: Seconds a run may take; beyond it the run is a failure, ``timeout``.
        failing_interval: The interval while the check fails, seconds.
        thresholds: The hysteresis.
        scope: Who runs it.
        critical: Whether the pod is not ready without it.
        startup: Whether the pod has not started before it has passed once.
        unconfigured: None, or the code that says why there is nothing to probe.
    """

    name: str
    interval: float = 5.0
    timeout: float = 1.0
    failing_interval: float = 1.0
    thresholds: Thresholds = Thresholds()
    scope: Scope = Scope.POD
    critical: bool = False
    startup: bool = False
    unconfigured: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"check name {self.name!r} must match {_NAME.pattern}")
        for field in ("interval", "timeout", "failing_interval"):
            if not getattr(self, field) > 0:
                raise ValueError(f"check {self.name}: {field} must be more than 0 seconds")

    @property
    def expiry(self) -> float:
        """Age in seconds beyond which the newest result says nothing any more."""
        return 3 * self.interval + self.timeout + 1
