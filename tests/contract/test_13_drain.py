"""Invariant 13: after SIGTERM the pod says no and goes on answering, until its time is up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest

from tests.contract.audit import (
    BOTH,
    HEALTH,
    METRICS,
    PATHS,
    PREFIX,
    WEB,
    Audit,
    agreement,
    comes_to,
    comes_to_be_well,
    system,
)
from tests.contract.conftest import Launch, served
from tests.contract.scripted import Script
from tests.pod import ROOT, UNHURRIED, Pod, eventually
from tests.servers.redis import RedisServer

READINESS, LIVENESS = f"{PREFIX}/readiness", f"{PREFIX}/liveness"
NO = ("/health", f"{PREFIX}/simple", READINESS)
YES = (LIVENESS, f"{PREFIX}/startup", "/", *METRICS)
PATIENCE = 60.0
DRAIN = 8.0  # seconds; some of them may pass before a busy machine has asked for the first time


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    with Script(tmp_path_factory.mktemp("script") / "s") as script:
        yield script


@pytest.fixture(scope="module")
def pods(
    launch: Launch, redis: RedisServer, script: Script, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pod]:
    """Started together; each lives for one test."""
    database = tmp_path_factory.mktemp("drain") / "shop.sqlite3"
    common = {"DATABASE_URL": f"sqlite:///{database}", "REDIS_URL": redis.url, **UNHURRIED}
    quiet = {"REDIS_EMBEDDED": "off", "WEB_CONCURRENCY": "1"}
    return {
        "long": launch(**common, HEALTH_DRAIN_SECONDS="600"),
        "short": launch(**quiet, HEALTH_DRAIN_SECONDS=str(DRAIN)),
        "ordered": launch(**quiet, HEALTH_DRAIN_SECONDS="600"),
        "int": launch(**quiet, HEALTH_DRAIN_SECONDS="600"),
        "quit": launch(**quiet, HEALTH_DRAIN_SECONDS="600"),
        "busy": launch(
            **quiet,
            HEALTH_DRAIN_SECONDS="0",
            APP_MODULE="tests.contract.scripted:app",
            SCRIPT=str(script.path),
        ),
    }


def ended(pod: Pod) -> int:
    """Its exit status, once it has ended."""
    assert pod.process is not None
    return pod.process.wait(PATIENCE)


def test_draining_says_no_and_answers(pods: dict[str, Pod], redis: RedisServer) -> None:
    pod = served(pods["long"])
    comes_to_be_well(pod)
    audit = Audit(pod)
    audit()
    with agreement(pod):
        os.kill(pod.pid, signal.SIGTERM)
        pod.wait_for(503, READINESS)
        audit()
        for health in BOTH:
            assert system(pod, health=health)["lifecycle"] == "draining"
            assert pod.get("/health", health=health).json["status"] == "unhealthy"
            # Not ready, and the services' true statuses.
            readiness = pod.get(READINESS, health=health).data
            assert readiness["ready"] is False
            assert set(readiness["services"].values()) == {"healthy"}
        closed_everywhere(pod)
        nothing_turns_it_back(pod, redis)
        audit()
    # A second SIGTERM skips the rest of the ten minutes.
    os.kill(pod.pid, signal.SIGTERM)
    assert ended(pod) == 0


def closed_everywhere(pod: Pod) -> None:
    """Every response closes its connection, though the client would keep it."""
    for path in (*PATHS, "/nothing", f"{PREFIX}/nothing"):
        for health in BOTH:
            if path == "/" and health is HEALTH:
                continue
            answer = pod.get(path, health=health, Connection="keep-alive")
            assert answer.headers["connection"] == "close", path
            if path in NO:
                assert answer.status == 503, path
            elif path in YES:
                assert answer.status == 200, path


def nothing_turns_it_back(pod: Pod, redis: RedisServer) -> None:
    """Neither an outage that ends, nor a reload's worth of killed workers."""
    redis.stop()
    comes_to(pod, "redis", "unhealthy", "connection_refused")
    redis.start()
    comes_to(pod, "redis", "healthy")
    first = pod.health_worker
    os.kill(first, signal.SIGKILL)
    eventually(lambda: pod.health_worker != first, "another health worker")
    eventually(lambda: pod.status(LIVENESS, health=HEALTH) == 200, "which answers")
    for health in BOTH:
        for path in NO:
            assert pod.status(path, health=health) == 503
        for path in (LIVENESS, f"{PREFIX}/startup"):
            assert pod.status(path, health=health) == 200


