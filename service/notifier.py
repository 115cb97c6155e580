"""Tells receivers what has become of the checks: one thread of the health worker.

    monitor --snapshot--> an outbox for each target: what is due there --> its receiver
            <---told-----                 (again after a pause, and in the end given up)

The monitor hands over what it publishes and takes back what was told; it never waits. Each target
has a lane of its own, and hears of a check by what it has heard itself, so one that hangs or is
away delays no other; an attempt that does not even end when its connection is cut, as in a name
server's silence, is left behind like a run of a check.

What was told is published with the snapshot, so a successor goes on there. There is one such entry
for a check: what the target knows that has most to hear. So the successor repeats to the others
what they know, under the same key, but withholds nothing.

A receiver that is away costs the notices of ``KEEP`` seconds, and nothing else. Of one check
there is one notice under way at most, so an outbox cannot grow beyond the number of checks.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from service.health import Notice, Snapshot, Stance, Teller, Told
from service.health.notices import behind
from service.monitor import MAX_LOST, Lane

log = structlog.get_logger(__name__)

# An attempt has this long; it is left behind so much later if cutting it does not end it.
ATTEMPT_SECONDS = 10.0
GRACE = 1.0
ATTEMPTS = 10
PAUSE_FIRST, PAUSE_LAST = 1.0, 120.0
LONGEST_RETRY_AFTER = 300.0
# What nobody could be told for so long is no news any more.
KEEP = 900.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an attempt.

    Attributes:
        sent: Whether the receiver has taken the notice.
        again: Whether it may take it later.
        code: Why it has not, a word of the vocabulary.
        retry_after: Seconds it asks to be left alone for, or None.
    """

    sent: bool = False
    again: bool = False
    code: str | None = None
    retry_after: float | None = None


class Target(Protocol):
    """Where notices go.

    Attributes:
        name: What it is called in the log and in the metrics.
    """

    name: str

    def identity(self, notice: Notice) -> str:
        """What the receiver knows the notice by."""

    def send(self, notice: Notice) -> Reply:
        """One attempt, in a lane's thread. Ends within ``ATTEMPT_SECONDS``, or by ``close``."""

    def close(self) -> None:
        """Cuts the attempt that is going on. From any thread."""


