"""The database: can it be reached, does it answer, have the workers' pools room?

One run looks at three things in turn, under one time limit:

    connection        open one if none is kept, SELECT 1
    responsiveness    count the user tables, on the same connection
    connection_pool   add up the figures the workers publish

The connection is the probe's own, never one of the application's: a busy pool is not a dead
database. It is kept between runs and given up after any error.

No setting of a client library bounds a call to a server that is frozen, so nothing here waits
inside a library. PostgreSQL is spoken to in libpq's non-blocking calls, and between them
``_Limit`` waits for the socket. What can only block, a name lookup or another driver, goes
``_Aside``: into a thread that can be left behind. So a run ends at its limit, or at once when
another thread calls ``close``.
"""

import copy
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from service.health import CheckFailed, PoolUse, Result, Status
from service.health.codes import status_of
from service.probes.errors import mask, os_error_code

# The first run imports SQLAlchemy and psycopg: importing this module stays cheap.
if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult
    from sqlalchemy import URL
    from sqlalchemy.engine.interfaces import DBAPIConnection

T = TypeVar("T")

MAX_AGE = 290.0  # seconds a connection is kept: five minutes, less the wait for the next run
OWN_SHARE = 0.95  # of the time limit: a run ends by itself before the monitor has to end it
LOCK_SHARE = 0.8  # of the time limit: how long sqlite waits for a lock, to be able to say so

SQLITE_TABLES = r"""
    SELECT count(*) FROM sqlite_master
    WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
"""
POSTGRESQL_TABLES = r"""
    SELECT count(*) FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
"""
REVISION = "SELECT max(version_num) FROM alembic_version"

_POOL_INFO = {
    "pool_size": "size",
    "checked_in": "checked_in",
    "checked_out": "checked_out",
    "overflow": "overflow",
    "invalid": "invalid",
}
_UNCOUNTED = {"response_time_ms": None, "table_count": None}
# Of the table count; whatever else goes wrong there, the database has answered.
_NO_ANSWER = ("timeout", "connection_lost", "database_locked")


@dataclass(frozen=True, slots=True)
class Part:
    """What one of the three looks found.

    Attributes:
        status: Undamped; UNKNOWN when it was not reached.
        code: None exactly when HEALTHY.
        reason: For the log, where there is a code.
        seconds: How long the answer took, None without one.
        figures: What was measured, as JSON values under the keys of the endpoint.
    """

    status: Status = Status.UNKNOWN
    code: str | None = "not_attempted"
    reason: str = ""
    seconds: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, code: str | None, reason: str = "", **more: Any) -> "Part":
        """The part that a code, or none, leads to by itself."""
        return cls(status_of(code) if code else Status.HEALTHY, code, reason, **more)

    def shown(self) -> dict[str, Any]:
        """The part as its endpoint shows it."""
        return {"status": self.status.word, "error": self.code, **self.figures}


