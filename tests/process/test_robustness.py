"""What strangers, cleaners, deploys and an application's own checks do to a running pod."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.health import Role
from tests.pod import UNHURRIED, Pod, eventually

REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
READINESS = "/api/system/health/readiness"


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    # What is done to its workers here must not make a check late, nor its result old.
    settings = {"WEB_CONCURRENCY": "1", **UNHURRIED}
    with Pod(tmp_path_factory.mktemp("pod"), **settings).start() as running:
        yield running


@contextmanager
def _same_health_worker(pod: Pod) -> Iterator[None]:
    """Whatever happens to it, the health worker answers afterwards and is the same."""
    before = pod.health_worker
    yield
    pod.wait_for(200, READINESS)
    assert pod.health_worker == before
    assert '"exception"' not in pod.log


def _all(sock: socket.socket) -> bytes:
    """Everything a server sends until it closes."""
    answer = b""
    while chunk := sock.recv(65536):
        answer += chunk
    return answer


@pytest.mark.parametrize("path", [b"/health", b"/metrics", b"/nowhere"])
def test_many_requests_in_one_packet(pod: Pod, path: bytes) -> None:
    last = (REQUEST % path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with (
        _same_health_worker(pod),
        socket.create_connection(("127.0.0.1", pod.health_port), timeout=30) as sock,
    ):
        sock.sendall(REQUEST % path * 299 + last)
        assert _all(sock).count(b"HTTP/1.1 ") == 300


def test_more_clients_than_there_is_room_for(pod: Pod) -> None:
    with _same_health_worker(pod), ExitStack() as stack:
        for _ in range(700):
            sock = socket.create_connection(("127.0.0.1", pod.health_port), timeout=30)
            stack.enter_context(sock)
            sock.sendall(REQUEST % b"/metrics" * 2)
        assert pod.get(READINESS, health=True).status == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"nonsense\r\n\r\n", b"400", id="no request line"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", b"400", id="unknown version"),
        pytest.param(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b"414", id="long line"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431", id="many headers"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + (b"a: " + b"b" * 4000 + b"\r\n") * 5 + b"\r\n",
            b"431",
            id="long headers",
        ),
    ],
)
def test_what_is_no_request_gets_an_answer(pod: Pod, head: bytes, status: bytes) -> None:
    with (
        _same_health_worker(pod),
        socket.create_connection(("127.0.0.1", pod.health_port), timeout=30) as sock,
    ):
        sock.sendall(head)
        assert _all(sock).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".test", "mingus.test:99999", "ä"])
def test_any_host_is_accepted(pod: Pod, host: str) -> None:
    for path in ("/health", "/health/detailed", "/metrics", "/api/system/health/"):
        for answer in pod.everywhere(path, Host=host.encode().decode("latin-1")):
            assert answer.status == 200


def test_a_doubled_slash_is_another_path(pod: Pod) -> None:
    for path in ("//health", "//health/detailed", "/health//detailed", "//api/system/health"):
        for answer in pod.everywhere(path):
            assert (answer.status, answer.headers["content-type"]) == (404, "application/json")


def test_the_run_directory_is_removed(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://").start()
    board = pod.board
    shutil.rmtree(pod.directory / "run")
    for role in Role:
        victim = next(worker.pid for worker in board.workers() if worker.role is role)
        os.kill(victim, signal.SIGKILL)
        eventually(
            lambda: victim not in {worker.pid for worker in board.workers()},  # noqa: B023
            "it is replaced",
        )
    pod.wait_for(200, READINESS)
    pod.wait_for(200, "/metrics")


def test_a_worker_that_cannot_come_back_does_not_take_the_others(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    file = tmp_path / "mood"
    pod = make_pod(APP_MODULE="tests.process.apps:app", APP_MOOD_FILE=str(file)).start()
    file.write_text("broken")
    os.kill(pod.workers()[0].pid, signal.SIGKILL)
    eventually(lambda: "worker cannot load" in pod.log, "it cannot come back")
    assert pod.get("/anything").status == 200
    pod.wait_for(200, "/api/system/health/liveness")
    file.unlink()
    eventually(lambda: len(pod.workers()) == 2, "it comes back when it can")


def test_a_check_that_misbehaves_is_a_failed_check(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(HEALTH_CHECKS="tests.process.apps:checks", DATABASE_URL="sqlite://").start()
    pod.wait_for(200, READINESS)

    def as_they_are() -> bool:
        services = pod.get("/api/system/health/").data["services"]
        wrong = [services[name]["error"] for name in services if name.startswith("wrong_")]
        return wrong == ["check_failed"] * 6 and services["right"]["status"] == "healthy"

    eventually(as_they_are, "six fail, and the right one does not")
    assert "hunter2" not in pod.log
    assert len(pod.workers(Role.HEALTH)) == 1


def test_a_second_pod_in_the_same_directory_is_refused(make_pod: Callable[..., Pod]) -> None:
    first = make_pod().start()
    second = make_pod(RUN_DIR=str(first.directory / "run")).launch()
    assert second.process is not None
    assert second.process.wait(30) == 78
    assert "another pod's" in second.log
    first.wait_for(200, READINESS)


@pytest.mark.parametrize("host", ["::1", "::"])
def test_listens_on_ipv6(make_pod: Callable[..., Pod], host: str) -> None:
    pod = make_pod(BIND_HOST=host).launch()

    def answers() -> bool:
        try:
            with socket.create_connection(("::1", pod.health_port), timeout=5) as sock:
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
                return _all(sock).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    eventually(answers, "an answer over IPv6")


def test_a_reload_counts_nothing_twice(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(APP_MODULE="tests.process.counting:app").start()
    eventually(lambda: b"imports_total 2.0" in pod.get("/metrics").body, "one import a worker")
    os.kill(pod.pid, signal.SIGHUP)
    eventually(lambda: {worker.generation for worker in pod.workers()} == {1}, "a reload")
    eventually(lambda: b"imports_total 4.0" in pod.get("/metrics").body, "two imports more")
    names = [path.name for path in (pod.directory / "run" / "metrics").glob("*.db")]
    assert all(name.rpartition("_")[2].removesuffix(".db").isdigit() for name in names)


def test_an_idle_sync_worker_makes_progress(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(WORKER_CLASS="sync", HEALTH_LIVENESS_STALL_SECONDS="4").start()
    first = {worker.slot: worker.beat for worker in pod.workers()}
    eventually(
        lambda: all(worker.beat > first[worker.slot] + 8 for worker in pod.workers()),
        "both have beaten for longer than the limit",
    )
    assert pod.get("/api/system/health/liveness", health=True).status == 200
