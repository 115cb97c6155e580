"""Clients for the tests: many well-behaved ones, and hostile ones. All stop by themselves."""

import contextlib
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.pod import Answer, Pod, eventually

# The answers a killed process takes with it: the connection was its own.
CUT_OFF = ("ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "IncompleteRead")


@dataclass
class Seen:
    """What clients saw.

    Attributes:
        outcomes: How often each (listener, path, outcome) was seen; an outcome is an HTTP
            status or the name of an exception.
        answers: The answers themselves, where they are kept.
    """

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    answers: list[tuple[str, Answer]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __str__(self) -> str:
        return "\n".join(
            f"{count:6} {' '.join(key)}" for key, count in sorted(self.outcomes.items())
        )

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    def other_than(self, *expected: str) -> dict[tuple[str, str, str], int]:
        """What was seen besides the expected outcomes."""
        return {key: count for key, count in self.outcomes.items() if key[2] not in expected}


@contextmanager
def probing(
    pod: Pod,
    paths: Sequence[str],
    *,
    rate: float = 200.0,
    clients: int = 8,
    keep: bool = False,
    timeout: float = 20.0,
) -> Iterator[Seen]:
    """Probes both listeners over fresh connections, so many times a second in all."""
    seen, stop = Seen(), threading.Event()

    def client(number: int) -> None:
        turn = number
        next_at = time.monotonic() + number / rate
        while not stop.wait(max(0.0, next_at - time.monotonic())):
            next_at = max(next_at + clients / rate, time.monotonic() - 1)
            path, health = paths[turn % len(paths)], bool(turn // len(paths) % 2)
            turn += 1
            listener = "health" if health else "web"
            try:
                answer = pod.get(path, health=health, timeout=timeout)
                outcome = str(answer.status)
            except (OSError, HTTPException) as error:
                answer, outcome = None, type(error).__name__
            with seen.lock:
                seen.outcomes[listener, path, outcome] += 1
                if keep and answer is not None:
                    seen.answers.append((path, answer))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout + 5)


@contextmanager
def occupying(pod: Pod, path: str, clients: int) -> Iterator[None]:
    """Keeps so many clients on a slow path of the web listener, each asking again and again."""
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, HTTPException):
                pod.get(path, timeout=60)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()


# -- clients of the health listener that hold on to whatever they can get

PACE = 0.2  # seconds between two signs of life of a client that gives some


@dataclass
class Hold:
    """One connection of a hostile client.

    Attributes:
        client: Number of the client.
        kind: How it misbehaves.
        seconds: How long the server let it be; None when the client had to give up itself.
    """

    client: int
    kind: str
    seconds: float | None


@dataclass
class Siege:
    """Hostile clients, all at once.

    Attributes:
        clients: How many there are.
        holding: How many have a connection now, and have begun to misbehave on it.
        holds: The connections that are over, but for those of the end of the siege.
    """

    clients: int
    holding: int = 0
    holds: list[Hold] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def complete(self) -> bool:
        """Whether every client holds on."""
        return self.holding == self.clients

    def over(self) -> list[Hold]:
        """The connections that are over, by now."""
        with self.lock:
            return list(self.holds)


class Grip:
    """One connection, held for as long as the server lets it be."""

    def __init__(self, sock: socket.socket, let_go: Callable[[], bool]) -> None:
        self.sock = sock
        self.let_go = let_go
        sock.settimeout(0)

    def send(self, data: bytes) -> None:
        """Sends what there is room for.

        Raises:
            OSError: The server has ended the connection.
        """
        with contextlib.suppress(BlockingIOError):
            self.sock.send(data)

    def wait(self, *, reading: bool = True) -> bytes | None:
        """What the server has sent within a moment; nothing is its end of the conversation.

        Raises:
            OSError: The server has ended the connection.
        """
        poll = select.poll()
        poll.register(self.sock, select.POLLIN if reading else 0)  # POLLERR and POLLHUP come anyway
        if not poll.poll(1000 * PACE):
            return None
        if reason := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(reason, "ended")
        with contextlib.suppress(BlockingIOError):
            return self.sock.recv(65536)
        return None

    def until_silence(self, says: bytes = b"") -> None:
        """Holds on until the server has nothing more to say, giving a sign of life now and then."""
        while not self.let_go() and self.wait() != b"":
            self.send(says)

    def until_ended(self, says: bytes = b"x", *, reading: bool = True) -> None:
        """Holds on by talking until the server does not even listen any more.

        Raises:
            OSError: It does not.
        """
        while not self.let_go():
            self.send(says)
            if self.wait(reading=reading) == b"":
                reading = False


def half_a_head(grip: Grip) -> None:
    """Sends half a request head and waits."""
    grip.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    grip.until_silence()


def drip(grip: Grip) -> None:
    """Sends a head that never ends, a byte at a time."""
    grip.send(b"GET /health HTTP/1.1\r\nX-Long: ")
    grip.until_silence(b"a")


def never_close(grip: Grip) -> None:
    """Has been answered, says so much, and does not close."""
    grip.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def never_ask_again(grip: Grip) -> None:
    """Has been answered, and begins to ask again, a byte at a time."""
    grip.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    grip.until_silence(b"G")


def stay_silent(grip: Grip) -> None:
    """Has been answered, could ask again and does not."""
    grip.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    grip.until_silence()


def never_read(grip: Grip) -> None:
    """Asks for a lot, again and again, and reads nothing."""
    grip.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    for _ in range(200):
        grip.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    grip.until_ended(reading=False)


def say_nothing(grip: Grip) -> None:
    """Connects and says nothing."""
    grip.until_silence()


HOSTILE = (
    half_a_head,
    drip,
    say_nothing,
    never_close,
    never_ask_again,
    stay_silent,
    never_read,
)


@contextmanager
def hostile(pod: Pod, clients: int = 50, *, patience: float = 60.0) -> Iterator[Siege]:
    """Keeps hostile clients of every kind on the health listener; each comes back when cut off.

    Entered when all of them hold on.

    Args:
        pod: The pod.
        clients: How many.
        patience: Seconds after which a client gives a connection up that was not ended.
    """
    stop, siege = threading.Event(), Siege(clients)

    def hold(number: int, behave: Callable[[Grip], None]) -> None:
        with socket.create_connection(("127.0.0.1", pod.health_port), timeout=30) as sock:
            begun = time.monotonic()

            def let_go() -> bool:
                return stop.is_set() or time.monotonic() > begun + patience

            with siege.lock:
                siege.holding += 1
            try:
                behave(grip := Grip(sock, let_go))
                grip.until_ended()
            except OSError:
                ended = time.monotonic() - begun
            else:
                ended = None
            with siege.lock:
                siege.holding -= 1
                if ended is not None or not stop.is_set():
                    siege.holds.append(Hold(number, behave.__name__, ended))

    def client(number: int) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                hold(number, HOSTILE[number % len(HOSTILE)])

    threads = [
        threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: siege.complete, f"{clients} hostile clients")
        yield siege
    finally:
        stop.set()
        for thread in threads:
            thread.join(35)
