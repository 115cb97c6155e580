"""Traffic and hostile clients starve nobody on the health listener."""

import statistics
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.load import hostile, occupying
from tests.pod import Pod, eventually

READINESS = "/api/system/health/readiness"


def _probe_times(pod: Pod, count: int = 40) -> list[float]:
    return [pod.get(READINESS, health=True, timeout=10).seconds for _ in range(count)]


@pytest.mark.parametrize("worker_class", ["gthread", "sync"])
def test_overload_of_the_application_is_not_felt(
    make_pod: Callable[..., Pod], worker_class: str
) -> None:
    pod = make_pod(
        APP_MODULE="tests.process.apps:app",
        WORKER_CLASS=worker_class,
        WEB_CONCURRENCY="2",
        THREADS="4",
    ).start()
    threads = 8 if worker_class == "gthread" else 2
    with occupying(pod, "/slow?seconds=5", 4 * threads):
        times = _probe_times(pod)
    print(
        f"{worker_class}: median {statistics.median(times) * 1000:.1f} ms, max {max(times):.3f} s"
    )
    assert len(times) == 40
    assert max(times) < 1


def test_hostile_clients_of_the_health_listener_are_not_felt(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(WEB_CONCURRENCY="1").start()
    with hostile(pod, 50):
        times = _probe_times(pod)
        threads = len(list(Path(f"/proc/{pod.health_worker}/task").iterdir()))
    print(f"hostile: median {statistics.median(times) * 1000:.1f} ms, max {max(times):.3f} s")
    assert max(times) < 1
    assert threads < 50


def test_no_client_keeps_a_connection_for_long(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(WEB_CONCURRENCY="1").start()
    before = _sockets(pod.health_worker)
    with hostile(pod, 50):
        pod.wait_for(200, READINESS)
    pod.wait_for(200, READINESS)
    eventually(lambda: _sockets(pod.health_worker) <= before, "the connections are gone")


def _sockets(pid: int) -> int:
    """Sockets a process has open."""
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(str(link.readlink()))
    return sum(target.startswith("socket:") for target in targets)
