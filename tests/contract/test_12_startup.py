"""Invariant 12: startup is 503 before and 200 ever after, whatever happens then."""

import os
import signal
from collections.abc import Iterator

import pytest

from service.health import Role
from tests.contract.audit import (
    BOTH,
    PREFIX,
    Audit,
    agreement,
    checks,
    comes_to,
    comes_to_be_well,
    services,
    system,
    witness,
)
from tests.contract.conftest import Launch
from tests.pod import UNHURRIED, Pod, eventually
from tests.servers.faults import Fault, FaultProxy
from tests.servers.postgres import Postgres

STARTUP = f"{PREFIX}/startup"
REFUSED = ("unhealthy", "connection_refused")


@pytest.fixture(scope="module")
def line(postgres: Postgres) -> Iterator[FaultProxy]:
    """What is between the pods and a database that is away at first."""
    with FaultProxy(("127.0.0.1", postgres.port)) as line:
        line.fault = Fault.REFUSE
        yield line


@pytest.fixture(scope="module")
def pods(launch: Launch, postgres: Postgres, line: FaultProxy) -> tuple[Pod, Pod]:
    """One that waits for its database, and one that leaves the outage to readiness."""
    url = postgres.create_database("startup").replace(f":{postgres.port}", f":{line.address[1]}")
    return (
        launch(DATABASE_URL=url, **UNHURRIED),
        launch(DATABASE_URL=url, HEALTH_STARTUP_CHECKS="none", **UNHURRIED),
    )


def test_before_the_database_has_been_seen(pods: tuple[Pod, Pod]) -> None:
    waiting, _ = pods
    waiting.wait_for(503, STARTUP)
    comes_to(waiting, "database", *REFUSED)
    comes_to(waiting, "redis", "healthy")
    for health in BOTH:
        body = waiting.get(STARTUP, health=health).data
        assert body["started"] is False
        assert body["services"]["database"] == "unhealthy"
        assert body["services"]["redis"] == "healthy"
        assert waiting.get("/health", health=health).json["status"] == "unknown"
        assert waiting.status(f"{PREFIX}/liveness", health=health) == 200
        assert system(waiting, health=health)["lifecycle"] == "starting"
        assert services(waiting, health=health)["application"]["startup_time"] is None
    Audit(waiting)()
    # Its workers are there and take requests: it is the database alone that is waited for.
    assert len(waiting.workers(Role.WEB)) == 2
    assert waiting.status(STARTUP) == 503


def test_startup_checks_may_be_none(pods: tuple[Pod, Pod]) -> None:
    _, careless = pods
    careless.wait_for(200, STARTUP)
    eventually(lambda: checks(careless)["database"] == REFUSED, "the database is refused")
    for health in BOTH:
        assert careless.status(f"{PREFIX}/readiness", health=health) == 503
        assert careless.get("/health", health=health).json["status"] == "unhealthy"
        assert careless.status(STARTUP, health=health) == 200
    Audit(careless)()


def test_once_started_it_stays_started(pods: tuple[Pod, Pod], line: FaultProxy) -> None:
    pod, _ = pods
    with agreement(pod):
        line.fault = Fault.NONE
        pod.wait_for(200, STARTUP)
    audit = Audit(pod)
    comes_to_be_well(pod)
    audit()

    def wrong() -> list[int] | None:
        found = [pod.get(STARTUP, health=health).status for health in BOTH]
        return found if found != [200, 200] else None

    with witness(wrong) as seen:
        line.fault = Fault.REFUSE
        comes_to(pod, "database", *REFUSED)
        assert pod.status(f"{PREFIX}/readiness") == 503
        recycle(pod)
        os.kill(pod.workers(Role.WEB)[0].pid, signal.SIGKILL)
        os.kill(pod.health_worker, signal.SIGKILL)
        eventually(lambda: len(pod.workers(Role.WEB)) == 2, "the workers are back")
        comes_to(pod, "database", *REFUSED)
        audit()
        line.fault = Fault.NONE
        comes_to_be_well(pod)
    assert seen == []
    since = services(pod)["application"]["startup_time"]
    assert since is not None


def recycle(pod: Pod) -> None:
    """Replaces every worker, as a reload does."""
    before = {worker.pid for role in Role for worker in pod.workers(role)}
    os.kill(pod.pid, signal.SIGHUP)

    def replaced() -> bool:
        now = {worker.pid for role in Role for worker in pod.workers(role)}
        return len(now) == len(before) and not now & before

    eventually(replaced, "every worker is another one")


def test_a_reload_does_not_move_the_startup_time(pods: tuple[Pod, Pod]) -> None:
    _, pod = pods
    comes_to_be_well(pod)
    before = services(pod)["application"]["startup_time"]
    recycle(pod)
    comes_to_be_well(pod)
    assert services(pod)["application"]["startup_time"] == before
