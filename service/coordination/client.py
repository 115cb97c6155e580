"""A Redis client whose calls end in time, whatever the server does.

redis-py bounds each read of a socket, not a call: a server that sends one byte now and
then holds a caller for as long as it likes, and ten retries multiply what is left. Here
one ``Deadline`` is shared by everything a client is made of:

    Client.within(seconds)   sets it for a block of calls
    the pool                 sets it for a call outside such a block
    the connections          connect and shake hands before it
    the socket               allows each read and write what is left of it

Only the resolver of names keeps its own time: ``getaddrinfo`` cannot be interrupted. A
thread that hangs in it is left behind by its caller, and stopped by ``Client.abort``
before it reaches the server.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

# No second try, and no round trip or longer time limit that nobody asked for.
STRICT: dict[str, Any] = {
    "retry": Retry(NoBackoff(), 0),
    "health_check_interval": 0,
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    "driver_info": None,
}

# What a URL may say. Its time limits and retries are meant for the application's client.
_ADDRESS = frozenset({"host", "port", "path", "db", "username", "password", "client_name"})


class Deadline:
    """The moment by which the running call of one client must have ended.

    One thread at a time makes calls; ``abort`` may come from any other.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._at = clock()
        self._fixed = False
        self._aborted = False
        self._socket: socket.socket | None = None

    def begin(self) -> None:
        """Give a call its time, unless it belongs to a block that has its own."""
        if not self._fixed:
            self._at = self._clock() + self._timeout

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Give everything in the block ``seconds`` together."""
        self._at, self._fixed = self._clock() + seconds, True
        try:
            yield
        finally:
            self._fixed = False

    def left(self) -> float:
        """Seconds left, 0 when there are none."""
        return 0.0 if self._aborted else max(0.0, self._at - self._clock())

    def watch(self, sock: socket.socket) -> "DeadlineSocket":
        """Bind a connected socket to this deadline."""
        self._socket = sock
        return DeadlineSocket(sock, self)

    def abort(self) -> None:
        """End the running call now, and every later one before it begins."""
        self._aborted = True
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown: it takes the TLS state from under the reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class DeadlineSocket:
    """A connected socket, plain or TLS, that waits no longer than its deadline allows.

    Everything else is the socket's own. A wait beyond the deadline raises TimeoutError.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._socket = sock
        self._deadline = deadline

    def _arm(self) -> None:
        if self._socket.gettimeout() == 0:
            return  # the pool peeks at idle connections without blocking
        left = self._deadline.left()
        if not left:
            raise TimeoutError("deadline passed")
        self._socket.settimeout(left)

    def recv(self, *args: int) -> bytes:
        """As ``socket.recv``."""
        self._arm()
        return self._socket.recv(*args)

    def recv_into(self, *args: Any) -> int:
        """As ``socket.recv_into``."""
        self._arm()
        return self._socket.recv_into(*args)

    def sendall(self, data: bytes) -> None:
        """As ``socket.sendall``; a TLS socket would start its time anew for every 16 KiB."""
        rest = memoryview(data)
        while rest:
            self._arm()
            rest = rest[self._socket.send(rest) :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _Bounded(AbstractConnection):
    """Mixin: a connection that is made, and used, before its deadline."""

    def __init__(self, *, deadline: Deadline, **options: Any) -> None:
        self.deadline = deadline
        super().__init__(**options)

    @property
    def socket_timeout(self) -> float:
        """Seconds left; redis-py asks anew for each address it tries, and for TLS."""
        return self.deadline.left() or 0.001  # 0 would mean: do not block

    @socket_timeout.setter
    def socket_timeout(self, seconds: float) -> None:
        """Ignored: the deadline decides."""

    socket_connect_timeout = socket_timeout

    def _connect(self) -> DeadlineSocket:
        sock = super()._connect()  # type: ignore[no-untyped-call,safe-super]
        return self.deadline.watch(sock)


class BoundedConnection(_Bounded, Connection):
    """Over TCP."""


class BoundedTLSConnection(_Bounded, SSLConnection):
    """Over TLS."""


class BoundedUnixConnection(_Bounded, UnixDomainSocketConnection):
    """Over a Unix socket."""


_BOUNDED: dict[type, type] = {
    Connection: BoundedConnection,
    SSLConnection: BoundedTLSConnection,
    UnixDomainSocketConnection: BoundedUnixConnection,
}


class _Pool(ConnectionPool):
    """Starts the time of a call when the call takes its connection."""

    def __init__(self, deadline: Deadline, **options: Any) -> None:
        self.deadline = deadline
        super().__init__(deadline=deadline, **options)

    def get_connection(self, *args: Any, **options: Any) -> Connection:
        self.deadline.begin()
        return super().get_connection(*args, **options)


class Client(redis.Redis):
    """``redis.Redis`` with a limit on the whole of a call, for one thread at a time.

    A call that runs out of time raises ``redis.TimeoutError``; its connection is dropped.
    """

    def __init__(self, pool: _Pool) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._deadline = pool.deadline

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """All calls in the block together take at most ``seconds``."""
        return self._deadline.within(seconds)

    def abort(self) -> None:
        """Wake the thread that is stuck in a call, from another thread.

        The client is of no use afterwards: its owner connects a new one. A thread that is
        still connecting wakes when its time is over.
        """
        self._deadline.abort()


def connect(url: str, *, timeout: float, clock: Callable[[], float] = time.monotonic) -> Client:
    """A client for ``redis://``, ``rediss://`` or ``unix://``; nothing is sent or resolved yet.

    Args:
        url: Address, user, password and database; for TLS also redis-py's ``ssl_`` options.
        timeout: Seconds for one call, connecting included, outside of ``Client.within``.
        clock: Monotonic seconds.

    Raises:
        ValueError: The URL is unusable. The message does not quote it.
    """
    deadline = Deadline(timeout, clock)
    try:
        given = parse_url(url)  # type: ignore[no-untyped-call]
        plain = given.pop("connection_class", Connection)
        kind = _BOUNDED[plain]
        options = {name: given[name] for name in given if _is_kept(name, plain)} | STRICT
        kind(deadline=deadline, **options)  # the pool would make the first one only for a call
    except (ValueError, TypeError, redis.RedisError):
        # Their messages may quote a part of a password, such as what follows a slash in it.
        raise ValueError("not a usable redis://, rediss:// or unix:// URL") from None
    return Client(_Pool(deadline, connection_class=kind, **options))


def _is_kept(option: str, connection: type) -> bool:
    return option in _ADDRESS or (connection is SSLConnection and option.startswith("ssl_"))
