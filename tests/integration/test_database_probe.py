"""The database probe against a real PostgreSQL, sqlite, and stand-ins for what they never do."""

import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import SHUT_WR, create_connection, create_server, socket
from time import monotonic
from typing import Any, ClassVar, Self

import pytest
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from service.health import PoolUse, Result, Status
from service.probes.database import MAX_AGE, DatabaseProbe
from tests.servers.postgres import PASSWORD, Postgres, wait_until

APPLICATION = "mingus-health"
LIMIT = 10.0  # seconds; far more than a healthy server needs on a loaded machine
SHORT = 0.5  # seconds; where a run is meant to pass it
BOUNDED = 20.0  # seconds; generous beside that


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@contextmanager
def probing(url: str, *, timeout: float = LIMIT, **options: Any) -> Iterator[DatabaseProbe]:
    """A probe that is closed in the end."""
    defaults: dict[str, Any] = {"slow_ms": 1e6, "pool_threshold": 0.8, "pools": list}
    with closing(DatabaseProbe(url, timeout=timeout, **{**defaults, **options})) as probe:
        yield probe


def run(url: str, **options: Any) -> Result:
    with probing(url, **options) as probe:
        return probe()


def details(
    connection: tuple[str, str | None], responsiveness: tuple[str, str | None]
) -> dict[str, Any]:
    """The details of a run that counted nothing, with nobody's pool."""
    return {
        "connection": {"status": connection[0], "error": connection[1]},
        "responsiveness": {
            "status": responsiveness[0],
            "error": responsiveness[1],
            "response_time_ms": None,
            "table_count": None,
        },
        "connection_pool": {
            "status": "healthy",
            "error": None,
            "scope": "pod",
            "workers": 0,
            "info": dict.fromkeys(
                ("pool_size", "checked_in", "checked_out", "overflow", "invalid"), None
            ),
        },
    }


NOT_ATTEMPTED = ("unknown", "not_attempted")


def unused_port() -> int:
    with create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- what is measured


def test_a_healthy_server(postgres: Postgres) -> None:
    result = run(postgres.create_database("healthy"))
    assert (result.status, result.code, result.reason) == (Status.HEALTHY, None, "")
    assert result.response_time is not None
    assert 0 < result.response_time < LIMIT
    milliseconds = result.details["responsiveness"]["response_time_ms"]
    assert 0 < milliseconds == round(milliseconds, 2)
    expected = details(("healthy", None), ("healthy", None))
    expected["responsiveness"] |= {"response_time_ms": milliseconds, "table_count": 0}
    assert result.details == expected


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"]
)
def test_every_spelling_of_postgresql(postgres: Postgres, scheme: str) -> None:
    assert run(postgres.url.replace("postgresql", scheme)).code is None


def test_the_options_of_another_driver_are_left_out(postgres: Postgres) -> None:
    url = postgres.url.replace("postgresql", "postgresql+asyncpg")
    assert run(f"{url}?prepared_statement_cache_size=0").code is None


def test_a_unix_socket(postgres: Postgres) -> None:
    assert run(postgres.socket_url).code is None


def test_partitions_and_system_tables_are_no_user_tables(postgres: Postgres) -> None:
    url = postgres.create_database("tables")
    with probing(url) as probe:
        for sql in (
            "CREATE TABLE ordinary (id int)",
            "CREATE TABLE whole (id int) PARTITION BY RANGE (id)",
            "CREATE TABLE piece PARTITION OF whole FOR VALUES FROM (0) TO (9)",
            "CREATE VIEW looks_like_one AS SELECT * FROM ordinary",
            "CREATE SCHEMA pgbank CREATE TABLE ordinary (id int)",
        ):
            postgres.execute(sql, database="tables")
        assert probe().details["responsiveness"]["table_count"] == 3


def test_a_run_sends_two_statements_on_a_connection_it_keeps(postgres: Postgres) -> None:
    with probing(f"{postgres.url}?application_name=counted") as probe:
        for _ in range(3):
            assert probe().code is None
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
        assert postgres.execute(sessions) == [(1,)]
    statements = postgres.statements("counted")
    assert len(statements) == 6
    assert statements.count("SELECT 1") == 3


