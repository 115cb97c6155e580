"""The ledger of startup tasks against real databases: whatever happens, one effect at most."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from service.coordination import ledger
from service.coordination.ledger import TABLE, Busy, Cord, Entry, Interrupted, Ledger
from service.pools import normalised
from tests.pod import ROOT, eventually
from tests.servers.postgres import Postgres

EFFECT = "CREATE TABLE effect (task text, pid integer)"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"
CONTENDER = Path(__file__).with_name("contender.py")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database without tables, but one for effects."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/shop.db"
    else:
        server = request.getfixturevalue("server")
        server.execute(f"DROP TABLE IF EXISTS effect, {TABLE}")
        url = server.url
    with engine(url).begin() as connection:
        connection.execute(text(EFFECT))
    return url


def engine(url: str) -> Engine:
    return create_engine(normalised(url), poolclass=NullPool)


def effects(url: str) -> list[str]:
    with engine(url).connect() as connection:
        return [str(task) for (task,) in connection.execute(text("SELECT task FROM effect"))]


def work(connection: Connection) -> None:
    connection.execute(text("INSERT INTO effect (task) VALUES ('done')"))


def always(_entry: Entry | None) -> bool:
    return True


def claim(book: Ledger, tries: int = 3) -> Entry:
    entry = book.claim("migrate", tries, always, Cord())
    assert entry is not None
    return entry


@pytest.fixture
def one(url: str) -> Ledger:
    return Ledger(url, "shop", "r1", "one")


@pytest.fixture
def two(url: str) -> Ledger:
    return Ledger(url, "shop", "r1", "two")


def state(book: Ledger) -> tuple[str, int, int, str | None]:
    entry = book.entries(Cord())["migrate"]
    return entry.state, entry.attempt, entry.tries, entry.error


def test_a_task_is_done_with_its_effect(one: Ledger, two: Ledger, url: str) -> None:
    assert one.entries(Cord()) == {}
    assert claim(one).attempt == 1
    assert state(two) == ("running", 1, 1, None)
    done = one.perform("migrate", 1, work, 60.0, Cord())
    assert (done.state, done.attempt) == ("done", 1)
    assert done.duration is not None
    assert 0 <= done.age <= done.duration + 60
    assert two.entries(Cord())["migrate"].duration == done.duration
    assert effects(url) == ["done"]
    assert two.claim("migrate", 3, lambda entry: entry is None, Cord()) is None


def test_nothing_remains_of_an_attempt_that_fails(one: Ledger, two: Ledger, url: str) -> None:
    def fails(connection: Connection) -> None:
        work(connection)
        raise LookupError("the shop is closed")

    claim(one)
    with pytest.raises(LookupError):
        one.perform("migrate", 1, fails, 60.0, Cord())
    one.record("migrate", 1, "task_failed", Cord())
    assert state(two) == ("failed", 1, 1, "task_failed")
    assert effects(url) == []
    assert claim(two).attempt == 2
    assert state(one) == ("running", 2, 2, "task_failed"), "known until it is refuted"
    assert two.perform("migrate", 2, work, 60.0, Cord()).error is None
    assert effects(url) == ["done"]


def test_a_release_begins_anew(one: Ledger, url: str) -> None:
    claim(one)
    one.perform("migrate", 1, work, 60.0, Cord())
    for other in (Ledger(url, "shop", "r2", "one"), Ledger(url, "cafe", "r1", "one")):
        assert other.entries(Cord()) == {}
        claim(other)
        other.perform("migrate", 1, work, 60.0, Cord())
    assert len(effects(url)) == 3


def test_a_fresh_claim_is_not_overtaken(one: Ledger, two: Ledger) -> None:
    claim(one)
    with pytest.raises(Busy):
        claim(two)
    assert state(one) == ("running", 1, 1, None)


def test_a_clock_that_was_set_back_holds_up_nobody(one: Ledger, two: Ledger, url: str) -> None:
    claim(one)
    later = (
        "clock_timestamp() + interval '1 hour'"
        if "postgresql" in url
        else "strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 hour')"
    )
    with engine(url).begin() as connection:
        connection.execute(text(f"UPDATE {TABLE} SET started_at = {later}"))
    assert claim(two).attempt == 2


def test_who_was_overtaken_has_no_effect(
    one: Ledger, two: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CLAIM_SECONDS", 0.0)
    claim(one)
    assert claim(two).attempt == 2
    with pytest.raises(Busy):
        one.perform("migrate", 1, work, 60.0, Cord())
    one.record("migrate", 1, "timeout", Cord(), given_up=True)
    assert state(one) == ("running", 2, 2, None), "what it says of itself does not count"
    two.perform("migrate", 2, work, 60.0, Cord())
    with pytest.raises(Busy):
        one.perform("migrate", 1, work, 60.0, Cord())
    assert effects(url) == ["done"]


def test_who_is_at_it_is_left_alone(
    one: Ledger, two: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CLAIM_SECONDS", 0.0)
    claim(one)

    def slowly(connection: Connection) -> None:
        work(connection)
        with pytest.raises(Busy):
            claim(two)
        assert state(two) == ("running", 1, 1, None)

    one.perform("migrate", 1, slowly, 60.0, Cord())
    assert effects(url) == ["done"]


def test_given_up_and_begun_anew(one: Ledger, two: Ledger) -> None:
    for attempt in (1, 2):
        claim(one)
        one.record("migrate", attempt, "timeout", Cord(), given_up=attempt == 2)
    assert state(two) == ("given_up", 2, 2, "timeout")
    claim(two)
    assert state(one) == ("running", 3, 1, "timeout")


def test_a_task_that_kills_its_process_is_given_up(
    one: Ledger, two: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CLAIM_SECONDS", 0.0)
    for book in (one, two, one):
        claim(book, tries=3)
    assert two.claim("migrate", 3, always, Cord()) is None
    assert state(two) == ("given_up", 3, 3, "task_failed")


def test_what_was_broken_off_is_not_counted(
    one: Ledger, two: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CLAIM_SECONDS", 0.0)
    claim(one, tries=1)
    one.give_back("migrate", 1, Cord())
    assert state(two) == ("running", 1, 0, None), "as if its process had died, and no try"
    assert claim(two, tries=1).attempt == 2
    one.give_back("migrate", 1, Cord())
    assert state(one) == ("running", 2, 1, None), "another is at it now"
    assert one.claim("migrate", 1, always, Cord()) is None
    two.give_back("migrate", 2, Cord())
    assert claim(one, tries=1).attempt == 3, "it was given up too soon"
    one.perform("migrate", 3, work, 60.0, Cord())
    one.give_back("migrate", 3, Cord())
    assert state(two) == ("done", 3, 1, None)


# -- what a task may do with its connection


def test_savepoints_and_sessions_belong_to_the_transaction(one: Ledger, url: str) -> None:
    def orderly(connection: Connection) -> None:
        with connection.begin_nested():
            work(connection)
        nested = connection.begin_nested()
        work(connection)
        nested.rollback()
        with Session(connection) as session:
            session.execute(text("INSERT INTO effect (task) VALUES ('in a session')"))
            session.commit()

    claim(one)
    assert one.perform("migrate", 1, orderly, 60.0, Cord()).state == "done"
    assert effects(url) == ["done", "in a session"]


def _commit(connection: Connection) -> None:
    connection.commit()


def _past_sqlalchemy(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    driver.rollback()
    work(connection)


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(_commit, id="commit"),
        pytest.param(lambda connection: connection.rollback(), id="rollback"),
        pytest.param(_past_sqlalchemy, id="past SQLAlchemy"),
    ],
)
def test_a_task_leaves_the_transaction_alone(
    one: Ledger, ending: Callable[[Connection], None]
) -> None:
    def ends_it(connection: Connection) -> None:
        work(connection)
        ending(connection)

    claim(one)
    with pytest.raises((Interrupted, InvalidRequestError)):
        one.perform("migrate", 1, ends_it, 60.0, Cord())
    assert state(one)[0] == "running", "the row is not done"


# -- time limits


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - for the test to see
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


def test_a_task_that_hangs_is_pulled_out(one: Ledger, two: Ledger, url: str) -> None:
    """Wherever it hangs: the lock is free at once, and later it has no effect any more."""
    begun, gate, cord = threading.Event(), threading.Event(), Cord()

    def hangs(connection: Connection) -> None:
        work(connection)
        begun.set()
        gate.wait(60)
        work(connection)

    claim(one)
    thread, raised = in_thread(lambda: one.perform("migrate", 1, hangs, 60.0, cord))
    assert begun.wait(60)
    cord.pull()
    one.record("migrate", 1, "timeout", Cord())
    entry = eventually(lambda: claimed(two), "the lock is free")
    two.perform("migrate", entry.attempt, work, 60.0, Cord())
    gate.set()
    thread.join(60)
    assert raised
    assert effects(url) == ["done"]


def claimed(book: Ledger) -> Entry | None:
    try:
        return claim(book)
    except Busy:
        return None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_whatever_sqlite_is_doing_it_can_be_pulled_out(one: Ledger) -> None:
    """Pulled at any moment of a statement's life the process lives on, and the lock is free."""
    for number in range(300):
        task, begun, cord = f"task-{number}", threading.Event(), Cord()
        one.claim(task, 3, always, Cord())

        def hangs(connection: Connection, begun: threading.Event = begun) -> None:
            begun.set()
            connection.execute(text(ENDLESS))

        thread, raised = in_thread(partial(one.perform, task, 1, hangs, 600.0, cord))
        assert begun.wait(60)
        cord.pull()
        thread.join(60)
        assert isinstance(raised[0], DBAPIError)


