"""Redis: does it answer, can it be used, and how full is it?

One run asks three questions in turn, under one time limit and without a second try:

    connectivity       PING
    cache_operations   SET with an expiry, GET, compare, DEL of a random value
    memory_usage       INFO

The result is the worst of the three. A question that was not put any more, because the one
before it got no answer, is ``not_attempted`` and does not count.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from redis import exceptions as redis

from service.health import Result, Status
from service.health.codes import status_of
from service.probes.errors import causes, mask, os_error_code

SELF_TEST_EXPIRY = 60  # seconds; what a run leaves behind that died in the middle

# The first match counts: some of these classes are subclasses of later ones.
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (redis.AuthenticationError, "authentication_failed"),
    (redis.NoPermissionError, "permission_denied"),
    (redis.BusyLoadingError, "starting_up"),
    (redis.MasterDownError, "starting_up"),
    (redis.ReadOnlyError, "read_only"),
    (redis.OutOfMemoryError, "out_of_memory"),
    (redis.ClusterDownError, "cluster_down"),
    (redis.ResponseError, "query_failed"),
    (redis.TimeoutError, "timeout"),
    (redis.InvalidResponse, "invalid_response"),
    (ValueError, "invalid_response"),  # a reply that redis-py cannot even read
)
# What connecting raises besides the errors of a network.
_UNIX_CODES: dict[type[OSError], str] = {
    FileNotFoundError: "connection_refused",
    PermissionError: "permission_denied",
    BlockingIOError: "timeout",  # a server that accepts nothing, with a full backlog
}
_TCP_CODES: dict[type[OSError], str] = {FileNotFoundError: "tls_error"}  # of a certificate

_TEXTS = (
    "used_memory_human",
    "used_memory_peak_human",
    "used_memory_rss_human",
    "used_memory_lua_human",
)
_COUNTS = (
    "total_connections_received",
    "total_commands_processed",
    "keyspace_hits",
    "keyspace_misses",
    "uptime_in_seconds",
    "connected_clients",
)
_MEMORY = ("used_memory", "maxmemory", "maxmemory_policy", "mem_fragmentation_ratio")


class Client(Protocol):
    """What the probe needs: redis-py's client, with a limit on the whole of a run."""

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """All calls in the block together take at most ``seconds``."""

    def execute_command(self, *args: Any) -> Any:
        """Send one command and return its parsed reply."""

    def get_connection_kwargs(self) -> dict[str, Any]:
        """Where, and as whom, the client connects."""

    def close(self) -> None:
        """Drop the connection; the next command makes a new one."""

    def abort(self) -> None:
        """Wake the thread that is stuck in a call, and end the use of this client."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The figures above which Redis is no longer well.

    Attributes:
        slow_ms: PING, milliseconds.
        memory_warning: Used memory, percent of ``maxmemory``.
        memory_critical: The same, for a server that is not meant to be full.
        fragmentation_warning: Resident memory divided by used memory.
        fragmentation_min_bytes: Used memory from which on (>=) that ratio says something.
    """

    slow_ms: float = 500.0
    memory_warning: float = 90.0
    memory_critical: float = 95.0
    fragmentation_warning: float = 1.5
    fragmentation_min_bytes: int = 100 * 1024 * 1024

    def complaint(self, info: Mapping[str, Any]) -> str | None:
        """The code for what is wrong with the memory that INFO describes, or None."""
        used = _used_percent(info) or 0.0
        meant_to_be_full = str(info.get("maxmemory_policy")).startswith("allkeys-")
        if used > self.memory_critical and not meant_to_be_full:
            return "memory_critical"
        if used > self.memory_warning:
            return "memory_high"
        ratio = _number(info, "mem_fragmentation_ratio") or 0.0
        large = (_count(info, "used_memory") or 0) >= self.fragmentation_min_bytes
        return "fragmentation_high" if large and ratio > self.fragmentation_warning else None