def test_the_connection_is_replaced_within_five_minutes(postgres: Postgres) -> None:
    now = [0.0]
    with probing(
        f"{postgres.url}?application_name=aging", clock=lambda: monotonic() + now[0]
    ) as probe:
        assert probe().code is None
        first = backends(postgres, "aging")
        now[0] += MAX_AGE / 2
        assert probe().code is None
        assert backends(postgres, "aging") == first
        now[0] += MAX_AGE / 2
        assert probe().code is None
        wait_until(lambda: len(backends(postgres, "aging")) == 1, "the old session has ended")
        assert backends(postgres, "aging") != first


def backends(postgres: Postgres, application: str = APPLICATION) -> list[tuple[int]]:
    return postgres.execute(
        f"SELECT pid FROM pg_stat_activity WHERE application_name = '{application}'"
    )


def test_the_server_limits_a_statement_too(postgres: Postgres) -> None:
    with probing(f"{postgres.url}?options=-c%20search_path%3Dmine", timeout=7.0) as probe:
        assert ask(probe, "SHOW statement_timeout") == "7s"
        assert ask(probe, "SHOW search_path") == "mine"


def ask(probe: DatabaseProbe, sql: str) -> Any:
    """Run a statement on the probe's own connection."""
    assert probe().code is None
    with probe._run() as (limit, held):
        return held.session.scalar(sql, limit)


def test_a_slow_answer_is_a_warning(postgres: Postgres) -> None:
    result = run(postgres.url, slow_ms=0.0)
    assert (result.status, result.code) == (Status.WARNING, "slow_response")
    assert result.response_time is not None
    assert result.details["connection"] == {"status": "warning", "error": "slow_response"}
    assert result.details["responsiveness"]["status"] == "healthy"


FULL = PoolUse(10, 0, 30, 20, 0, 30)


def test_exhausted_pools_are_never_worse_than_a_warning(postgres: Postgres) -> None:
    result = run(postgres.url, pools=lambda: [FULL, FULL])
    assert (result.status, result.code) == (Status.WARNING, "pool_exhausted")
    assert result.details["connection_pool"]["status"] == "unhealthy"
    assert result.details["connection_pool"]["workers"] == 2


def test_the_pools_are_seen_while_the_database_is_gone() -> None:
    result = run(f"postgresql://x@127.0.0.1:{unused_port()}/x", pools=lambda: [FULL])
    assert result.code == "connection_refused"
    assert result.details["connection_pool"]["info"]["checked_out"] == 30


def test_the_revision_is_read_when_asked_for(postgres: Postgres) -> None:
    url = postgres.create_database("migrated")
    with probing(url, read_revision=True) as probe, probing(url) as incurious:
        assert probe().code is None
        assert probe.revision is None
        for sql in (
            "CREATE TABLE alembic_version (version_num varchar(32))",
            "INSERT INTO alembic_version VALUES ('1975ea83b712')",
        ):
            postgres.execute(sql, database="migrated")
        assert (probe().code, incurious().code) == (None, None)
        assert (probe.revision, incurious.revision) == ("1975ea83b712", None)
        postgres.execute("DROP TABLE alembic_version", database="migrated")
        assert probe().code is None
        assert probe.revision is None


# -- what can be wrong


