"""What one pod knows of the others, and what follows from it.

A check that fails here is ``local`` when most of the other pods pass it, else ``shared``. Under
a readiness floor a pod stays ready with a critical check that fails for too many: taking them
all out of traffic repairs nothing. Both need a view of the fleet that is fresh; without one
nothing is said, and readiness is strict.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from service.health.state import CheckState
from service.health.status import Status


class Stance(Enum):
    """What a pod does about a check that one pod runs for all."""

    ALONE = "alone"  # runs it for itself: nothing comes from the others
    FOLLOWER = "follower"  # reads what the holder of the lease has found
    HOLDER = "holder"  # runs it, and tells the others


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet as this pod last saw it.

    Attributes:
        seen: When it was asked for, monotonic seconds.
        seen_at: The same, Unix seconds; for display only.
        expiry: Age in seconds beyond which it says nothing any more.
        others: How many other pods there were.
        elsewhere: In how many of those each check failed, by its name.
        floor: Percent of the pods that may go unready for one check; None is strict.
        members: The pods, and who holds which lease, as a JSON object.
        fresh: Whether it is younger than ``expiry``; readers find out by ``at``.
    """

    seen: float
    seen_at: float
    expiry: float
    others: int
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    floor: float | None = None
    members: str = "{}"
    fresh: bool = True

    @property
    def fresh_until(self) -> float:
        """When a view that is fresh no longer is, monotonic seconds."""
        return self.seen + self.expiry if self.fresh else float("inf")

    def at(self, now: float) -> "FleetView":
        """The view as a reader must take it at ``now``."""
        return replace(self, fresh=self.fresh and now <= self.seen + self.expiry)

    def origin(self, state: CheckState) -> str | None:
        """Where a failure comes from: ``local``, ``shared``, or None where that is not known."""
        if not self.fresh or not self.others or not state.failing:
            return None
        failing = self.elsewhere.get(state.check.name, 0)
        return "local" if 2 * failing < self.others else "shared"

    def failing_percent(self, name: str) -> float:
        """In how many of all pods a check fails that fails here."""
        return 100 * (1 + self.elsewhere.get(name, 0)) / (1 + self.others)


def floored(state: CheckState, view: FleetView | None) -> CheckState:
    """A state as it counts for the pod's readiness, under the floor of an aged view."""
    if view is None or view.floor is None or not view.fresh or not view.others:
        return state
    if not state.check.critical or state.status is not Status.UNHEALTHY:
        return state
    if view.failing_percent(state.check.name) <= view.floor:
        return state
    return replace(state, status=Status.WARNING)
