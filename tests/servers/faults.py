"""A TCP proxy that misbehaves on demand, in front of any server.

    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        ... connect to proxy.address ...
        proxy.fault = Fault.DRIP

A fault is in force when the assignment returns, for open connections as well as for new ones.
When it is lifted, what it held up goes on. The port stays the proxy's own all the time.
"""

import socket
import struct
import threading
from contextlib import suppress
from enum import Enum, auto
from typing import Self

PACE = 0.08  # seconds from byte to byte of a drip
_CHUNK = 65536


class Fault(Enum):
    """What is wrong with the network, or with the server behind it."""

    NONE = auto()  # everything passes
    REFUSE = auto()  # nobody listens; open connections are reset
    FREEZE = auto()  # connections are accepted, and then nothing passes
    DRIP = auto()  # replies come a byte at a time
    RESET = auto()  # a connection is reset in the middle of its next reply
    BLACK_HOLE = auto()  # connecting hangs, and nothing passes
    MUTE = auto()  # requests reach the server, replies are lost


_HOLDING = (Fault.FREEZE, Fault.BLACK_HOLE)


class FaultProxy:
    """One listening port in front of one upstream.

    Attributes:
        address: Where it listens: host and port.
        accepted: Connections accepted so far.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self._reserved = _bound(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._reserved.getsockname()
        self.accepted = 0
        self._fault = Fault.NONE
        self._closed = False
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._fillers: list[socket.socket] = []
        self._links: set[_Link] = set()

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fault(self) -> Fault:
        """What is wrong now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._stop_listening()
        with self._changed:
            self._fault = fault
            self._changed.notify_all()
        if fault is Fault.REFUSE:
            links = list(self._links)
            for link in links:
                link.reset()
            for link in links:
                link.join()
        elif fault is Fault.BLACK_HOLE:
            self._fill_backlog()
        else:
            self._listen()

    def close(self) -> None:
        """End everything; idempotent."""
        self._stop_listening()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for link in list(self._links):
            link.close()
        self._reserved.close()

    def let_through(self) -> Fault:
        """The fault in force, as soon as it lets anything pass at all."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fault not in _HOLDING)
            return self._fault

    def pause(self) -> None:
        """Wait from one byte of a drip to the next, unless the dripping is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fault is not Fault.DRIP, PACE)

    def forget(self, link: "_Link") -> None:
        """A connection is over."""
        self._links.discard(link)

    def _listen(self) -> None:
        listener = self._listener = _bound(self.address)
        listener.listen()
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._acceptor.start()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
            if self._acceptor is not None:
                self._acceptor.join()
            self._listener.close()
        self._listener = self._acceptor = None
        while self._fillers:
            self._fillers.pop().close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            link = _Link(self, client)
            self._links.add(link)
            link.start()

    def _fill_backlog(self) -> None:
        """Let connections wait in a queue that nobody empties, until the next one hangs."""
        self._listener = _bound(self.address)
        self._listener.listen(0)
        with suppress(TimeoutError):
            while True:
                self._fillers.append(socket.create_connection(self.address, timeout=0.2))


class _Link:
    """One connection through the proxy: a thread for the requests and one for the replies."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = socket.socket()
        self._broken = False
        self._requests = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._requests.start()

    def reset(self) -> None:
        """Break the connection: the client is sent a RST, not a FIN."""
        self._broken = True
        _reset_on_close(self._client)
        for sock in (self._client, self._server):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RD)  # wakes the threads, who then close it

    def join(self) -> None:
        """Wait for its threads."""
        self._requests.join()

    def close(self) -> None:
        """Break the connection and wait for its threads."""
        for sock in (self._client, self._server):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.join()

    def _run(self) -> None:
        replies = threading.Thread(target=self._forward_replies, daemon=True)
        with self._client, self._server:
            with suppress(OSError):
                self._server.connect(self._proxy.upstream)
                replies.start()
                self._forward_requests()
            if replies.ident is not None:
                replies.join()
        self._proxy.forget(self)

    def _forward_requests(self) -> None:
        with suppress(OSError):
            while request := self._client.recv(_CHUNK):
                self._proxy.let_through()
                self._server.sendall(request)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)

    def _forward_replies(self) -> None:
        with suppress(OSError):
            while reply := self._server.recv(_CHUNK):
                fault = self._proxy.let_through()
                if fault is Fault.RESET:
                    self._client.sendall(reply[: len(reply) // 2])
                    self.reset()
                    return
                if fault is Fault.DRIP:
                    self._drip(reply)
                elif fault is not Fault.MUTE:
                    self._client.sendall(reply)
            self._proxy.let_through()
            if not self._broken:
                self._client.shutdown(socket.SHUT_WR)

    def _drip(self, reply: bytes) -> None:
        for at in range(len(reply)):
            self._client.sendall(reply[at : at + 1])
            self._proxy.pause()


def _bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    # So that the port can be bound once to be kept, and again and again to be listened on.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    return sock


def _reset_on_close(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
