"""Invariant 16: the self-tests of many pods and processes on one Redis never meet."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.coordination.lease import keyspace, lease_keys
from tests.contract.audit import services
from tests.contract.conftest import Launch, served
from tests.pod import Pod, eventually
from tests.servers.redis import RedisServer

PODS = 3
RUNS = 20
PREFIX = b"mingus:health:"
# Taken anew when its holder has gone: the killed process may have been it.
LEASE = {
    key.encode() for key in lease_keys(keyspace(PREFIX.decode(), "MINGUS", "production"), "checks")
}


@pytest.fixture(scope="module")
def pods(launch: Launch, redis: RedisServer) -> list[Pod]:
    return [
        launch(
            REDIS_URL=redis.url,
            HEALTH_REDIS_INTERVAL_SECONDS="0.1",
            HEALTH_REDIS_TIMEOUT_SECONDS="15",
            REDIS_RESPONSE_WARNING_MS="15000",
            WEB_CONCURRENCY="1",
        )
        for _ in range(PODS)
    ]


@contextmanager
def watching(redis: RedisServer) -> Iterator[list[bytes]]:
    """The keys that are set meanwhile."""
    keys: list[bytes] = []
    ready = threading.Event()
    over = f"over:{threading.get_ident()}"

    def watch() -> None:
        with redis.admin.monitor() as monitor:
            ready.set()
            for command in monitor.listen():
                words = command["command"].split(" ")
                if words[0].upper() == "ECHO" and words[1] == over:
                    return
                if words[0].upper() == "SET":
                    keys.append(words[1].encode())

    thread = threading.Thread(target=watch)
    thread.start()
    assert ready.wait(60)
    try:
        yield keys
    finally:
        redis.admin.echo(over)
        thread.join()


def runs(pod: Pod) -> int:
    """Finished runs of the Redis check."""
    text = pod.get("/metrics").body.decode()
    name = 'mingus_health_checks_total{check="redis"'
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def test_no_self_test_of_any_pod_ever_fails(pods: list[Pod], redis: RedisServer) -> None:
    for pod in pods:
        served(pod)
    with watching(redis) as keys:
        # A second process of one pod joins in: the successor of a health worker.
        first = pods[0].health_worker
        os.kill(first, signal.SIGKILL)
        eventually(lambda: pods[0].health_worker != first, "another health worker")
        for pod in pods:
            before = runs(pod)
            eventually(lambda pod=pod, before=before: runs(pod) >= before + RUNS, "many runs")
    for pod in pods:
        failures = pod.get("/health/metrics").json["metrics"]["health_check_failures_total"]
        assert failures["redis"] == 0
        assert services(pod)["redis"]["status"] == "healthy"
    different = {key for key in keys if key.startswith(PREFIX + b"selftest:")}
    assert set(keys) - LEASE == different, "the service writes nothing but its self-tests"
    assert len(different) in (PODS, PODS + 1)


def test_what_a_self_test_leaves_behind_expires(pods: list[Pod], redis: RedisServer) -> None:
    """A process killed in the middle cannot take its key back; the server does."""
    for pod in pods:
        served(pod)
    left = [redis.admin.ttl(key) for key in redis.admin.scan_iter(match=PREFIX + b"selftest:*")]
    # -2: taken back between the two questions; never -1, a key that stays for ever.
    assert all(ttl == -2 or 0 <= ttl <= 60 for ttl in left)