def test_a_task_that_hangs_between_rows_is_pulled_out(one: Ledger, two: Ledger, url: str) -> None:
    begun, gate, cord = threading.Event(), threading.Event(), Cord()

    def hangs(connection: Connection) -> None:
        work(connection)
        rows = connection.execute(text("SELECT 1 UNION ALL SELECT 2"))
        rows.fetchone()
        begun.set()
        gate.wait(60)
        work(connection)

    claim(one)
    thread, raised = in_thread(lambda: one.perform("migrate", 1, hangs, 60.0, cord))
    assert begun.wait(60)
    cord.pull()
    one.record("migrate", 1, "timeout", Cord())
    assert eventually(lambda: claimed(two), "the lock is free").attempt == 2
    gate.set()
    thread.join(60)
    assert isinstance(raised[0], DBAPIError)
    assert effects(url) == []


def test_a_statement_that_hangs_is_pulled_out(url: str, one: Ledger, two: Ledger) -> None:
    cord, begun = Cord(), threading.Event()

    def hangs(connection: Connection) -> None:
        work(connection)
        begun.set()
        connection.execute(text("SELECT pg_sleep(600)" if "postgresql" in url else ENDLESS))

    claim(one)
    thread, raised = in_thread(lambda: one.perform("migrate", 1, hangs, 600.0, cord))
    assert begun.wait(60)
    cord.pull()
    thread.join(60)
    assert isinstance(raised[0], DBAPIError)
    one.record("migrate", 1, "timeout", Cord())
    assert eventually(lambda: claimed(two), "the lock is free").attempt == 2
    assert effects(url) == []


