"""The client finds a master through Sentinels, and the node of a cluster that has the keys.

And whatever an address leads to by now.
"""

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest
import redis

from service.coordination.client import connect
from service.coordination.lease import Lease, keyspace
from tests.pod import free_port
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import SERVERS, RedisServer, binary, wait_until
from tests.servers.sentinel import Sentinels

LIMIT = 6.0  # seconds; half of it is left when two Sentinels have hung


@pytest.fixture(scope="module", params=SERVERS)
def program(request: pytest.FixtureRequest) -> object:
    return binary(request.param)


@pytest.fixture
def sentinels(program: object) -> Iterator[Sentinels]:
    with Sentinels(program) as running:  # type: ignore[arg-type]
        yield running


def answers(client: redis.Redis, key: str = "k") -> bool:
    try:
        return bool(client.execute_command("SET", key, "v"))
    except redis.RedisError:
        return False


def test_a_lease_over_a_failover(sentinels: Sentinels) -> None:
    with (
        closing(connect(sentinels.url, timeout=LIMIT)) as one,
        closing(connect(sentinels.url, timeout=LIMIT)) as other,
    ):
        keys = keyspace("", "shop", "test")
        a, b = Lease(one, keys, "role", "a", ttl=30), Lease(other, keys, "role", "b", ttl=30)
        before = a.acquire()
        assert before is not None
        sentinels.fail_over()
        wait_until(lambda: answers(other), "the new master answers")
        sentinels.master.admin.flushall()  # what a failover may lose, it has lost
        after = b.acquire()
        assert after is not None
        assert after.fence > before.fence
        wait_until(lambda: answers(one), "the other one finds it, too")
        assert a.acquire() is None


def test_hung_sentinels_leave_time_for_the_others(sentinels: Sentinels) -> None:
    for process in sentinels.processes[:2]:
        psutil.Process(process.pid).suspend()
    with closing(connect(sentinels.url, timeout=LIMIT)) as client:
        assert client.execute_command("SET", "k", "v")
        client.close()
        assert client.execute_command("GET", "k") == b"v", "the one that answered is asked first"
        psutil.Process(sentinels.processes[2].pid).suspend()
        client.close()
        with pytest.raises(redis.RedisError), client.within(0.3):
            client.execute_command("GET", "k")
    for process in sentinels.processes:
        psutil.Process(process.pid).resume()


def test_an_unknown_master(sentinels: Sentinels) -> None:
    url = sentinels.url.replace("/shop/", "/nobody/")
    with (
        closing(connect(url, timeout=LIMIT)) as client,
        pytest.raises(redis.ConnectionError, match="no Sentinel knows the master"),
    ):
        client.execute_command("PING")


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h:1",
        "redis+sentinel:///shop",
        "unix+sentinel://h/shop",
        "redis+sentinel://",
    ],
)
def test_an_unusable_url(url: str) -> None:
    with pytest.raises(ValueError, match="not a usable"):
        connect(url, timeout=1)


@pytest.fixture
def pair(program: object) -> Iterator[list[RedisServer]]:
    """Two servers that know nothing of each other."""
    with RedisServer(program) as one, RedisServer(program) as other:  # type: ignore[arg-type]
        yield [one, other]


def test_a_master_that_is_one_no_more_is_left(pair: list[RedisServer]) -> None:
    """Behind an address that follows the master; the old one lives on, and so does what it has."""
    old, new = pair
    with (
        FaultProxy(("127.0.0.1", old.port)) as proxy,
        closing(connect(f"redis://127.0.0.1:{proxy.address[1]}", timeout=LIMIT)) as client,
    ):
        assert client.execute_command("SET", "k", "v")
        old.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        proxy.upstream = ("127.0.0.1", new.port)
        with pytest.raises(redis.ReadOnlyError):
            client.execute_command("SET", "k", "v")
        assert client.execute_command("SET", "k", "v")