@dataclass(frozen=True, slots=True)
class _Part:
    """What one question found.

    Attributes:
        status: Undamped.
        code: None exactly when HEALTHY.
        reason: For the log; empty without a code.
        seconds: How long the answer took, None without one.
        answered: Whether Redis said anything, be it an error.
        info: The reply to INFO, where that was the question.
    """

    status: Status = Status.UNKNOWN
    code: str | None = "not_attempted"
    reason: str = ""
    seconds: float | None = None
    answered: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, code: str | None, reason: str, **more: Any) -> "_Part":
        """The part that a code, or none, leads to by itself."""
        if code is None:
            return cls(Status.HEALTHY, None, **more)
        return cls(status_of(code), code, reason, **more)

    def words(self) -> dict[str, Any]:
        return {"status": self.status.word, "error": self.code}

    def timed(self) -> dict[str, Any]:
        ms = None if self.seconds is None else round(1000 * self.seconds, 2)
        return {**self.words(), "response_time_ms": ms}


@dataclass(frozen=True, slots=True)
class _Run:
    """The three questions and whom they were put to."""

    connectivity: _Part
    cache_operations: _Part = _Part()
    memory_usage: _Part = _Part()
    address: Mapping[str, Any] = field(default_factory=dict)

    def result(self) -> Result:
        parts = {
            "connectivity": self.connectivity,
            "cache_operations": self.cache_operations,
            "memory_usage": self.memory_usage,
        }
        attempted = [part for part in parts.values() if part.status is not Status.UNKNOWN]
        worst = max(attempted, key=lambda part: part.status)
        reasons = [f"{name}: {part.reason}" for name, part in parts.items() if part.reason]
        return Result(
            worst.status,
            worst.code,
            response_time=self.connectivity.seconds,
            reason=mask("; ".join(reasons), self.address.get("password")),
            details=self._details(),
        )

    def _details(self) -> dict[str, Any]:
        info = self.memory_usage.info
        return {
            "connectivity": {**self.connectivity.timed(), **_place(self.address)},
            "cache_operations": self.cache_operations.timed(),
            "memory_usage": {**self.memory_usage.words(), "info": _figures(info)},
            "server": {
                "redis_version": _text(info, "redis_version"),
                "used_memory_bytes": _count(info, "used_memory"),
                "connected_clients": _count(info, "connected_clients"),
                "total_commands_processed": _count(info, "total_commands_processed"),
            },
        }


class RedisProbe:
    """Probe of one Redis server, on a connection kept between runs.

    Runs do not overlap. ``close`` may be called from another thread while one is stuck:
    that run then fails, and the next one connects anew.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        key: str,
        timeout: float,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the probe; nothing is connected yet.

        Args:
            connect: Makes a client, without I/O; a ValueError means unusable settings.
            key: Key of the self-test, which no other process uses.
            timeout: Seconds for a whole run.
            limits: The thresholds.
            clock: Monotonic seconds.
        """
        self._connect = connect
        self._key = key
        self._timeout = timeout
        self._limits = limits
        self._clock = clock
        self._client: Client | None = None

    def __call__(self) -> Result:
        """One run."""
        try:
            client = self._client = self._client or self._connect()
        except ValueError as error:
            return _Run(_Part.of("configuration_invalid", str(error))).result()
        with client.within(self._timeout):
            result = self._run(client).result()
        if result.status is Status.UNHEALTHY:
            client.close()  # the next run meets whoever has the name, or the role, by then
        return result

    def close(self) -> None:
        """Discard the connection and wake a run that is stuck on it. From any thread."""
        client, self._client = self._client, None
        if client is not None:
            client.abort()

    def _run(self, client: Client) -> _Run:
        run = _Run(_ask(self._ping, client), address=client.get_connection_kwargs())
        if run.connectivity.status is not Status.UNHEALTHY:
            run = replace(run, cache_operations=_ask(self._self_test, client))
        if run.cache_operations.answered:
            run = replace(run, memory_usage=_ask(self._memory, client))
        return run

    def _ping(self, client: Client) -> _Part:
        """Connecting counts too, where the run before left no connection."""
        begun = self._clock()
        client.execute_command("PING")
        seconds = self._clock() - begun
        code = "slow_response" if 1000 * seconds > self._limits.slow_ms else None
        return _Part.of(code, f"PING took {seconds:.3f} s", seconds=seconds, answered=True)

    def _self_test(self, client: Client) -> _Part:
        value = secrets.token_hex(16).encode()
        begun = self._clock()
        client.execute_command("SET", self._key, value, "EX", SELF_TEST_EXPIRY)
        found = client.execute_command("GET", self._key)
        client.execute_command("DEL", self._key)
        seconds = self._clock() - begun
        code = None if found == value else "value_mismatch"
        return _Part.of(code, f"wrote {value!r}, read {found!r}", seconds=seconds, answered=True)

    def _memory(self, client: Client) -> _Part:
        try:
            info = client.execute_command("INFO")  # naming several sections needs Redis 7
        except redis.ResponseError as error:
            if _reply_code(error) != "permission_denied" and "unknown command" not in str(error):
                raise
            return _Part(Status.NOT_CONFIGURED, "permission_denied", str(error), answered=True)
        reason = ", ".join(f"{key} {info.get(key)}" for key in _MEMORY)
        return _Part.of(self._limits.complaint(info), reason, answered=True, info=info)


