"""Startup tasks: once per release whatever dies, and every worker says how far they are."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from scripts.health_contract import violations
from service.scoreboard import ScoreboardError
from tests.pod import Pod, eventually, frozen
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

STARTUP = "/api/system/health/startup"
PODS, WORKERS = 8, 4
LONG = 180.0  # for 48 processes to boot on two cores that do something else, too
EFFECT = "CREATE TABLE effect (release text, task text, pid integer)"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.execute(EFFECT)
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@pytest.fixture
def release(request: pytest.FixtureRequest) -> str:
    """A release of its own for each test."""
    return str(request.node.name)


def effects(postgres: Postgres, release: str) -> list[tuple[str, int]]:
    """Which task has had an effect, and by which process."""
    query = f"SELECT task, pid FROM effect WHERE release = '{release}' ORDER BY task"
    return [(str(task), int(pid)) for task, pid in postgres.execute(query)]


def tasks(pod: Pod) -> dict[str, Any]:
    """What the pod says of its tasks; nothing, if it says nothing."""
    with suppress(OSError, HTTPException):
        return dict(pod.get(STARTUP, health=True).data["tasks"])
    return {}


def told(pod: Pod, name: str, *keys: str) -> tuple[Any, ...]:
    """Some keys of a task."""
    task = tasks(pod).get(name, {})
    return tuple(task.get(key) for key in keys)


def serves(pod: Pod) -> bool:
    """Whether it has ever served, without asking for it in its own time."""
    try:
        return pod.board.serving_at is not None
    except ScoreboardError:
        return False


def held(directory: Path, task: str) -> list[int]:
    """The processes that have got as far as they were let."""
    return [int(path.suffix[1:]) for path in directory.glob(f"held.{task}.*")]


def by_every_worker(pod: Pod) -> list[Any]:
    """The tasks as each worker shows them, the others standing still meanwhile."""
    pids = [worker.pid for worker in pod.workers()]
    answers = [pod.get(STARTUP, health=True)]
    for answering in pids:
        with frozen(pid for pid in pids if pid != answering):
            answers.append(pod.get(STARTUP))
    for answer in answers:
        assert violations(STARTUP, answer.status, answer.headers, answer.body) == []
    return [answer.data["tasks"] for answer in answers]


# -- many pods


@pytest.mark.parametrize("_", range(5))
def test_many_pods_do_it_once_though_the_holder_is_killed(
    _: int, postgres: Postgres, redis: RedisServer, tmp_path: Path, release: str
) -> None:
    directory = tmp_path / "tasks"
    directory.mkdir()
    gate = directory / "hold.migrate"
    gate.touch()
    with ExitStack() as stack:
        pods = [
            Pod(
                tmp_path / str(number),
                WEB_CONCURRENCY=str(WORKERS),
                DATABASE_URL=postgres.url,
                REDIS_URL=redis.url,
                APP_RELEASE=release,
                STARTUP_TASKS="tests.process.releases:tasks",
                TASKS_DIRECTORY=str(directory),
            )
            for number in range(PODS)
        ]
        for pod in pods:
            pod.directory.mkdir()
            stack.push(pod.launch())
        stack.callback(_stop_together, pods)
        (victim,) = eventually(lambda: held(directory, "migrate"), "somebody is at it", LONG)
        os.kill(victim, signal.SIGKILL)
        gate.unlink()
        for pod in pods:
            eventually(lambda pod=pod: serves(pod), "every pod serves", LONG)
            pod.wait_for(200, STARTUP)
        done = effects(postgres, release)
        assert [task for task, _ in done] == ["migrate", "seed"]
        assert victim not in dict(done).values()
        answers = [answer for pod in pods for answer in by_every_worker(pod)]
        assert len(answers) == PODS * (1 + WORKERS)
        for name, attempts in (("migrate", 2), ("seed", 1)):
            ours = [answer[name] for answer in answers]
            assert ours[0]["status"] == "healthy"
            assert ours[0]["attempt"] == attempts
            assert ours[0]["scope"] == "fleet"
            assert all(other == ours[0] for other in ours), "every worker of every pod agrees"
        warmed = (directory / "warmed").read_text().split()
        assert len(warmed) == PODS, "what is done once in each pod"


def _stop_together(pods: list[Pod]) -> None:
    for pod in pods:
        with suppress(ProcessLookupError):
            os.kill(pod.pid, signal.SIGTERM)


# -- one pod, whatever happens to it


@pytest.fixture
def make(
    make_pod: Callable[..., Pod],
    postgres: Postgres,
    redis: RedisServer,
    tmp_path: Path,
    release: str,
) -> Callable[..., Pod]:
    """Makes a pod with startup tasks."""

    def pod(name: str = "tasks", **more: str) -> Pod:
        settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "APP_RELEASE": release,
            "STARTUP_TASKS": f"tests.process.releases:{name}",
            "TASKS_DIRECTORY": str(tmp_path),
            "WEB_CONCURRENCY": "1",
            **more,
        }
        return make_pod(**settings)

    return pod


def test_another_release_and_the_same_again(
    make: Callable[..., Pod], postgres: Postgres, release: str
) -> None:
    make().start().stop()
    pod = make().start()
    assert len(effects(postgres, release)) == 2
    assert told(pod, "migrate", "status", "attempt") == ("healthy", 1)
    make(APP_RELEASE=f"{release}-next").start()
    assert len(effects(postgres, f"{release}-next")) == 2


def test_kill_of_the_health_worker_in_the_middle(
    make: Callable[..., Pod], postgres: Postgres, tmp_path: Path, release: str
) -> None:
    """Once while it does what is for the release, and once while it does what is for the pod."""
    gates = [tmp_path / "hold.migrate", tmp_path / "hold.warm"]
    for gate in gates:
        gate.touch()
    pod = make().launch()
    # What has been published is what a successor counts on from.
    keys, at_it = ("status", "error", "attempt"), ("warning", "not_yet_checked", 1)
    for gate in gates:
        name = gate.suffix[1:]
        (victim,) = eventually(lambda name=name: held(tmp_path, name), f"it is at {name}")
        eventually(lambda name=name: told(pod, name, *keys) == at_it, "it says so")
        pod.wait_for(503, "/api/system/health/readiness")
        os.kill(victim, signal.SIGKILL)
        gate.unlink()
    pod.wait_for(200, STARTUP)
    assert [task for task, _ in effects(postgres, release)] == ["migrate", "seed"]
    assert told(pod, "migrate", "status", "attempt") == ("healthy", 2)
    assert told(pod, "warm", "status", "attempt", "scope") == ("healthy", 2, "pod")
    before, warmed = tasks(pod), (tmp_path / "warmed").read_text()

    os.kill(pod.health_worker, signal.SIGKILL)
    eventually(lambda: tasks(pod) == before, "the successor shows what was done")
    pod.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    eventually(lambda: pod.board.generation == 1, "a reload")
    pod.wait_for(200, "/api/system/health/readiness")
    assert tasks(pod) == before
    assert (tmp_path / "warmed").read_text() == warmed, "the pod has done that already"
    assert len(effects(postgres, release)) == 2


def test_a_reload_in_the_middle_is_no_try(
    make: Callable[..., Pod], postgres: Postgres, tmp_path: Path, release: str
) -> None:
    gate = tmp_path / "hold.migrate"
    gate.touch()
    pod = make("without_retries").launch()
    eventually(lambda: held(tmp_path, "migrate"), "it is at it")
    eventually(lambda: told(pod, "migrate", "attempt") == (1,), "it says so")
    pod.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    eventually(lambda: len(held(tmp_path, "migrate")) == 2, "its successor is at it")
    gate.unlink()
    pod.wait_for(200, STARTUP)
    assert told(pod, "migrate", "status", "attempt") == ("healthy", 2)
    assert [task for task, _ in effects(postgres, release)] == ["migrate"]


def test_a_required_task_that_fails(
    make: Callable[..., Pod], postgres: Postgres, tmp_path: Path, release: str
) -> None:
    pod = make("failing").launch()
    keys = ("status", "error", "attempt")
    given_up = ("unhealthy", "task_failed", 2)
    eventually(lambda: told(pod, "fail", *keys) == given_up, "it is given up")
    assert told(pod, "warm", "status") == ("unknown",), "tasks are done in their order"
    answer = pod.get(STARTUP)
    assert answer.status == 503
    assert answer.data["started"] is False
    assert violations(STARTUP, 503, answer.headers, answer.body) == []
    assert pod.get(STARTUP, Host="shop.example").data["tasks"] is None
    assert effects(postgres, release) == []
    assert "s3cret-of-the-tests" not in answer.body.decode()
    assert "the schema is" in pod.log

    (tmp_path / "repaired").touch()
    other = make("failing").start()  # a pod that comes later tries it anew
    assert told(other, "fail", "status", "attempt") == ("healthy", 3)
    pod.wait_for(200, STARTUP)
    assert tasks(pod)["fail"] == tasks(other)["fail"]
    assert [task for task, _ in effects(postgres, release)] == ["fail"]


def test_an_optional_task_that_fails(
    make: Callable[..., Pod], postgres: Postgres, release: str
) -> None:
    pod = make("failing_optional").start()
    keys = ("status", "error", "attempt")
    for name in ("fail", "bow_out"):
        assert told(pod, name, *keys) == ("unhealthy", "task_failed", 2)
    assert told(pod, "warm", *keys) == ("healthy", None, 1)
    assert effects(postgres, release) == []


def test_tasks_that_hang(make: Callable[..., Pod]) -> None:
    pod = make("hanging").start()
    for name in ("query", "anywhere", "in_the_pod"):
        assert told(pod, name, "status", "error", "attempt") == ("unhealthy", "timeout", 2)
        (duration,) = told(pod, name, "duration_ms")
        assert duration >= 900


# -- without Redis

ALONE = {"HEALTH_STARTUP_CHECKS": "database", "HEALTH_CRITICAL_CHECKS": "database"}


def test_without_redis_it_waits(make: Callable[..., Pod], postgres: Postgres, release: str) -> None:
    with RedisServer(binary("valkey")) as server:
        server.stop()
        pod = make(REDIS_URL=server.url, **ALONE).launch()
        waiting = ("unknown", "connection_refused", "fleet")
        keys = ("status", "error", "scope")
        eventually(lambda: told(pod, "migrate", *keys) == waiting, "it waits")
        pod.wait_for(503, STARTUP)
        # Another pod of the release can reach Redis, and does the work.
        make(**ALONE).start()
        pod.wait_for(200, STARTUP)
        assert told(pod, "migrate", "status", "attempt") == ("healthy", 1)
        late = make(REDIS_URL=server.url, APP_RELEASE=f"{release}-late", **ALONE).launch()
        eventually(lambda: told(late, "migrate", *keys) == waiting, "it waits")
        assert effects(postgres, f"{release}-late") == []
        server.start()
        late.wait_for(200, STARTUP)
    assert len(effects(postgres, f"{release}-late")) == 2


def test_without_redis_it_proceeds(
    make: Callable[..., Pod], postgres: Postgres, release: str
) -> None:
    with RedisServer(binary("valkey")) as server:
        server.stop()
        settings = {**ALONE, "REDIS_URL": server.url, "STARTUP_TASKS_WITHOUT_REDIS": "proceed"}
        pods = [make(**settings).launch() for _ in range(3)]
        for pod in pods:
            pod.wait_for(200, STARTUP)
    assert [task for task, _ in effects(postgres, release)] == ["migrate", "seed"]
    assert len({str(tasks(pod)["migrate"]) for pod in pods}) == 1


def test_with_a_redis_of_its_own_it_says_so(
    make: Callable[..., Pod], postgres: Postgres, release: str
) -> None:
    pod = make(REDIS_URL="").start()
    assert told(pod, "migrate", "status", "scope") == ("healthy", "pod")
    assert "no Redis for the fleet" in pod.log
    assert [task for task, _ in effects(postgres, release)] == ["migrate", "seed"]


# -- what it needs


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"APP_RELEASE": ""},
            "APP_RELEASE must be set: the startup task migrate is done once per release",
        ),
        (
            {"DATABASE_URL": ""},
            "DATABASE_URL must be set: the startup task migrate is done once per release",
        ),
        (
            {"DATABASE_URL": "sqlite://"},
            "DATABASE_URL: a database in memory keeps no ledger (of the startup task migrate)",
        ),
        (
            {"REDIS_URL": "redis://:s3cret@[/0"},
            "REDIS_URL: not a usable redis://, rediss://, unix:// or redis+sentinel:// URL",
        ),
        (
            {"STARTUP_TASKS": "tests.process.releases:missing"},
            "STARTUP_TASKS: tests.process.releases:missing cannot be imported",
        ),
        (
            {"STARTUP_TASKS": "tests.process.releases:bow_out"},
            "STARTUP_TASKS: tests.process.releases:bow_out fails: SystemExit: 3",
        ),
        (
            {"STARTUP_TASKS": "builtins:dict", "APP_RELEASE": "", "DATABASE_URL": ""},
            None,
        ),
        (
            {"STARTUP_TASKS": "builtins:list"},
            "STARTUP_TASKS: builtins:list must return a mapping of StartupTask to callable",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    make: Callable[..., Pod], settings: dict[str, str], line: str | None
) -> None:
    pod = make(**settings)
    if line is None:
        pod.start()
        assert tasks(pod) == {}
        return
    assert pod.launch().process.wait(60) == 78  # type: ignore[union-attr]
    (said,) = pod.log.splitlines()
    assert said.startswith(f"mingus-health: {line}")