class DatabaseProbe:
    """Probe of one database.

    Nothing is imported or opened before the first run. ``close`` may be called from another
    thread at any time: a run that is under way ends as ``timeout``, the next connects anew.

    Attributes:
        revision: The newest revision read from ``alembic_version``; None when it was not
            asked for or cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        slow_ms: float,
        pool_threshold: float,
        pools: Callable[[], Sequence[PoolUse]],
        read_revision: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the probe.

        Args:
            url: Any SQLAlchemy URL; ``postgres://`` is understood too.
            timeout: Seconds for a whole run.
            slow_ms: Milliseconds the connection test may take; more is ``slow_response``.
            pool_threshold: Share of its capacity from which on (>=) a pool is saturated.
            pools: The figures of every worker that has some.
            read_revision: Whether a run reads the schema revision as well.
            clock: Monotonic seconds.
        """
        self._url = url
        self._timeout = timeout
        self._slow_ms = slow_ms
        self._pool_threshold = pool_threshold
        self._pools = pools
        self._read_revision = read_revision
        self._clock = clock
        self._driver: _Driver | None = None
        self._secrets: tuple[str, ...] = ()
        self._lock = threading.Lock()  # for the two below; nobody waits while holding it
        self._runs: set[_Limit] = set()
        self._kept = _Held()
        self.revision: str | None = None

    def __call__(self) -> Result:
        """One run."""
        with self._run() as (limit, held):
            connection = self._connect(held, limit)
            responsiveness = self._count_tables(held, limit)
            self.revision = self._revision(held, limit)
        pool = pool_part(self._pools(), self._pool_threshold)
        return _result(connection, responsiveness, pool, self._secrets)

    def close(self) -> None:
        """Discard the connection and wake a run that is stuck on it. From any thread."""
        with self._lock:
            for limit in self._runs:
                limit.call_off()
            self._kept.drop()

    @contextmanager
    def _run(self) -> Iterator[tuple["_Limit", "_Held"]]:
        """A run takes the kept connection, and puts it back if all went as it should."""
        with self._lock:
            limit = _Limit(OWN_SHARE * self._timeout, self._clock)
            self._runs.add(limit)
            held, self._kept = self._kept, _Held()
        try:
            yield limit, held
        except BaseException:
            held.drop()
            raise
        finally:
            with self._lock:
                self._runs.discard(limit)
                limit.close()
                if limit.called_off:
                    held.drop()
                else:
                    self._kept.drop()  # of a run begun before one called off had come back
                    self._kept = held

    def _connect(self, held: "_Held", limit: "_Limit") -> Part:
        try:
            driver = self._driver = self._driver or self._new_driver()
            begun = self._clock()
            if begun - held.since >= MAX_AGE:
                held.drop()
            if held.session is None:
                held.session, held.since = driver.open(limit), begun
            held.session.scalar(driver.select_one, limit)
        except CheckFailed as failure:
            held.drop()
            return Part.of(failure.code, failure.reason)
        seconds = self._clock() - begun
        code = "slow_response" if 1000 * seconds > self._slow_ms else None
        return Part.of(code, f"the connection test took {seconds:.3f} s", seconds=seconds)

    def _new_driver(self) -> "_Driver":
        url = _parsed(self._url)
        in_query = (value for key, value in url.query.items() if "password" in key)
        self._secrets = (url.password or "", *map(str, in_query))
        return _driver(url, self._timeout)

    def _count_tables(self, held: "_Held", limit: "_Limit") -> Part:
        if held.session is None or self._driver is None:
            return Part(figures=_UNCOUNTED)
        if self._driver.table_count is None:
            return Part.of(None, figures=_UNCOUNTED)
        begun = self._clock()
        try:
            count = int(held.session.scalar(self._driver.table_count, limit))
        except CheckFailed as failure:
            held.drop()
            if failure.code in _NO_ANSWER:
                return Part.of(failure.code, failure.reason, figures=_UNCOUNTED)
            return Part(Status.WARNING, "query_failed", failure.reason, figures=_UNCOUNTED)
        milliseconds = round(1000 * (self._clock() - begun), 2)
        return Part.of(None, figures={"response_time_ms": milliseconds, "table_count": count})

    def _revision(self, held: "_Held", limit: "_Limit") -> str | None:
        if held.session is None or not self._read_revision:
            return None
        try:
            revision = held.session.scalar(REVISION, limit)
        except CheckFailed:  # no such table, say; what it means is for the check `application`
            held.drop()
            return None
        return None if revision is None else str(revision)


def pool_part(uses: Sequence[PoolUse], threshold: float) -> Part:
    """What the pools of all workers look like together.

    Args:
        uses: The figures of each worker that reported.
        threshold: Share of its capacity from which on (>=) one worker's pool is saturated.
    """
    info = {key: _sum(getattr(use, name) for use in uses) for key, name in _POOL_INFO.items()}
    code = _pool_code(uses, threshold)
    return Part(
        _pool_status(code),
        code,
        f"the pools of {len(uses)} workers: {info}",
        figures={"scope": "pod", "workers": len(uses), "info": info},
    )


def _pool_code(uses: Sequence[PoolUse], threshold: float) -> str | None:
    shares = [(use.checked_out or 0) / use.capacity if use.capacity else 0.0 for use in uses]
    if shares and min(shares) >= 1:
        return "pool_exhausted"
    if shares and max(shares) >= threshold:
        return "pool_saturated"
    return "connections_invalidated" if any(use.invalid for use in uses) else None


