"""Clients for the tests: many well-behaved ones, and hostile ones. All stop by themselves."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.pod import Answer, Pod

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


def half_a_head(sock: socket.socket, stop: threading.Event) -> None:
    """Sends half a request head and waits."""
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    stop.wait()


def drip(sock: socket.socket, stop: threading.Event) -> None:
    """Sends a head a byte at a time."""
    for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 10_000:
        if stop.wait(0.3):
            return
        sock.sendall(bytes([byte]))


def never_close(sock: socket.socket, stop: threading.Event) -> None:
    """Reads the answer and keeps the connection open."""
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    sock.recv(4096)
    stop.wait()


def never_read(sock: socket.socket, stop: threading.Event) -> None:
    """Asks for a lot, again and again, and reads nothing."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    for _ in range(200):
        if stop.is_set():
            return
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    stop.wait()


def say_nothing(_sock: socket.socket, stop: threading.Event) -> None:
    """Connects and says nothing."""
    stop.wait()


HOSTILE = (half_a_head, drip, never_close, never_read, say_nothing)


@contextmanager
def hostile(pod: Pod, clients: int = 50) -> Iterator[None]:
    """Keeps hostile clients of every kind on the health listener; each comes back when cut off."""
    stop = threading.Event()

    def client(behave: Callable[[socket.socket, threading.Event], None]) -> None:
        while not stop.wait(0.05):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", pod.health_port), timeout=30) as sock,
            ):
                behave(sock, stop)

    threads = [
        threading.Thread(target=client, args=(HOSTILE[number % len(HOSTILE)],), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(35)
