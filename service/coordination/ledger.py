"""The ledger of startup tasks: one row for each (application, release, task), in their database.

An attempt has two transactions, each under the row's lock:

    claim     running, attempt + 1          commit: everybody sees who is at it
    perform   is the claim still ours? -> the task's own work -> done     commit: all or nothing

So the effect of a task is committed together with its row, and at most once: of two who
believe to be at it, the second finds its claim overtaken or the row done, and rolls back. A
process that dies rolls back with its connection; its claim stays as an attempt that others
see and may overtake as soon as the lock is free. No other lock and no clock has a say in that.

The lock is an advisory one in PostgreSQL and BEGIN IMMEDIATE in SQLite: whoever does not
get it at once knows that somebody is at it.
"""

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from psycopg import pq
from sqlalchemy import URL, Connection, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

TABLE = "health_startup_ledger"
# For the ledger's own statements. What a task's may take is the task's own affair.
LOCK_SECONDS = 5.0
# The time between the two transactions of an attempt, in which its lock is free.
CLAIM_SECONDS = 2.0
CONNECT_SECONDS = 5
LOCK_NOT_AVAILABLE = "55P03"
# Steps of SQLite's machine after which it asks whether to go on: well under a millisecond.
SQLITE_STEPS = 10_000

R = TypeVar("R")
Work = Callable[[Connection], object]

COLUMNS = """
    app varchar(200) NOT NULL,
    release varchar(200) NOT NULL,
    task varchar(63) NOT NULL,
    state varchar(16) NOT NULL,
    attempt integer NOT NULL,
    tries integer NOT NULL,
    owner varchar(200) NOT NULL,
    error varchar(63),
    duration_seconds double precision,
    started_at {time} NOT NULL,
    ended_at {time},
    PRIMARY KEY (app, release, task)
"""
ROW = "app = :app AND release = :release AND task = :task"
MINE = f"{ROW} AND state = 'running' AND owner = :owner AND attempt = :attempt"


class Busy(Exception):  # noqa: N818 - what happened, not what kind of object it is
    """Somebody else is at it."""


class Interrupted(Exception):  # noqa: N818 - what happened, not what kind of object it is
    """A task committed or rolled back by itself, so it does not belong to its row any more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger says of a task.

    Attributes:
        state: ``running``, ``failed``, ``given_up`` or ``done``.
        attempt: Attempts begun, of all pods together.
        tries: Those since the task was last given up, but for those that were given back.
        error: Code of the newest attempt that failed, or None.
        duration: Seconds the newest finished attempt took, or None.
        age: Seconds since the newest attempt began, or ended if it has; by the database's clock.
            Negative where that has been set back meanwhile, and then it says nothing.
    """

    state: str
    attempt: int
    tries: int
    error: str | None
    duration: float | None
    age: float


