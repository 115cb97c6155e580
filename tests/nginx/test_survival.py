"""Three pods behind nginx lose nothing: both versions watch the same restarts, kills and drains.

A GET never fails. A POST fails in nothing that is planned, and is never carried out twice.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.nginx.clients import APPLICATION, QUESTIONS, Tally, asking
from tests.nginx.conftest import all_workers
from tests.pod import PATIENCE, ROOT, Pod, eventually, frozen
from tests.servers.nginx import PROGRAMS, Nginx, binary

READINESS = "/api/system/health/readiness"


@pytest.fixture(scope="module")
def fronts(pods: list[Pod], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Nginx]]:
    """Both nginx in front of the same pods."""
    addresses = [f"127.0.0.1:{pod.port}" for pod in pods]
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Nginx(binary(name), tmp_path_factory.mktemp(name), addresses))
            for name in PROGRAMS
        }


@contextmanager
def traffic(
    pods: list[Pod],
    fronts: dict[str, Nginx],
    *,
    planned: bool,
    questions: Sequence[tuple[str, str]] = QUESTIONS,
) -> Iterator[list[Tally]]:
    """GET and POST through every nginx, from before the body of the block until after it."""
    with ExitStack() as stack:
        tallies = {
            name: stack.enter_context(asking(front.port, questions))
            for name, front in fronts.items()
        }
        asked_on(*tallies.values())
        yield list(tallies.values())
        asked_on(*tallies.values())
    journal = Counter((pods[0].directory.parent / "journal").read_text().split())
    for name, tally in tallies.items():
        print(f"{fronts[name].version}\n{tally}")
    for name, tally in tallies.items():
        told = f"{fronts[name].version}\n{tally}\n{fronts[name].errors[-4000:]}"
        assert not tally.failed("GET"), told
        assert not (planned and tally.failed("POST")), told
        for order, outcome in tally.orders.items():
            assert journal[order] == 1 or (journal[order] == 0 and outcome != "200"), told


def asked_on(*tallies: Tally) -> None:
    """Waits for some more requests of each kind, on every nginx."""
    before = [(tally.total("GET"), tally.total("POST")) for tally in tallies]
    eventually(
        lambda: all(
            tally.total("GET") > gets + 60 and tally.total("POST") > posts + 60
            for tally, (gets, posts) in zip(tallies, before, strict=True)
        ),
        "more requests",
    )


def in_use(pod: Pod, fronts: dict[str, Nginx]) -> None:
    """Waits until every nginx sends requests to a pod again. Stands for minReadySeconds."""
    before = {name: front.answers_of(f"127.0.0.1:{pod.port}") for name, front in fronts.items()}
    eventually(
        lambda: all(
            front.answers_of(f"127.0.0.1:{pod.port}") > before[name] + 5
            for name, front in fronts.items()
        ),
        "the pod is in use",
    )


def ended(pod: Pod) -> int:
    assert pod.process is not None
    return pod.process.wait(60)


def test_rolling_restart(pods: list[Pod], fronts: dict[str, Nginx]) -> None:
    with traffic(pods, fronts, planned=True):
        for pod in pods:
            os.kill(pod.pid, signal.SIGTERM)
            assert ended(pod) == 0
            pod.start()
            in_use(pod, fronts)


def test_drain_by_hand(pods: list[Pod], fronts: dict[str, Nginx]) -> None:
    with traffic(pods, fronts, planned=True) as tallies:
        for pod in (pods[0], pods[2]):
            command(pod, "drain")
            pod.wait_for(503, READINESS)
            asked_on(*tallies)
            command(pod, "undrain")
            pod.wait_for(200, READINESS)


def command(pod: Pod, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "service", *words],
        env=pod.environ,
        cwd=ROOT,
        check=True,
        timeout=60,
        capture_output=True,
    )


def test_maintenance_of_all_pods_keeps_the_application(
    pods: list[Pod], fronts: dict[str, Nginx]
) -> None:
    """503 from every pod, to probes only: no reason to send the application's users away."""
    for pod in pods:
        pod.board.maintain(on=True)
    try:
        with traffic(pods, fronts, planned=True, questions=APPLICATION) as tallies:
            for front in fronts.values():
                assert {front.get("/health")[0] for _ in range(30)} == {503}
            asked_on(*tallies)
    finally:
        for pod in pods:
            pod.board.maintain(on=False)
    for front in fronts.values():
        eventually(lambda: front.get("/health")[0] == 200, "it is up again")  # noqa: B023


@pytest.mark.parametrize("number", [0, 2], ids=["gthread", "sync"])
def test_kill_of_a_pod(pods: list[Pod], fronts: dict[str, Nginx], number: int) -> None:
    pod = pods[number]
    with traffic(pods, fronts, planned=False) as tallies:
        os.killpg(pod.pid, signal.SIGKILL)
        ended(pod)
        asked_on(*tallies)
        pod.start()
        in_use(pod, fronts)


def test_freeze_of_all_workers_of_a_pod(pods: list[Pod], fronts: dict[str, Nginx]) -> None:
    """Until gunicorn replaces them."""
    pod = pods[0]
    with traffic(pods, fronts, planned=False) as tallies:
        workers = set(all_workers(pod))
        with frozen(workers):
            asked_on(*tallies)
            eventually(
                lambda: not workers & {worker.pid for worker in pod.workers()}, "they are replaced"
            )
        pod.wait_for(200, READINESS)
        in_use(pod, fronts)


def test_freeze_of_a_whole_pod(pods: list[Pod], fronts: dict[str, Nginx]) -> None:
    """Its kernel goes on accepting connections, and no master replaces anybody.

    With the time limits that are shipped, so that a GET of the application may take 35 s.
    """
    pod = pods[0]
    address = f"127.0.0.1:{pod.port}"
    with traffic(pods, fronts, planned=False) as tallies:
        retried = {name: retries(front, address) for name, front in fronts.items()}
        with frozen(everybody(pod)):
            eventually(
                lambda: all(
                    retries(front, address) > retried[name] for name, front in fronts.items()
                ),
                "it has cost time",
                3 * PATIENCE,
            )
            asked_on(*tallies)
        pod.wait_for(200, READINESS)
        in_use(pod, fronts)


def retries(front: Nginx, address: str) -> int:
    """GETs of the application that a pod had too long and another one answered."""
    return sum(
        line["method"] == "GET"
        and not line["uri"].startswith("/health")
        and line["status"] == 200
        and line["upstream"].startswith(f"{address}, ")
        and line["upstream_status"].startswith("504, ")
        for line in front.accesses
    )


def everybody(pod: Pod) -> list[int]:
    """The master first, who would otherwise replace the others."""
    master = psutil.Process(pod.pid)
    return [master.pid, *(child.pid for child in master.children(recursive=True))]
