"""A check and an application whose every step the test decides.

    with Script(path) as script:
        pod = ... SCRIPT=path, HEALTH_CHECKS=tests.contract.scripted:checks ...
        script.say("x")         the run that asks now fails

A run, or a request to the application, asks over a Unix socket and waits for one word:
``.`` healthy, ``w`` warning, ``x`` unhealthy.
"""

import os
import queue
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from service import Check, CheckFailed, Probe, Result

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NAME = "scripted"
PATIENCE = 60.0


# -- in the pod


def ask() -> str:
    """The next word of the script."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ["SCRIPT"])
        return line.recv(1).decode()


def checks() -> dict[Check, Probe]:
    """For HEALTH_CHECKS."""
    return {Check(NAME, interval=0.1, timeout=PATIENCE, failing_interval=0.1): run}


def run() -> Result:
    match ask():
        case "x":
            raise CheckFailed("check_failed", "the script says so")
        case "w":
            return Result.failed("slow_response")
        case _:
            return Result()


def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """For APP_MODULE: ``/wait`` is answered when the script goes on, all else at once."""
    if environ["PATH_INFO"] == "/wait":
        ask()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\n"]


# -- in the test


class Script:
    """The other end: who asks waits until the test says something."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._waiting: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        while not self._waiting.empty():
            self._waiting.get().close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self._waiting.put(line)

    @property
    def waiting(self) -> int:
        """How many ask at the moment."""
        return self._waiting.qsize()

    def say(self, word: str = ".") -> None:
        """Answers whoever has asked longest, as soon as somebody asks."""
        with self._waiting.get(timeout=PATIENCE) as line:
            line.sendall(word.encode())