class Cord:
    """What a call is pulled out of the database by. One for each call.

    Whoever waits for the call pulls it, from another thread; the call then fails at once, and
    nothing of its transaction remains.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Any = None
        self._pulled = False

    def tie(self, connection: Any) -> None:
        """Binds a connection of the driver's.

        Raises:
            TimeoutError: Too late.
        """
        with self._lock:
            self._held = connection
            if not self._pulled:
                return
        self.pull()
        raise TimeoutError("pulled out of the database")

    def pull(self) -> None:
        """Ends the call. From any thread, at any time."""
        with self._lock:
            self._pulled = True
            connection, self._held = self._held, None
        if connection is None:
            return
        # A dead connection may say anything here.
        with suppress(Exception):
            if isinstance(connection, _SQLiteConnection):
                connection.withdraw()
            else:
                _cut(connection.fileno())


def _cut(fd: int) -> None:
    """Ends a connection under a client library that waits for it."""
    with socket.socket(fileno=socket.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_RDWR)


class Ledger:
    """The ledger of one release of one application. Threads may share one.

    Args:
        url: SQLAlchemy URL of PostgreSQL or of a SQLite file.
        app: Name of the application.
        release: Name of the release.
        owner: Who claims: one process.

    Raises:
        ValueError: The database cannot keep a ledger. The message does not quote the URL.
    """

    def __init__(self, url: str, app: str, release: str, owner: str) -> None:
        self._dialect, address = _dialect(url)
        self._names = {"app": app, "release": release, "owner": owner}
        self._calls = threading.local()
        # No pool: a ledger is asked a few times in the life of a pod.
        self._engine = create_engine(address, poolclass=NullPool, **self._dialect.options)
        event.listen(self._engine, "do_connect", self._connect)
        self._made = False

    def _connect(
        self, dialect: Any, _record: object, arguments: Any, options: dict[str, Any]
    ) -> Any:
        """Runs in the thread that connects, before SQLAlchemy itself uses the connection."""
        connection = dialect.connect(*arguments, **{**self._dialect.defaults, **options})
        try:
            self._calls.cord.tie(connection)
        except TimeoutError:
            connection.close()
            raise
        return connection

    @contextmanager
    def _call(self, cord: Cord) -> Iterator[None]:
        self._calls.cord = cord
        try:
            yield
        finally:
            del self._calls.cord

    def entries(self, cord: Cord) -> dict[str, Entry]:
        """What is known of the tasks of this release; a task nobody has begun is missing.

        Raises:
            SQLAlchemyError, TimeoutError: The database cannot say.
        """
        with self._call(cord), self._engine.connect() as connection:
            self._make(connection)
            # Without limits the server would wait on, for a client that has long gone.
            with connection.begin():
                self._dialect.limit(connection, LOCK_SECONDS)
                return self._entries(connection)

    def claim(
        self, task: str, tries: int, due: Callable[[Entry | None], bool], cord: Cord
    ) -> Entry | None:
        """Begins an attempt; None where there is none to begin.

        Args:
            task: Name of the task.
            tries: Attempts after which it is given up, also when nobody lived to say so.
            due: Whether there is something to do, from what the ledger says now.
            cord: What ends the call.

        Raises:
            Busy: Somebody else is at it.
            SQLAlchemyError, TimeoutError: The database cannot say.
        """
        with self._call(cord), self._engine.connect() as connection:
            self._make(connection)
            with self._locked(connection, task, LOCK_SECONDS, wait=False):
                entry = self._entries(connection).get(task)
                if not due(entry):
                    return None
                if entry and entry.state == "running":
                    if 0 <= entry.age < CLAIM_SECONDS:
                        raise Busy
                    if entry.tries >= tries:
                        self._give_up(connection, task)
                        return None
                self._begin(connection, task, entry)
                return self._entries(connection)[task]

    def perform(self, task: str, attempt: int, work: Work, seconds: float, cord: Cord) -> Entry:
        """Does the work of an attempt and commits it together with its row.

        Args:
            task: Name of the task.
            attempt: What ``claim`` returned.
            work: Takes the connection; must leave its transaction alone.
            seconds: What it may take, for the database to know too.
            cord: What ends the call.

        Raises:
            Busy: Somebody else is at it, or has done it.
            Interrupted: The work has ended the transaction by itself.
            Exception: What the work raised, or SQLAlchemy. Nothing was committed, unless
                the connection broke in the commit itself; then the ledger says so.
        """
        mine = {**self._names, "task": task, "attempt": attempt}
        # Only those who look whether there is something to claim may have the lock.
        with (
            self._call(cord),
            self._engine.connect() as connection,
            self._locked(connection, task, seconds, wait=True) as identity,
        ):
            if not self._mine(connection, mine):
                raise Busy
            self._dialect.release_limits(connection)
            with _left_alone(connection):
                work(connection)
            if self._dialect.identity(connection) != identity:
                raise Interrupted("the task has ended the ledger's transaction")
            found = connection.execute(
                text(
                    f"UPDATE {TABLE} SET state = 'done', error = NULL,"  # noqa: S608 - constants
                    f" ended_at = {self._dialect.now}, duration_seconds = {self._dialect.taken}"
                    f" WHERE {MINE}"
                ),
                mine,
            )
            if found.rowcount != 1:
                raise Busy
            return self._entries(connection)[task]

    def record(
        self, task: str, attempt: int, code: str, cord: Cord, *, given_up: bool = False
    ) -> None:
        """Notes that an attempt has failed; nothing, where somebody else has begun another.

        Raises:
            SQLAlchemyError, TimeoutError: It could not be noted.
        """
        with self._call(cord), self._engine.connect() as connection, connection.begin():
            self._dialect.limit(connection, LOCK_SECONDS)
            connection.execute(
                text(
                    f"UPDATE {TABLE} SET state = :state, error = :error,"  # noqa: S608 - constants
                    f" ended_at = {self._dialect.now}, duration_seconds = {self._dialect.taken}"
                    f" WHERE {MINE}"
                ),
                {
                    **self._names,
                    "task": task,
                    "attempt": attempt,
                    "error": code,
                    "state": "given_up" if given_up else "failed",
                },
            )

    def give_back(self, task: str, attempt: int, cord: Cord) -> None:
        """Has an attempt that was broken off not count as a try; others go on as after a death.

        Raises:
            SQLAlchemyError, TimeoutError: It could not be noted, so it counts.
        """
        mine = {**self._names, "task": task, "attempt": attempt}
        with self._call(cord), self._engine.connect() as connection, connection.begin():
            self._dialect.limit(connection, LOCK_SECONDS)
            # Who found the lock free a moment ago may have given it up, after one try too many.
            connection.execute(
                text(
                    f"UPDATE {TABLE} SET state = 'running', tries = tries - 1,"  # noqa: S608
                    f" ended_at = NULL WHERE {ROW} AND owner = :owner AND attempt = :attempt"
                    " AND state IN ('running', 'given_up')"
                ),
                mine,
            )

    def _make(self, connection: Connection) -> None:
        """Makes the table, where it is missing; any number of pods at once."""
        if self._made:
            return
        with connection.begin():
            self._dialect.limit(connection, LOCK_SECONDS)
            if not connection.scalar(text(self._dialect.exists)):
                self._dialect.lock(connection, _number(TABLE), wait=True)
                columns = COLUMNS.format(time=self._dialect.time)
                connection.execute(text(f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns})"))
        self._made = True

    @contextmanager
    def _locked(
        self, connection: Connection, task: str, seconds: float, *, wait: bool
    ) -> Iterator[object]:
        """A transaction that holds the lock of a row; what tells it from any other.

        Raises:
            Busy: The lock is held.
        """
        with connection.begin():
            self._dialect.limit(connection, seconds)
            key = _number(TABLE, self._names["app"], self._names["release"], task)
            if not self._dialect.lock(connection, key, wait=wait):
                raise Busy
            yield self._dialect.identity(connection)

    def _entries(self, connection: Connection) -> dict[str, Entry]:
        rows = connection.execute(
            text(
                "SELECT task, state, attempt, tries, error, duration_seconds,"  # noqa: S608
                f" {self._dialect.age} FROM {TABLE} WHERE app = :app AND release = :release"
            ),
            self._names,
        )
        return {task: Entry(*fields) for task, *fields in rows}

    def _give_up(self, connection: Connection, task: str) -> None:
        connection.execute(
            text(
                f"UPDATE {TABLE} SET state = 'given_up',"  # noqa: S608 - constants
                f" error = coalesce(error, 'task_failed'), ended_at = {self._dialect.now}"
                f" WHERE {ROW}"
            ),
            {**self._names, "task": task},
        )

    def _begin(self, connection: Connection, task: str, entry: Entry | None) -> None:
        attempt = entry.attempt + 1 if entry else 1
        tries = entry.tries + 1 if entry and entry.state != "given_up" else 1
        connection.execute(
            text(
                f"INSERT INTO {TABLE} (app, release, task, state, attempt, tries, owner,"  # noqa: S608
                " started_at) VALUES (:app, :release, :task, 'running', :attempt, :tries, :owner,"
                f" {self._dialect.now}) ON CONFLICT (app, release, task) DO UPDATE SET"
                " state = 'running', attempt = excluded.attempt, tries = excluded.tries,"
                " owner = excluded.owner, started_at = excluded.started_at, ended_at = NULL"
            ),
            {**self._names, "task": task, "attempt": attempt, "tries": tries},
        )

    def _mine(self, connection: Connection, mine: Mapping[str, Any]) -> bool:
        found = connection.scalar(text(f"SELECT 1 FROM {TABLE} WHERE {MINE}"), mine)  # noqa: S608
        return found is not None


def _number(*names: str) -> int:
    """The number of a lock. Lengths go in as well, since a name may hold any character."""
    digest = sha256("".join(f"{len(name)}:{name}" for name in names).encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


@contextmanager
def _left_alone(connection: Connection) -> Iterator[None]:
    """Refuses to commit, and to begin anew after a rollback, inside the block."""

    def refuse(*_: object) -> None:
        raise Interrupted("the task may not commit or begin anew: the ledger commits")

    for name in ("commit", "begin"):
        event.listen(connection, name, refuse)
    try:
        yield
    finally:
        for name in ("commit", "begin"):
            event.remove(connection, name, refuse)


# -- the two databases


class _Dialect(Protocol):
    """What the ledger needs to know of a database.

    Attributes:
        options: For SQLAlchemy's ``create_engine``.
        defaults: Options of a connection, where the URL does not say otherwise.
        now: Expression for the time.
        age: Expression for the seconds since an attempt began, or ended.
        taken: Expression for the seconds since an attempt began.
        time: Type of a column with a time.
        exists: Query that is true when the table is there.
    """

    options: dict[str, Any]
    defaults: dict[str, Any]
    now: str
    age: str
    taken: str
    time: str
    exists: str

    def limit(self, connection: Connection, seconds: float) -> None:
        """Has the database end the transaction if it takes longer, or its client is gone."""

    def release_limits(self, connection: Connection) -> None:
        """Takes back what was meant for the ledger's own statements."""

    def lock(self, connection: Connection, key: int, *, wait: bool) -> bool:
        """Takes a lock until the end of the transaction; False where another has it.

        Args:
            connection: In a transaction.
            key: Number of the lock.
            wait: Whether to wait for it for ``LOCK_SECONDS``.
        """

    def identity(self, connection: Connection) -> object:
        """What tells this transaction from any other."""


