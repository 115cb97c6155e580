"""What dies, reloads or is replaced under load, and what clients see of it: nothing."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from scripts.health_contract import violations
from service.health import Role
from service.scoreboard import living, process_start
from tests.load import CUT_OFF, Seen, probing
from tests.pod import Pod, eventually, frozen

PATHS = (
    "/health",
    "/api/system/health/readiness",
    "/api/system/health/liveness",
    "/api/system/health/startup",
    "/api/system/health/simple",
    "/metrics",
)
RATE = 200.0
LEAST_RATE = 5.0  # of the busiest machine; a calm one comes near the rate
SAMPLES = 400  # answers that are read in full
SAMPLE = re.compile(r"^(\w+(?:_total|_count|_bucket|_sum)\S*?(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


def counters(exposition: bytes) -> dict[str, float]:
    """Everything in an exposition that may only rise."""
    return {name: float(value) for name, value in SAMPLE.findall(exposition.decode())}


@contextmanager
def scraping(pod: Pod) -> Iterator[list[str]]:
    """Scrapes both listeners in turn; what fell, and by how much, is collected."""
    fallen: list[str] = []
    stop = threading.Event()

    def scrape() -> None:
        last: dict[str, float] = {}
        health = False
        while not stop.wait(0.05):
            health = not health
            try:
                answer = pod.get("/metrics", health=health)
            except (OSError, HTTPException):
                continue  # counted by the other clients
            now = counters(answer.body)
            fallen.extend(
                f"{name}: {last[name]} -> {now.get(name)}"
                for name in last
                if now.get(name, -1.0) < last[name]
            )
            last = now

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield fallen
    finally:
        stop.set()
        thread.join(30)


@contextmanager
def unharmed(pod: Pod, *, killed: str = "") -> Iterator[Seen]:
    """Nothing but right answers on both listeners, and no counter that falls.

    Args:
        pod: The pod.
        killed: The listener whose processes are killed, ``web`` or ``health``, and may take along
            the connections they held. Nothing is ever refused.
    """
    with scraping(pod) as fallen, probing(pod, PATHS, rate=RATE, keep=True) as seen:
        eventually(lambda: seen.total > 50, "some probes")
        begun, asked = time.monotonic(), seen.total
        yield seen
        settled = seen.total
        eventually(lambda: seen.total > settled + 100, "some probes more")
        rate = (seen.total - asked) / (time.monotonic() - begun)
    print(f"{rate:.0f} probes a second\n{seen}")
    others = seen.other_than("200")
    cut_off = {key: n for key, n in others.items() if key[0] == killed and key[2] in CUT_OFF}
    assert others.keys() <= cut_off.keys(), f"{seen}\n{pod.log[-6000:]}"
    assert sum(cut_off.values()) <= 40, str(seen)
    assert fallen == []
    assert rate > LEAST_RATE
    for path, answer in seen.answers[:: max(1, len(seen.answers) // SAMPLES)]:
        assert violations(path, answer.status, answer.headers, answer.body) == []


def metric_files(pod: Pod) -> int:
    return len(list((pod.directory / "run" / "metrics").glob("*.db")))


def kill(pid: int, sig: signal.Signals) -> None:
    """Ends a process, and waits until it is gone."""
    start = process_start(pid)
    os.kill(pid, sig)
    eventually(lambda: process_start(pid) != start, f"process {pid} is gone")


@pytest.fixture(params=["gthread", "sync"])
def pod(make_pod: Callable[..., Pod], request: pytest.FixtureRequest) -> Pod:
    return make_pod(
        APP_MODULE="tests.process.apps:app",
        WORKER_CLASS=request.param,
        WEB_CONCURRENCY="3",
        HEALTH_REDIS_INTERVAL_SECONDS="5",  # and with that the documented expiry
    ).start()


def test_kill_of_each_web_worker(pod: Pod) -> None:
    with unharmed(pod, killed="web"):
        for worker in pod.workers():
            kill(worker.pid, signal.SIGKILL)
            eventually(lambda: len(pod.workers()) == 3, "the worker is replaced")


def test_kill_of_the_health_worker(pod: Pod) -> None:
    with unharmed(pod, killed="health"):
        for _ in range(3):
            kill(pod.health_worker, signal.SIGKILL)
            eventually(lambda: pod.workers(Role.HEALTH), "the health worker is replaced")
            eventually(lambda: pod.status("/health", health=True) == 200, "it answers")


def test_reloads_in_a_row(pod: Pod) -> None:
    before = metric_files(pod)
    with unharmed(pod):
        for reload in range(3):
            os.kill(pod.pid, signal.SIGHUP)
            eventually(lambda: pod.board.generation > reload, "the reload has begun")  # noqa: B023
        old = [worker.pid for worker in pod.workers() if worker.generation < 3]
        eventually(
            lambda: {worker.generation for worker in pod.workers()} == {3}, f"{old} are replaced"
        )
        eventually(lambda: len(pod.workers()) == 3, "three workers")
        eventually(lambda: len(pod.workers(Role.HEALTH)) == 1, "one health worker")
    # Every generation that lives at once has files of its own; none has more.
    assert metric_files(pod) <= 4 * before


def test_more_and_fewer_workers(pod: Pod) -> None:
    with unharmed(pod):
        os.kill(pod.pid, signal.SIGTTIN)
        eventually(lambda: len(pod.workers()) == 4, "one worker more")
        for fewer in (3, 2, 1):
            os.kill(pod.pid, signal.SIGTTOU)
            eventually(lambda: len(pod.workers()) == fewer, f"{fewer} workers")  # noqa: B023
        os.kill(pod.pid, signal.SIGTTOU)
        # Signals that wait together are not taken in the order in which they were sent.
        eventually(lambda: pod.log.count("Handling signal: ttou") == 4, "it has been taken")
        os.kill(pod.pid, signal.SIGTTIN)
        eventually(lambda: len(pod.workers()) == 2, "the last web worker was not taken")
        assert len(pod.workers(Role.HEALTH)) == 1


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT])
def test_upgrade_in_place(pod: Pod, sig: signal.Signals) -> None:
    old_master = pod.pid
    pod_id, uptime = pod.board.pod_id, pod.get("/api/system/health/liveness").data["uptime_seconds"]
    # SIGQUIT is immediate: what a web worker is just answering, it takes along.
    with unharmed(pod, killed="web" if sig is signal.SIGQUIT else ""):
        os.kill(old_master, signal.SIGUSR2)
        eventually(lambda: pod.board.master[0] != old_master, "a new master")
        eventually(lambda: len(pod.workers()) == 3, "its workers")
        eventually(lambda: len(pod.workers(Role.HEALTH)) == 1, "its health worker")
        new_master = pod.board.master[0]
        kill(old_master, sig)
    assert pod.board.pod_id == pod_id
    assert pod.get("/api/system/health/liveness").data["uptime_seconds"] >= uptime
    kill(new_master, signal.SIGTERM)


def upgraded_and_stopped(pod: Pod) -> None:
    """Both signals are taken at once, and the upgrade has not begun when the stop does."""
    with frozen([pod.pid]):
        os.kill(pod.pid, signal.SIGUSR2)
        os.kill(pod.pid, signal.SIGTERM)


def upgraded_while_it_drains(pod: Pod) -> None:
    old_master = pod.pid
    os.kill(old_master, signal.SIGTERM)
    pod.wait_for(503, "/api/system/health/readiness")
    os.kill(old_master, signal.SIGUSR2)
    eventually(lambda: pod.board.master[0] != old_master, "a new master")
    eventually(lambda: len(pod.workers()) == 2, "its workers")
    os.kill(old_master, signal.SIGALRM)  # the end of the drain, without waiting for it


@pytest.mark.parametrize(
    ("drain", "happens"), [("0", upgraded_and_stopped), ("3000", upgraded_while_it_drains)]
)
def test_an_upgrade_that_meets_a_stop(
    make_pod: Callable[..., Pod], drain: str, happens: Callable[[Pod], None]
) -> None:
    pod = make_pod(HEALTH_DRAIN_SECONDS=drain).start()
    happens(pod)
    assert pod.process is not None
    assert pod.process.wait(60) == 0
    (board,) = eventually(lambda: living(pod.directory / "run"), "a new master")
    for path in PATHS:
        for health in (False, True):
            eventually(
                lambda: pod.status(path, health=health, timeout=5) == 200,  # noqa: B023
                f"{path} is answered",
            )
    kill(board.master[0], signal.SIGTERM)


def test_recycled_workers(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(
        "--max-requests", "50", WEB_CONCURRENCY="2", HEALTH_REDIS_INTERVAL_SECONDS="5"
    ).start()
    with unharmed(pod):
        first = {worker.pid for worker in pod.workers()}
        eventually(
            lambda: not first & {worker.pid for worker in pod.workers()}, "both were recycled"
        )
    # Two slots for the workers, one for the health worker, and those of workers just leaving.
    assert metric_files(pod) <= 6 * 4
    assert Path(f"/proc/{pod.health_worker}").exists()


def test_health_worker_killed_while_draining(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(HEALTH_DRAIN_SECONDS="30").start()
    os.kill(pod.pid, signal.SIGTERM)
    pod.wait_for(503, "/api/system/health/readiness")
    os.kill(pod.health_worker, signal.SIGKILL)
    eventually(
        lambda: pod.status("/api/system/health/liveness", health=True) == 200, "it is replaced"
    )
    pod.wait_for(503, "/api/system/health/readiness")
    os.kill(pod.pid, signal.SIGTERM)
    assert pod.stop(patience=30.0) == 0