def test_a_silent_address_of_a_name_leaves_time_for_the_next(
    pair: list[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    with FaultProxy(("127.0.0.1", pair[0].port)) as silent:
        silent.fault = Fault.BLACK_HOLE

        def both(_host: str, _port: int, *rest: Any) -> list[Any]:
            ports = (silent.address[1], pair[1].port)
            return [found for port in ports for found in resolve("127.0.0.1", port, *rest)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        with closing(connect("redis://redis.internal", timeout=LIMIT)) as client:
            assert client.execute_command("SET", "k", "v")


def complete(node: RedisServer) -> bool:
    found = node.admin.execute_command("CLUSTER", "INFO")
    wanted = (b"state:ok", b"known_nodes:2", b"slots_assigned:16384")
    return all(b"cluster_" + each in found for each in wanted)


@pytest.fixture
def cluster(program: object) -> Iterator[list[RedisServer]]:
    """Two nodes: the first has the lower half of the slots."""
    buses = [free_port() for _ in range(2)]

    def node(bus: int) -> RedisServer:
        return RedisServer(
            program,  # type: ignore[arg-type]
            cluster_enabled="yes",
            cluster_port=str(bus),
            cluster_require_full_coverage="no",
        )

    with node(buses[0]) as low, node(buses[1]) as high:
        low.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        high.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        high.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", 2)
        low.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", high.port, buses[1])
        wait_until(
            lambda: complete(low) and complete(high),
            "the cluster is complete",
        )
        yield [low, high]


def test_the_node_that_has_the_keys(cluster: list[RedisServer]) -> None:
    for seed in cluster:
        for app in ("a", "b", "c", "d"):  # in slots of both halves
            with closing(connect(seed.url, timeout=LIMIT)) as client:
                lease = Lease(client, keyspace("", app, seed.url), "role", "pod", ttl=30)
                first = lease.acquire()
                again = lease.acquire()
                assert first is not None
                assert again is not None
                assert first.fence == again.fence
                lease.release()


def test_a_node_that_has_gone_is_not_asked_for_ever(cluster: list[RedisServer]) -> None:
    low, high = cluster
    with closing(connect(low.url, timeout=LIMIT)) as client:
        # A key of the other node; b is in slot 3300, a in 15495.
        assert client.execute_command("SET", "a", "v")
        high.stop()
        with pytest.raises(redis.RedisError):
            client.execute_command("GET", "a")
        assert client.execute_command("PING")


def test_a_node_that_has_left_the_cluster_is_not_asked_for_ever(cluster: list[RedisServer]) -> None:
    low, high = cluster
    with closing(connect(low.url, timeout=LIMIT)) as client:
        assert client.execute_command("SET", "a", "v")
        left = high.admin.execute_command("CLUSTER", "MYID")
        high.admin.flushall()
        high.admin.execute_command("CLUSTER", "RESET", "HARD")
        low.admin.execute_command("CLUSTER", "FORGET", left)
        low.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        wait_until(lambda: answers(low.admin, "a"), "the other one has its slots")
        with pytest.raises(redis.exceptions.ClusterDownError):
            client.execute_command("SET", "a", "v")
        assert client.execute_command("SET", "a", "v")


def test_keys_that_are_on_their_way(cluster: list[RedisServer]) -> None:
    """Half of a slot has moved: each node answers for what it has, and says who has the rest."""
    low, high = cluster
    slot = low.admin.execute_command("CLUSTER", "KEYSLOT", "a")
    ids = {node: node.admin.execute_command("CLUSTER", "MYID") for node in cluster}
    with closing(connect(low.url, timeout=LIMIT)) as client:
        assert client.execute_command("SET", "{a}stays", "1")
        low.admin.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[high])
        high.admin.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[low])
        for _ in range(3):
            assert client.execute_command("SET", "{a}moves", "2")
            assert client.execute_command("GET", "{a}stays") == b"1"
        assert high.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        assert low.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