@pytest.fixture(scope="module")
def plain_role(postgres: Postgres) -> str:
    """The URL of a role that is no superuser."""
    postgres.execute(f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'")
    return postgres.url.replace("postgres:", "plain:")


def test_a_port_where_nobody_listens() -> None:
    result = run(f"postgresql://x@127.0.0.1:{unused_port()}/x")
    assert (result.status, result.code) == (Status.UNHEALTHY, "connection_refused")
    assert result.response_time is None
    assert result.details == details(("unhealthy", "connection_refused"), NOT_ATTEMPTED)


def test_a_stopped_server_comes_back(postgres: Postgres) -> None:
    with probing(postgres.url) as probe:
        assert probe().code is None
        postgres.stop()
        try:
            assert [probe().code, probe().code] == ["connection_lost", "connection_refused"]
        finally:
            postgres.start()
        assert probe().code is None


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (PASSWORD, "wrong", "authentication_failed"),
        (f":{PASSWORD}", "", "authentication_failed"),
        ("postgres:", "nobody:", "authentication_failed"),
        ("/postgres", "/missing", "database_not_found"),
        ("/postgres", "/postgres?sslmode=require", "tls_error"),
        ("/postgres", "/postgres?target_session_attrs=standby", "query_failed"),
        ("/postgres", "/postgres?sslmode=perhaps", "configuration_invalid"),
        ("/postgres", "/postgres?pgbouncer=true", "configuration_invalid"),
    ],
)
def test_a_url_that_does_not_fit_the_server(
    postgres: Postgres, old: str, new: str, code: str
) -> None:
    head, separator, tail = postgres.url.rpartition(old)
    result = run(f"{head}{new}{tail}")
    assert separator
    assert result.code == code
    assert result.details == details(("unhealthy", code), NOT_ATTEMPTED)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://x@" + "a." * 140 + "a/x", "dns_failure"),
        ("postgresql://x@" + "a" * 64 + "/x", "dns_failure"),
        ("postgresql:///x?host=/missing", "connection_refused"),
        ("postgresql://x@127.0.0.1:99999/x", "configuration_invalid"),
        ("postgresql://x:secret@h:port/x", "configuration_invalid"),
        ("nonsense", "configuration_invalid"),
        ("sqlite://host/x", "configuration_invalid"),
        ("sqlite://?detect_types=many", "configuration_invalid"),
        ("nosuchdatabase://h/x", "driver_missing"),
        ("sqlite+nosuchdriver://", "driver_missing"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, code: str) -> None:
    result = run(url)
    assert result.code == code
    assert result.details == details(("unhealthy", code), NOT_ATTEMPTED)
    assert "secret" not in result.reason


def test_a_role_without_a_connection_left(postgres: Postgres, plain_role: str) -> None:
    postgres.execute("ALTER ROLE plain CONNECTION LIMIT 0")
    try:
        assert run(plain_role).code == "too_many_connections"
    finally:
        postgres.execute("ALTER ROLE plain CONNECTION LIMIT -1")


def test_a_role_that_may_not_connect(postgres: Postgres, plain_role: str) -> None:
    postgres.create_database("closed")
    postgres.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    url = plain_role.replace("/postgres", "/closed")
    assert run(url).code == "permission_denied"


def test_a_server_that_only_reads_where_one_that_writes_is_asked_for(postgres: Postgres) -> None:
    url = postgres.create_database("archive")
    postgres.execute("ALTER DATABASE archive SET default_transaction_read_only = on")
    assert run(f"{url}?target_session_attrs=read-write").code == "read_only"
    assert run(url).code is None


def test_a_role_that_may_not_count(postgres: Postgres, plain_role: str) -> None:
    postgres.create_database("guarded")
    postgres.execute("REVOKE SELECT ON pg_catalog.pg_class FROM PUBLIC", database="guarded")
    result = run(plain_role.replace("/postgres", "/guarded"))
    assert (result.status, result.code) == (Status.WARNING, "query_failed")
    assert "permission denied" in result.reason
    assert result.response_time is not None
    assert result.details == details(("healthy", None), ("warning", "query_failed"))


def test_a_connection_lost_between_runs(postgres: Postgres) -> None:
    with probing(postgres.url) as probe:
        assert probe().code is None
        for (pid,) in backends(postgres):
            postgres.execute(f"SELECT pg_terminate_backend({pid}, 60000)")
        assert probe().details == details(("unhealthy", "connection_lost"), NOT_ATTEMPTED)
        assert probe().code is None


@pytest.mark.parametrize(
    ("interference", "code"),
    [("pg_cancel_backend", "timeout"), ("pg_terminate_backend", "connection_lost")],
)
def test_a_statement_ended_by_the_server(postgres: Postgres, interference: str, code: str) -> None:
    asleep = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with probing(postgres.url) as probe:
        assert probe().code is None
        probe._driver.table_count = "SELECT count(*) FROM pg_sleep(600)"
        with in_thread(probe) as results:
            wait_until(lambda: postgres.execute(f"SELECT pid {asleep}"), "it sleeps")
            postgres.execute(f"SELECT {interference}(pid) {asleep}")
        (result,) = results
        assert (result.status, result.code) == (Status.UNHEALTHY, code)
        assert result.details == details(("healthy", None), ("unhealthy", code))


