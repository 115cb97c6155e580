"""Twelve processes fight for one lease while everything around them fails; then the history speaks.

The resource is this process: it reads the effects one by one and refuses a fence lower than one
it has seen. Its log is checked for what the lease promises:

    P1  one valid grant at a time, while no data is lost
    P2  no effect of an older grant is accepted after one of a newer grant
    P4  no effect begins after the end of its grant
    P5  soon after every fault there is a holder again
"""

import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from tests.pod import ROOT, die_with_parent
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import SERVERS, RedisServer, binary
from tests.servers.sentinel import Sentinels

CONTENDERS = 12
TTL = 2.5
ROUNDS = 10
# Of a machine that does other things, too; the time that would be enough is TTL and a pause.
PATIENCE = 30.0


@dataclass
class Term:
    """One grant and its renewals, times in nanoseconds."""

    pid: int
    fence: int
    asked: int
    got: int
    until: int


@dataclass
class History:
    """What happened, in the order in which the resource heard of it.

    Attributes:
        terms: By process and fence.
        accepted: Fences of the accepted effects, in order.
        refused: How many effects were refused.
        losses: When all data was lost, and when that was over.
        late: Effects that began after the end of their grant.
    """

    terms: dict[tuple[int, int], Term] = field(default_factory=dict)
    accepted: list[int] = field(default_factory=list)
    refused: int = 0
    losses: list[tuple[int, int]] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    newest: int = 0

    def take(self, pid: int, line: str) -> None:
        what, *numbers = line.split()
        values = [int(number) for number in numbers]
        if what == "grant":
            fence, asked, got, until = values
            term = self.terms.setdefault((pid, fence), Term(pid, fence, asked, got, until))
            term.until = until
        elif what == "gone":
            fence, gave_up = values
            self.terms[pid, fence].until = min(self.terms[pid, fence].until, gave_up)
        else:
            self._effect(pid, *values)

    def _effect(self, pid: int, fence: int, looked: int) -> None:
        if looked >= self.terms[pid, fence].until:
            self.late.append(f"{pid} {fence}")
        if fence < self.newest:
            self.refused += 1
            return
        self.newest = fence
        self.accepted.append(fence)

    def two_at_a_time(self) -> list[tuple[Term, Term]]:
        """Grants of different processes valid at one moment, losses of data apart."""
        terms = sorted(self.terms.values(), key=lambda term: term.got)
        lossless = [
            term
            for term in terms
            if not any(term.asked < end and begin < term.until for begin, end in self.losses)
        ]
        by_start = sorted(lossless, key=lambda term: term.got)
        return [(a, b) for a, b in pairwise(by_start) if a.pid != b.pid and b.got < a.until]

    def out_of_order(self) -> list[tuple[Term, Term]]:
        """Pairs of grants, one given before the other was asked for, whose fences do not rise."""
        terms = sorted(self.terms.values(), key=lambda term: term.got)
        return [
            (a, b)
            for at, a in enumerate(terms)
            for b in terms[at + 1 :]
            if a.got < b.asked and a.fence >= b.fence
        ]


