"""Startup tasks for the tests. What they do is counted in the database and told in files.

The variable TASKS_DIRECTORY names a directory. A task that finds ``hold.<task>`` in there says
that it is at it, in ``held.<task>.<process id>``, and goes on once the file is gone.
"""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy import Connection, text

from service import CheckFailed, StartupTask

DIRECTORY = Path(os.environ.get("TASKS_DIRECTORY", "/nonexistent"))
NEVER = threading.Event()


def hold(task: str) -> None:
    """Stays where it is for as long as the test wants."""
    path = DIRECTORY / f"hold.{task}"
    if path.exists():
        (DIRECTORY / f"held.{task}.{os.getpid()}").touch()
    while path.exists():
        NEVER.wait(0.02)


def effect(connection: Connection, task: str) -> None:
    """A row for each time a task was done."""
    connection.execute(
        text("INSERT INTO effect (release, task, pid) VALUES (:release, :task, :pid)"),
        {"release": os.environ["APP_RELEASE"], "task": task, "pid": os.getpid()},
    )


def migrate(connection: Connection) -> None:
    effect(connection, "migrate")
    hold("migrate")


def seed(connection: Connection) -> None:
    effect(connection, "seed")


def warm() -> None:
    with (DIRECTORY / "warmed").open("a") as file:
        file.write(f"{os.getpid()}\n")
    hold("warm")


def tasks() -> Mapping[StartupTask, Callable[..., object]]:
    """Two for the release, and one for each pod."""
    return {
        StartupTask("migrate", timeout=120): migrate,
        StartupTask("seed"): seed,
        StartupTask("warm", once="pod"): warm,
    }


def without_retries() -> Mapping[StartupTask, Callable[..., object]]:
    """One that is tried once."""
    return {StartupTask("migrate", timeout=120, retries=0): migrate}


def fail(connection: Connection) -> None:
    effect(connection, "fail")
    if (DIRECTORY / "repaired").exists():
        return
    raise CheckFailed("task_failed", "the schema is s3cret-of-the-tests")


def failing() -> Mapping[StartupTask, Callable[..., object]]:
    """One that fails until it is repaired."""
    task = StartupTask("fail", retries=1, backoff=0.1)
    return {task: fail, StartupTask("warm", once="pod"): warm}


def failing_optional() -> Mapping[StartupTask, Callable[..., object]]:
    """Two that fail, and nobody needs them."""
    return {
        StartupTask("fail", retries=1, backoff=0.1, required=False): fail,
        StartupTask("bow_out", once="pod", retries=1, backoff=0.1, required=False): bow_out,
        StartupTask("warm", once="pod"): warm,
    }


def bow_out() -> None:
    raise SystemExit(3)


def hanging() -> Mapping[StartupTask, Callable[..., object]]:
    """One that hangs in the database, and one that hangs anywhere."""
    short = {"timeout": 1.0, "retries": 1, "backoff": 0.1, "required": False}
    # Here, what it takes to get from the first attempt to the second is part of the time for both.
    longer = short | {"timeout": 3.0}
    return {
        StartupTask("query", **longer): lambda connection: connection.execute(
            text("SELECT pg_sleep(600)")
        ),
        StartupTask("anywhere", **longer): lambda _connection: NEVER.wait(),
        StartupTask("in_the_pod", once="pod", **short): NEVER.wait,
    }