def _pool_status(code: str | None) -> Status:
    if code is None:
        return Status.HEALTHY
    return Status.UNHEALTHY if code == "pool_exhausted" else Status.WARNING


def _sum(figures: Iterable[int | None]) -> int | None:
    """The sum of the figures there are; None without any."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


def _result(connection: Part, responsiveness: Part, pool: Part, secrets: Iterable[str]) -> Result:
    """The worst of the three, of which the pool is never worse than a warning.

    Taking the pod out for its load would move the load to the others.
    """
    status, code, reason = max(
        (connection.status, connection.code, connection.reason),
        (responsiveness.status, responsiveness.code, responsiveness.reason),
        (min(pool.status, Status.WARNING), pool.code, pool.reason),
        key=lambda part: part[0],
    )
    return Result(
        status,
        code,
        response_time=connection.seconds,
        reason=mask(reason, *secrets) if code else "",
        details={
            "connection": connection.shown(),
            "responsiveness": responsiveness.shown(),
            "connection_pool": pool.shown(),
        },
    )


# -- the seam: every way to speak to a database raises CheckFailed and nothing else


class _Session(Protocol):
    """One open connection, without a transaction between calls."""

    def scalar(self, sql: str, limit: "_Limit") -> Any:
        """The first column of the first row.

        Raises:
            CheckFailed: There is none, with the code for why; the session is of no more use.
        """

    def close(self) -> None:
        """Give the connection up without waiting for anybody."""


class _Driver(Protocol):
    """A way to one database.

    Attributes:
        select_one: The statement of the connection test.
        table_count: The statement that counts user tables, None where there is none.
    """

    select_one: str
    table_count: str | None

    def open(self, limit: "_Limit") -> _Session:
        """A new connection.

        Raises:
            CheckFailed: There is none, with the code for why.
        """


@dataclass(slots=True)
class _Held:
    """A connection, or none, and since when it has been open, monotonic seconds."""

    session: _Session | None = None
    since: float = float("inf")

    def drop(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close()


def _parsed(url: str) -> "URL":
    from sqlalchemy import exc, make_url  # noqa: PLC0415 - see the top of the module

    try:
        return make_url(url)
    except (exc.ArgumentError, ValueError):
        # Without the exception: its text may hold a piece of the password.
        raise CheckFailed("configuration_invalid", "the URL cannot be parsed") from None


def _driver(url: "URL", timeout: float) -> _Driver:
    from sqlalchemy import exc  # noqa: PLC0415 - see the top of the module

    kind = _Libpq if url.drivername.partition("+")[0] in ("postgres", "postgresql") else _Dialect
    try:
        return kind(url, timeout)
    except (ImportError, exc.NoSuchModuleError) as error:
        raise _failed("driver_missing", error) from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise _failed("configuration_invalid", error) from error


def _failed(code: str, error: BaseException) -> CheckFailed:
    return CheckFailed(code, f"{type(error).__name__}: {error}")


# -- PostgreSQL


class _Libpq:
    """PostgreSQL through psycopg's libpq, whatever driver the application itself uses.

    The addresses are tried in turn, each with its share of the time left. The statement limit
    goes with the start-up packet. A pooler that refuses it there does without: a SET would
    outlive the run and reach other clients of the pooler.
    """

    select_one = "SELECT 1"
    table_count: str | None = POSTGRESQL_TABLES

    def __init__(self, url: "URL", timeout: float) -> None:
        import psycopg.conninfo  # noqa: PLC0415 - see the top of the module

        self._statement_limit = f"-c statement_timeout={round(1000 * timeout)}"
        self._aside = _Aside()
        self._error = psycopg.Error
        self._conninfo = psycopg.conninfo.make_conninfo
        self._options = _libpq_options(url)
        try:
            self._conninfo("", **self._options)
        except psycopg.Error as error:
            raise _failed("configuration_invalid", error) from error
        self._find = partial(psycopg.conninfo.conninfo_attempts, self._options)

    def open(self, limit: "_Limit") -> "_LibpqSession":
        *others, last = self._addresses(limit)
        for number, options in enumerate(others):
            with suppress(CheckFailed):
                return self._connect(options, limit.part(len(others) + 1 - number))
        return self._connect(last, limit)

    def _addresses(self, limit: "_Limit") -> list[dict[str, Any]]:
        """The options, once for each address of each host."""
        try:
            return self._aside.call(self._find, limit)
        except (self._error, OSError, UnicodeError) as error:
            raise _failed("dns_failure", error) from error

    def _connect(self, options: dict[str, Any], limit: "_Limit") -> "_LibpqSession":
        limited = f"{options.get('options', '')} {self._statement_limit}".lstrip()
        try:
            return self._session({**options, "options": limited}, limit)
        except CheckFailed as failure:
            if not re.search("startup parameter|command-line options", failure.reason):
                raise
            return self._session(options, limit)

    def _session(self, options: dict[str, Any], limit: "_Limit") -> "_LibpqSession":
        try:
            link = _link(self._conninfo("", **options).encode(), limit)
        except self._error as error:
            raise _failed(_code_of_libpq(str(error)), error) from error
        return _LibpqSession(link)


def _libpq_options(url: "URL") -> dict[str, Any]:
    from psycopg import pq  # noqa: PLC0415 - see the top of the module

    ours = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {
        "fallback_application_name": "mingus-health",
        **ours.get_dialect()().create_connect_args(ours)[1],
    }
    if url.drivername.partition("+")[2] in ("", "psycopg", "psycopg2"):
        return options
    # The options of asyncpg and others are their own affair.
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    return {key: value for key, value in options.items() if key in known}


def _link(conninfo: bytes, limit: "_Limit") -> "PGconn":
    """A new connection of libpq.

    Raises:
        psycopg.OperationalError: It was refused or broke.
        CheckFailed: It took too long.
    """
    from psycopg import pq  # noqa: PLC0415 - see the top of the module

    link = pq.PGconn.connect_start(conninfo)
    try:
        _establish(link, limit)
    except BaseException:
        link.finish()
        raise
    return link


def _establish(link: "PGconn", limit: "_Limit") -> None:
    from psycopg import OperationalError, pq  # noqa: PLC0415 - see the top of the module

    events = {pq.PollingStatus.READING: select.POLLIN, pq.PollingStatus.WRITING: select.POLLOUT}
    state = pq.PollingStatus.WRITING
    while state in events and link.status != pq.ConnStatus.BAD:
        limit.wait(link.socket, events[state])
        state = pq.PollingStatus(link.connect_poll())
    if link.status != pq.ConnStatus.OK:
        raise OperationalError(link.get_error_message())
    link.nonblocking = 1


class _LibpqSession:
    """A session in autocommit. The simple query protocol prepares nothing: poolers like it."""

    def __init__(self, link: "PGconn") -> None:
        import psycopg  # noqa: PLC0415 - see the top of the module

        self._link = link
        self._error = psycopg.Error
        self._rows = psycopg.pq.ExecStatus.TUPLES_OK
        self._sqlstate = psycopg.pq.DiagnosticField.SQLSTATE

    def scalar(self, sql: str, limit: "_Limit") -> str | None:
        try:
            return self._scalar(sql, limit)
        except self._error as error:
            raise _failed(_code_of_text(str(error)) or "connection_lost", error) from error

    def _scalar(self, sql: str, limit: "_Limit") -> str | None:
        link = self._link
        link.send_query(sql.encode())
        while link.flush():
            limit.wait(link.socket, select.POLLIN | select.POLLOUT)
            link.consume_input()
        answer = None
        while result := self._next_result(limit):
            if result.status != self._rows:
                code = _code_of_sqlstate((result.error_field(self._sqlstate) or b"").decode())
                raise CheckFailed(code, result.get_error_message())
            answer = result.get_value(0, 0)
        return None if answer is None else answer.decode()

    def _next_result(self, limit: "_Limit") -> "PGresult | None":
        while self._link.is_busy():
            limit.wait(self._link.socket, select.POLLIN)
            self._link.consume_input()
        return self._link.get_result()

    def close(self) -> None:
        self._link.finish()


# -- every other database


class _Dialect:
    """A database that SQLAlchemy has a dialect for. Every call is made aside."""

    def __init__(self, url: "URL", timeout: float) -> None:
        from sqlalchemy import create_engine, pool, select, text  # noqa: PLC0415

        if url.drivername == "sqlite+aiosqlite":
            url = url.set(drivername="sqlite")
        self._aside = _Aside()
        # The engine itself never connects: its dialect does, with no pool around it.
        dialect = create_engine(url, poolclass=pool.NullPool).dialect
        if dialect.is_async:
            raise CheckFailed("driver_missing", f"{url.drivername} is for asynchronous code")
        arguments, options = dialect.create_connect_args(url)
        self.select_one = str(select(text("1")).compile(dialect=dialect))
        self.table_count: str | None = None
        if dialect.name == "sqlite":
            self.table_count = SQLITE_TABLES
            options.update(timeout=LOCK_SHARE * timeout, check_same_thread=False)
        self._connect = partial(dialect.connect, *arguments, **options)
        self.errors = (dialect.loaded_dbapi.Error, OSError)

    def open(self, limit: "_Limit") -> "_DialectSession":
        return _DialectSession(self, self.call(partial(_opened, self._connect, limit), limit))

    def call(self, work: Callable[[], T], limit: "_Limit") -> T:
        """What the work returns.

        Raises:
            CheckFailed: It failed, or took too long and is left behind.
        """
        try:
            return self._aside.call(work, limit)
        except self.errors as error:
            raise _failed(_code_of_dialect(error), error) from error
        except (TypeError, ValueError) as error:  # an option of the URL the driver cannot take
            raise _failed("configuration_invalid", error) from error

    @property
    def busy(self) -> bool:
        """Whether a call that was left behind has not come back yet."""
        return self._aside.busy


class _DialectSession:
    def __init__(self, driver: _Dialect, connection: "DBAPIConnection") -> None:
        self._driver = driver
        self._connection = connection

    def scalar(self, sql: str, limit: "_Limit") -> Any:
        return self._driver.call(partial(_fetched, self._connection, sql, limit), limit)

    def close(self) -> None:
        if not self._driver.busy:  # else the call that is out closes it
            with suppress(*self._driver.errors):
                self._connection.close()


def _opened(connect: Callable[[], "DBAPIConnection"], limit: "_Limit") -> "DBAPIConnection":
    connection = connect()
    if limit.passed:
        connection.close()
    return connection


def _fetched(connection: "DBAPIConnection", sql: str, limit: "_Limit") -> Any:
    try:
        cursor = connection.cursor()
        cursor.execute(sql)
        row = cursor.fetchone()
        cursor.close()
        connection.rollback()
    finally:
        if limit.passed:
            connection.close()
    return row[0] if row else None


# -- waiting


class _Limit:
    """The end of a run: a moment, or whenever another thread calls it off."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.end = clock() + seconds
        self._bell, self._rope = socket.socketpair()
        self.called_off = False

    @property
    def passed(self) -> bool:
        """Whether nobody waits any more. From any thread."""
        return self.called_off or self._clock() >= self.end

    def part(self, parts: int) -> "_Limit":
        """A limit to one of so many equal parts of the time left."""
        part = copy.copy(self)
        now = self._clock()
        part.end = now + (self.end - now) / parts
        return part

    def wait(self, fd: int, events: int) -> None:
        """Wait for a file descriptor.

        Args:
            fd: What to wait for.
            events: ``POLLIN`` and ``POLLOUT``, as for ``select.poll``.

        Raises:
            CheckFailed: The limit came first: ``timeout``.
        """
        seconds = max(0.0, self.end - self._clock())
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self._bell, select.POLLIN)
        ready = [number for number, _ in poll.poll(1000 * seconds)]
        if ready != [fd] or not seconds:
            raise CheckFailed("timeout", "called off" if ready else "no answer in time")

    def call_off(self) -> None:
        """End the run now. From any thread, until ``close``."""
        self.called_off = True
        self._rope.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._bell.close()
        self._rope.close()


