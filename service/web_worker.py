"""The web workers' classes: gunicorn's own, less two habits that cost requests.

A worker that stops closes its listener with whatever waits in its queue, and the kernel resets
that: requests a proxy has sent already and, if they are POSTs, must not send again. Here

    turn_away           arbiter, just before it stops its workers: nobody new gets into the queue
    let_in              arbiter that takes over the listeners of another: whoever comes does
    become_web_worker   a worker that stops with the pod serves the queue before it leaves

A newcomer's SYN is dropped, so that to connect takes it one retransmission longer; by then
the port refuses, and it goes elsewhere with nothing sent.

And gthread waits in its one loop, up to 2 s each, for clients to close what it has ended: while
the pod drains, when every answer ends its connection, a few slow ones stop the whole worker.
Here the loop goes on, and hears of it when they do.
"""

import ctypes
import os
import select
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from service.health import Phase

LINGER_SECONDS = 2.0
MAX_DISCARD = 65536  # bytes at a time

# linux/asm-generic/socket.h; the socket module does not name them
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
_FLAGS, _SYN, _SYN_ACK = 13, 0x02, 0x12  # of a TCP header: where, and what
# Classic BPF, as (code, jump if true, jump if false, operand); a filter of a TCP socket sees
# segments from the TCP header on. See linux/filter.h.
_NO_NEWCOMERS = (
    (0x30, 0, 0, _FLAGS),  # load the byte with the flags
    (0x54, 0, 0, _SYN_ACK),  # of which these two
    (0x15, 0, 1, _SYN),  # exactly SYN?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else pass it, whole
)


def turn_away(listeners: Iterable[Any]) -> None:
    """Lets nobody new into the queues of TCP listeners; handshakes under way are completed.

    It holds for every process that shares a listener, until somebody calls ``let_in``: only for a
    server that is about to close it. Where the kernel has no such filter, nothing changes.
    """
    code = b"".join(struct.pack("HBBI", *each) for each in _NO_NEWCOMERS)
    program = ctypes.create_string_buffer(code, len(code))
    given = struct.pack("HP", len(_NO_NEWCOMERS), ctypes.addressof(program))
    for listener in listeners:
        if listener.sock.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                listener.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, given)


def let_in(listeners: Iterable[Any]) -> None:
    """Takes back ``turn_away``; where nobody was turned away, nothing changes."""
    for listener in listeners:
        with suppress(OSError):
            listener.sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def become_web_worker(worker: Any, *, lasting: bool) -> None:
    """Makes a freshly forked worker of a class of gunicorn's one that leaves as it should.

    Args:
        worker: Of gunicorn's.
        lasting: Whether its listeners stay open without the server, with their queues, as those
            of systemd do for who comes next.
    """
    worker.lasting = lasting
    for plain, better in ((ThreadWorker, _Threads), (SyncWorker, _Sync)):
        if type(worker) is plain:
            worker.__class__ = better


class _Sync(SyncWorker):
    def run(self) -> None:
        super().run()
        _leave(self)

    def handle_quit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - gunicorn's signature
        """Takes along what it is serving; gunicorn's exception would have it answered 500."""
        os._exit(0)


class _Threads(ThreadWorker):
    poller: Any

    def init_process(self) -> None:
        self._lingering: dict[socket.socket, float] = {}  # until when, the oldest first
        self._most_lingering = self.worker_connections // 5  # see gunicorn.conf.py
        super().init_process()

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        super().set_accept_enabled(enabled)
        if not self.alive:
            _leave(self)

    def enqueue_req(self, conn: Any) -> None:
        conn.close = partial(self._close, conn)
        super().enqueue_req(conn)

    def _close(self, conn: Any, *, graceful: bool = False) -> None:
        """Main thread. As ``TConn.close``; ``graceful`` reads on until the client has closed.

        Else what it has sent and nobody read makes the kernel reset the connection, and the
        end of the answer may be lost (RFC 9112, section 9.6).
        """
        sock = conn.sock
        try:
            if graceful:
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(0)
                self.poller.register(sock, selectors.EVENT_READ, self._discard)
                if len(self._lingering) >= self._most_lingering:
                    self._end(next(iter(self._lingering)))
                self._lingering[sock] = time.monotonic() + LINGER_SECONDS
                return
        except (OSError, ValueError, KeyError):
            pass  # the client is gone
        sock.close()

    def _discard(self, sock: socket.socket) -> None:
        with suppress(BlockingIOError):
            try:
                if sock.recv(MAX_DISCARD):
                    return
            except ConnectionError:
                pass
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        self._lingering.pop(sock, None)
        with suppress(KeyError, ValueError):
            self.poller.unregister(sock)
        sock.close()

    def murder_keepalived(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's
        super().murder_keepalived(force)
        now = time.monotonic()
        while self._lingering:
            oldest, end = next(iter(self._lingering.items()))
            if end > now and not force:
                break
            self._end(oldest)


def _leave(worker: Any) -> None:
    """Accepts until nobody waits, then closes: of a worker that leaves a serving pod, others do.

    Closed at once, the port refuses at once; gthread would keep it until its last request ends.
    """
    worker.seat.board.slot(worker.seat.number).enter(Phase.STOPPING)
    if worker.lasting or not worker.seat.board.stopping:
        return
    for listener in worker.sockets:
        while select.select([listener], [], [], 0)[0]:
            worker.notify()
            with suppress(BlockingIOError, ConnectionAbortedError):  # another worker was faster
                worker.accept(listener)
        listener.close()
