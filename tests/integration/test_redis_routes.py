"""The client finds a master through Sentinels, and the node of a cluster that has the keys."""

from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest
import redis

from service.coordination.client import Client, connect
from service.coordination.lease import Lease, keyspace
from tests.pod import free_port
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


def answers(client: Client) -> bool:
    try:
        return bool(client.execute_command("SET", "k", "v"))
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
