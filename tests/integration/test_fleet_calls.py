"""What pods tell each other, against real servers: each call by itself."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from service.coordination.client import connect
from service.coordination.fleet import MAX_RESULT_BYTES, Fleet, Report, Synced
from service.coordination.lease import Grant, Term, Unavailable, keyspace
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import EVERY_SERVER, RedisServer, binary, wait_until

KEYS = keyspace("mingus:health:", "shop", "test")
KEEP = 30.0


@pytest.fixture(scope="module", params=EVERY_SERVER)
def running(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binary(request.param)) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.admin.flushall()
    return running


class Pod:
    """One pod's calls."""

    def __init__(self, url: str, name: str, stack: ExitStack) -> None:
        self.name = name
        self.client = stack.enter_context(closing(connect(url, timeout=60)))
        self.fleet = Fleet(self.client, KEYS, ("database", "redis"), keep=KEEP)
        self.term = Term(name, 60.0, lambda: 1000.0)
        self.grant: Grant | None = None

    def sync(self, *failing: str, want: bool = True, known: str = "", **info: Any) -> Synced:
        bid, report = self.term.bid(), Report(self.name, info, frozenset(failing))
        synced = self.fleet.sync(bid, report, ttl_ms=self.term.ttl_ms, want=want, known=known)
        self.grant = self.term.settle(bid, synced.fence)
        return synced

    def publish(self, version: str, body: bytes = b"{}") -> bool:
        assert self.grant is not None
        return self.fleet.publish(self.grant.fence, version, body, keep=600)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def pods(server: RedisServer, stack: ExitStack) -> list[Pod]:
    return [Pod(server.url, name, stack) for name in ("one", "two", "three")]


def age(server: RedisServer, key: str, pod: str) -> None:
    """A pod's last sync becomes older than anybody keeps."""
    server.admin.zincrby(f"{KEYS}{key}", -1000 * (KEEP + 1), pod)


def test_the_first_to_sync_holds_the_lease(pods: list[Pod]) -> None:
    one, two, _ = pods
    first = one.sync()
    assert first.fence is not None
    synced = two.sync()
    assert (synced.fence, synced.holder, synced.pods) == (None, "one", 2)
    assert one.sync().fence == first.fence


def test_who_does_not_want_it_gives_it_up(pods: list[Pod]) -> None:
    one, two, _ = pods
    one.sync()
    one.term.end()
    assert one.sync(want=False).holder == ""
    assert two.sync().fence is not None
    assert one.sync(want=False).holder == "two"


def test_failing_pods_are_counted(pods: list[Pod], server: RedisServer) -> None:
    one, two, three = pods
    one.sync("database")
    two.sync("database", "redis")
    assert three.sync().failing == {"database": 2, "redis": 1}
    assert two.sync("redis").failing == {"database": 1, "redis": 1}
    age(server, "failing:redis", "two")
    age(server, "pods", "two")
    synced = three.sync()
    assert (synced.pods, synced.failing) == (2, {"database": 1, "redis": 0})


def test_results_come_once_and_with_their_age(pods: list[Pod], server: RedisServer) -> None:
    one, two, _ = pods
    one.sync()
    assert two.sync().version == ""
    assert one.publish("1-1", b"the results")
    synced = two.sync()
    assert (synced.version, synced.body) == ("1-1", b"the results")
    assert 0 <= synced.age < 60
    server.admin.decrby(f"{KEYS}result:at", 5000)
    synced = two.sync(known="1-1")
    assert (synced.version, synced.body) == ("1-1", None)
    assert synced.age >= 5
    one.publish("1-2", b"x" * (MAX_RESULT_BYTES + 1))
    synced = two.sync(known="1-1")
    assert (synced.version, synced.body) == ("1-2", b""), (
        "known from now on, though not what it says"
    )


def test_an_older_term_publishes_nothing(pods: list[Pod], server: RedisServer) -> None:
    one, two, _ = pods
    one.sync()
    assert one.publish("a")
    server.admin.delete(f"{KEYS}lease:checks")
    two.sync()
    assert not one.publish("b"), "the newer term need not have published for that"
    assert two.publish("c")
    assert server.admin.get(f"{KEYS}result:version") == b"c"
    server.admin.flushall()
    one.sync()
    assert one.publish("d")
    assert not two.publish("e")


def test_a_look_at_everybody(pods: list[Pod], server: RedisServer) -> None:
    one, two, three = pods
    one.sync(release="blue", pod="a lie", ready="perhaps", failing=None, news=1)
    two.sync(release="green")
    three.sync()
    age(server, "pods", "three")
    server.admin.hset(f"{KEYS}info", "two", "no JSON")
    rows, holders = one.fleet.look()
    assert [(row["pod"], row.get("release")) for row in rows] == [("two", None), ("one", "blue")]
    assert all(0 <= row["age_seconds"] < 60 for row in rows)
    assert set(rows[1]) == {"pod", "age_seconds", "release"}, "the rest is not what it should be"
    assert holders == {"checks": "one", "startup": None}
    json.dumps(rows)


def test_who_has_gone_is_forgotten(pods: list[Pod], server: RedisServer) -> None:
    one, _, three = pods
    for pod in pods:
        pod.sync("database")
    age(server, "pods", "two")
    age(server, "failing:database", "two")
    one.fleet.prune()
    assert server.admin.zrange(f"{KEYS}pods", 0, -1) == [b"one", b"three"]
    assert server.admin.hkeys(f"{KEYS}info") == [b"one", b"three"]
    assert server.admin.zcard(f"{KEYS}failing:database") == 2
    assert all(server.admin.ttl(key) > 0 for key in server.admin.scan_iter())
    one.term.end()
    one.fleet.leave(one.term.bid(), "one")
    assert server.admin.zrange(f"{KEYS}pods", 0, -1) == [b"three"]
    assert three.sync().fence is not None


def test_a_process_that_ends_leaves_its_pod(pods: list[Pod]) -> None:
    one, two, _ = pods
    one.sync()
    one.term.end()
    one.fleet.leave(one.term.bid(), "")
    synced = two.sync()
    assert synced.pods == 2
    assert synced.fence is not None


def test_a_lost_reply_changes_nothing_for_long(server: RedisServer, stack: ExitStack) -> None:
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = server.url.replace(str(server.port), str(proxy.address[1]))
        pod = Pod(url, "one", stack)
        pod.sync()
        pod.term.end()
        pod.sync(want=False)
        proxy.fault = Fault.MUTE
        with pytest.raises(Unavailable), pod.client.within(0.5):
            pod.sync()
        wait_until(lambda: server.admin.exists(f"{KEYS}lease:checks"), "it has arrived")
        proxy.fault = Fault.NONE
        assert pod.sync().fence is not None
        proxy.fault = Fault.MUTE
        with pytest.raises(Unavailable), pod.client.within(0.5):
            pod.publish("lost")
        proxy.fault = Fault.NONE
        assert pod.publish("again")


def test_all_keys_share_one_slot(pods: list[Pod], server: RedisServer) -> None:
    pods[0].sync("database")
    pods[0].publish("1")
    assert all(b"{shop:test}" in key for key in server.admin.scan_iter())
