"""Invariants 10 and 11: results expire without a monitor, and a killed process is replaced.

The health worker is the monitor: frozen, it answers and measures nothing; the web workers go
on answering for the pod.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.health import Role
from tests.contract.audit import (
    BOTH,
    HEALTH,
    PREFIX,
    WEB,
    Audit,
    agreement,
    comes_to_be_well,
    services,
    statuses,
    witness,
)
from tests.contract.conftest import Launch, served
from tests.pod import Pod, eventually
from tests.servers.redis import RedisServer

PROBES = ("/health", f"{PREFIX}/simple", f"{PREFIX}/readiness")


@pytest.fixture(scope="module")
def pod(launch: Launch, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """One that no arbiter loses patience with."""
    database = tmp_path_factory.mktemp("monitor") / "shop.sqlite3"
    return served(
        launch("--timeout", "600", DATABASE_URL=f"sqlite:///{database}", REDIS_URL=redis.url)
    )


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_frozen_monitor_makes_every_result_expire(pod: Pod) -> None:
    comes_to_be_well(pod)
    audit = Audit(pod)
    audit()
    with agreement(pod, listeners=[WEB]), frozen(pod.health_worker):
        before = services(pod)
        eventually(lambda: expired(pod, "database", "redis"), "database and redis expire")
        for path in PROBES:
            assert pod.status(path) == 503
        assert pod.get("/health").json["status"] == "unknown"
        assert pod.get(f"{PREFIX}/readiness").data["services"] == {
            "database": "unknown",
            "redis": "unknown",
        }
        eventually(
            lambda: expired(pod, "system_resources", "application"), "the slower checks expire"
        )
        audit([WEB])
        assert pod.status(f"{PREFIX}/liveness") == pod.status(f"{PREFIX}/startup") == 200
        after = services(pod)
        for name in ("database", "redis", "system_resources", "application"):
            assert after[name]["last_check"] is not None
            assert after[name]["last_check"] >= before[name]["last_check"]
        assert after["database"]["connection"] == after["redis"]["connection"] == "unknown"
        assert after["database"]["table_count"] is None
        body = pod.get("/health/database").json
        assert body["connection"]["status"] == "unknown"
        assert body["connection"]["error"] == "stale"
        critical = {path for path in statuses(pod) if pod.status(path) == 503}
        assert critical == {
            *PROBES,
            "/health/detailed",
            "/health/database",
            "/health/redis",
            "/health/standard",
            "/health/metrics",
            f"{PREFIX}/",
            f"{PREFIX}/detailed",
            *(f"{PREFIX}/{check}" for check in ("database", "redis", "resources", "application")),
        }
    comes_to_be_well(pod)
    audit()


def expired(pod: Pod, *names: str) -> bool:
    found = services(pod)
    return all(
        found[name]["status"] == "unknown" and found[name].get("error", "stale") == "stale"
        for name in names
    )


def test_a_killed_health_worker_is_replaced_and_nobody_notices(pod: Pod) -> None:
    comes_to_be_well(pod)
    first, before = pod.health_worker, services(pod)["database"]["last_check"]

    def wrong() -> tuple[str, int] | None:
        for path in (*PROBES, f"{PREFIX}/liveness", f"{PREFIX}/startup", "/health/database"):
            status = pod.get(path).status
            if status != 200:
                return path, status
        return None

    with agreement(pod, listeners=[WEB]), witness(wrong) as seen:
        os.kill(first, signal.SIGKILL)
        eventually(lambda: pod.health_worker != first, "another health worker")
        eventually(lambda: services(pod)["database"]["last_check"] > before, "measuring goes on")
        eventually(lambda: pod.status("/health", health=HEALTH) == 200, "its listener answers")
    assert seen == []
    comes_to_be_well(pod)
    Audit(pod)()


def test_a_killed_web_worker_is_replaced(pod: Pod) -> None:
    comes_to_be_well(pod)
    victim = pod.workers(Role.WEB)[0].pid
    with witness(lambda: pod.get("/health", health=HEALTH).status) as seen:
        os.kill(victim, signal.SIGKILL)
        eventually(
            lambda: (
                len(pod.workers(Role.WEB)) == 2
                and victim not in {worker.pid for worker in pod.workers(Role.WEB)}
            ),
            "another web worker",
        )
        comes_to_be_well(pod)
    assert set(seen) == {200}


def test_the_embedded_redis_comes_back_with_the_health_worker(
    launch: Launch, tmp_path: Path
) -> None:
    pod = served(launch(DATABASE_URL=f"sqlite:///{tmp_path}/shop.sqlite3"))
    comes_to_be_well(pod)
    for _ in range(2):
        first = pod.health_worker
        os.kill(first, signal.SIGKILL)
        eventually(lambda first=first: pod.health_worker != first, "another health worker")
        comes_to_be_well(pod)
        for health in BOTH:
            assert services(pod, health=health)["redis"]["status"] == "healthy"
