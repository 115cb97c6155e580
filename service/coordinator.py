"""One pod's part in the fleet: the loop that syncs, and the only thread that talks to Redis for it.

    sync      once an interval, the holder of the lease twice; at once when a check here turns
    publish   as the holder, when a run of a fleet-scoped check has ended here, or one was told of
    look      at every pod, for the view of the fleet; the more pods, the more rarely
    leave     on a stop

What it learns lies ready as values that are replaced whole: the monitor asks for its stance and
for the shared results and never waits. A call is made in a thread of its own, so that even a
name server that hangs is left behind; while Redis is away the loop comes back with full jitter,
and the view of the fleet grows old, which every reader sees for himself.
"""

import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from service.coordination.client import Client
from service.coordination.fleet import KEEP, MAX_RESULT_BYTES, Fleet, Report, Synced
from service.coordination.lease import Term, Unavailable
from service.health import (
    Check,
    CheckState,
    FleetView,
    Phase,
    ProgressLimits,
    Role,
    Scope,
    Snapshot,
    Stance,
    Status,
    Told,
)
from service.health.codes import is_code
from service.health.snapshot import Encoder, decode
from service.monitor import MAX_LOST, Lane
from service.probes.errors import mask
from service.scoreboard import Scoreboard

log = structlog.get_logger(__name__)

# One call to Redis, and one with the name looked up.
CALL_SECONDS = 0.25
LIMIT_SECONDS = 1.0
JITTER = 0.2
FIRST_JITTER = 1.0
# So long a pod that has just started waits for a first word from the others.
FIRST_PATIENCE = 3.0
SOONEST = 1.0
RETRY_FIRST, RETRY_LAST = 0.5, 30.0
TTL_INTERVALS = 1.5
# A look at a fleet costs its size; this keeps the sum over all pods where it is for 100.
LOOK_SECONDS_PER_POD = 0.1
KEEP_RESULTS = 600.0
# Failing checks that a pod names to the others: what it says of itself has room for no more.
MAX_NAMED = 20
# As JSON inside of JSON it may double, and has to fit into a publication.
MAX_MEMBERS_BYTES = 96 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """What makes a pod one of a fleet.

    Attributes:
        key_prefix: Begins every key; see ``lease.keyspace``.
        about: What the pod always says of itself, such as its release.
        limits: How long a worker may stand still.
        interval: Seconds from one sync to the next.
        floor: Percent of the pods that may go unready for one check; None is strict.
    """

    key_prefix: str
    about: Mapping[str, Any]
    limits: ProgressLimits
    interval: float
    floor: float | None


