"""The command line, and the service without our gunicorn hooks."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.pod import ROOT, Pod, eventually, frozen
from tests.process.commands import STEADY, document, run

KINDS = ("liveness", "readiness", "startup")


def _check(pod: Pod, kind: str) -> int:
    """Exit status of a check; it says nothing, or one line and no traceback."""
    done = run(pod, "check", "--kind", kind)
    assert done.stdout == ""
    assert done.stderr.count("\n") == (done.returncode == 2)
    return done.returncode


def test_check_follows_the_pod_through_its_life(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(HEALTH_DRAIN_SECONDS="3000", **STEADY)
    assert [_check(pod, kind) for kind in KINDS] == [2, 2, 2]
    pod.start()
    pod.wait_for(200, "/health")
    assert [_check(pod, kind) for kind in KINDS] == [0, 0, 0]
    assert run(pod, "check").returncode == 0
    os.kill(pod.pid, signal.SIGTERM)
    pod.wait_for(503, "/health")
    assert [_check(pod, kind) for kind in KINDS] == [0, 1, 0]
    os.kill(pod.pid, signal.SIGKILL)
    assert pod.process is not None
    pod.process.wait(10)
    assert [_check(pod, kind) for kind in KINDS] == [2, 2, 2]


def test_check_answers_while_every_listener_is_busy(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod().start()
    workers = [*pod.workers(), *(worker for worker in pod.board.workers())]
    with frozen(worker.pid for worker in workers):
        assert _check(pod, "liveness") == 0


def test_output_that_nobody_takes(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(APP_NAME="Café").start()
    full = "mingus-health: [Errno 28] No space left on device\n"
    for redirected, status, said in (
        ("check --json", 0, ""),
        ("check --json >&-", 0, ""),
        ("check --json >&- 2>&-", 0, ""),
        ("check --json > /dev/full", 2, full),
        ("status > /dev/full", 2, full),
        ("settings > /dev/full", 2, full),
        ("settings | head -1", 0, ""),
    ):
        done = _shell(pod, redirected)
        assert (done.returncode, done.stderr) == (status, said), redirected
    done = _shell(pod, "settings --json", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["APP_NAME"]["value"] == "Café"


def _shell(pod: Pod, command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m service {command}"],
        env={**pod.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def _flask_run(pod: Pod) -> Iterator["subprocess.Popen[bytes]"]:
    """The service under Flask's own server: one process, no hooks."""
    log = pod.directory / "flask.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "service.app", "run", "-p", str(pod.port)],
            env=pod.environ,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_without_hooks_the_embedded_redis_is_started_again(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(REDIS_EMBEDDED="auto")
    with _flask_run(pod) as process:
        eventually(lambda: pod.status("/health/redis") == 200, "it serves")
        server = eventually(lambda: _embedded(process.pid), "its Redis")
        server.kill()
        eventually(lambda: _embedded(process.pid) not in (None, server), "another one")
        eventually(lambda: pod.status("/health/redis") == 200, "it serves again")


def _embedded(pid: int) -> psutil.Process | None:
    """The embedded Redis of a process, where it runs."""
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            if child.name() == "valkey-server" and child.status() != psutil.STATUS_ZOMBIE:
                return child
    return None


def test_one_process_without_hooks(make_pod: Callable[..., Pod], tmp_path: Path) -> None:
    pod = make_pod(
        DATABASE_URL=f"sqlite:///{tmp_path}/shop.sqlite3",
        APP_RELEASE="1",
        APP_MODULE="examples.plain:app",
        STARTUP_TASKS="examples.shop:tasks",
    )
    with _flask_run(pod):
        eventually(lambda: pod.status("/health") == 200, "it serves")
        for path in (
            "/health/detailed",
            "/metrics",
            "/api/system/health/",
            "/api/system/health/liveness",
            "/api/system/health/startup",
        ):
            assert pod.get(path).status == 200
        tasks = pod.get("/api/system/health/startup").data["tasks"]
        assert tasks["tables"]["status"] == "healthy"
        assert pod.get("/anything").body == b"hello from /anything\n"
        assert pod.get("/health/nothing").status == 404


def test_two_pods_on_one_host_do_not_meet(make_pod: Callable[..., Pod], tmp_path: Path) -> None:
    shared = {"RUN_DIR": "", "TMPDIR": str(tmp_path)}
    first, second = make_pod(**shared).start(), make_pod(**shared).start()
    boards = sorted(tmp_path.glob("mingus-health-*/scoreboard.*"))
    assert len(boards) == 2
    assert boards[0].parent != boards[1].parent
    assert first.port != second.port


READINESS = "/api/system/health/readiness"
LIVENESS = "/api/system/health/liveness"


def _lifecycle(pod: Pod) -> str:
    found = {answer.json["lifecycle"] for answer in pod.everywhere("/health/detailed")}
    assert len(found) == 1
    return str(found.pop())


def test_an_operator_drains_a_pod_and_takes_it_back(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(APP_MODULE="tests.process.apps:app", **STEADY).start()
    pod.wait_for(200, READINESS)
    assert run(pod, "drain").returncode == 0
    assert [answer.status for answer in pod.everywhere(READINESS)] == [503, 503]
    assert [answer.status for answer in pod.everywhere(LIVENESS)] == [200, 200]
    assert pod.get("/x", Connection="keep-alive").headers["connection"] == "close"
    assert _lifecycle(pod) == "draining"
    assert run(pod, "undrain").returncode == 0
    assert [answer.status for answer in pod.everywhere(READINESS)] == [200, 200]
    assert run(pod, "drain", "--wait", "30").returncode == 0


def test_drain_waits_for_requests_in_flight(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(APP_MODULE="tests.process.apps:app").start()
    with socket.create_connection(("127.0.0.1", pod.port)) as stuck:
        stuck.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: pod.board.in_flight, "it is in flight")
        done = run(pod, "drain", "--wait", "0.1")
        assert done.returncode == 1
        assert "1 requests are still in flight" in done.stderr


def test_drain_works_while_every_web_worker_is_frozen(make_pod: Callable[..., Pod]) -> None:
    """And a pod that an operator takes out because of that is out, by the listener that can."""
    pod = make_pod("--timeout", "3600", APP_MODULE="tests.process.apps:app", **STEADY).start()
    pod.wait_for(200, READINESS)
    workers = {worker.pid for worker in pod.workers()}
    with frozen(workers):
        assert pod.status(READINESS, health=True) == 200
        assert run(pod, "drain").returncode == 0
        assert pod.status(READINESS, health=True) == 503
        assert pod.status(LIVENESS, health=True) == 200
        assert run(pod, "undrain").returncode == 0
        assert pod.status(READINESS, health=True) == 200
        assert run(pod, "drain").returncode == 0
    pod.wait_for(503, READINESS)
    assert {worker.pid for worker in pod.workers()} == workers


def test_maintenance_outlasts_workers(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://").start()
    pod.wait_for(200, READINESS)
    assert run(pod, "maintenance", "on").returncode == 0
    assert _lifecycle(pod) == "maintenance"
    assert [answer.status for answer in pod.everywhere("/health")] == [503, 503]
    os.kill(pod.pid, signal.SIGHUP)
    eventually(lambda: {worker.generation for worker in pod.workers()} == {1}, "a reload")
    assert [answer.status for answer in pod.everywhere(READINESS)] == [503, 503]
    assert [answer.status for answer in pod.everywhere(LIVENESS)] == [200, 200]
    assert run(pod, "maintenance", "off").returncode == 0
    pod.wait_for(200, READINESS)


def test_a_stop_cannot_be_undone(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(HEALTH_DRAIN_SECONDS="3000").start()
    os.kill(pod.pid, signal.SIGTERM)
    pod.wait_for(503, READINESS)
    done = run(pod, "undrain")
    assert done.returncode == 1
    assert "cannot be undone" in done.stderr
    assert [answer.status for answer in pod.everywhere(READINESS)] == [503, 503]


def test_what_programs_are_told(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://", **STEADY).start().wait_for(200, READINESS)
    for kind in KINDS:
        assert document(pod, "check", "--kind", kind) == {"kind": kind, "passes": True}
    told = {"pod_id": pod.board.pod_id, "requests_in_flight": 0}
    assert document(pod, "maintenance", "on") == told | {"lifecycle": "maintenance"}
    assert document(pod, "check", status=1) == {"kind": "readiness", "passes": False}
    assert document(pod, "maintenance", "off") == told | {"lifecycle": "serving"}
    assert document(pod, "drain", "--wait") == told | {"lifecycle": "draining"}
    assert document(pod, "undrain") == told | {"lifecycle": "serving"}
    pod.board.stop()
    assert document(pod, "undrain", status=1) == told | {"lifecycle": "draining"}