class _Aside:
    """Calls that know no time limit, each in a thread that can be left behind.

    At most one is out: while one that was left behind has not come back, the next call waits
    for it, and for nothing else. So a name server's silence costs one thread and not one a run.
    """

    def __init__(self) -> None:
        self._door: socket.socket | None = None  # readable as soon as the call is back

    def __del__(self) -> None:
        if self._door is not None:  # of a call that was left behind for good
            self._door.close()

    @property
    def busy(self) -> bool:
        """Whether a call that was left behind has not come back yet."""
        return self._door is not None

    def call(self, work: Callable[[], T], limit: _Limit) -> T:
        """What the work returns or raises.

        Raises:
            CheckFailed: The limit came first: ``timeout``.
        """
        self._settle(limit)
        self._door, far_side = socket.socketpair()
        outcome: Future[T] = Future()
        threading.Thread(
            target=_fulfil, args=(outcome, work, far_side), name="database-aside", daemon=True
        ).start()
        self._settle(limit)
        return outcome.result(timeout=0)

    def _settle(self, limit: _Limit) -> None:
        if self._door is not None:
            limit.wait(self._door.fileno(), select.POLLIN)
            self._door.close()
            self._door = None


def _fulfil(outcome: Future[T], work: Callable[[], T], door: socket.socket) -> None:
    with door:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the call was made
            outcome.set_exception(error)


