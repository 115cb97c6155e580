"""The stream that tells status pages of news: no reader of it can hold the health listener up."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from service.worker import MAX_STREAMS
from tests.pod import UNHURRIED, Pod, eventually

EVENTS = "/status/events"
READINESS = "/api/system/health/readiness"
NEWS = b"data: news\n\n"


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    return make_pod(DATABASE_URL="sqlite://", **UNHURRIED).start().wait_for(200, READINESS)


@contextmanager
def stream(pod: Pod, *, receive: int = 0) -> Iterator[socket.socket]:
    """A reader that has asked."""
    with socket.socket() as sock:
        if receive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", pod.health_port))
        sock.sendall(f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield sock


def read_until(sock: socket.socket, end: bytes, seen: bytes = b"") -> bytes:
    while end not in seen:
        data = sock.recv(4096)
        assert data, f"the stream ended after {seen!r}"
        seen += data
    return seen


def test_it_tells_of_news_and_of_nothing_else(pod: Pod) -> None:
    with stream(pod) as sock:
        head, _, body = read_until(sock, NEWS).partition(b"\r\n\r\n")
        lines = head.decode().splitlines()
        assert lines[0] == "HTTP/1.1 200 OK"
        assert {"Content-Type: text/event-stream", "Cache-Control: no-store"} <= set(lines)
        assert "X-Content-Type-Options: nosniff" in lines
        assert body.replace(NEWS, b"") == b"retry: 1000\n\n"
        before = pod.board.rank
        assert read_until(sock, NEWS).replace(NEWS, b"") == b""
        eventually(lambda: pod.board.rank > before, "another publication")
        assert read_until(sock, NEWS).replace(NEWS, b"") == b""


def test_those_beyond_the_limit_have_to_ask(pod: Pod) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(stream(pod)) for _ in range(MAX_STREAMS)]
        for sock in socks:
            read_until(sock, NEWS)
        refused = pod.get(EVENTS, health=True)
        assert (refused.status, refused.json["error"]) == (404, "not_found")
        assert pod.get(READINESS, health=True).status == 200
        socks[0].close()
        with stream(pod) as late:
            eventually(lambda: b" 200 " in late.recv(64) or late.close(), "a place is free")


def test_one_that_does_not_read_is_left(pod: Pod) -> None:
    """It is cut off once the kernel takes no more for it; the others hear as before."""
    with stream(pod, receive=1) as deaf, stream(pod) as other:
        for _ in range(3):
            read_until(other, NEWS)
        assert pod.get(READINESS, health=True).status == 200
        deaf.close()
        read_until(other, NEWS)


def test_it_ends_with_the_pod(pod: Pod) -> None:
    with stream(pod) as sock:
        read_until(sock, NEWS)
        pod.stop(patience=30.0)
        while sock.recv(4096):
            pass
    assert pod.process is not None
    assert pod.process.returncode == 0


def test_the_web_listener_has_none(pod: Pod) -> None:
    assert pod.get(EVENTS).status == 404
    assert pod.get(EVENTS, method="HEAD", health=True).status == 404


def test_it_counts_as_a_request(pod: Pod) -> None:
    with stream(pod) as sock:
        read_until(sock, NEWS)
    wanted = f'app_request_total{{endpoint="{EVENTS}",method="GET",status="200"}} 1.0'
    eventually(lambda: wanted in pod.get("/metrics").body.decode(), wanted)
