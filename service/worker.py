"""The health worker's main loop: an HTTP server no client can hold.

gunicorn's own workers give a connection to a thread, which then waits for the client: a few
clients that send half a request, drip, or never read are enough to stop all answers. Here
one loop does all reading and writing without waiting, within ``HEAD_SECONDS`` for a whole
request head and ``WRITE_SECONDS`` for a whole answer. Bodies are thrown away. Answers that
are ready as bytes are given in the loop itself; what must be rendered (details, metrics) goes
to a few threads, which see complete requests only and never touch a socket.

Runs in the health worker's process only; parsing and response framing are gunicorn's own.
"""

import errno
import os
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from gunicorn.http import RequestParser, wsgi
from gunicorn.http.errors import LimitRequestHeaders, NoMoreData
from gunicorn.workers.base import Worker

from service.web.endpoints import EVENTS
from service.web.front import hot

HEAD_SECONDS = 2.0
WRITE_SECONDS = 3.0
KEEPALIVE_SECONDS = 15.0
LINGER_SECONDS = 1.0
STOP_SECONDS = HEAD_SECONDS + 1.0
MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 512
MAX_RENDERING = MAX_CONNECTIONS // 2
RENDERERS = 4
MAX_STREAMS = 32
STREAM_SECONDS = 300.0
STREAM_LOOK = 0.2  # how often it is looked whether there is news, while somebody waits for it
STREAM_HEAD = b"\r\n".join(
    (
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/event-stream",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"X-Accel-Buffering: no",  # or nginx would keep it to itself
        b"Connection: close",
        b"",
        b"retry: 1000\n\n",
    )
)
NEWS = b"data: news\n\n"
BEAT = 1.0
END_OF_HEAD = b"\r\n\r\n"


class Duties(Protocol):
    """What the health worker does besides answering; all of it in its main thread."""

    def beat(self, occupied: int) -> bool:
        """Called about once a second; False when this process should be replaced."""

    def may_leave(self) -> bool:
        """Asked after a SIGTERM: whether nobody needs answers any more."""

    def draining(self) -> bool:
        """Whether the pod is leaving, so that connections should not be kept."""

    def stop(self) -> None:
        """Ends everything that was started. May be called more than once."""


class Connection:
    """One client.

    Attributes:
        sock: Its socket, never blocking.
        address: Where it is.
        server: The address of the listener it came by.
        deadline: When it is closed, whatever it is doing; monotonic seconds. Infinite
            while its answer is being rendered, which never waits for a client.
        received: What it has sent and nobody has looked at.
        unsent: What it has not taken yet of its answer.
        keep: Whether it may ask again.
        answered: Whether it has been answered before.
        until: When the stream that it reads ends, monotonic seconds; 0 while it reads none.
    """

    __slots__ = (
        "address",
        "answered",
        "deadline",
        "keep",
        "received",
        "server",
        "sock",
        "unsent",
        "until",
    )

    def __init__(self, sock: socket.socket, address: Any, server: Any, deadline: float) -> None:
        self.sock = sock
        self.address = address
        self.server = server
        self.deadline = deadline
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.keep = True
        self.answered = False
        self.until = 0.0

    @property
    def owed(self) -> bool:
        """Whether a stopping server still owes it something: an answer, or a first hearing."""
        return not self.until and (bool(self.unsent) or self.rendering or not self.answered)

    @property
    def rendering(self) -> bool:
        """Whether its answer is being rendered."""
        return self.deadline == float("inf")


class Sink:
    """Takes what gunicorn would write to a socket."""

    def __init__(self) -> None:
        self.data = bytearray()

    def sendall(self, data: bytes) -> None:
        """Keeps the data."""
        self.data += data

    def send(self, data: bytes) -> int:
        """Keeps the data."""
        self.data += data
        return len(data)

    def gettimeout(self) -> float:
        """Nothing here waits; gunicorn asks before it writes an error."""
        return 0.0