class Outbox:
    """The notices for one target, in order. Owned by the notifier's thread.

    Attributes:
        told: What the target was last told, by check.

    Args:
        target: Where they go.
        woken: Set when an attempt has ended.
        clock: Monotonic seconds.
        chance: Random numbers in [0, 1).
    """

    def __init__(
        self,
        target: Target,
        woken: threading.Event,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.target = target
        self.told: dict[str, Told | None] = {}
        self._woken = woken
        self._clock, self._chance = clock, chance
        self._waiting: deque[tuple[Notice, float]] = deque()
        self._attempts = 0
        self._failures = 0
        self._resume = float("-inf")
        self._lane: Lane | None = None
        self._lost: list[Lane] = []
        self._started: float | None = None
        self._replies: list[Reply] = []

    def add(self, notice: Notice) -> None:
        """Takes in one more, unless one of the same check is under way."""
        if all(waiting.check != notice.check for waiting, _ in self._waiting):
            self._waiting.append((notice, self._clock()))

    def with_told(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot with what this target was told."""
        states = {
            name: replace(state, told=self.told[name]) for name, state in snapshot.states.items()
        }
        return replace(snapshot, states=states)

    def poll(self) -> Iterable[tuple[Notice, bool]]:
        """Does what there is to do; yields what is settled, and whether it was sent."""
        if self._started is not None and (reply := self._reply()):
            self._started = None
            yield from self._settle(reply)
        now = self._clock()
        while self._waiting and self._started is None and now - self._waiting[0][1] > KEEP:
            yield self._given_up("timeout")
        if self._waiting and self._started is None and now >= self._resume:
            self._start()

    @property
    def due(self) -> float:
        """When there is more to do, monotonic seconds; never, while nothing waits."""
        if self._started is not None:
            return self._started + ATTEMPT_SECONDS + GRACE
        return self._resume if self._waiting else float("inf")

    def stop(self) -> None:
        """Ends the attempt that is going on, and the thread."""
        self.target.close()
        if self._lane is not None:
            self._lane.give_up()

    def _start(self) -> None:
        self._started = self._clock()
        # A list of its own: what an attempt that was left behind comes to goes nowhere.
        replies = self._replies = []
        self._lost = [lane for lane in self._lost if lane.lives]
        if self._lane is None:
            if len(self._lost) >= MAX_LOST:
                replies.append(Reply(again=True, code="timeout"))
                return
            self._lane = Lane(f"notify-{self.target.name}")
        notice = self._waiting[0][0]
        self._lane.run(lambda: self._attempt(notice, replies))

    def _attempt(self, notice: Notice, replies: list[Reply]) -> None:
        """Runs in the lane's thread."""
        try:
            replies.append(self.target.send(notice))
        except Exception:  # a fault of ours, which must not take the others' messages with it
            log.exception("notification failed", target=self.target.name, check=notice.check)
            replies.append(Reply(code="check_failed"))
        self._woken.set()

    def _reply(self) -> Reply | None:
        if self._replies:
            return self._replies.pop()
        if self._started is None or self._clock() < self._started + ATTEMPT_SECONDS + GRACE:
            return None
        self.target.close()
        if self._lane is not None:
            self._lane.give_up()
            self._lost.append(self._lane)
            self._lane = None
        return Reply(again=True, code="timeout")

    def _settle(self, reply: Reply) -> Iterable[tuple[Notice, bool]]:
        self._attempts += 1
        if reply.again:
            self._failures += 1
            self._resume = self._clock() + self._pause(reply.retry_after or 0.0)
            if self._attempts >= ATTEMPTS:
                yield self._given_up(reply.code)
            return
        self._failures = 0
        if reply.sent:
            yield self._take(), True
        else:
            yield self._given_up(reply.code)

    def _pause(self, retry_after: float) -> float:
        ceiling = min(PAUSE_LAST, PAUSE_FIRST * 2.0 ** min(self._failures - 1, 10))
        pause = ceiling * (0.5 + 0.5 * self._chance())
        return max(pause, min(retry_after, LONGEST_RETRY_AFTER))

    def _given_up(self, code: str | None) -> tuple[Notice, bool]:
        attempts = self._attempts
        notice = self._take()
        log.warning(
            "notification given up",
            target=self.target.name,
            id=self.target.identity(notice),
            check=notice.check,
            code=code,
            attempts=attempts,
        )
        return notice, False

    def _take(self) -> Notice:
        self._attempts = 0
        return self._waiting.popleft()[0]


class Notifier:
    """The thread. See the module.

    Args:
        targets: Where notices go.
        teller: Which they are.
        count: Called with the target's name and ``sent`` or ``failed`` for each that is settled.
        clock: Monotonic seconds.
        wall: Unix seconds.
        chance: Random numbers in [0, 1).
    """

    def __init__(
        self,
        targets: Iterable[Target],
        teller: Teller,
        count: Callable[[str, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251 - notices are dated for people
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._teller = teller
        self._count = count
        self._clock, self._wall = clock, wall
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._outboxes = [Outbox(target, self._woken, clock, chance) for target in targets]
        self._changed: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._loop, name="notifier", daemon=True)
        # For what both threads touch; nobody waits while he holds it.
        self._lock = threading.Lock()
        self._news: tuple[Snapshot, Stance] | None = None
        self._told: dict[str, Told | None] = {}
        self._taken: set[str] = set()
        # For the notifier's thread, by check: what is published as told, and whether it works.
        self._said: dict[str, Told | None] = {}
        self._works: dict[str, bool] = {}

    # -- asked by the monitor, which never waits here

    def told(self) -> Mapping[str, Told | None]:
        """What to publish as told, where that has changed since this was last asked, by check.

        It is in the next snapshot that ``tell`` gets.
        """
        with self._lock:
            told, self._told = self._told, {}
            self._taken |= told.keys()
        return told

    def tell(self, snapshot: Snapshot, stance: Stance) -> None:
        """Takes in what is published, with the lifecycle, and whether it is for the fleet."""
        with self._lock:
            self._taken.clear()
            self._news = snapshot, stance
        self._woken.set()

    # -- the thread

    def start(self, changed: Callable[[], None]) -> None:
        """Begins; ``changed`` is called whenever there is something to ask ``told`` for."""
        self._changed = changed
        self._thread.start()

    def stop(self) -> None:
        """Ends it; what is under way is cut. May be called more than once."""
        self._stopping.set()
        self._woken.set()
        for outbox in self._outboxes:
            outbox.stop()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            wait = self.round()
            self._woken.wait(None if wait == float("inf") else wait)
            self._woken.clear()
        for outbox in self._outboxes:  # again: an attempt may have begun meanwhile
            outbox.stop()

    def round(self) -> float:
        """Does everything there is to do now; the seconds until there is more."""
        try:
            self._collect()
            self._settle()
        except Exception:  # a fault of ours; the checks go on, and so does what comes next
            log.exception("notifier failed")
        return max(0.0, min(outbox.due for outbox in self._outboxes) - self._clock())

    def _collect(self) -> None:
        with self._lock:
            news, self._news = self._news, None
            ours = self._told.keys() | self._taken  # on its way into a later snapshot
        if news is None:
            return
        snapshot, stance = news
        for name, state in snapshot.states.items():
            self._works[name] = state.status.passes
            if name not in ours and (name not in self._said or state.told != self._said[name]):
                self._learn(name, state.told)
        for outbox in self._outboxes:
            known = outbox.with_told(snapshot)
            for notice in self._teller.due(known, stance, self._clock(), self._wall()):
                outbox.add(notice)
        for name in snapshot.states:
            self._say(name)

    def _learn(self, name: str, told: Told | None) -> None:
        """Takes over what a predecessor or another pod has told of a check."""
        self._said[name] = told
        for outbox in self._outboxes:
            known = outbox.told.get(name)
            if known is None or not known.owed_by(self._teller.pod):
                outbox.told[name] = told

    def _settle(self) -> None:
        settled = [(outbox, *each) for outbox in self._outboxes for each in outbox.poll()]
        for outbox, notice, sent in settled:
            self._count(outbox.target.name, "sent" if sent else "failed")
            outbox.told[notice.check] = notice.told(self._wall(), self._teller.pod)
            self._say(notice.check)

    def _say(self, name: str) -> None:
        """Has published what was told of a check, where that has changed."""
        known = (outbox.told[name] for outbox in self._outboxes)
        told = behind(known, works=self._works[name])
        if told == self._said[name]:
            return
        self._said[name] = told
        with self._lock:
            self._told[name] = told
        self._changed()