def test_it_answers_for_as_long_as_it_was_told_to(pods: dict[str, Pod]) -> None:
    pod = served(pods["short"])
    asked_to_stop = time.monotonic()
    os.kill(pod.pid, signal.SIGTERM)
    pod.wait_for(503, READINESS)
    first_refusal: dict[bool, float] = {}
    while len(first_refusal) < 2:
        for health in BOTH:
            try:
                answer = pod.get(LIVENESS, health=health)
            except (OSError, HTTPException):
                first_refusal.setdefault(health, time.monotonic())
            else:
                assert health not in first_refusal, "it answers again"
                assert answer.status == 200
                assert answer.headers["connection"] == "close"
        assert time.monotonic() - asked_to_stop < PATIENCE
    assert ended(pod) == 0
    # A busy machine makes a refusal late, never early.
    assert min(first_refusal.values()) - asked_to_stop >= DRAIN


def order(pod: Pod, *command: str) -> None:
    """Has an operator's command done."""
    words = [sys.executable, "-m", "service", *command]
    done = subprocess.run(
        words, cwd=ROOT, env=pod.environ, capture_output=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_maintenance_is_taken_back_and_draining_is_not(pods: dict[str, Pod]) -> None:
    pod = served(pods["ordered"])
    audit = Audit(pod)
    audit()
    with agreement(pod):
        order(pod, "maintenance", "on")
        out_of_traffic(pod, "maintenance")
        audit()
        assert "connection" not in keeps(pod) or keeps(pod)["connection"] == "keep-alive"
        order(pod, "maintenance", "off")
        comes_to_be_well(pod)
        order(pod, "drain")
        out_of_traffic(pod, "draining")
        audit()
        assert keeps(pod)["connection"] == "close"
        order(pod, "maintenance", "on")
        order(pod, "maintenance", "off")
        out_of_traffic(pod, "draining")
    os.kill(pod.pid, signal.SIGINT)
    assert ended(pod) == 0


def out_of_traffic(pod: Pod, lifecycle: str) -> None:
    """From the next request on, everywhere."""
    for health in BOTH:
        assert system(pod, health=health)["lifecycle"] == lifecycle
        assert pod.get("/health", health=health).json["status"] == "unhealthy"
        assert pod.get(READINESS, health=health).data["ready"] is False
        for path in NO:
            assert pod.status(path, health=health) == 503
        for path in (LIVENESS, f"{PREFIX}/startup"):
            assert pod.status(path, health=health) == 200


def keeps(pod: Pod) -> dict[str, str]:
    """The headers of an answer to a client who would keep its connection."""
    return pod.get("/health", Connection="keep-alive").headers


@pytest.mark.parametrize(("name", "sig"), [("int", signal.SIGINT), ("quit", signal.SIGQUIT)])
def test_an_immediate_stop_does_not_wait(pods: dict[str, Pod], name: str, sig: int) -> None:
    pod = served(pods[name])
    os.kill(pod.pid, sig)
    assert ended(pod) == 0


def test_the_health_listener_answers_to_the_end(pods: dict[str, Pod], script: Script) -> None:
    pod = served(pods["busy"])
    with ThreadPoolExecutor(1) as client:
        request = client.submit(pod.get, "/wait", timeout=PATIENCE)
        eventually(lambda: script.waiting, "a request is being served")
        os.kill(pod.pid, signal.SIGTERM)
        eventually(lambda: pod.status(READINESS, health=HEALTH) == 503, "it drains")
        eventually(lambda: pod.status("/health", health=WEB) is None, "the web listener is gone")
        for _ in range(3):
            Audit(pod, application=True)([HEALTH])
            assert pod.status(READINESS, health=HEALTH) == 503
            assert pod.status(LIVENESS, health=HEALTH) == 200
            assert pod.status(f"{PREFIX}/startup", health=HEALTH) == 200
        script.say()
        answer = request.result(PATIENCE)
        assert (answer.status, answer.body) == (200, b"done\n")
    assert ended(pod) == 0