class Coordinator:
    """The loop. See the module.

    Args:
        connect: Makes a client, without I/O.
        board: The pod's scoreboard.
        checks: Every check of the pod; those of fleet scope are shared.
        member: What makes the pod one of a fleet.
        clock: Monotonic seconds.
        wall: Unix seconds.
        chance: Random numbers in [0, 1).
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        board: Scoreboard,
        checks: Iterable[Check],
        member: Member,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251 - for display
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.interval = interval = member.interval
        self._checks = {check.name: check for check in checks if not check.unconfigured}
        self._board = board
        self._member = member
        self._clock, self._wall, self._chance = clock, wall, chance
        self._keep = KEEP * interval
        self._calls = _Calls(
            lambda: _Connected(connect(), member.key_prefix, self._checks, self._keep)
        )
        self._term = Term(board.pod_id, TTL_INTERVALS * interval, clock)
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="coordinator", daemon=True)
        self._started = clock()
        self._told = Snapshot({})
        self._failures = 0
        self._faults: dict[str, str] = {}
        self._given_up = False
        self._synced: float | None = None
        self._said: Any = None
        self._version = ""
        self._shared: Mapping[str, CheckState] = {}
        self._published: dict[str, tuple[float, Told | None]] = {}
        self._publications = 0
        self._cut: set[str] = set()
        self._looked = self._pruned = float("-inf")
        self._members = "{}"
        self._view: FleetView | None = None

    # -- asked by the monitor, which never waits here

    def shares(self, check: Check) -> bool:
        """Whether results of a check are shared."""
        return check.scope is Scope.FLEET and check.name in self._checks

    def stance(self) -> Stance:
        """Who runs the fleet-scoped checks at this moment."""
        now, synced = self._clock(), self._synced
        if self._term.held(now):
            return Stance.HOLDER
        if synced is None:
            waiting = not self._failures and now - self._started < FIRST_PATIENCE
            return Stance.FOLLOWER if waiting else Stance.ALONE
        return Stance.FOLLOWER if now - synced <= self._keep else Stance.ALONE

    def results(self) -> Mapping[str, CheckState]:
        """The newest shared results by check; a new mapping whenever there are others."""
        return self._shared

    def view(self) -> FleetView | None:
        """The fleet as it was last seen."""
        return self._view

    def tell(self, snapshot: Snapshot) -> None:
        """Takes in what this pod's monitor publishes, undamped by any floor."""
        self._told = snapshot
        if self._condition() != self._said or self._news():
            self._woken.set()

    # -- the thread

    def start(self) -> None:
        """Begins to sync."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop; the lease is released, within a second. May be called more than once."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(LIMIT_SECONDS + 0.5)

    def _loop(self) -> None:
        due = self._clock() + FIRST_JITTER * self._chance()
        while not self._stopping.is_set():
            self._woken.wait(max(0.0, due - self._clock()))
            self._woken.clear()
            if self._stopping.is_set():
                break
            due = self.round(due)
        self._leave()

    def round(self, due: float) -> float:
        """Does what there is to do; when there is more, monotonic seconds.

        Args:
            due: When the next sync is due; a check that has turned brings it forward.
        """
        try:
            now = self._clock()
            turned = self._synced is not None and self._condition() != self._said
            if turned and not self._failures:
                due = min(due, max(now, (self._synced or 0.0) + SOONEST * self._chance()))
            syncs = now >= due
            if syncs:
                synced = self._sync()
                due = self._next(now)
                self._look(synced)
            # After a failure it waits for a sync: there are news here every second until it works.
            if syncs or not (self._failures or "publish" in self._faults):
                self._publish()
        except Unavailable as error:
            return self._failed(str(error))
        except Exception:  # a fault of ours; the pod goes on alone, and this thread tries again
            log.exception("coordination failed")
            return self._failed("see the log")
        return due

    def _next(self, now: float) -> float:
        jitter = 1 + JITTER * (2 * self._chance() - 1)
        if self._term.held(self._clock()):
            return now + 0.5 * self.interval * (1 + 0.5 * (jitter - 1))
        if self._hungry():
            return now + min(SOONEST, 0.5 * self.interval) * jitter
        return now + self.interval * jitter

    def _failed(self, reason: str) -> float:
        if self._failures == 0:
            log.warning("fleet out of reach", reason=reason)
        self._failures += 1
        # Back within a lease and two syncs, however short these are.
        last = min(RETRY_LAST, (TTL_INTERVALS + 2) * self.interval)
        ceiling = min(last, RETRY_FIRST * 2.0 ** min(self._failures, 10))
        return self._clock() + max(RETRY_FIRST, ceiling * self._chance())

    # -- what is told

    def _failing(self) -> frozenset[str]:
        states = self._told.states.values()
        return frozenset(state.check.name for state in states if state.status is Status.UNHEALTHY)

    def _condition(self) -> Any:
        """What the others should hear of at once when it turns."""
        return self._failing(), self._board.lifecycle

    def _report(self) -> Report:
        board, now = self._board, self._clock()
        told = replace(self._told.at(now), lifecycle=board.lifecycle)
        workers = [worker for worker in board.workers() if worker.role is Role.WEB]
        live = [
            worker
            for worker in workers
            if worker.phase is Phase.READY and not worker.stuck(now, self._member.limits)
        ]
        failing = self._failing()
        info = {
            **self._member.about,
            "lifecycle": told.lifecycle.value,
            "ready": told.ready,
            "workers_ok": len(live),
            "workers_total": board.expected,
            "failing": sorted(failing)[:MAX_NAMED],
        }
        return Report(board.pod_id, info, failing)

    # -- the calls

    def _sync(self) -> Synced:
        want = not self._board.draining
        had = self._term.held(self._clock())
        if not want and not self._given_up:
            self._term.end()  # once: a later sync still names the owner that is to be forgotten
        self._given_up = not want
        bid, condition, report = self._term.bid(), self._condition(), self._report()
        synced = self._calls.make(
            lambda fleet: fleet.sync(
                bid, report, ttl_ms=self._term.ttl_ms, want=want, known=self._version
            )
        )
        grant = self._term.settle(bid, synced.fence)
        if bool(grant) != bool(had):
            log.info("lease held" if grant else "lease gone", role="checks")
        if self._failures:
            log.info("fleet in reach")
        self._failures, self._synced, self._said = 0, bid.at, condition
        if synced.version != self._version and synced.body is not None:
            self._adopt(synced, bid.at)
        self._see(synced, bid.at, report.failing)
        return synced

    def _see(self, synced: Synced, at: float, failing: frozenset[str]) -> None:
        self._view = FleetView(
            seen=at,
            seen_at=self._wall(),
            expiry=self._keep,
            others=max(0, synced.pods - 1),
            elsewhere={
                name: max(0, count - (name in failing)) for name, count in synced.failing.items()
            },
            floor=self._member.floor,
            members=self._members,
        )

    def _look(self, synced: Synced) -> None:
        now = self._clock()
        if now - self._looked >= max(self.interval, LOOK_SECONDS_PER_POD * synced.pods) - SOONEST:
            self._looked = now
            if found := self._aside("look", lambda fleet: fleet.look()):
                rows, holders = found
                about = {"this": self._board.pod_id, "leases": holders}
                self._members = _members(about, rows)
                if self._view is not None:
                    self._view = replace(self._view, members=self._members)
        if self._term.held(now) and now - self._pruned >= self.interval:
            self._pruned = now
            self._aside("prune", lambda fleet: fleet.prune())

    def _aside(self, what: str, ask: Callable[[Fleet], T]) -> T | None:
        """The answer to a question that a sync does not depend on; None where there is none.

        It is put again when it would be anyway, and logged when that turns: a server may refuse
        it for good, such as for a right that its user lacks.
        """
        try:
            answer = self._calls.make(ask)
        except Unavailable as error:
            reason = str(error)
            if self._faults.get(what) != reason:
                log.warning("fleet call failed", call=what, reason=reason)
            self._faults[what] = reason
            return None
        if self._faults.pop(what, None):
            log.info("fleet call works", call=what)
        return answer

    def _leave(self) -> None:
        if not self._given_up:
            self._term.end()
        bid = self._term.bid()
        # Where only this process ends, its successor goes on for the same pod.
        gone = self._board.pod_id if self._board.stopping else ""
        try:
            self._calls.make(lambda fleet: fleet.leave(bid, gone))
        except Unavailable as error:
            log.warning("lease not released", reason=str(error))

    # -- shared results

    def _own(self) -> dict[str, CheckState]:
        """Where the shared checks stand, by a run that was meant for all."""
        return {
            name: state
            for name, state in self._told.states.items()
            if state.run is not None and state.check.scope is Scope.FLEET
        }

    def _news(self) -> bool:
        return self._term.held(self._clock()) is not None and any(
            state.run.finished > self._published.get(name, (float("-inf"), None))[0]
            or state.told not in (None, self._published[name][1])
            for name, state in self._own().items()
            if state.run is not None
        )

    def _hungry(self) -> bool:
        """Whether a shared check has no result here yet."""
        return any(
            self.shares(state.check) and state.run is None and not state.check.unconfigured
            for state in self._told.states.values()
        )

    def _publish(self) -> None:
        grant = self._term.held(self._clock())
        if grant is None or not self._news():
            return
        states = self._own()
        body, cut = _body(states, self._clock())
        if news := cut - self._cut:
            self._cut |= news
            log.warning(
                "shared results too large", checks=sorted(news), limit_bytes=MAX_RESULT_BYTES
            )
        self._publications += 1
        version = f"{grant.fence}-{self._publications}"
        accepted = self._aside(
            "publish",
            lambda fleet: fleet.publish(grant.fence, version, body, keep=KEEP_RESULTS),
        )
        if accepted:
            self._version = version
            for name, state in states.items():
                if state.run is not None:
                    self._published[name] = state.run.finished, state.told

    def _adopt(self, synced: Synced, at: float) -> None:
        """Takes in published results; their age counts from their run, by the server's clock."""
        self._version = synced.version
        try:
            document = json.loads(synced.body or b"")
            states = decode(document["states"].encode()).states
            shift = at - synced.age - float(document["at"])
            found = {name: _moved(state, shift) for name, state in states.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("shared results unreadable", reason=mask(repr(error)))
            return
        self._shared = {
            name: state for name, state in found.items() if state and name in self._checks
        }
        for name, state in self._shared.items():
            if state.run is not None:
                self._published[name] = state.run.finished, state.told


def _members(about: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """The pods as JSON, as many of them as fit."""
    while len(text := json.dumps({**about, "pods": rows})) > MAX_MEMBERS_BYTES:
        rows = rows[: len(rows) // 2]
    return text


def _body(states: Mapping[str, CheckState], at: float) -> tuple[bytes, set[str]]:
    """States as the others take them in, and the checks of which something is left out for that.

    The largest details go first. Then whole checks go, the last first: each pod runs those
    for itself, as if nothing had come of them.

    Args:
        states: By name.
        at: This moment, monotonic seconds.
    """
    kept, cut = dict(states), set[str]()
    encode = Encoder()  # knows the lines of the states that stay
    detailed = sorted(kept, key=lambda name: len(encode(Snapshot({name: kept[name]}))))
    while True:
        document = {"at": at, "states": encode(Snapshot(kept)).decode()}
        body = json.dumps(document).encode()
        if len(body) <= MAX_RESULT_BYTES:
            return body, cut
        if detailed:
            name = detailed.pop()
            kept[name] = kept[name].bare()
        else:
            name, _ = kept.popitem()
        cut.add(name)


def _moved(state: CheckState, shift: float) -> CheckState | None:
    """A state of another pod in this pod's time; None for one that cannot be."""
    if state.run is None or not (state.code is None or is_code(state.code)):
        return None
    return replace(
        state,
        run=replace(state.run, finished=state.run.finished + shift),
        since=None if state.since is None else state.since + shift,
    )


class _Connected:
    """A client, and the thread that makes its calls."""

    def __init__(self, client: Client, key_prefix: str, checks: Iterable[str], keep: float) -> None:
        self.client = client
        self.lane = Lane("fleet")
        self.fleet = Fleet(client, key_prefix, checks, keep=keep)


class _Calls:
    """Makes calls that end in time, whatever they wait for.

    Args:
        connect: Makes a client, without I/O.
    """

    def __init__(self, connect: Callable[[], _Connected]) -> None:
        self._connect = connect
        self._connected: _Connected | None = None
        self._lost: list[Lane] = []

    def make(self, ask: Callable[[Fleet], T]) -> T:
        """The answer to one question.

        Raises:
            Unavailable: There is none in time.
        """
        self._lost = [lane for lane in self._lost if lane.lives]
        if self._connected is None:
            if len(self._lost) >= MAX_LOST:
                raise Unavailable("earlier calls have not ended yet")
            self._connected = self._connect()
        connected = self._connected
        answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

        def call() -> None:
            try:
                answers.put(ask(connected.fleet))
            except Exception as error:  # noqa: BLE001 - raised again by who asked
                answers.put(error)

        connected.lane.run(call)
        try:
            answer = answers.get(timeout=LIMIT_SECONDS)
        except queue.Empty:
            connected.lane.give_up()
            self._lost.append(connected.lane)
            self._connected = None
            connected.client.abort()
            raise Unavailable("no answer in time") from None
        if isinstance(answer, Exception):
            raise answer
        return answer
