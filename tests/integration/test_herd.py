"""Many pods lose their Redis at once and get it back: none asks more often than its turn comes."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest

from service.coordination.client import connect
from service.coordination.lease import keyspace
from service.coordinator import CALL_SECONDS, RETRY_FIRST, TTL_INTERVALS, Coordinator, Member
from service.health import ProgressLimits
from service.scoreboard import Scoreboard
from tests.pod import eventually
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import RedisServer, binary

PODS = 10
SYNC = 2.0
# A lease and two syncs, and what a busy machine needs.
BACK = (TTL_INTERVALS + 2) * SYNC + 15.0
ROUNDS = 3


class Chance:
    """Random numbers, counted: every round asks for one, to know when the next one is."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return random.random()


@dataclass
class Pod:
    """One of them: the loop in its thread, and its own line to the server."""

    coordinator: Coordinator
    line: FaultProxy
    chance: Chance

    @property
    def failures(self) -> int:
        """Rounds that failed since the last that did not."""
        return self.coordinator._failures

    @property
    def in_reach(self) -> bool:
        view = self.coordinator.view()
        return not self.failures and view is not None and view.at(time.monotonic()).fresh


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def pods(server: RedisServer) -> Iterator[list[Pod]]:
    with ExitStack() as stack:
        made = []
        for number in range(PODS):
            chance = Chance()
            line = stack.enter_context(FaultProxy(("127.0.0.1", server.port)))
            coordinator = Coordinator(
                partial(connect, f"redis://127.0.0.1:{line.address[1]}/0", timeout=CALL_SECONDS),
                Scoreboard.create(None, slots=2),
                (),
                Member(
                    keyspace("mingus:health:", "herd", "test"),
                    {"number": number},
                    ProgressLimits(),
                    SYNC,
                    None,
                ),
                chance=chance,
            )
            stack.callback(coordinator.stop)
            coordinator.start()
            made.append(Pod(coordinator, line, chance))
        yield made


class Watch:
    """What each pod does from now on: connections for the shortest time, tries for a longer one."""

    def __init__(self, pods: list[Pod]) -> None:
        self._pods = pods
        self._begun = time.monotonic()
        self._asked = [pod.chance.asked for pod in pods]
        self._accepted = [pod.line.accepted for pod in pods]

    def bounded(self) -> str:
        """Checks that each had its turns and no more; what there is to say about it."""
        lines = [
            pod.line.accepted - was for pod, was in zip(self._pods, self._accepted, strict=True)
        ]
        tries = [pod.chance.asked - was for pod, was in zip(self._pods, self._asked, strict=True)]
        seconds = time.monotonic() - self._begun
        # One more each that was under way at the beginning, or is at the end.
        assert all(made <= tried + 1 for tried, made in zip(tries, lines, strict=True))
        assert max(tries) <= seconds / RETRY_FIRST + 1
        return f"{sum(tries)} tries, {sum(lines)} connections in {seconds:.1f} s"


@pytest.mark.parametrize(
    "fault", [Fault.REFUSE, Fault.FREEZE, Fault.BLACK_HOLE, Fault.DRIP, Fault.MUTE]
)
def test_a_herd_is_none(pods: list[Pod], fault: Fault) -> None:
    eventually(lambda: all(pod.in_reach for pod in pods), "all are in reach of each other")
    watch = Watch(pods)
    for pod in pods:
        pod.line.fault = fault
    eventually(lambda: all(pod.failures >= ROUNDS for pod in pods), "each has tried again")
    during = watch.bounded()
    watch = Watch(pods)
    for pod in pods:
        pod.line.fault = Fault.NONE
    eventually(lambda: all(pod.in_reach for pod in pods), "all are back", BACK)
    after = watch.bounded()
    print(f"{PODS} pods, {fault.name}: {during}; until all were back: {after}")
