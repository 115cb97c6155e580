"""The load: one loop over non-blocking sockets that sends one prepared request again and again.

It must not be what limits the server. The request is encoded once, an answer is looked at only
as far as its end must be found, and the client has a core of its own where the machine has two:
the server's processes are pinned to another. So requests per second are what that one core
gives, and processor time per request is the figure that holds on other machines too.

    python -m bench.client PORT PATH CONNECTIONS    the same as a process, until it is killed
"""

import gc
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle

from bench.processes import owners

HOST = "127.0.0.1"
PATIENCE = 20.0
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ATTEMPTS = 2000

# What is asked: a port and a path.
Stop = tuple[int, str]


class LoadError(Exception):
    """The server did not do what is measured; the message says what it did."""


def request(path: str, *, close: bool = False) -> bytes:
    """The bytes of a GET request."""
    last = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{last}\r\n".encode()


@dataclass
class Load:
    """What one turn of load gave.

    Attributes:
        requests: Answers that came whole.
        seconds: Time the turn took.
        latencies: Seconds of each answer, where they are kept.
        statuses: How often each HTTP status was seen, where not 200.
    """

    requests: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def _check(self, data: bytes, *, strict: bool) -> None:
        status = data[9:12]
        if status != b"200":
            name = status.decode("latin-1")
            self.statuses[name] = self.statuses.get(name, 0) + 1
            if strict:
                raise LoadError(f"answered {data[:60]!r}")


@contextmanager
def no_collector() -> Iterator[None]:
    """Keeps Python's garbage collector out of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# -- connections


def connect(port: int) -> socket.socket:
    """A connection that waits, but not for ever."""
    sock = socket.create_connection((HOST, port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ask(sock: socket.socket, payload: bytes) -> bytes:
    """One question over a kept connection: the whole answer."""
    sock.sendall(payload)
    data = b""
    while True:
        more = sock.recv(262144)
        if not more:
            raise LoadError("the server closed a kept connection")
        data += more
        size = _size(data)
        if size is not None and len(data) >= size:
            return data


def _size(data: bytes) -> int | None:
    """The length of a whole answer; None while its head is not there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(data, 0, end)
    if length is None:
        raise LoadError("an answer without Content-Length")
    return end + 4 + int(length[1])


def balanced(port: int, pids: Iterable[int], each: int, payload: bytes) -> list[socket.socket]:
    """Kept connections, so many to each worker.

    A kept connection stays with the worker that took it. Left to chance, all may be one
    worker's, and the figures are those of that accident.
    """
    held: dict[int, list[socket.socket]] = {pid: [] for pid in pids}
    for _ in range(_ATTEMPTS):
        if all(len(mine) == each for mine in held.values()):
            return [sock for mine in zip(*held.values(), strict=True) for sock in mine]
        sock = connect(port)
        ask(sock, payload)
        owner = owners([sock.getsockname()[1]], held).get(sock.getsockname()[1])
        if owner is not None and len(held[owner]) < each:
            held[owner].append(sock)
        else:
            sock.close()
    raise LoadError(f"connections could not be spread over the workers {list(held)}")


# -- as fast as the server answers


def press(connections: list[socket.socket], payload: bytes, seconds: float) -> Load:
    """Asks over kept connections, each anew as soon as it has its answer."""
    load, poll = Load(), select.epoll()
    by_number = {sock.fileno(): sock for sock in connections}
    partial: dict[int, bytes] = {}
    for sock in connections:
        sock.setblocking(False)  # noqa: FBT003
        poll.register(sock, select.EPOLLIN)
    size, wait, clock = _size, poll.poll, time.perf_counter
    with no_collector():
        begun = clock()
        end = begun + seconds
        for sock in connections:
            sock.send(payload)
        waiting = len(connections)
        while waiting:
            events = wait(PATIENCE)
            if not events:
                raise LoadError(f"no answer within {PATIENCE:g} s")
            late = clock() >= end
            for number, _ in events:
                sock = by_number[number]
                data = sock.recv(262144)
                if not data:
                    raise LoadError("the server closed a kept connection")
                if number in partial:
                    data = partial.pop(number) + data
                whole = size(data)
                if whole is None or len(data) < whole:
                    partial[number] = data
                    continue
                load._check(data, strict=True)
                load.requests += 1
                if late:
                    waiting -= 1
                else:
                    sock.send(payload)
        load.seconds = clock() - begun
    poll.close()
    return load


def press_anew(port: int, payload: bytes, clients: int, seconds: float) -> Load:
    """The same with a new connection for each question, as a sync worker wants it."""
    load, poll = Load(), select.epoll()
    held: dict[int, tuple[socket.socket, list[bytes]]] = {}
    clock = time.perf_counter

    def begin() -> None:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((HOST, port))  # over loopback the kernel answers, whatever the server does
        sock.send(payload)
        sock.setblocking(False)  # noqa: FBT003
        held[sock.fileno()] = sock, []
        poll.register(sock, select.EPOLLIN)

    with no_collector():
        begun = clock()
        end = begun + seconds
        for _ in range(clients):
            begin()
        while held:
            events = poll.poll(PATIENCE)
            if not events:
                raise LoadError(f"no answer within {PATIENCE:g} s")
            late = clock() >= end
            for number, _ in events:
                sock, parts = held[number]
                data = sock.recv(262144)
                if data:
                    parts.append(data)
                    continue
                del held[number]
                poll.unregister(number)
                sock.close()
                load._check(b"".join(parts), strict=True)
                load.requests += 1
                if not late:
                    begin()
        load.seconds = clock() - begun
    poll.close()
    return load