class _PostgreSQL:
    """PostgreSQL through psycopg, whatever driver the application itself uses."""

    # Poolers do not take prepared statements well.
    options: dict[str, Any] = {"connect_args": {"prepare_threshold": None}}  # noqa: RUF012
    defaults: dict[str, Any] = {  # noqa: RUF012 - a constant
        "connect_timeout": CONNECT_SECONDS,
        "fallback_application_name": "mingus-health",
    }
    now = "clock_timestamp()"
    taken = "extract(epoch FROM clock_timestamp() - started_at)::double precision"
    age = "extract(epoch FROM clock_timestamp() - coalesce(ended_at, started_at))::double precision"
    time = "timestamp with time zone"
    exists = f"SELECT to_regclass('{TABLE}') IS NOT NULL"

    def limit(self, connection: Connection, seconds: float) -> None:
        milliseconds = str(round(1000 * seconds))
        limits = {
            "lock_timeout": str(round(1000 * LOCK_SECONDS)),
            "statement_timeout": milliseconds,
            "idle_in_transaction_session_timeout": milliseconds,
        }
        # Without it a server notices a dead client only when its statement has ended.
        if (connection.dialect.server_version_info or (0,)) >= (14,):
            limits["client_connection_check_interval"] = "1000"
        calls = ", ".join(f"set_config('{name}', :{name}, true)" for name in limits)
        connection.execute(text(f"SELECT {calls}"), limits)

    def release_limits(self, connection: Connection) -> None:
        connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))

    def lock(self, connection: Connection, key: int, *, wait: bool) -> bool:
        if not wait:
            query = text("SELECT pg_try_advisory_xact_lock(:key)")
            return bool(connection.scalar(query, {"key": key}))
        try:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            return False
        return True

    def identity(self, connection: Connection) -> object:
        return connection.scalar(text("SELECT txid_current()"))