# -- a server that neither answers nor refuses


@contextmanager
def in_thread(probe: DatabaseProbe) -> Iterator[list[Result]]:
    """A run in a thread of its own, over by the end of the block; its result."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(probe()))
    thread.start()
    yield results
    thread.join(60)
    assert not thread.is_alive()


def test_a_frozen_server_on_a_warm_connection(postgres: Postgres) -> None:
    with probing(postgres.url, timeout=SHORT) as probe:
        wait_until(lambda: probe().code is None, "it answers in time")
        with postgres.frozen():
            begun = monotonic()
            assert probe().details == details(("unhealthy", "timeout"), NOT_ATTEMPTED)
            assert monotonic() - begun < BOUNDED
        wait_until(lambda: probe().code is None, "it has recovered")


@pytest.mark.parametrize("attribute", ["url", "socket_url"])
def test_a_frozen_server_without_a_connection(postgres: Postgres, attribute: str) -> None:
    with postgres.frozen():
        begun = monotonic()
        result = run(getattr(postgres, attribute), timeout=SHORT)
        assert monotonic() - begun < BOUNDED
    assert result.details == details(("unhealthy", "timeout"), NOT_ATTEMPTED)


@pytest.mark.parametrize("warm", [True, False])
def test_close_wakes_a_run_on_a_frozen_server(postgres: Postgres, *, warm: bool) -> None:
    with probing(postgres.url, timeout=600.0) as probe:
        if warm:
            assert probe().code is None
        with postgres.frozen(), in_thread(probe) as results:
            wait_until(lambda: probe._runs, "the run has begun")
            probe.close()
        assert [result.code for result in results] == ["timeout"]
        assert probe().code is None


def test_a_frozen_first_address_does_not_hide_the_second(postgres: Postgres) -> None:
    with create_server(("127.0.0.1", 0)) as silent:
        hosts = f"host=127.0.0.1:{silent.getsockname()[1]}&host=127.0.0.1:{postgres.port}"
        url = f"postgresql://postgres:{PASSWORD}@/postgres?{hosts}"
        with probing(url, timeout=4 * SHORT) as probe:
            wait_until(lambda: probe().code is None, "the second one has answered in time")


def test_a_hundred_rounds_on_a_frozen_server_leave_nothing_behind(postgres: Postgres) -> None:
    with probing(postgres.url, timeout=0.05) as probe:
        probe()  # imports everything
        with postgres.frozen():
            assert probe().code == "timeout"
            before = open_files()
            assert {probe().code for _ in range(100)} == {"timeout"}
            wait_until(lambda: threads_aside() == 0, "every thread has ended")
            assert open_files() <= before
    assert run(postgres.url).code is None


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def threads_aside() -> int:
    """The threads in which calls are made that may have to be left behind."""
    return sum(thread.name == "aside" for thread in threading.enumerate())


def test_a_silent_name_server_costs_one_thread(postgres: Postgres) -> None:
    answer = threading.Event()
    with probing(postgres.url, timeout=SHORT) as probe:
        wait_until(lambda: probe().code is None, "it answers in time")
        look_up = probe._driver._find
        probe._driver._find = lambda: answer.wait(600) and look_up()
        probe.close()
        assert probe().code == "timeout"
        before = open_files()
        assert {probe().code for _ in range(5)} == {"timeout"}
        wait_until(lambda: threads_aside() == 1, "there is one")
        assert open_files() <= before
        answer.set()
        wait_until(lambda: probe().code is None, "the name server answers again")


# -- servers that say what a real one says only at bad moments


class StandIn:
    """A server that gets as far as the start-up packet.

    Args:
        answer: Called in a thread, for each connection, with the socket, the start-up packet
            and what it says.
    """

    def __init__(self, answer: Callable[[socket, bytes, dict[str, str]], None]) -> None:
        self._answer = answer
        self._listener = create_server(("127.0.0.1", 0))
        self.url = f"postgresql://x:{PASSWORD}@127.0.0.1:{self._listener.getsockname()[1]}/x"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while packet := self._next():
            connection, start_up = packet
            with connection:
                words = start_up[8:].decode().split("\0")
                self._answer(connection, start_up, dict(zip(words[::2], words[1::2], strict=False)))

    def _next(self) -> tuple[socket, bytes] | None:
        connection = self._listener.accept()[0]
        start_up = received(connection)
        if start_up[4:8] == struct.pack("!i", 80877103):  # SSLRequest
            connection.sendall(b"N")
            start_up = received(connection)
        if not start_up:
            connection.close()
            return None
        return connection, start_up


def received(connection: socket) -> bytes:
    """A packet without a type, or nothing where the peer has gone."""
    length = connection.recv(4)
    return length + connection.recv(struct.unpack("!i", length)[0] - 4) if length else b""


def refusing(state: str, message: str) -> Callable[[socket, bytes, dict[str, str]], None]:
    fields = f"SFATAL\0VFATAL\0C{state}\0M{message}\0\0".encode()
    return lambda connection, *_: connection.sendall(
        b"E" + struct.pack("!i", 4 + len(fields)) + fields
    )


@pytest.mark.parametrize(
    ("state", "message", "code"),
    [
        ("57P03", "the database system is starting up", "starting_up"),
        ("57P03", "the database system is shutting down", "starting_up"),
        ("57P03", "the database system is in recovery mode", "starting_up"),
        ("57P03", "the database system is not yet accepting connections", "starting_up"),
        ("53300", "sorry, too many clients already", "too_many_connections"),
        (
            "53300",
            "remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "too_many_connections",
        ),
        ("28000", 'no pg_hba.conf entry for host "::1", user "x"', "authentication_failed"),
        ("28000", 'role "x" is not permitted to log in', "authentication_failed"),
        ("28000", "connection requires a valid client certificate", "authentication_failed"),
        ("3D000", 'database "x" does not exist', "database_not_found"),
        ("08P01", "no such database: x", "database_not_found"),
        ("57P01", "terminating connection due to administrator command", "connection_lost"),
        ("XX000", "something never heard of", "query_failed"),
    ],
)
def test_what_a_server_says_when_it_refuses(state: str, message: str, code: str) -> None:
    with StandIn(refusing(state, message)) as server:
        result = run(server.url)
    assert result.code == code
    assert message in result.reason


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(lambda *_: None, "connection_lost", id="hangs up"),
        pytest.param(
            lambda c, *_: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "connection_lost",
            id="is a web server",
        ),
    ],
)
def test_a_peer_that_is_no_database(
    answer: Callable[[socket, bytes, dict[str, str]], None], code: str
) -> None:
    with StandIn(answer) as server:
        assert run(server.url).code == code


def test_secrets_are_masked_in_the_reason() -> None:
    with StandIn(refusing("XX000", f"cannot use {PASSWORD} of x://x:{PASSWORD}@h/x")) as server:
        reason = run(server.url).reason
    assert PASSWORD not in reason
    assert "cannot use *** of x://***@h/x" in reason


@pytest.mark.parametrize(
    "refusal",
    [
        "unsupported startup parameter: options",
        "unsupported startup parameter in options: statement_timeout",
        "Feature not supported: RDS Proxy currently doesn't support command-line options.",
    ],
)
def test_a_pooler_that_takes_no_statement_limit(postgres: Postgres, refusal: str) -> None:
    def pool(connection: socket, start_up: bytes, said: dict[str, str]) -> None:
        if "options" in said:
            refusing("08P01", refusal)(connection, start_up, said)
            return
        with create_connection(("127.0.0.1", postgres.port)) as server:
            server.sendall(start_up)
            back = threading.Thread(target=relay, args=(server, connection))
            back.start()
            relay(connection, server)
            back.join()

    with StandIn(pool) as pooler:
        port = pooler.url.rpartition(":")[2].partition("/")[0]
        assert run(postgres.url.replace(str(postgres.port), port)).code is None


def relay(source: socket, target: socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(SHUT_WR)


# -- sqlite


def test_a_sqlite_file_is_made(tmp_path: Path) -> None:
    file = tmp_path / "new.sqlite3"
    result = run(f"sqlite:///{file}")
    assert result.code is None
    assert result.details["responsiveness"]["table_count"] == 0
    assert file.exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite://"])
def test_sqlite_in_memory(url: str) -> None:
    with probing(url) as probe:
        for _ in range(2):
            result = probe()
            assert (result.code, result.response_time is None) == (None, False)
            assert result.details["responsiveness"]["table_count"] == 0


def test_sqlite_tables(tmp_path: Path) -> None:
    file = tmp_path / "tables.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            "CREATE TABLE one (id INTEGER PRIMARY KEY AUTOINCREMENT);"  # makes sqlite_sequence
            "CREATE TABLE sqlitely (id); CREATE VIEW seen AS SELECT * FROM one;"
            "CREATE TABLE alembic_version (version_num);"
            "INSERT INTO alembic_version VALUES ('ae1027a6acf');"
        )
    with probing(f"sqlite:///{file}", read_revision=True) as probe:
        assert probe().details["responsiveness"]["table_count"] == 3
        assert probe.revision == "ae1027a6acf"


def test_a_missing_directory(tmp_path: Path) -> None:
    result = run(f"sqlite:///{tmp_path}/missing/x.sqlite3")
    assert (result.status, result.code) == (Status.UNHEALTHY, "database_not_found")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear database, " * 100)
    result = run(f"sqlite:///{file}")
    assert (result.status, result.code) == (Status.WARNING, "query_failed")
    assert result.details == details(("healthy", None), ("warning", "query_failed"))


def test_a_locked_file(tmp_path: Path) -> None:
    file = tmp_path / "locked.sqlite3"
    with probing(f"sqlite:///{file}", timeout=5.0) as probe:
        wait_until(lambda: probe().code is None, "it answers in time")
        with closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN EXCLUSIVE")
            result = probe()
        assert (result.status, result.code) == (Status.UNHEALTHY, "database_locked")
        assert result.details == details(("healthy", None), ("unhealthy", "database_locked"))
        wait_until(lambda: probe().code is None, "it is unlocked")


def test_close_wakes_a_run_on_a_locked_file(tmp_path: Path) -> None:
    file = tmp_path / "locked.sqlite3"
    with probing(f"sqlite:///{file}", timeout=600.0) as probe:
        assert probe().code is None
        with closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with in_thread(probe) as results:
                wait_until(lambda: probe._runs, "the run has begun")
                probe.close()
            assert [result.code for result in results] == ["timeout"]
        assert probe().code is None


# -- a database that is neither


class OtherDialect(SQLiteDialect_pysqlite):
    """Another database, which answers when its gate is open."""

    name = "other"
    supports_statement_cache = True
    gate: ClassVar[threading.Event] = threading.Event()

    def connect(self, *arguments: Any, **options: Any) -> Any:
        self.gate.wait(600)
        return super().connect(*arguments, **options, check_same_thread=False)

    def create_connect_args(self, _url: Any) -> Any:
        return [":memory:"], {}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Whether the other database answers."""
    monkeypatch.setitem(registry.impls, "other", lambda: OtherDialect)
    monkeypatch.setattr(OtherDialect, "gate", gate := threading.Event())
    return gate


def test_another_dialect_gets_the_connection_test(gate: threading.Event) -> None:
    gate.set()
    result = run("other://h/x")
    assert (result.status, result.code) == (Status.HEALTHY, None)
    assert result.response_time is not None
    assert result.details == details(("healthy", None), ("healthy", None))


def test_another_dialect_that_hangs_costs_one_thread(gate: threading.Event) -> None:
    with probing("other://h/x", timeout=SHORT) as probe:
        assert [probe().code for _ in range(4)] == ["timeout"] * 4
        wait_until(lambda: threads_aside() == 1, "there is one")
        gate.set()
        wait_until(lambda: probe().code is None, "it answers again")
        wait_until(lambda: threads_aside() == 0, "every thread has ended")