def _ask(question: Callable[[Client], _Part], client: Client) -> _Part:
    try:
        return question(client)
    except (redis.RedisError, OSError, ValueError) as error:
        code = _reply_code(error) or os_error_code(error) or _file_code(error, client)
        answered = isinstance(error, redis.ResponseError)
        return _Part.of(code, f"{type(error).__name__}: {error}", answered=answered)


def _reply_code(error: Exception) -> str | None:
    if "max number of clients" in str(error):  # redis-py has no class for it
        return "too_many_connections"
    return next((code for kind, code in _CODES if isinstance(error, kind)), None)


def _file_code(error: Exception, client: Client) -> str:
    codes = _UNIX_CODES if "path" in client.get_connection_kwargs() else _TCP_CODES
    found = (code for cause in causes(error) for kind, code in codes.items() if type(cause) is kind)
    return next(found, "connection_lost")


def _place(address: Mapping[str, Any]) -> dict[str, Any]:
    """Where the server is, with redis-py's own defaults for what the settings leave out."""
    if not address:
        return {"host": None, "port": None, "db": None}
    db = address.get("db", 0)
    if "path" in address:
        return {"host": "unix", "port": None, "db": db}
    return {"host": address.get("host", "localhost"), "port": address.get("port", 6379), "db": db}


def _figures(info: Mapping[str, Any]) -> dict[str, Any]:
    ratio, percent = _number(info, "mem_fragmentation_ratio"), _used_percent(info)
    return {
        **{key: _text(info, key) for key in _TEXTS},
        "mem_fragmentation_ratio": None if ratio is None else round(ratio, 2),
        "memory_usage_percent": None if percent is None else min(100.0, round(percent, 2)),
        **{key: _count(info, key) for key in _COUNTS},
    }


def _used_percent(info: Mapping[str, Any]) -> float | None:
    """Used memory in percent of ``maxmemory``; None without such a limit."""
    used, limit = _count(info, "used_memory"), _count(info, "maxmemory")
    return 100 * used / limit if limit and used is not None else None


# redis-py gives a figure the type it looks like; servers differ in what they report at all.
def _text(info: Mapping[str, Any], key: str) -> str | None:
    return str(info[key]) if key in info else None


def _count(info: Mapping[str, Any], key: str) -> int | None:
    value = info.get(key)
    return value if isinstance(value, int) else None


def _number(info: Mapping[str, Any], key: str) -> float | None:
    value = info.get(key)
    return value if isinstance(value, int | float) else None
