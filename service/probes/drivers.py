"""How databases are spoken to; every way raises ``CheckFailed`` and nothing else.

    parsed(url) -> Address -> driver_of(address) -> Driver.open(limit) -> Session.scalar(sql, limit)

No setting of a client library bounds a call to a server that is frozen, so nothing here waits
inside a library. PostgreSQL is spoken to in libpq's non-blocking calls, and between them a
``Limit`` waits for the socket. Any other driver can only block, and is called ``Aside``.
"""

import re
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from service.health import CheckFailed
from service.probes.errors import os_error_code
from service.probes.limit import Aside, Limit

# The first run imports psycopg, or SQLAlchemy: importing this module stays cheap.
if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult
    from sqlalchemy import URL
    from sqlalchemy.engine.interfaces import DBAPIConnection

T = TypeVar("T")

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


class Session(Protocol):
    """One open connection, without a transaction between calls."""

    def scalar(self, sql: str, limit: Limit) -> Any:
        """The first column of the first row.

        Raises:
            CheckFailed: There is none, with the code for why; the session is of no more use.
        """

    def close(self) -> None:
        """Give the connection up without waiting for anybody."""


class Driver(Protocol):
    """A way to one database.

    Attributes:
        select_one: The statement of the connection test.
        table_count: The statement that counts user tables, None where there is none.
    """

    select_one: str
    table_count: str | None

    def open(self, limit: Limit) -> Session:
        """A new connection.

        Raises:
            CheckFailed: There is none, with the code for why.
        """


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is, and as whom it is asked.

    Attributes:
        options: libpq's, of a plain PostgreSQL URL.
        url: Of any other.
        secrets: What must not be shown.
    """

    options: dict[str, str] | None
    url: "URL | None"
    secrets: tuple[str, ...]


def parsed(url: str) -> Address:
    """A URL as SQLAlchemy reads it.

    Most name PostgreSQL in a way that libpq reads alike. SQLAlchemy would be 15 MB of memory for
    that, so it is left to the others.

    Raises:
        CheckFailed: It cannot be read: ``configuration_invalid``.
    """
    options = _plain(url)
    if options is not None:
        secrets = tuple(value for name, value in options.items() if "password" in name)
        return Address(options, None, secrets)
    from sqlalchemy import exc, make_url  # noqa: PLC0415 - see the top of the module

    try:
        found = make_url(url)
    except (exc.ArgumentError, ValueError):
        # Without the exception: its text may hold a piece of the password.
        raise CheckFailed("configuration_invalid", "the URL cannot be parsed") from None
    in_query = (value for key, value in found.query.items() if "password" in key)
    return Address(None, found, (found.password or "", *map(str, in_query)))


def preload(url: str) -> None:
    """Import what a session with this database needs: psycopg, or SQLAlchemy and no driver."""
    with suppress(CheckFailed):  # which the first run will say
        parsed(url)


def driver_of(address: Address, timeout: float) -> Driver:
    """The way to a database; its statements take at most ``timeout`` seconds.

    Raises:
        CheckFailed: The driver is not installed, or the URL is not for it.
    """
    url = address.url
    if url is None:
        return _Libpq(address.options or {}, timeout)
    from sqlalchemy import exc  # noqa: PLC0415 - see the top of the module

    try:
        if url.drivername.partition("+")[0] in ("postgres", "postgresql"):
            return _Libpq(_libpq_options(url), timeout)
        return _Dialect(url, timeout)
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

    def __init__(self, options: dict[str, Any], timeout: float) -> None:
        import psycopg.conninfo  # noqa: PLC0415 - see the top of the module

        self._statement_limit = f"-c statement_timeout={round(1000 * timeout)}"
        self._aside = Aside()
        self._error = psycopg.Error
        self._conninfo = psycopg.conninfo.make_conninfo
        self._options = {"fallback_application_name": "mingus-health", **options}
        try:
            self._conninfo("", **self._options)
        except psycopg.Error as error:
            raise _failed("configuration_invalid", error) from error
        self._find = partial(psycopg.conninfo.conninfo_attempts, self._options)

    def open(self, limit: Limit) -> "_LibpqSession":
        *others, last = self._addresses(limit)
        for number, options in enumerate(others):
            with suppress(CheckFailed):
                return self._connect(options, limit.part(len(others) + 1 - number))
        return self._connect(last, limit)

    def _addresses(self, limit: Limit) -> list[dict[str, Any]]:
        """The options, once for each address of each host."""
        try:
            return self._aside.call(self._find, limit)
        except (self._error, OSError, UnicodeError) as error:
            raise _failed("dns_failure", error) from error

    def _connect(self, options: dict[str, Any], limit: Limit) -> "_LibpqSession":
        limited = f"{options.get('options', '')} {self._statement_limit}".lstrip()
        try:
            return self._session({**options, "options": limited}, limit)
        except CheckFailed as failure:
            if not re.search("startup parameter|command-line options", failure.reason):
                raise
            return self._session(options, limit)

    def _session(self, options: dict[str, Any], limit: Limit) -> "_LibpqSession":
        try:
            link = _link(self._conninfo("", **options).encode(), limit)
        except self._error as error:
            raise _failed(_code_of_libpq(str(error)), error) from error
        return _LibpqSession(link)


# What SQLAlchemy puts together with the rest of a URL, or libpq reads as something else.
_ADDRESS_OPTIONS = frozenset({"host", "port", "user", "password", "dbname", "ssl"})
# User and password, host, port, database, and options of which each has a name and a value.
_PLAIN = re.compile(
    r"postgres(?:ql)?(?:\+psycopg2?)?://"
    r"(?:[\w.~%-]+(?::[\w.~%!*$-]*)?@)?[A-Za-z0-9.-]+(?::[0-9]+)?/[\w-]+"
    r"(?:\?[a-z_]+=[\w.,/~-]+(?:&[a-z_]+=[\w.,/~-]+)*)?",
    re.ASCII,
)


def _plain(url: str) -> dict[str, str] | None:
    """What libpq makes of a URL that SQLAlchemy reads the same way; None for any other."""
    if not _PLAIN.fullmatch(url):
        return None
    try:
        from psycopg import OperationalError, pq  # noqa: PLC0415 - see the top of the module
    except ImportError:
        return None
    _, _, rest = url.partition("://")
    names = [option.partition("=")[0] for option in rest.partition("?")[2].split("&")]
    if len(set(names)) < len(names) or not _ADDRESS_OPTIONS.isdisjoint(names):
        return None
    try:
        found = pq.Conninfo.parse(f"postgresql://{rest}".encode())
        return {each.keyword.decode(): each.val.decode() for each in found if each.val is not None}
    except (OperationalError, UnicodeDecodeError):
        return None


def _libpq_options(url: "URL") -> dict[str, Any]:
    from psycopg import pq  # noqa: PLC0415 - see the top of the module

    ours = url.set(drivername="postgresql+psycopg")
    options = dict(ours.get_dialect()().create_connect_args(ours)[1])
    if url.drivername.partition("+")[2] in ("", "psycopg", "psycopg2"):
        return options
    # The options of asyncpg and others are their own affair.
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    return {key: value for key, value in options.items() if key in known}


def _link(conninfo: bytes, limit: Limit) -> "PGconn":
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


def _establish(link: "PGconn", limit: Limit) -> None:
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

    def scalar(self, sql: str, limit: Limit) -> str | None:
        try:
            return self._scalar(sql, limit)
        except self._error as error:
            raise _failed(_code_of_text(str(error)) or "connection_lost", error) from error

    def _scalar(self, sql: str, limit: Limit) -> str | None:
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

    def _next_result(self, limit: Limit) -> "PGresult | None":
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
        self._aside = Aside()
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

    def open(self, limit: Limit) -> "_DialectSession":
        return _DialectSession(self, self.call(partial(_opened, self._connect, limit), limit))

    def call(self, work: Callable[[], T], limit: Limit) -> T:
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

    def scalar(self, sql: str, limit: Limit) -> Any:
        return self._driver.call(partial(_fetched, self._connection, sql, limit), limit)

    def close(self) -> None:
        if not self._driver.busy:  # else the call that is out closes it
            with suppress(*self._driver.errors):
                self._connection.close()


def _opened(connect: Callable[[], "DBAPIConnection"], limit: Limit) -> "DBAPIConnection":
    connection = connect()
    if limit.passed:
        connection.close()
    return connection


def _fetched(connection: "DBAPIConnection", sql: str, limit: Limit) -> Any:
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
