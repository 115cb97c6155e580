"""Clients of nginx: each keeps its connection, asks on and on, and remembers what it got."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

APPLICATION = (("GET", "/"), ("POST", "/orders"), ("GET", "/?seconds=0.2"), ("POST", "/orders"))
QUESTIONS = (*(5 * APPLICATION), ("GET", "/health"))


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        outcomes: How often each (method, path, outcome); an outcome is an HTTP status or the
            name of an exception.
        orders: The outcome of each POST, by what it sent.
        slowest: Seconds of the longest request of each method.
    """

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    orders: dict[str, str] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, method: str, path: str, outcome: str, seconds: float, order: str | None) -> None:
        with self.lock:
            self.outcomes[method, path, outcome] += 1
            self.slowest[method] = max(self.slowest.get(method, 0.0), seconds)
            if order is not None:
                self.orders[order] = outcome

    def total(self, method: str = "") -> int:
        return sum(n for key, n in self.outcomes.items() if key[0].startswith(method))

    def failed(self, method: str) -> dict[tuple[str, str, str], int]:
        """What was seen of a method besides 200."""
        return {k: n for k, n in self.outcomes.items() if k[0] == method and k[2] != "200"}

    def __str__(self) -> str:
        lines = [
            f"{method}: {self.total(method)} requests, {sum(self.failed(method).values())} failed, "
            f"slowest {self.slowest.get(method, 0.0):.2f} s"
            for method in ("GET", "POST")
        ]
        lines += [f"  {n} x {key}" for m in ("GET", "POST") for key, n in self.failed(m).items()]
        return "\n".join(lines)


@contextmanager
def asking(
    port: int,
    questions: Sequence[tuple[str, str]] = QUESTIONS,
    *,
    clients: int = 8,
    rate: float = 80.0,
) -> Iterator[Tally]:
    """Clients that ask so many questions a second in all, each over one connection."""
    tally, stop = Tally(), threading.Event()

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        turn = number
        next_at = time.monotonic() + number / rate
        while not stop.wait(max(0.0, next_at - time.monotonic())):
            next_at = max(next_at + clients / rate, time.monotonic() - 1)
            method, path = questions[turn % len(questions)]
            turn += 1
            order = str(uuid.uuid4()) if method == "POST" else None
            begun = time.monotonic()
            try:
                connection.request(method, path, body=order)
                with connection.getresponse() as response:
                    response.read()
                outcome = str(response.status)
            except (OSError, HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
            tally.add(method, path, outcome, time.monotonic() - begun, order)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        stop.set()
        for thread in threads:
            thread.join(90)
