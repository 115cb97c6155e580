"""Invariant 18: the table count is right, and the pool numbers are the sum over the workers."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.health import Role
from tests.contract.audit import BOTH, PREFIX, Audit, services
from tests.contract.conftest import Launch, served
from tests.pod import UNHURRIED, Pod, eventually, frozen
from tests.servers.postgres import Postgres

QUICKLY = {"HEALTH_DATABASE_INTERVAL_SECONDS": "0.1", "REDIS_EMBEDDED": "off", **UNHURRIED}
NUMBERS = ("pool_size", "checked_in", "checked_out", "overflow")


def table_counts(pod: Pod) -> set[int | None]:
    """What every place says."""
    return {
        count
        for health in BOTH
        for count in (
            pod.get("/health/database", health=health).json["responsiveness"]["table_count"],
            pod.get(f"{PREFIX}/database", health=health).data["table_count"],
            services(pod, health=health)["database"]["table_count"],
        )
    }


def comes_to_count(pod: Pod, count: int) -> None:
    eventually(lambda: table_counts(pod) == {count}, f"{count} tables, not {table_counts(pod)}")


# -- tables


def test_sqlite_from_no_file_at_all_to_many_tables(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite3"
    pod = served(launch(DATABASE_URL=f"sqlite:///{path}", **QUICKLY))
    comes_to_count(pod, 0)
    with closing(sqlite3.connect(path)) as database:
        for statements, count in (
            ("CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT)", 1),  # and sqlite_sequence
            ("CREATE TABLE sqlitely (id INTEGER); CREATE TABLE _b (id INTEGER)", 3),
            ("CREATE VIEW v AS SELECT * FROM a; CREATE INDEX i ON _b (id)", 3),
            ("CREATE TABLE alembic_version (version_num TEXT)", 4),
            ("DROP TABLE sqlitely", 3),
        ):
            database.executescript(statements)
            comes_to_count(pod, count)
    Audit(pod)()


@pytest.fixture(scope="module")
def holder(launch: Launch, postgres: Postgres) -> Pod:
    """An application that holds as many connections as a test wants."""
    return served(
        launch(
            APP_MODULE="tests.contract.holder:app",
            DATABASE_URL=f"{postgres.create_database('held')}?application_name=held",
            DB_POOL_SIZE="3",
            DB_MAX_OVERFLOW="2",
            **QUICKLY,
        )
    )


def test_postgresql_from_an_empty_database_to_many_tables(holder: Pod, postgres: Postgres) -> None:
    comes_to_count(holder, 0)
    for statement, count in (
        ("CREATE TABLE a (id int)", 1),
        ("CREATE SCHEMA other", 1),
        ("CREATE TABLE other.a (id int)", 2),
        ("CREATE TABLE log (day date) PARTITION BY RANGE (day)", 3),
        ("CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')", 3),
        ("CREATE VIEW v AS SELECT * FROM a", 3),
        ("CREATE MATERIALIZED VIEW m AS SELECT * FROM a", 3),
        ("CREATE SEQUENCE s", 3),
        ("CREATE TABLE pgish (id int)", 4),
        ("DROP SCHEMA other CASCADE", 3),
    ):
        postgres.execute(statement, database="held")
        comes_to_count(holder, count)
    Audit(holder, application=True)()


# -- pools


def asked(pod: Pod, path: str = "/figures") -> dict[int, dict[str, Any]]:
    """What the engine of every web worker says of itself; each is asked once."""
    pids = {worker.pid for worker in pod.workers(Role.WEB)}
    found: dict[int, dict[str, Any]] = {}

    def all_found() -> bool:
        # Which worker answers is up to the kernel, so the others are held back meanwhile.
        for pid in pids - found.keys():
            with frozen(pids - {pid}):
                answer = pod.get(path, timeout=60).json
            found[answer["pid"]] = answer
        return found.keys() == pids

    eventually(all_found, "every worker has answered")
    return found


def published(pod: Pod, *, health: bool = False) -> dict[str, Any]:
    return pod.get("/health/database", health=health).json["connection_pool"]


def comes_to_agree(pod: Pod) -> dict[str, int]:
    """Waits until the pod says the sum of what its workers say; the sums."""
    sums = {name: sum(each[name] for each in asked(pod).values()) for name in NUMBERS}

    def agrees() -> bool:
        return all(
            {name: published(pod, health=health)["info"][name] for name in NUMBERS} == sums
            and published(pod, health=health)["workers"] == 2
            for health in BOTH
        )

    eventually(agrees, f"{sums}, not {published(pod)}")
    return sums


def test_pool_numbers_are_the_sum_over_the_workers_engines(holder: Pod) -> None:
    sums = comes_to_agree(holder)
    assert sums["pool_size"] == 6
    asked(holder, "/hold?n=2")
    sums = comes_to_agree(holder)
    assert (sums["checked_out"], sums["overflow"]) == (4, 0)
    # 2 of 5 are in use in each worker, and the check's own connection is not among them.
    assert published(holder)["status"] == "healthy"
    assert holder.get("/health/database").json["status"] == "healthy"
    numbers = holder.get("/health/metrics").json["metrics"]["database_metrics"]
    assert numbers == {"connection_pool_size": 6, "connections_checked_out": 4}
    text = holder.get("/metrics").body.decode()
    assert 'db_connection_pool_size{pool_type="app"} 6.0' in text
    assert 'db_connection_pool_used{pool_type="app"} 4.0' in text


def test_full_pools_are_a_warning_and_no_more(holder: Pod) -> None:
    asked(holder, "/free")
    asked(holder, "/hold?n=4")  # 4 of 5: the threshold of 0.8 is reached
    sums = comes_to_agree(holder)
    assert (sums["checked_out"], sums["overflow"]) == (8, 2)
    comes_to_pool(holder, "warning", "pool_saturated")
    asked(holder, "/hold?n=1")
    sums = comes_to_agree(holder)
    assert (sums["checked_out"], sums["overflow"]) == (10, 4)
    comes_to_pool(holder, "unhealthy", "pool_exhausted")
    body = holder.get("/health/database").json
    assert (body["status"], body["error"]) == ("warning", "pool_exhausted")
    assert holder.status("/health/database") == holder.status("/health") == 200
    Audit(holder, application=True)()
    asked(holder, "/free")
    comes_to_pool(holder, "healthy", None)


def comes_to_pool(pod: Pod, status: str, code: str | None) -> None:
    eventually(
        lambda: (published(pod)["status"], published(pod)["error"]) == (status, code),
        f"the pools are {status}, {code}, not {published(pod)}",
    )


def test_a_killed_workers_numbers_are_gone(holder: Pod) -> None:
    asked(holder, "/free")
    asked(holder, "/hold?n=1")
    victim = holder.workers(Role.WEB)[0].pid
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: replaced(holder, victim), "another web worker")
    sums = comes_to_agree(holder)
    assert sums["checked_out"] == 1


def replaced(pod: Pod, victim: int) -> bool:
    pids = {worker.pid for worker in pod.workers(Role.WEB)}
    return len(pids) == 2 and victim not in pids


def test_thrown_away_connections_are_a_warning(holder: Pod) -> None:
    asked(holder, "/free")
    asked(holder, "/break")
    comes_to_pool(holder, "warning", "connections_invalidated")
    # Each worker tells of its own pool in its own time.
    eventually(lambda: published(holder)["info"]["invalid"] >= 2, "those of both workers")
    body = holder.get("/health/database").json
    assert (body["status"], body["error"]) == ("warning", "connections_invalidated")
    Audit(holder, application=True)()