def test_a_cord_that_was_pulled_too_early(one: Ledger) -> None:
    cord = Cord()
    cord.pull()
    cord.pull()
    with pytest.raises(TimeoutError):
        one.entries(cord)
    assert one.entries(Cord()) == {}


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_the_database_ends_what_takes_too_long(one: Ledger) -> None:
    claim(one)
    with pytest.raises(DBAPIError) as caught:
        one.perform("migrate", 1, lambda it: it.execute(text("SELECT pg_sleep(600)")), 0.2, Cord())
    assert getattr(caught.value.orig, "sqlstate", None) == "57014"


def test_who_looks_in_vain_leaves_nobody_waiting_in_the_server(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.3)
    book, cord = Ledger(server.url, "shop", "r1", "one"), Cord()
    book.entries(Cord())
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with engine(server.url).begin() as other:
        other.execute(text(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"))
        thread, raised = in_thread(lambda: book.entries(cord))
        try:
            eventually(lambda: raised, "the server says that it takes too long")
            assert server.execute(waiting) == []
        finally:
            cord.pull()
            thread.join(60)
    assert isinstance(raised[0], DBAPIError)


def test_a_frozen_server_holds_nobody(server: Postgres) -> None:
    book = Ledger(server.url, "shop", "r1", "one")
    book.entries(Cord())
    with server.frozen():
        cord = Cord()
        begun = time.monotonic()
        thread, raised = in_thread(lambda: book.entries(cord))
        cord.pull()
        thread.join(60)
        assert not thread.is_alive()
        assert raised
        assert time.monotonic() - begun < 3 * ledger.CONNECT_SECONDS


# -- processes


@pytest.mark.parametrize("deaths", [0, 3])
def test_processes_contend_and_die(url: str, tmp_path: Path, deaths: int) -> None:
    fates = tmp_path / "fates"
    fates.mkdir()
    for number in range(deaths):
        (fates / str(number)).touch()
    contenders = [
        subprocess.Popen(
            [sys.executable, str(CONTENDER), url, "migrate", str(fates)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )
        for _ in range(8)
    ]
    try:
        codes = [contender.wait(120) for contender in contenders]
    finally:
        for contender in contenders:
            contender.kill()
            contender.wait()
    assert sorted(codes) == [-9] * deaths + [0] * (8 - deaths)
    assert effects(url) == ["migrate"]
    book = Ledger(url, "shop", "r1", "test")
    found = book.entries(Cord())["migrate"]
    assert found.state == "done"
    assert found.attempt >= 1 + deaths


# -- where it cannot be


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("mysql+pymysql://shop:s3cret@db/shop", "a ledger needs PostgreSQL or SQLite, not mysql"),
        ("sqlite://", "a database in memory keeps no ledger"),
        ("sqlite:///:memory:", "a database in memory keeps no ledger"),
        ("s3cret", "is not a database URL"),
    ],
)
def test_where_no_ledger_can_be(url: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        Ledger(url, "shop", "r1", "one")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "drivername", ["postgres", "postgresql+psycopg2", "postgresql+asyncpg", "postgresql+psycopg"]
)
def test_whatever_driver_the_application_uses(server: Postgres, drivername: str) -> None:
    url = server.url.replace("postgresql", drivername, 1)
    if drivername.endswith("asyncpg"):
        url += "?prepared_statement_cache_size=0"
    assert isinstance(Ledger(url, "shop", "r0", "one").entries(Cord()), dict)
