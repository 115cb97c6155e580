"""A Redis client whose calls end in time, whatever the server does.

redis-py bounds each read of a socket, not a call: a server that sends one byte now and
then holds a caller for as long as it likes, and ten retries multiply what is left. Here
one ``Deadline`` is shared by everything a client is made of:

    Client.within(seconds)   sets it for a block of calls
    the pool                 sets it for a call outside such a block
    the connections          connect and shake hands before it
    the socket               allows each read and write what is left of it

A master behind Sentinels is asked for with each connection, and a cluster is followed to the node
that has the keys: all of a caller's keys share one hash slot, so one node at a time is enough.

Only the resolver of names keeps its own time: ``getaddrinfo`` cannot be interrupted. A
thread that hangs in it is left behind by its caller, and stopped by ``Client.abort``
before it reaches the server.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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

MAX_REDIRECTS = 2

# After these, a node of a cluster may be gone, or no longer belong to it.
_LOST = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ClusterDownError)

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
        self.aborted = False
        self._socket: socket.socket | None = None

    def begin(self) -> None:
        """Give a call its time, unless it belongs to a block that has its own."""
        if not self._fixed:
            self._at = self._clock() + self._timeout

    @contextmanager
    def one_call(self) -> Iterator[None]:
        """Give the block the time of one call, unless it belongs to a block that has its own."""
        if self._fixed:
            yield
            return
        with self.within(self._timeout):
            yield

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Give everything in the block ``seconds`` together."""
        self._at, self._fixed = self._clock() + seconds, True
        try:
            yield
        finally:
            self._fixed = False

    @contextmanager
    def share(self, parts: int) -> Iterator[None]:
        """Give the block an equal part of what is left, and leave the rest for what follows."""
        at, now = self._at, self._clock()
        self._at = now + max(0.0, at - now) / parts
        try:
            yield
        finally:
            self._at = at

    def left(self) -> float:
        """Seconds left, 0 when there are none."""
        return 0.0 if self.aborted else max(0.0, self._at - self._clock())

    def some_left(self) -> float:
        """Seconds left.

        Raises:
            ConnectionAbortedError: The call has been aborted.
            TimeoutError: There are none.
        """
        if self.aborted:
            raise ConnectionAbortedError("aborted")
        left = self.left()
        if not left:
            raise TimeoutError("deadline passed")
        return left

    def watch(self, sock: socket.socket) -> "DeadlineSocket":
        """Bind a connected socket to this deadline."""
        self._socket = sock
        return DeadlineSocket(sock, self)

    def abort(self) -> None:
        """End the running call now, and every later one before it begins."""
        self.aborted = True
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
        self._socket.settimeout(self._deadline.some_left())

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
    """Mixin: a connection that is made, and used, before its deadline.

    It is left when its server turns out to be read-only: a failover leaves connections to the old
    master behind, which is of no use, and whatever the address leads to by now may be another.
    """

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

    @property
    def socket_connect_timeout(self) -> float:
        """Half of the seconds left, so that a silent address of a name leaves some to the next.

        A call takes as many round trips again, at least.
        """
        return self.socket_timeout / 2

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float) -> None:
        """Ignored: the deadline decides."""

    def _connect(self) -> DeadlineSocket:
        sock = super()._connect()  # type: ignore[no-untyped-call,safe-super]
        return self.deadline.watch(sock)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """As ``Connection.read_response``."""
        try:
            return super().read_response(*args, **options)
        except redis.ReadOnlyError:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise


class BoundedConnection(_Bounded, Connection):
    """Over TCP."""


@dataclass
class Sentinels:
    """Who knows which server is the master.

    Attributes:
        service: Name of the master.
        addresses: Where the Sentinels are; the one that answered last comes first.
        login: ``username`` and ``password`` for the Sentinels themselves, where they want any.
    """

    service: str
    addresses: list[tuple[str, int]]
    login: dict[str, str] = field(default_factory=dict)

    def master(self, deadline: Deadline) -> tuple[str, int]:
        """Address of the master, as the first Sentinel says that answers in its part of the time.

        Raises:
            redis.ConnectionError: None of them knows one.
        """
        count = len(self.addresses)
        for asked, address in enumerate(tuple(self.addresses)):
            # The master is to have as much time as each of them.
            with deadline.share(count - asked + 1):
                found = self._ask(address, deadline)
            if found is not None:
                self.addresses.remove(address)
                self.addresses.insert(0, address)
                return found
        raise redis.ConnectionError("no Sentinel knows the master")

    def _ask(self, address: tuple[str, int], deadline: Deadline) -> tuple[str, int] | None:
        host, port = address
        connection = BoundedConnection(
            host=host, port=port, deadline=deadline, **self.login, **STRICT
        )
        try:
            connection.connect()  # type: ignore[no-untyped-call]
            connection.send_command(  # type: ignore[no-untyped-call]
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service
            )
            found = connection.read_response()
        except (redis.RedisError, OSError):
            return None
        finally:
            connection.disconnect()  # type: ignore[no-untyped-call]
        return (found[0].decode(), int(found[1])) if found else None