class Arena:
    """The contenders, the resource, and what is done to them."""

    def __init__(self, url: str) -> None:
        self.history = History()
        self._url = url
        self._pipes = selectors.DefaultSelector()
        self._parts: dict[int, bytes] = defaultdict(bytes)
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        for _ in range(CONTENDERS):
            self.join()

    def join(self) -> None:
        name = f"contender-{random.random()}"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.lease_contender", self._url, name, str(TTL)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing else runs in between
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._pipes.register(process.stdout, selectors.EVENT_READ, process)
        self.running[process.pid] = process

    def listen(self, seconds: float) -> None:
        """The resource takes in what comes for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._hear(left)

    def _hear(self, seconds: float) -> None:
        for key, _ in self._pipes.select(seconds):
            pid = key.data.pid
            data = os.read(key.fd, 65536)
            if not data:
                self._pipes.unregister(key.fileobj)
                key.data.stdout.close()
                continue
            *lines, self._parts[pid] = (self._parts[pid] + data).split(b"\n")
            for line in lines:
                self.history.take(pid, line.decode())

    def listen_for_an_effect(self, what: str) -> float:
        """Until one is accepted that belongs to a grant given from now on; how long that took."""
        begun, end = time.monotonic_ns(), time.monotonic() + PATIENCE

        def granted() -> bool:
            newest = self.history.newest
            until = [
                term.until for (_, fence), term in self.history.terms.items() if fence == newest
            ]
            return bool(until) and max(until) > begun + TTL * 0.5e9

        while not granted():
            assert time.monotonic() < end, f"P5: nobody holds the lease after: {what}"
            self._hear(0.1)
        return (time.monotonic_ns() - begun) / 1e9

    @property
    def holder(self) -> int:
        """The process whose effect was accepted last, if it still runs."""
        pids = [pid for pid, fence in self.history.terms if fence == self.history.newest]
        return next((pid for pid in pids if pid in self.running), next(iter(self.running)))

    def kill(self, pid: int) -> None:
        process = self.running.pop(pid)
        process.kill()
        process.wait()

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()
        while self._pipes.get_map():
            self._hear(1.0)
        self._pipes.close()


@pytest.fixture(params=SERVERS)
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binary(request.param)) as server:
        yield server


def pause_holder(arena: Arena, redis: RedisServer, proxy: FaultProxy) -> None:  # noqa: ARG001
    pid = arena.holder
    os.kill(pid, signal.SIGSTOP)
    arena.listen(TTL + 1)
    os.kill(pid, signal.SIGCONT)


def kill_holder(arena: Arena, redis: RedisServer, proxy: FaultProxy) -> None:  # noqa: ARG001
    arena.kill(arena.holder)
    arena.join()


def freeze_redis(arena: Arena, redis: RedisServer, proxy: FaultProxy) -> None:  # noqa: ARG001
    with redis.frozen():
        arena.listen(TTL)


def lose_replies(arena: Arena, redis: RedisServer, proxy: FaultProxy) -> None:  # noqa: ARG001
    proxy.fault = Fault.MUTE
    arena.listen(TTL)
    proxy.fault = Fault.NONE


def lose_all_data(arena: Arena, redis: RedisServer, proxy: FaultProxy) -> None:  # noqa: ARG001
    begun = time.monotonic_ns()
    redis.admin.flushall()
    arena.history.losses.append((begun, time.monotonic_ns() + int(TTL * 1e9)))


NEMESES = (pause_holder, kill_holder, freeze_redis, lose_replies, lose_all_data)


def test_a_history_of_faults(redis: RedisServer) -> None:
    with FaultProxy(("127.0.0.1", redis.port)) as proxy:
        arena = Arena(redis.url.replace(str(redis.port), str(proxy.address[1])))
        history, waits = arena.history, []
        try:
            arena.listen_for_an_effect("the start")
            for turn in range(ROUNDS):
                nemesis = NEMESES[turn % len(NEMESES)]
                nemesis(arena, redis, proxy)
                waits.append(arena.listen_for_an_effect(nemesis.__name__))
                arena.listen(0.5)
        finally:
            arena.close()
    check(history, waits)


@pytest.mark.parametrize("name", SERVERS)
def test_a_history_with_a_failover_that_loses_writes(name: str) -> None:
    with Sentinels(binary(name)) as sentinels:
        arena = Arena(sentinels.url)
        history, waits = arena.history, []
        try:
            arena.listen_for_an_effect("the start")
            paused = arena.holder
            os.kill(paused, signal.SIGSTOP)
            begun = time.monotonic_ns()
            sentinels.cut()
            # Whoever holds the lease by then has it from a server that takes it to its grave.
            arena.listen(TTL + 1)
            sentinels.fail_over()
            history.losses.append((begun, time.monotonic_ns() + int(TTL * 1e9)))
            waits.append(arena.listen_for_an_effect("a failover"))
            os.kill(paused, signal.SIGCONT)
            arena.listen(2 * TTL)
        finally:
            arena.close()
    check(history, waits)


def check(history: History, waits: list[float]) -> None:
    print(
        f"{len(history.terms)} grants, {len(history.accepted)} effects accepted, "
        f"{history.refused} of zombies refused; a holder again after at most {max(waits):.1f} s"
    )
    assert len(history.accepted) > 20
    assert not history.two_at_a_time(), "P1"
    assert not history.out_of_order(), "P2: fences"
    assert history.accepted == sorted(history.accepted), "P2"
    assert not history.late, "P4"
