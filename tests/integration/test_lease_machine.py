"""Random histories of the lease against real servers: what the model promises, they keep."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from service.coordination.client import Client, connect
from service.coordination.lease import ACQUIRE, Lease, lease_keys
from tests.servers.redis import EVERY_SERVER, RedisServer, binary

TTL = 60.0
PODS = 3
LEASE_KEY, FENCE_KEY = lease_keys("{test}:", "role")
INCR = ACQUIRE.replace("math.max(last + 1, now[1] * 1000000 + now[2])", "last + 1")

numbers = st.integers(0, PODS - 1)


@pytest.fixture(scope="module", params=EVERY_SERVER)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binary(request.param)) as running:
        yield running


@pytest.fixture
def clients(server: RedisServer) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(connect(server.url, timeout=60))) for _ in range(PODS)]


class History(RuleBasedStateMachine):
    """Three pods, a server that may lose what it knows, and a resource that checks fences.

    A pod that was paused has its old grant still in hand: it may try an effect under any grant
    it ever had. Grants are numbered as the server gave them out.
    """

    server: RedisServer
    clients: list[Client]
    script = ACQUIRE

    @initialize()
    def begin(self) -> None:
        self.server.admin.flushall()
        self.now = 0.0
        self.pods = [
            Lease(client, "{test}:", "role", f"pod{number}", ttl=TTL, clock=lambda: self.now)
            for number, client in enumerate(self.clients)
        ]
        for pod in self.pods:
            pod._acquire._script.script = self.script
            pod._acquire._script.sha = self.server.admin.script_load(self.script)
        self.holder: int | None = None
        self.until = 0.0
        self.grants: list[int] = []  # fences in the order of granting
        self.highest, self.newest = 0, -1

    @rule(number=numbers)
    def acquire(self, number: int) -> None:
        grant = self.pods[number].acquire()
        assert (grant is not None) == (self.holder in (None, number))
        if grant is None:
            return
        if self.holder is None or self.now >= self.until:
            self.grants.append(grant.fence)
        assert grant.fence == self.grants[-1]
        self.holder, self.until = number, grant.valid_until

    @rule(number=numbers)
    def release(self, number: int) -> None:
        self.pods[number].release()
        assert self.pods[number].held(self.now) is None
        if self.holder == number:
            self.holder = None

    @rule()
    def the_server_forgets_the_lease(self) -> None:
        self.server.admin.delete(LEASE_KEY)
        self.holder = None

    @rule()
    def the_server_forgets_everything(self) -> None:
        self.server.admin.flushall()
        self.holder = None

    @rule(seconds=st.sampled_from([1.0, 30.0, TTL]))
    def time_passes(self, seconds: float) -> None:
        """For the pods; to the server they are a moment, so an old term is still in its books."""
        self.now += seconds

    @rule(back=st.integers(0, 3))
    def an_effect_arrives(self, back: int) -> None:
        if back >= len(self.grants):
            return
        grant = len(self.grants) - 1 - back
        fence = self.grants[grant]
        if fence < self.highest:
            assert grant < self.newest, "an effect of the newest grant was refused"
            return
        assert grant >= self.newest, "an effect of an older grant came after a newer one's"
        self.highest, self.newest = fence, grant

    @invariant()
    def fences_rise(self) -> None:
        if self.script == ACQUIRE:
            assert all(a < b for a, b in zip(self.grants, self.grants[1:], strict=False))


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def _machine(server: RedisServer, clients: list[Client], script: str) -> type[History]:
    parts = {"server": server, "clients": clients, "script": script}
    return type("OneHistory", (History,), parts)


def test_the_shipped_lease(server: RedisServer, clients: list[Client]) -> None:
    run_machine(_machine(server, clients, ACQUIRE), settings=_settings(150))


def test_a_counter_for_a_fence_is_found_out(server: RedisServer, clients: list[Client]) -> None:
    assert INCR != ACQUIRE
    with pytest.raises(AssertionError, match=r"refused|came after"):
        run_machine(_machine(server, clients, INCR), settings=_settings(200))