class HealthWorker(Worker):
    """A gunicorn worker that only answers health questions. See the module.

    A worker of another class becomes one after the fork, before ``init_process``: the arbiter
    makes all its workers of one class.
    """

    duties: Duties

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - gunicorn's signature
        """SIGTERM: leave as soon as nobody needs answers any more."""
        self.leaving = True

    def handle_quit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - gunicorn's signature
        """SIGQUIT, SIGINT: leave now, with what is owed to clients already here."""
        self.alive = False

    def init_process(self) -> None:
        """Prepares the loop, then enters it by gunicorn's way."""
        self.leaving = False
        self.connections: set[Connection] = set()
        self.streams: set[Connection] = set()
        self.told = b""
        self.rendered: deque[tuple[Connection, bytes, bool]] = deque()
        self.pipelined: deque[Connection] = deque()
        super().init_process()

    def run(self) -> None:
        """The main loop."""
        self.selector = selectors.DefaultSelector()
        self.renderers = ThreadPoolExecutor(RENDERERS, thread_name_prefix="render")
        self.selector.register(self.PIPE[0], selectors.EVENT_READ, self._woken)
        for listener in self.sockets:
            listener.setblocking(False)  # noqa: FBT003
            self.selector.register(
                listener.sock, selectors.EVENT_READ, partial(self._accept, listener)
            )
        self.renderers.submit(self.wsgi.prepare)
        try:
            self._serve_until(self._done)
            self._close_listeners()
            limit = time.monotonic() + STOP_SECONDS
            self._serve_until(
                lambda: not any(each.owed for each in self.connections) or time.monotonic() > limit
            )
        finally:
            self.duties.stop()
            self.renderers.shutdown(wait=False, cancel_futures=True)

    def _done(self) -> bool:
        if not self.alive or (self.leaving and self.duties.may_leave()):
            return True
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            return True
        return False

    def _serve_until(self, done: Callable[[], bool]) -> None:
        next_beat = 0.0
        while not done():
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + BEAT
                self.notify()
                if not self.duties.beat(self._rendering()):
                    sys.exit(1)
            deadlines = (connection.deadline for connection in self.connections)
            wait = 0.1 if self.leaving else max(0.0, min([next_beat, *deadlines]) - now)
            if self.streams:
                self._tell_streams()
                wait = min(wait, STREAM_LOOK)
            for key, events in self.selector.select(0.0 if self.pipelined else wait):
                key.data(events)
            for _ in range(len(self.pipelined)):
                self._step(self.pipelined.popleft(), self._next_request)
            self._close_late(now)

    def _close_late(self, now: float) -> None:
        """Closes those whose time had passed before the last look at what they have sent.

        Else a process that stood still would cut off all who sent their request meanwhile.
        """
        for connection in [each for each in self.connections if each.deadline <= now]:
            self._close(connection)

    # -- one connection, from accept to close

    def _close_listeners(self) -> None:
        """Lets in who waits at the door, whom the kernel would reset, and shuts it."""
        for listener in self.sockets:
            for _ in range(MAX_CONNECTIONS):
                if not self._accept(listener):
                    break
            self.selector.unregister(listener.sock)
            listener.close()

    def _accept(self, listener: Any, _events: int = selectors.EVENT_READ) -> bool:
        """Lets one client in, if there is one."""
        try:
            sock, address = listener.accept()
        except OSError as error:  # gone again, or taken by a sibling of an older generation
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            return False
        if len(self.connections) >= MAX_CONNECTIONS:
            self._make_room()
        sock.setblocking(False)  # noqa: FBT003
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        deadline = time.monotonic() + HEAD_SECONDS
        connection = Connection(sock, address, listener.getsockname(), deadline)
        self.connections.add(connection)
        self.selector.register(sock, selectors.EVENT_READ, partial(self._ready, connection))
        return True

    def _make_room(self) -> None:
        """Closes who has been silent longest: a full house must not keep a probe out."""
        idle = [each for each in self.connections if not each.rendering]
        if idle:
            self._close(min(idle, key=lambda each: each.deadline))

    def _rendering(self) -> int:
        return sum(each.rendering for each in self.connections)

    def _ready(self, connection: Connection, events: int) -> None:
        self._step(connection, self._write if events & selectors.EVENT_WRITE else self._read)

    def _step(self, connection: Connection, step: Callable[[Connection], None]) -> None:
        """One step of a connection; what goes wrong in it ends that connection only."""
        if connection not in self.connections:
            return  # closed by an earlier event of the same round
        try:
            step(connection)
        except OSError:
            self._close(connection)
        except Exception:
            self.log.exception("connection failed")
            self._close(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(MAX_HEAD_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(connection)
            return
        if not connection.keep:
            return  # answered; it only has to close
        if not connection.received:
            # A kept connection was idle until here; its next request has its own time.
            connection.deadline = min(connection.deadline, time.monotonic() + HEAD_SECONDS)
        connection.received += data
        self._next_request(connection)

    def _next_request(self, connection: Connection) -> None:
        received = connection.received
        end = received.find(END_OF_HEAD)
        if end < 0 and len(received) < MAX_HEAD_BYTES:
            return
        size = end + len(END_OF_HEAD) if end >= 0 else len(received)
        head = bytes(received[:size])
        del received[:size]
        self._serve(connection, head)

    def _serve(self, connection: Connection, head: bytes) -> None:
        self.selector.unregister(connection.sock)
        request, answer = self._parse(connection, head)
        if request is None:
            self._send(connection, answer=answer, keep=False)
        elif hot(request.method, request.path, request.query, _accept(request)):
            answer, keep = self._respond(connection, request)
            self._send(connection, answer=answer, keep=keep)
        elif _wants_events(request) and len(self.streams) < MAX_STREAMS:
            self._begin_stream(connection)
        elif self._rendering() >= MAX_RENDERING:
            self._close(connection)  # any status would be one of the pod's, and untrue
        else:
            connection.deadline = float("inf")
            self.renderers.submit(self._render, connection, request)

    # -- the streams of status pages: no content, only that there is news

    def _begin_stream(self, connection: Connection) -> None:
        connection.until = time.monotonic() + STREAM_SECONDS
        self.streams.add(connection)
        self.wsgi.slot.request_answered()
        self.wsgi.count("GET", EVENTS, "200", 0.0)
        self._send(connection, answer=STREAM_HEAD + NEWS, keep=False)

    def _tell_streams(self) -> None:
        version = self.wsgi.version
        if version == self.told:
            return
        self.told = version
        for connection in list(self.streams):
            if not connection.unsent:  # else it has news to take already
                self.selector.unregister(connection.sock)
                self._step(connection, partial(self._send, answer=NEWS, keep=False))

    def _parse(self, connection: Connection, head: bytes) -> tuple[Any, bytes]:
        """The request; or None and the answer to what is not one."""
        try:
            return next(RequestParser(self.cfg, iter([head]), connection.address)), b""
        except StopIteration:
            return None, b""
        except Exception as error:  # noqa: BLE001 - gunicorn's own rim: it names them all
            if isinstance(error, NoMoreData):  # it was cut off, at the most that is taken
                error = LimitRequestHeaders(f"more than {MAX_HEAD_BYTES} bytes")
            sink = Sink()
            self.handle_error(None, sink, connection.address, error)
            return None, bytes(sink.data)

    def _render(self, connection: Connection, request: Any) -> None:
        """Runs in a renderer's thread."""
        self.rendered.append((connection, *self._respond(connection, request)))
        with suppress(BlockingIOError):  # full: the loop has reason enough to look
            os.write(self.PIPE[1], b"r")

    def _respond(self, connection: Connection, request: Any) -> tuple[bytes, bool]:
        """The whole answer to a request, and whether the connection may be kept."""
        sink = Sink()
        begun = datetime.now()  # noqa: DTZ005 - gunicorn's access log takes a naive one
        try:
            response, environ = wsgi.create(
                request, sink, connection.address, connection.server, self.cfg
            )
            if self.leaving or self.duties.draining() or _has_body(request):
                response.force_close()
            body = self.wsgi(environ, response.start_response)
            try:
                for chunk in body:
                    response.write(chunk)
                response.close()
            finally:
                close = getattr(body, "close", None)
                if close is not None:
                    close()
            self.log.access(response, request, environ, datetime.now() - begun)  # noqa: DTZ005
        except Exception as error:  # noqa: BLE001 - gunicorn's own rim around a request
            self.handle_error(request, sink, connection.address, error)
            return bytes(sink.data), False
        return bytes(sink.data), not response.should_close()

    def _woken(self, _events: int) -> None:
        """A signal came, or an answer has been rendered."""
        os.read(self.PIPE[0], 4096)
        while self.rendered:
            connection, answer, keep = self.rendered.popleft()
            self._step(connection, partial(self._send, answer=answer, keep=keep))

    def _send(self, connection: Connection, *, answer: bytes, keep: bool) -> None:
        connection.unsent = memoryview(answer)
        connection.keep, connection.answered = keep, True
        connection.deadline = time.monotonic() + WRITE_SECONDS
        self.selector.register(
            connection.sock, selectors.EVENT_WRITE, partial(self._ready, connection)
        )
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            return
        connection.unsent = connection.unsent[sent:]
        if len(connection.unsent):
            return
        self.selector.modify(
            connection.sock, selectors.EVENT_READ, partial(self._ready, connection)
        )
        now = time.monotonic()
        if connection.until:
            connection.deadline = connection.until
        elif not connection.keep:
            # Closing over unread bytes would reset the connection and lose the answer.
            connection.sock.shutdown(socket.SHUT_WR)
            connection.deadline = now + LINGER_SECONDS
        elif connection.received:
            # In the loop's next round: any number of requests may be waiting here.
            connection.deadline = now + HEAD_SECONDS
            self.pipelined.append(connection)
        else:
            connection.deadline = now + KEEPALIVE_SECONDS

    def _close(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.streams.discard(connection)
        with suppress(KeyError):  # its answer may be being rendered
            self.selector.unregister(connection.sock)
        connection.sock.close()


def become_health_worker(worker: Any) -> None:
    """Makes a freshly forked worker, of whatever class, one that answers health questions."""
    worker.__class__ = HealthWorker
    worker.max_requests = sys.maxsize


def _accept(request: Any) -> str:
    return ",".join(value for name, value in request.headers if name == "ACCEPT")


def _wants_events(request: Any) -> bool:
    return bool(request.method == "GET" and request.path == EVENTS)


def _has_body(request: Any) -> bool:
    """Whether bytes of a body may follow, which nobody is going to read."""
    return any(name in ("CONTENT-LENGTH", "TRANSFER-ENCODING") for name, _ in request.headers)
