"""The database: can it be reached, does it answer, have the workers' pools room?

One run looks at three things in turn, under one time limit:

    connection        open one if none is kept, SELECT 1
    responsiveness    count the user tables, on the same connection
    connection_pool   add up the figures the workers publish

The connection is the probe's own, never one of the application's: a busy pool is not a dead
database. It is kept between runs and given up after any error.

A run ends at its limit whatever the server does (``drivers`` tells how), or at once when
another thread calls ``close``.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from service.health import CheckFailed, PoolUse, Result, Status
from service.health.codes import status_of
from service.probes.drivers import Driver, Session, driver_of, parsed
from service.probes.errors import mask
from service.probes.limit import Limit

MAX_AGE = 290.0  # seconds a connection is kept: five minutes, less the wait for the next run

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


@dataclass(slots=True)
class _Held:
    """A connection, or none, and since when it has been open, monotonic seconds."""

    session: Session | None = None
    since: float = float("inf")

    def drop(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close()


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
        self._driver: Driver | None = None
        self._secrets: tuple[str, ...] = ()
        self._lock = threading.Lock()  # for the two below; nobody waits while holding it
        self._runs: set[Limit] = set()
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
    def _run(self) -> Iterator[tuple[Limit, _Held]]:
        """A run takes the kept connection, and puts it back if all went as it should."""
        with self._lock:
            limit = Limit(self._timeout, self._clock)
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

    def _connect(self, held: _Held, limit: Limit) -> Part:
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

    def _new_driver(self) -> Driver:
        address = parsed(self._url)
        self._secrets = address.secrets
        return driver_of(address, self._timeout)

    def _count_tables(self, held: _Held, limit: Limit) -> Part:
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

    def _revision(self, held: _Held, limit: Limit) -> str | None:
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
