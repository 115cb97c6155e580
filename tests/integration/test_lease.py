"""The lease against real servers: who holds it, its fence, and what lost replies do to it."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from structlog.testing import capture_logs

from service.coordination.client import Client, connect
from service.coordination.election import Election
from service.coordination.lease import Grant, Lease, Unavailable, keyspace, lease_keys
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import EVERY_SERVER, PASSWORD, RedisServer, binary, wait_until

TTL = 60.0  # seconds; nothing expires by itself unless a test says so
KEYS = keyspace("mingus:health:", "shop {eu}", "test")
LEASE_KEY, FENCE_KEY = lease_keys(KEYS, "probes")


@pytest.fixture(scope="module", params=EVERY_SERVER)
def running(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binary(request.param), password=PASSWORD) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.admin.flushall()
    return running


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Pods:
    """Makes leases of one role, each with a client of its own."""

    def __init__(self, server: RedisServer, clock: Clock, stack: ExitStack) -> None:
        self._server, self._clock, self._stack = server, clock, stack
        self._clients: dict[Lease, Client] = {}
        self._numbers = itertools.count(1)

    def lease(self, port: int | None = None, *, ttl: float = TTL) -> Lease:
        url = self._server.url.replace(str(self._server.port), str(port or self._server.port))
        client: Client = self._stack.enter_context(closing(connect(url, timeout=60)))
        name = f"pod{next(self._numbers)}"
        lease = Lease(client, KEYS, "probes", name, ttl=ttl, clock=self._clock)
        self._clients[lease] = client
        return lease

    @contextmanager
    def lost(self, lease: Lease) -> Iterator[None]:
        """What is asked in the block gets no answer."""
        with pytest.raises(Unavailable), self._clients[lease].within(0.5):
            yield


@pytest.fixture
def pods(server: RedisServer, clock: Clock) -> Iterator[Pods]:
    with ExitStack() as stack:
        yield Pods(server, clock, stack)


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", server.port)) as between:
        yield between


def granted(grant: Grant | None) -> int:
    assert grant is not None
    return grant.fence


def expire(server: RedisServer) -> None:
    server.admin.pexpire(LEASE_KEY, 0)


def test_one_holds_it_and_renews_it(pods: Pods, server: RedisServer) -> None:
    a, b = pods.lease(), pods.lease()
    fence = granted(a.acquire())
    assert b.acquire() is None
    server.admin.pexpire(LEASE_KEY, 20_000)
    assert granted(a.acquire()) == fence
    assert server.admin.pttl(LEASE_KEY) > 50_000
    assert server.admin.ttl(FENCE_KEY) > 29 * 24 * 3600


def test_all_keys_are_in_one_slot() -> None:
    assert LEASE_KEY == "mingus:health:{shop%20%7Beu%7D:test}:lease:probes"
    assert FENCE_KEY.startswith("mingus:health:{shop%20%7Beu%7D:test}:")


def test_it_is_valid_from_before_the_request_less_a_margin(pods: Pods) -> None:
    a = pods.lease()
    assert a.acquire() == a.held(1000.0)
    assert a.held(1000.0 + 0.9 * TTL - 0.01)
    assert not a.held(1000.0 + 0.9 * TTL)
    short = pods.lease(ttl=3.0)
    assert short.acquire() is None
    with pytest.raises(ValueError, match="more than 1 second"):
        pods.lease(ttl=1.0)


def test_a_grant_that_took_too_long_is_none(server: RedisServer) -> None:
    times = iter([1000.0, 1000.0 + TTL])
    with closing(connect(server.url, timeout=60)) as client:
        late = Lease(client, KEYS, "probes", "pod", ttl=TTL, clock=lambda: next(times))
        assert late.acquire() is None
    assert server.admin.exists(LEASE_KEY)


def test_a_release_hands_over_at_once(pods: Pods, clock: Clock) -> None:
    a, b = pods.lease(), pods.lease()
    first = granted(a.acquire())
    a.release()
    assert a.held(clock.now) is None
    second = granted(b.acquire())
    assert second > first
    a.release()
    assert granted(b.acquire()) == second


def test_each_term_has_its_own_owner(pods: Pods, server: RedisServer, clock: Clock) -> None:
    a = pods.lease()
    first = granted(a.acquire())
    owner = server.admin.get(LEASE_KEY).split(b"|")[0]
    clock.now += 0.9 * TTL
    second = granted(a.acquire())
    assert second > first
    assert server.admin.get(LEASE_KEY).split(b"|")[0] != owner
    a.release()
    third = granted(a.acquire())
    assert third > second


def test_who_lost_it_knows_at_the_next_call(pods: Pods, server: RedisServer, clock: Clock) -> None:
    a, b = pods.lease(), pods.lease()
    first = granted(a.acquire())
    expire(server)
    second = granted(b.acquire())
    assert second > first
    assert a.acquire() is None
    assert a.held(clock.now) is None
    expire(server)
    assert granted(a.acquire()) > second


def test_the_fence_rises_over_a_loss_of_all_data(pods: Pods, server: RedisServer) -> None:
    a, b = pods.lease(), pods.lease()
    first = granted(a.acquire())
    server.admin.flushall()
    second = granted(b.acquire())
    server.admin.flushall()
    third = granted(a.acquire())
    assert first < second < third < 2**53


def test_the_fence_rises_while_the_clock_stands_behind(pods: Pods, server: RedisServer) -> None:
    ahead = 2**52
    server.admin.set(FENCE_KEY, ahead)
    assert granted(pods.lease().acquire()) == ahead + 1


def test_a_forgotten_script_is_sent_again(pods: Pods, server: RedisServer) -> None:
    a = pods.lease()
    fence = granted(a.acquire())
    server.admin.script_flush()
    assert granted(a.acquire()) == fence


def test_a_key_of_somebody_else_is_no_grant(pods: Pods, server: RedisServer) -> None:
    server.admin.set(LEASE_KEY, "something")
    assert pods.lease().acquire() is None
    server.admin.delete(LEASE_KEY)
    server.admin.rpush(LEASE_KEY, "something")
    with pytest.raises(Unavailable):
        pods.lease().acquire()


def test_a_lost_grant_is_granted_again(pods: Pods, server: RedisServer, proxy: FaultProxy) -> None:
    a = pods.lease(proxy.address[1])
    a.acquire()
    a.release()
    proxy.fault = Fault.MUTE
    with pods.lost(a):
        a.acquire()
    wait_until(lambda: server.admin.exists(LEASE_KEY), "the request has arrived")
    proxy.fault = Fault.NONE
    fence = granted(a.acquire())
    assert server.admin.get(LEASE_KEY).endswith(f"|{fence}".encode())


def test_a_lost_renewal_keeps_the_grant(pods: Pods, proxy: FaultProxy, clock: Clock) -> None:
    a, b = pods.lease(proxy.address[1]), pods.lease()
    fence = granted(a.acquire())
    proxy.fault = Fault.MUTE
    with pods.lost(a):
        a.acquire()
    proxy.fault = Fault.NONE
    assert a.held(clock.now)
    assert granted(a.acquire()) == fence
    assert b.acquire() is None


@pytest.mark.parametrize("fault", [Fault.MUTE, Fault.REFUSE])
def test_a_lost_release_locks_nobody_out(
    pods: Pods, proxy: FaultProxy, clock: Clock, fault: Fault
) -> None:
    a, b = pods.lease(proxy.address[1]), pods.lease()
    first = granted(a.acquire())
    proxy.fault = fault
    with pods.lost(a):
        a.release()
    assert a.held(clock.now) is None
    proxy.fault = Fault.NONE
    second = granted(a.acquire())
    assert second > first
    a.release()
    assert granted(b.acquire()) > second


def test_what_redis_quotes_of_the_password_is_masked() -> None:
    with (
        RedisServer(binary("redis"), password=PASSWORD, hello=False) as server,
        closing(connect(server.url, timeout=60)) as client,
    ):
        election = Election(Lease(client, KEYS, "startup", "pod"))
        with pytest.raises(Unavailable, match="unknown command 'HELLO'") as unavailable:
            election.won()
        assert PASSWORD not in str(unavailable.value)
        election.held = True
        with capture_logs() as logs:
            election.step_down()
        assert [line["event"] for line in logs] == ["startup lease not released"]
        assert PASSWORD not in str(logs)


def test_a_late_request_of_an_old_term_does_nothing(pods: Pods) -> None:
    a = pods.lease()
    a.acquire()
    late = a._term.bid()
    a.release()
    fence = granted(a.acquire())
    assert a._acquire(a._keys, [late.owner, late.previous, 1000]) is None
    assert granted(a.acquire()) == fence