class _SQLiteConnection(sqlite3.Connection):
    """A connection that another thread may end, whatever its own thread is doing.

    One of the two at a time is inside SQLite: the driver reads the error of a statement
    without a lock, and a process in which it has changed meanwhile crashes.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.guard = threading.RLock()
        self._ended = False
        # An interrupt would be lost on a statement that is just about to begin.
        self.set_progress_handler(lambda: self._ended, SQLITE_STEPS)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Around each call into SQLite."""
        with self.guard:
            if self._ended:
                raise sqlite3.OperationalError("pulled out of the database")
            yield

    def cursor(self, _factory: object = None) -> sqlite3.Cursor:  # type: ignore[override]
        return super().cursor(_SQLiteCursor)

    def commit(self) -> None:
        with self.inside():
            super().commit()

    def rollback(self) -> None:
        with self.guard:
            super().rollback()

    def close(self) -> None:
        with self.guard:
            super().close()

    def withdraw(self) -> None:
        """Frees the file. To close the connection remains to its own thread."""
        self._ended = True
        # Whoever is inside for longer rolls back when they come out: all they do fails.
        if self.guard.acquire(timeout=2 * LOCK_SECONDS):
            try:
                super().rollback()
            finally:
                self.guard.release()


def _inside(method: Callable[..., R]) -> Callable[..., R]:
    def call(self: "_SQLiteCursor", *args: Any) -> R:
        with self.connection.inside():
            return method(self, *args)

    return call


