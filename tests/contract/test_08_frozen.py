"""Invariant 8: a frozen dependency slows nobody down, and busy threads silence no probe."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.contract.audit import BOTH, HEALTH, PREFIX, WEB, Audit, agreement, comes_to, statuses
from tests.contract.conftest import Estate, Launch, served
from tests.contract.scripted import Script
from tests.pod import UNHURRIED, Pod, eventually


def test_frozen_servers_freeze_nothing_else(estate: Estate) -> None:
    pod = estate.pod
    with agreement(pod), estate.postgres.frozen(), estate.redis.frozen():
        comes_to(pod, "database", "unhealthy", "timeout")
        comes_to(pod, "redis", "unhealthy", "timeout")
        for _ in range(3):
            estate.audit()
            for health in BOTH:
                assert pod.status(f"{PREFIX}/liveness", health=health) == 200
                assert pod.status(f"{PREFIX}/startup", health=health) == 200
                assert pod.status("/health", health=health) == 503
    estate.say(database=("healthy", None), redis=("healthy", None))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    with Script(tmp_path_factory.mktemp("script") / "s") as script:
        yield script


MANY = 500


@pytest.fixture(scope="module")
def busy(launch: Launch, script: Script) -> Pod:
    """An application whose requests wait for the test."""
    return served(
        launch(
            APP_MODULE="tests.contract.scripted:app",
            SCRIPT=str(script.path),
            WEB_CONCURRENCY="2",
            THREADS="2",
            DATABASE_URL="sqlite://",
            REDIS_EMBEDDED="off",
            **UNHURRIED,
        )
    )


def test_with_every_thread_busy_the_health_listener_answers(busy: Pod, script: Script) -> None:
    """A worker takes more than it has threads for, so it takes more requests than threads.

    One that stands still for a while leaves them all to the other: they must last longer.
    """
    waiting: list[Future[int]] = []

    def wait() -> int:
        return busy.get("/wait", timeout=90).status

    with ThreadPoolExecutor(MANY) as clients:

        def all_busy() -> bool:
            if len(waiting) < MANY:
                waiting.append(clients.submit(wait))
            return script.waiting == 4

        try:
            eventually(all_busy, "all threads of both workers are busy")
            for _ in range(3):
                Audit(busy, application=True)([HEALTH])
                found = statuses(busy, health=HEALTH)
                found.pop(f"{PREFIX}/resources")  # busy machines are the business of others
                assert set(found.values()) == {200}
        finally:
            for _ in waiting:
                script.say()
        assert {request.result(90) for request in waiting} == {200}
    assert busy.status("/health", health=WEB) == 200