# -- at a given rate


def pace(port: int, payload: bytes, *, rate: float, seconds: float, connections: int = 1) -> Load:
    """Asks so often a second over kept connections, and keeps the time of each answer.

    A time begins when the question was due: a server that is slow for a while cannot keep
    questions from being asked late and so look faster than it was.
    """
    load, poll = Load(), select.epoll()
    idle = deque(connect(port) for _ in range(connections))
    everyone = list(idle)
    asked: dict[int, tuple[socket.socket, float]] = {}
    for sock in everyone:
        sock.setblocking(False)  # noqa: FBT003
        poll.register(sock, select.EPOLLIN)
    clock = time.perf_counter
    with no_collector():
        begun = clock()
        due = begun
        while asked or due < begun + seconds:
            now = clock()
            if idle and due <= now and due < begun + seconds:
                sock = idle.popleft()
                sock.send(payload)
                asked[sock.fileno()] = sock, due
                due += 1 / rate
                continue
            wait = max(0.0, due - now) if idle and due < begun + seconds else PATIENCE
            events = poll.poll(wait)
            if not events and wait == PATIENCE:
                raise LoadError(f"no answer within {PATIENCE:g} s")
            for number, _ in events:
                sock, since = asked.pop(number)
                data = sock.recv(262144)
                if not data:
                    raise LoadError("the server closed a kept connection")
                load._check(data, strict=False)
                load.requests += 1
                load.latencies.append(clock() - since)
                idle.append(sock)
        load.seconds = clock() - begun
    for sock in everyone:
        sock.close()
    poll.close()
    return load


def tour(stops: Sequence[Stop], *, rate: float, seconds: float) -> dict[Stop, Load]:
    """Asks each of some paths in turn, so often a second in all, over a new connection each.

    Nothing waits for the answer before, and a time begins when the question was due.
    """
    loads = {stop: Load(seconds=seconds) for stop in stops}
    payloads = {stop: request(stop[1], close=True) for stop in stops}
    poll, clock = select.epoll(), time.perf_counter
    asked: dict[int, tuple[socket.socket, Stop, float, list[bytes]]] = {}
    order = cycle(stops)
    with no_collector():
        due = clock()
        end = due + seconds
        while asked or due < end:
            now = clock()
            if due <= now and due < end:
                stop = next(order)
                sock = socket.create_connection((HOST, stop[0]), timeout=PATIENCE)
                sock.send(payloads[stop])
                sock.setblocking(False)  # noqa: FBT003
                poll.register(sock, select.EPOLLIN)
                asked[sock.fileno()] = sock, stop, due, []
                due += 1 / rate
                continue
            wait = due - now if due < end else PATIENCE
            events = poll.poll(wait)
            if not events and wait == PATIENCE:
                raise LoadError(f"no answer within {PATIENCE:g} s")
            for number, _ in events:
                sock, stop, since, parts = asked[number]
                data = sock.recv(262144)
                if data:
                    parts.append(data)
                    continue
                del asked[number]
                poll.unregister(number)
                sock.close()
                loads[stop]._check(b"".join(parts), strict=False)
                loads[stop].requests += 1
                loads[stop].latencies.append(clock() - since)
    poll.close()
    return loads


def probe(port: int, path: str, *, rate: float, seconds: float, timeout: float = 5.0) -> Load:
    """Asks as a kubelet does: a new connection each, one at a time, so often a second."""
    load, payload = Load(), request(path, close=True)
    clock = time.perf_counter
    with no_collector():
        begun = due = clock()
        while due < begun + seconds:
            now = clock()
            if due > now:
                select.select([], [], [], due - now)
            data = b""
            asked = clock()
            try:
                with socket.create_connection((HOST, port), timeout=timeout) as sock:
                    sock.sendall(payload)
                    while more := sock.recv(65536):
                        data += more
                load._check(data, strict=False)
            except TimeoutError:
                load.statuses["timeout"] = load.statuses.get("timeout", 0) + 1
            load.requests += 1
            load.latencies.append(clock() - asked)
            due = max(due + 1 / rate, clock() - 1 / rate)
        load.seconds = clock() - begun
    return load


def _forever(port: int, path: str, connections: int) -> None:
    """Until it is killed, whatever the server answers."""
    payload = request(path, close=True)
    poll = select.epoll()
    held: dict[int, socket.socket] = {}

    def begin() -> None:
        sock = socket.create_connection((HOST, port))
        sock.sendall(payload)
        held[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)

    for _ in range(connections):
        begin()
    while True:
        for number, _ in poll.poll():
            try:
                if held[number].recv(65536):
                    continue
            except ConnectionError:
                pass
            poll.unregister(number)
            held.pop(number).close()
            begin()


Turn = Callable[[], Load]

if __name__ == "__main__":
    _forever(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