class _SQLiteCursor(sqlite3.Cursor):
    """A cursor of such a connection."""

    connection: _SQLiteConnection
    execute = _inside(sqlite3.Cursor.execute)
    executemany = _inside(sqlite3.Cursor.executemany)
    executescript = _inside(sqlite3.Cursor.executescript)
    fetchone = _inside(sqlite3.Cursor.fetchone)
    fetchmany = _inside(sqlite3.Cursor.fetchmany)
    fetchall = _inside(sqlite3.Cursor.fetchall)
    __next__ = _inside(sqlite3.Cursor.__next__)

    def close(self) -> None:
        with self.connection.guard:
            super().close()


class _SQLite:
    """A SQLite file. Whoever writes has all of it, so there is one lock for all tasks.

    The driver would begin a transaction with the first change, and would take the lock only
    then; so it is told to begin none.
    """

    options: dict[str, Any] = {  # noqa: RUF012 - a constant
        "connect_args": {
            "timeout": LOCK_SECONDS,
            "check_same_thread": False,
            "isolation_level": None,
            "factory": _SQLiteConnection,
        }
    }
    defaults: dict[str, Any] = {}  # noqa: RUF012 - a constant
    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    taken = "(julianday('now') - julianday(started_at)) * 86400.0"
    age = "(julianday('now') - julianday(coalesce(ended_at, started_at))) * 86400.0"
    time = "text"
    exists = f"SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{TABLE}'"  # noqa: S608

    def limit(self, connection: Connection, seconds: float) -> None:
        """Nothing: the database is this very process."""

    def release_limits(self, connection: Connection) -> None:
        """Nothing."""

    def lock(self, connection: Connection, key: int, *, wait: bool) -> bool:  # noqa: ARG002
        patience = LOCK_SECONDS if wait else 0.0
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * patience)}")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except DBAPIError as error:
            if getattr(error.orig, "sqlite_errorname", None) != "SQLITE_BUSY":
                raise
            return False
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * LOCK_SECONDS)}")
        return True

    def identity(self, connection: Connection) -> object:
        driver: Any = connection.connection.driver_connection
        return driver.in_transaction


def _dialect(url: str) -> tuple[_Dialect, URL]:
    """The database a URL means, and the URL for its driver here."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        # Without the exception: its text may hold a piece of the password.
        raise ValueError("is not a database URL") from None
    kind = address.drivername.partition("+")[0]
    if kind in ("postgres", "postgresql"):
        return _PostgreSQL(), _for_psycopg(address)
    if kind != "sqlite":
        raise ValueError(f"a ledger needs PostgreSQL or SQLite, not {kind}")
    if address.database in (None, "", ":memory:"):
        raise ValueError("a database in memory keeps no ledger")
    return _SQLite(), address.set(drivername="sqlite")


def _for_psycopg(address: URL) -> URL:
    """The same address without what only another driver understands."""
    driver = address.drivername.partition("+")[2]
    if driver not in ("", "psycopg", "psycopg2"):
        known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        address = address.set(
            query={name: value for name, value in address.query.items() if name in known}
        )
    return address.set(drivername="postgresql+psycopg")
