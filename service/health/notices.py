"""What is told of a check to the outside, by whom and when.

               fails                 fails, and now the pod is not ready
    NONE ---------------> FAILING -----------------------------> UNREADY
      <------------------------------------------------------------'
               passes: restored, with how long it lasted

What was last told is part of the check's state, so a successor of this process, or of the holder
of the lease, goes on from there. A notice follows from the state alone; whoever repeats one, for
not knowing that it was told, repeats it under the same key. Where there are several receivers,
each is told by what it has been told itself.

- Of one check a receiver gets at most one notice an interval. What comes and goes within it is
  never told; what is different when it is over is told then.
- ``warning`` is no trouble: it works. ``unknown`` is no news, good or bad: a monitor that lives
  has a result soon, and one that does not cannot tell.
- A failure in maintenance or while draining is told if it is still there afterwards.
- The pod is no subject of its own: serving, it is only unready because of a critical check, and
  one outage is one notice. The notice says whether the pod is ready.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import inf

from service.health.check import Scope
from service.health.fleet import FleetView, Stance
from service.health.snapshot import Lifecycle, Snapshot
from service.health.state import CheckState, Told
from service.health.status import Status


class Trouble(IntEnum):
    """How bad it is with a check."""

    NONE = 0
    FAILING = 1
    UNREADY = 2  # and the pod is out of traffic for it


@dataclass(frozen=True, slots=True)
class Notice:
    """What is to be told of one check.

    Attributes:
        check: Its name.
        trouble: How bad it is; NONE when it is restored.
        status: Its status.
        code: Why it fails or failed, a word of the vocabulary.
        since_at: When what is told began, Unix seconds.
        failing_since_at: When it began to fail, Unix seconds.
        critical: Whether the pod is not ready without it.
        ready: Whether the pod is ready.
        alone: Whether the pod speaks for itself, and not for the fleet.
        pod: Id of the pod it is about: the one that speaks, or the one that had spoken.
        origin: Where a failure comes from: ``local``, ``shared``, or None if that is not sure.
    """

    check: str
    trouble: Trouble
    status: Status
    code: str | None
    since_at: float
    failing_since_at: float
    critical: bool
    ready: bool
    alone: bool
    pod: str
    origin: str | None

    @property
    def lasted(self) -> float | None:
        """Seconds it has failed; None while it does."""
        if self.trouble is not Trouble.NONE:
            return None
        return max(0.0, self.since_at - self.failing_since_at)

    @property
    def key(self) -> str:
        """The same for the same news, whoever tells them: a failure is known by its beginning."""
        owner = self.pod if self.alone else Scope.FLEET.value
        return f"{owner} {self.check} {self.trouble.value} {self.failing_since_at!r}"

    def told(self, at: float, pod: str) -> Told:
        """What is kept of it once it was told.

        Args:
            at: This moment, Unix seconds.
            pod: Id of the pod that has told it.
        """
        code = self.code if self.trouble else None
        return Told(self.trouble.value, code, self.since_at, at, pod, self.alone)


@dataclass(frozen=True, slots=True)
class Teller:
    """Who tells.

    Attributes:
        pod: Id of this pod.
        interval: Seconds between two notices of one check to one receiver at least.
    """

    pod: str
    interval: float

    def due(self, snapshot: Snapshot, stance: Stance, now: float, at: float) -> Iterator[Notice]:
        """What this pod has to tell.

        Args:
            snapshot: What is published, the lifecycle filled in.
            stance: Whether this pod speaks for the fleet.
            now: This moment, monotonic seconds.
            at: The same, Unix seconds.
        """
        aged = snapshot.at(now)
        for name, published in snapshot.states.items():
            state = published.at(now)
            trouble = _trouble(state, counts=not aged.states[name].status.passes)
            notice = trouble is not None and self._notice(state, trouble, aged, stance)
            if notice and not self._too_soon(state.told, at):
                yield notice

    def _notice(
        self, state: CheckState, trouble: Trouble, aged: Snapshot, stance: Stance
    ) -> Notice | None:
        told = state.told
        known = told.trouble if told else Trouble.NONE
        since_at = state.since_at or 0.0
        if trouble > known:
            if not self._tells_failure(state, aged, stance):
                return None
            # What has become worse is still the same failure.
            since_at = told.since_at if told and known else since_at
            code, began, pod = state.code, since_at, self.pod
            alone = state.check.scope is Scope.POD
        elif told and known and not trouble:
            if not self._tells_end(told, stance):
                return None
            code, began, pod, alone = told.code, told.since_at, told.pod, told.alone
        else:
            return None
        return Notice(
            check=state.check.name,
            trouble=trouble,
            status=state.status,
            code=code,
            since_at=since_at,
            failing_since_at=began,
            critical=state.check.critical,
            ready=aged.ready,
            alone=alone,
            pod=pod,
            origin=_origin(state, aged.fleet),
        )

    def _tells_failure(self, state: CheckState, aged: Snapshot, stance: Stance) -> bool:
        """What this pod has found itself, or the fleet's as the holder; never what is planned."""
        if aged.lifecycle in (Lifecycle.DRAINING, Lifecycle.MAINTENANCE):
            return False
        return state.check.scope is Scope.POD or stance is Stance.HOLDER

    def _tells_end(self, told: Told, stance: Stance) -> bool:
        """Who has told the failure; of the fleet's, whoever speaks for it now, if anybody does."""
        if stance is Stance.HOLDER:
            return True
        return told.pod == self.pod and (told.alone or stance is Stance.ALONE)

    def _too_soon(self, told: Told | None, at: float) -> bool:
        # A clock that was set back must not silence a check for hours.
        return told is not None and 0 <= at - told.at < self.interval


def behind(told: Iterable[Told | None], *, works: bool) -> Told | None:
    """What the receiver knows that has most to hear of a check.

    A successor who takes it for what all of them know withholds nothing, and repeats at worst.

    Args:
        told: What each receiver was last told of the check.
        works: Whether it works now.
    """
    newest_first = sorted(told, key=lambda each: each.at if each else -inf, reverse=True)
    furthest = max if works else min
    return furthest(newest_first, key=lambda each: each.trouble if each else Trouble.NONE)


def _origin(state: CheckState, view: FleetView | None) -> str | None:
    """Where a failure comes from, as far as that is sure.

    That others fail, too, is sure at once. That they do not is, when they have been seen after
    each of them must have noticed.
    """
    origin = view.origin(state) if view else None
    if origin == "local" and view and state.since is not None:
        return origin if view.seen > state.since + state.check.expiry else None
    return origin


def _trouble(state: CheckState, *, counts: bool) -> Trouble | None:
    """How bad it is with an aged check; None where that is no news.

    Args:
        state: The check, undamped by any floor.
        counts: Whether it fails under the floor, too.
    """
    if state.since_at is None or state.status in (Status.NOT_CONFIGURED, Status.UNKNOWN):
        return None
    if state.status.passes:
        return Trouble.NONE
    return Trouble.UNREADY if state.check.critical and counts else Trouble.FAILING
