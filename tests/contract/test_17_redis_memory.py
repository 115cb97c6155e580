"""Invariant 17: how full a Redis may be, by its own policy; on both servers of the family."""

import pytest

from tests.contract.audit import PREFIX, Audit, comes_to
from tests.contract.conftest import Launch, served
from tests.pod import UNHURRIED, Pod, eventually
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def pod(launch: Launch, each_redis: RedisServer) -> Pod:
    quickly = {"HEALTH_REDIS_INTERVAL_SECONDS": "0.1", **UNHURRIED}
    return served(launch(REDIS_URL=each_redis.url, **quickly))


def test_a_small_fragmented_server_is_healthy(pod: Pod, each_redis: RedisServer) -> None:
    each_redis.admin.config_set("maxmemory", 0)
    each_redis.admin.flushall()
    ratio = each_redis.admin.info("memory")["mem_fragmentation_ratio"]
    assert ratio > 1.5, "an empty server's resident memory is mostly its program"
    comes_to(pod, "redis", "healthy")
    body = pod.get("/health/redis").json
    assert body["memory_usage"]["status"] == "healthy"
    assert body["memory_usage"]["info"]["mem_fragmentation_ratio"] > 1.5
    assert body["memory_usage"]["info"]["memory_usage_percent"] is None


def fill(server: RedisServer, percent: int, policy: str) -> None:
    """Sets the limit such that the server uses so much of it."""
    server.admin.config_set("maxmemory", 0)  # or the filling itself would be refused
    # Made by the server: a value that is sent stands twice in its memory for a moment.
    server.admin.setrange("ballast", 64 << 20, b"x")
    server.admin.config_set("maxmemory-policy", policy)
    used = server.admin.info("memory")["used_memory"]
    server.admin.config_set("maxmemory", 100 * used // percent)


def used_percent(pod: Pod) -> float | None:
    """What the pod says of the server's memory."""
    found: float | None = pod.get("/health/redis").json["memory_usage"]["info"][
        "memory_usage_percent"
    ]
    return found


FILLED = [
    (50, "noeviction", "healthy", None),
    (91, "noeviction", "warning", "memory_high"),
    (91, "allkeys-lru", "warning", "memory_high"),
    (96, "noeviction", "unhealthy", "memory_critical"),
    (96, "allkeys-lru", "warning", "memory_high"),
    (96, "allkeys-lfu", "warning", "memory_high"),
    (96, "volatile-lru", "unhealthy", "memory_critical"),
    (89, "allkeys-random", "healthy", None),
]


@pytest.mark.parametrize(("percent", "policy", "status", "code"), FILLED)
def test_a_server_with_a_limit(
    pod: Pod, each_redis: RedisServer, percent: int, policy: str, status: str, code: str | None
) -> None:
    fill(each_redis, percent, policy)
    eventually(lambda: abs((used_percent(pod) or 0) - percent) < 2, "the new figures")
    comes_to(pod, "redis", status, code)
    passes = 503 if status == "unhealthy" else 200
    for path in ("/health/redis", "/health", f"{PREFIX}/redis", f"{PREFIX}/readiness"):
        assert pod.status(path) == passes, path
    assert pod.get("/health/redis").json["memory_usage"]["error"] == code
    Audit(pod)()


def test_a_server_beyond_its_limit(pod: Pod, each_redis: RedisServer) -> None:
    """A limit lowered below what is in use: writes are refused, percentages end at 100."""
    fill(each_redis, 150, "noeviction")
    comes_to(pod, "redis", "unhealthy", "out_of_memory")
    eventually(lambda: used_percent(pod), "the figures are published")
    Audit(pod)()
    each_redis.admin.config_set("maxmemory", 0)
    comes_to(pod, "redis", "healthy")