# -- from errors to codes


def code_of(error: BaseException) -> str:
    """The code for what a client library of a database has raised."""
    state = getattr(error, "sqlstate", None)
    return _code_of_sqlstate(state) if state else _code_of_dialect(error)


_SQLSTATES = {  # whole states, and classes of states
    "28": "authentication_failed",
    "3D000": "database_not_found",
    "53300": "too_many_connections",
    "57P03": "starting_up",
    "57014": "timeout",
    "08": "connection_lost",
    "57P01": "connection_lost",
    "57P02": "connection_lost",
    "42501": "permission_denied",
    "25006": "read_only",
}

_SQLITE = {  # the first word of the error's name
    "BUSY": "database_locked",
    "LOCKED": "database_locked",
    "CANTOPEN": "database_not_found",
    "PERM": "permission_denied",
    "AUTH": "permission_denied",
    "READONLY": "read_only",
}

# libpq gives no SQLSTATE for a connection that was not established: there is only the text,
# its own or the server's. The first match counts.
_TEXTS = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (r"could not translate host name", "dns_failure"),
        (r"connection refused|connections on that socket", "connection_refused"),
        (r"no route to host|network is unreachable|(host|network) is down", "network_unreachable"),
        (r"timed out|timeout expired", "timeout"),
        (
            (
                r"authentication (failed|method)|no password supplied|pg_hba\.conf|access denied"
                r"|role .* (does not exist|is not permitted)|valid client certificate"
            ),
            "authentication_failed",
        ),
        (r"database .* does not exist|unknown database|no such database", "database_not_found"),
        (
            r"too many (clients|connections)|connection slots|no more connections",
            "too_many_connections",
        ),
        (r"database system is|not yet accepting connections", "starting_up"),
        (r"session is read-only|server is in hot standby", "read_only"),
        (r"session is not read-only|server is not in hot standby", "query_failed"),
        (r"invalid [\w ]*value|invalid port|definition of service", "configuration_invalid"),
        (
            (
                r"closed the connection|connection has been closed|connection reset|broken pipe"
                r"|eof detected|unexpected eof|terminating connection|lost connection|gone away"
            ),
            "connection_lost",
        ),
        (r"ssl error|certificate|does not support ssl|ssl negotiation", "tls_error"),
        (r"permission denied", "permission_denied"),
    )
)


def _code_of_sqlstate(state: str) -> str:
    return _SQLSTATES.get(state) or _SQLSTATES.get(state[:2], "query_failed")


def _code_of_text(text: str) -> str | None:
    return next((code for pattern, code in _TEXTS if pattern.search(text)), None)


def _code_of_libpq(text: str) -> str:
    """The code for a connection that libpq could not establish."""
    refused = "FATAL:" in text  # by the server itself, for a reason unknown here
    return _code_of_text(text) or ("query_failed" if refused else "connection_lost")


def _code_of_dialect(error: BaseException) -> str:
    name = str(getattr(error, "sqlite_errorname", "SQLITE_OTHER"))
    by_name = _SQLITE.get(name.split("_")[1])
    return by_name or os_error_code(error) or _code_of_text(str(error)) or "query_failed"
