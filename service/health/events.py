"""What has turned between two moments: a check's published status, or how the pod stands.

    before, after  ->  Event, or None where nothing has turned

Whoever wants to hear of transitions derives them from what he saw last and what he sees now;
nothing here knows of a log or a receiver.
"""

from dataclasses import dataclass
from enum import StrEnum

from service.health.check import Scope
from service.health.fleet import FleetView
from service.health.snapshot import Lifecycle, Snapshot
from service.health.state import CheckState


class Standing(StrEnum):
    """How a pod stands: its lifecycle, and while it serves whether it is ready."""

    STARTING = "starting"
    READY = "ready"
    NOT_READY = "not_ready"
    MAINTENANCE = "maintenance"
    DRAINING = "draining"

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Standing":
        """How the pod of an aged snapshot stands."""
        if snapshot.lifecycle is not Lifecycle.SERVING:
            return cls(snapshot.lifecycle.value)
        return cls.READY if snapshot.ready else cls.NOT_READY


@dataclass(frozen=True, slots=True)
class Event:
    """A transition.

    Attributes:
        check: Name of the check; None where it is the pod that has turned.
        before: What it was: a status word, or a ``Standing``.
        after: What it is now.
        codes: Why: the check's code, or those of the checks that keep the pod from being
            ready, by their names. Empty when all is well.
        at: When it turned, Unix seconds.
        lasted: Seconds it had been what it was, None where nobody knows.
        scope: For whom it holds.
        origin: Where a failure comes from: ``local``, ``shared``, or None if that is not known.
    """

    check: str | None
    before: str
    after: str
    codes: dict[str, str]
    at: float
    lasted: float | None
    scope: Scope = Scope.POD
    origin: str | None = None


def turned(before: CheckState, after: CheckState, view: FleetView | None) -> Event | None:
    """What has become of a check.

    Args:
        before: As it was published last, aged.
        after: As it is published now.
        view: The other pods, aged.
    """
    if after.status is before.status or after.since is None or after.since_at is None:
        return None
    return Event(
        check=after.check.name,
        before=before.status.word,
        after=after.status.word,
        codes={after.check.name: after.code} if after.code else {},
        at=after.since_at,
        lasted=None if before.since is None else max(0.0, after.since - before.since),
        scope=after.check.scope,
        origin=view.origin(after) if view else None,
    )


def pod_turned(
    before: Standing, after: Snapshot, at: float, lasted: float | None = None
) -> Event | None:
    """What has become of the pod.

    Args:
        before: How it stood.
        after: What is published now, aged, the lifecycle filled in.
        at: This moment, Unix seconds.
        lasted: Seconds it had stood like that.
    """
    standing = Standing.of(after)
    if standing is before:
        return None
    failing = {
        name: state.code or state.status.word
        for name, state in after.critical.items()
        if standing is Standing.NOT_READY and not state.status.passes
    }
    return Event(None, before.value, standing.value, failing, at, lasted)
