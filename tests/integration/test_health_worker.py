"""The loop of the health worker by itself: who is let in, and who is cut off."""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.sock import TCPSocket
from gunicorn.workers.base import Worker

from service.worker import MAX_CONNECTIONS, MAX_RENDERING, HealthWorker

PROBE, RENDERED = "/livez", "/metrics"
OK = b"HTTP/1.1 200 OK\r\n"


class Front:
    """Answers probes at once, and everything else when ``gate`` is open."""

    version = b""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def prepare(self) -> None:
        """Nothing to prepare."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == RENDERED:
            self.gate.wait()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


class Duties:
    """None."""

    def beat(self, _occupied: int) -> bool:
        return True

    def draining(self) -> bool:
        return False

    def stop(self) -> None:
        """Nothing to end."""


Connect = Callable[[str], socket.socket]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[HealthWorker]:
    """One that runs in a thread: of what gunicorn does around it, nothing but the pipe."""
    monkeypatch.setattr(Worker, "init_process", lambda self: self.run())
    config = Config()
    log = Logger(config)
    made = HealthWorker(
        0, os.getppid(), [TCPSocket(("127.0.0.1", 0), config, log)], None, 30, config, log
    )
    made.wsgi, made.duties, made.PIPE = Front(), Duties(), os.pipe()
    thread = threading.Thread(target=made.init_process)
    thread.start()
    try:
        yield made
    finally:
        made.alive = False
        made.wsgi.gate.set()
        os.write(made.PIPE[1], b".")
        thread.join(30)
        # The end of the process would do the rest.
        for each in (made.tmp, made.selector, *(each.sock for each in made.connections)):
            each.close()
        for end in made.PIPE:
            os.close(end)
    assert not thread.is_alive()


@pytest.fixture
def connect(loop: HealthWorker) -> Iterator[Connect]:
    """Asks for a path over a connection of its own."""
    address = loop.sockets[0].getsockname()
    with ExitStack() as stack:

        def one(path: str) -> socket.socket:
            sock = stack.enter_context(socket.create_connection(address, timeout=30))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return sock

        yield one


def test_no_number_of_answers_to_be_rendered_keeps_a_probe_out(
    loop: HealthWorker, connect: Connect
) -> None:
    flood = [connect(RENDERED) for _ in range(MAX_CONNECTIONS + 50)]
    refused = flood[MAX_RENDERING:]
    assert [sock.recv(4096) for sock in refused] == [b""] * len(refused)
    for _ in range(MAX_CONNECTIONS):
        assert connect(PROBE).recv(4096).startswith(OK)
    loop.wsgi.gate.set()
    for sock in flood[:MAX_RENDERING]:
        assert sock.recv(4096).startswith(OK)


def test_who_asked_while_it_stood_still_is_answered(
    loop: HealthWorker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock has gone on, and its hands have not: all deadlines have passed."""
    kept, silent = connect(PROBE), connect(PROBE)
    for sock in (kept, silent):
        assert sock.recv(4096).startswith(OK)
    with standing_still(loop, monkeypatch):
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        for each in loop.connections:
            each.deadline = 0.0
    assert kept.recv(4096).startswith(OK)
    assert silent.recv(4096) == b""


def test_who_waits_at_the_door_when_it_is_shut_is_answered(
    loop: HealthWorker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing_still(loop, monkeypatch):
        waiting = [connect(PROBE) for _ in range(40)]
        loop.alive = False
    for sock in waiting:
        assert sock.recv(4096).startswith(OK)


@contextmanager
def standing_still(loop: HealthWorker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loop, in the midst of what it does once a second."""
    stands, goes_on = threading.Event(), threading.Event()

    def beat(_occupied: int) -> bool:
        stands.set()
        return goes_on.wait()

    monkeypatch.setattr(loop.duties, "beat", beat)
    assert stands.wait(30)
    try:
        yield
    finally:
        goes_on.set()
