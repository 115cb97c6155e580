"""The command line, and the service without our gunicorn hooks."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pod import ROOT, Pod, eventually

KINDS = ("liveness", "readiness", "startup")


def _run(pod: Pod, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={**pod.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _check(pod: Pod, kind: str) -> int:
    """Exit status of a check; it says nothing, or one line and no traceback."""
    done = _run(pod, "check", "--kind", kind)
    assert done.stdout == ""
    assert done.stderr.count("\n") == (done.returncode == 2)
    assert "Traceback" not in done.stderr
    return done.returncode


def test_check_follows_the_pod_through_its_life(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(HEALTH_DRAIN_SECONDS="3000")
    assert [_check(pod, kind) for kind in KINDS] == [2, 2, 2]
    pod.start()
    pod.wait_for(200, "/health")
    assert [_check(pod, kind) for kind in KINDS] == [0, 0, 0]
    assert _run(pod, "check").returncode == 0
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
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        assert _check(pod, "liveness") == 0
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGCONT)


@pytest.mark.parametrize("junk", [b"", b"junk", b"x" * 100_000], ids=["empty", "short", "long"])
def test_a_foreign_scoreboard_is_no_pod(make_pod: Callable[..., Pod], junk: bytes) -> None:
    pod = make_pod()
    run = pod.directory / "run"
    run.mkdir()
    (run / "scoreboard.1").write_bytes(junk)
    assert _check(pod, "liveness") == 2


def test_wrong_usage_and_wrong_settings(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod()
    assert _run(pod, "check", "--kind", "happiness").returncode == 2
    assert _run(pod, "dance").returncode == 2
    done = _run(pod, "check", HEALTH_BOOT_SECONDS="soon")
    assert done.returncode == 78
    assert "HEALTH_BOOT_SECONDS" in done.stderr
    assert "soon" not in done.stderr


@contextmanager
def _flask_run(pod: Pod) -> Iterator[None]:
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
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_one_process_without_hooks(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://", APP_MODULE="examples.plain:app")
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
        assert pod.get("/anything").body == b"hello from /anything\n"
        assert pod.get("/health/nothing").status == 404


def test_two_pods_on_one_host_do_not_meet(make_pod: Callable[..., Pod], tmp_path: Path) -> None:
    shared = {"RUN_DIR": "", "TMPDIR": str(tmp_path)}
    first, second = make_pod(**shared).start(), make_pod(**shared).start()
    boards = sorted(tmp_path.glob("mingus-health-*/scoreboard.*"))
    assert len(boards) == 2
    assert boards[0].parent != boards[1].parent
    assert first.port != second.port
