"""Invariants 10 and 11: results expire without a monitor, and a killed process is replaced.

The health worker is the monitor: frozen, it answers and measures nothing; the web workers go
on answering for the pod.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from tests.pod import UNHURRIED, Pod, eventually
from tests.servers.redis import RedisServer

CHECKED = ("database", "redis", "system_resources", "application")
PROBES = ("/health", f"{PREFIX}/simple", f"{PREFIX}/readiness")


@pytest.fixture(scope="module")
def pods(
    launch: Launch, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pod, Pod]:
    """Two that no arbiter loses patience with: one to freeze, one to kill workers of.

    The results of the second last for about as long as those of a pod nobody has configured.
    """
    home = tmp_path_factory.mktemp("monitor")
    first, second = (
        launch(
            *("--timeout", "600"),
            DATABASE_URL=f"sqlite:///{home}/{name}",
            REDIS_URL=redis.url,
            **settings,
        )
        for name, settings in (("first", {}), ("second", UNHURRIED))
    )
    return first, second


@pytest.fixture(scope="module")
def pod(pods: tuple[Pod, Pod]) -> Pod:
    return served(pods[1])


@dataclass
class Frozen:
    """A pod whose health worker stands still.

    Attributes:
        pod: The pod.
        audit: Of all it says, made when it was well.
        worker: Process id of the health worker.
        before: What every check had found by then.
    """

    pod: Pod
    audit: Audit
    worker: int
    before: dict[str, Any]


@pytest.fixture(scope="module")
def frozen(pods: tuple[Pod, Pod]) -> Iterator[Frozen]:
    """Frozen until the last test of this module thaws it: some results expire slowly."""
    pod = served(pods[0])
    comes_to_be_well(pod)
    audit = Audit(pod)
    audit()
    found = Frozen(pod, audit, pod.health_worker, services(pod))
    os.kill(found.worker, signal.SIGSTOP)
    yield found
    with suppress(ProcessLookupError):
        os.kill(found.worker, signal.SIGCONT)


def test_a_frozen_monitor_makes_the_critical_checks_expire(frozen: Frozen) -> None:
    pod = frozen.pod
    with agreement(pod, listeners=[WEB]):
        eventually(lambda: expired(pod, "database", "redis"), "database and redis expire")
    for path in PROBES:
        assert pod.status(path) == 503
    assert pod.get("/health").json["status"] == "unknown"
    services_then = pod.get(f"{PREFIX}/readiness").data["services"]
    assert services_then == {"database": "unknown", "redis": "unknown"}
    assert pod.status(f"{PREFIX}/liveness") == pod.status(f"{PREFIX}/startup") == 200
    frozen.audit([WEB])


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
        first, before = pod.health_worker, services(pod)["redis"]["last_check"]
        os.kill(first, signal.SIGKILL)
        eventually(lambda first=first: pod.health_worker != first, "another health worker")
        # What is said of the server is at first what the killed worker has found.
        for health in BOTH:
            eventually(
                lambda health=health, before=before: works_since(pod, before, health=health),
                "it works again",
            )
        comes_to_be_well(pod)


def works_since(pod: Pod, before: str, *, health: bool) -> bool:
    redis = services(pod, health=health)["redis"]
    return redis["status"] == "healthy" and redis["last_check"] > before


def test_in_the_end_every_result_has_expired(frozen: Frozen) -> None:
    pod = frozen.pod
    eventually(lambda: expired(pod, *CHECKED), "the slower checks expire")
    frozen.audit([WEB])
    assert pod.status(f"{PREFIX}/liveness") == pod.status(f"{PREFIX}/startup") == 200
    after = services(pod)
    for name in CHECKED:
        assert after[name]["last_check"] >= frozen.before[name]["last_check"]
    assert after["database"]["connection"] == after["redis"]["connection"] == "unknown"
    assert after["database"]["table_count"] is None
    body = pod.get("/health/database").json
    assert body["connection"] == {"status": "unknown", "error": "stale"}
    refused = {path for path, status in statuses(pod).items() if status == 503}
    assert refused == {
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


def test_thawed_everything_recovers_by_itself(frozen: Frozen) -> None:
    with agreement(frozen.pod, listeners=[WEB]):
        os.kill(frozen.worker, signal.SIGCONT)
        comes_to_be_well(frozen.pod)
    frozen.audit()