class _OfMaster(_Bounded):
    """Mixin: a connection to whatever server is the master when it is made."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self.sentinels = sentinels
        super().__init__(**options)

    def _connect(self) -> DeadlineSocket:
        self.host, self.port = self.sentinels.master(self.deadline)
        return super()._connect()


class MasterConnection(_OfMaster, BoundedConnection):
    """To the master, over TCP."""


class BoundedTLSConnection(_Bounded, SSLConnection):
    """Over TLS."""


class MasterTLSConnection(_OfMaster, BoundedTLSConnection):
    """To the master, over TLS; the Sentinels are asked without."""


class BoundedUnixConnection(_Bounded, UnixDomainSocketConnection):
    """Over a Unix socket."""


_OF_MASTER: dict[type, type] = {
    Connection: MasterConnection,
    SSLConnection: MasterTLSConnection,
}
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
        self._home = dict(self.connection_kwargs)

    def get_connection(self, *args: Any, **options: Any) -> Connection:
        self.deadline.begin()
        if self.deadline.aborted:
            raise redis.ConnectionError("aborted")  # a new connection would end as out of time
        return super().get_connection(*args, **options)

    def follow(self, host: str, port: int) -> None:
        """From now on connects to another node of a cluster."""
        self.disconnect()
        self.connection_kwargs.update({"host": host or self.connection_kwargs["host"]}, port=port)
        self.reset()

    def go_home(self) -> None:
        """Connects where the URL says again: the node of the cluster may be gone."""
        if self.connection_kwargs != self._home:
            self.disconnect()
            self.connection_kwargs = dict(self._home)
            self.reset()


class Client(redis.Redis):
    """``redis.Redis`` with a limit on the whole of a call, for one thread at a time.

    A call that runs out of time raises ``redis.TimeoutError``; its connection is dropped.
    """

    def __init__(self, pool: _Pool) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._deadline = pool.deadline
        self._pool = pool

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As ``redis.Redis``; a cluster may send the caller on to another node, twice at most."""
        with self._deadline.one_call():
            for _ in range(MAX_REDIRECTS):
                try:
                    return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
                except redis.exceptions.MovedError as moved:
                    self._pool.follow(moved.host, moved.port)
                except redis.exceptions.AskError as ask:
                    return self._ask(ask.host, ask.port, *args, **options)
                except _LOST:
                    self._pool.go_home()
                    raise
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def _ask(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        """Has one command answered by the node of a cluster that is being given its slot."""
        self._pool.follow(host, port)
        try:
            super().execute_command("ASKING")  # type: ignore[no-untyped-call]
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        finally:
            self._pool.go_home()

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
    """A client for one server, a cluster, or a master; nothing is sent or resolved yet.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://`` with address, user, password and database;
            for TLS also redis-py's ``ssl_`` options. ``redis+sentinel://`` and
            ``rediss+sentinel://`` name Sentinels, and the master as the first part of the path:
            ``redis+sentinel://user:password@one:26379,two:26379/mymaster/0``, with
            ``sentinel_username`` and ``sentinel_password`` as options.
        timeout: Seconds for one call, connecting included, outside of ``Client.within``.
        clock: Monotonic seconds.

    Raises:
        ValueError: The URL is unusable. The message does not quote it.
    """
    deadline = Deadline(timeout, clock)
    try:
        sentinels, plain_url = _sentinels(url)
        given = parse_url(plain_url)  # type: ignore[no-untyped-call]
        plain = given.pop("connection_class", Connection)
        kind = (_BOUNDED if sentinels is None else _OF_MASTER)[plain]
        options = {name: given[name] for name in given if _is_kept(name, plain)} | STRICT
        if sentinels is not None:
            options["sentinels"] = sentinels
        kind(deadline=deadline, **options)  # the pool would make the first one only for a call
    except (ValueError, TypeError, KeyError, redis.RedisError):
        # Their messages may quote a part of a password, such as what follows a slash in it.
        raise ValueError(
            "not a usable redis://, rediss://, unix:// or redis+sentinel:// URL"
        ) from None
    return Client(_Pool(deadline, connection_class=kind, **options))


def _is_kept(option: str, connection: type) -> bool:
    return option in _ADDRESS or (connection is SSLConnection and option.startswith("ssl_"))


def _sentinels(url: str) -> tuple[Sentinels | None, str]:
    """The Sentinels a URL names, and the URL of the first of them as if it were the master.

    Raises:
        ValueError: The URL names Sentinels, but no master, or not in a way that can be read.
    """
    scheme, _, rest = url.partition("+sentinel://")
    if not rest:
        return None, url
    parts = urlsplit(f"{scheme}://{rest}")
    login, _, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    if scheme not in ("redis", "rediss") or not service:
        raise ValueError("no master is named")
    addresses = [_address(host) for host in hosts.split(",")]
    query = parse_qs(parts.query)
    names = {"sentinel_username": "username", "sentinel_password": "password"}
    own = {names[name]: query[name][0] for name in names if name in query}
    plain = f"{scheme}://{login}{'@' if login else ''}{hosts.split(',')[0]}/{db}?{parts.query}"
    return Sentinels(unquote(service), addresses, own), plain


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a Sentinel without a host")
    return parts.hostname, parts.port or 26379
