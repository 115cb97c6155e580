"""Traffic and hostile clients starve nobody on the health listener."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.load import HOSTILE, Hold, hostile, occupying
from tests.pod import UNHURRIED, Pod, eventually

READINESS = "/api/system/health/readiness"
PROBES = 40
KUBELET = 1.0  # seconds that a probe has by default
CLIENTS = 50
# No connection may outlast this. The longest limit of the listener is 15 s, for a kept one that is
# silent; every other is a few seconds.
PATIENCE = 90.0


def _probe_times(pod: Pod, under_load: Callable[[], object]) -> list[float]:
    """Seconds of each of forty probes, all of them sent while the load is on."""
    times = []
    for _ in range(PROBES):
        eventually(under_load, "the load")
        answer = pod.get(READINESS, health=True, timeout=10)
        assert answer.status == 200
        times.append(answer.seconds)
    eventually(under_load, "the load has lasted")
    return times


@pytest.mark.parametrize("worker_class", ["gthread", "sync"])
def test_overload_of_the_application_is_not_felt(
    make_pod: Callable[..., Pod], worker_class: str
) -> None:
    pod = make_pod(
        APP_MODULE="tests.process.apps:app",
        WORKER_CLASS=worker_class,
        WEB_CONCURRENCY="2",
        THREADS="4",
        **UNHURRIED,
    ).start()
    threads = 4 if worker_class == "gthread" else 1

    def occupied() -> bool:
        """Every thread of every worker has a request, and every request is a slow one."""
        return [worker.in_flight for worker in pod.workers()] == [threads] * 2

    with occupying(pod, "/slow?seconds=5", 4 * 2 * threads):
        times = _probe_times(pod, occupied)
    print(
        f"{worker_class}: median {statistics.median(times) * 1000:.1f} ms, max {max(times):.3f} s"
    )
    assert max(times) < KUBELET


def test_hostile_clients_of_the_health_listener_are_not_felt(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(WEB_CONCURRENCY="1", **UNHURRIED).start()
    with hostile(pod, CLIENTS) as siege:
        times = _probe_times(pod, lambda: siege.complete)
        threads = len(list(Path(f"/proc/{pod.health_worker}/task").iterdir()))
    print(f"hostile: median {statistics.median(times) * 1000:.1f} ms, max {max(times):.3f} s")
    assert max(times) < KUBELET
    assert threads < CLIENTS


def test_no_client_keeps_a_connection_for_long(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(WEB_CONCURRENCY="1", **UNHURRIED).start()
    before = _sockets(pod.health_worker)
    with hostile(pod, CLIENTS, patience=PATIENCE) as siege:

        def cut_off() -> set[int]:
            return {hold.client for hold in siege.over()}

        eventually(lambda: len(cut_off()) == CLIENTS, "each was cut off once", 2 * PATIENCE)
        pod.wait_for(200, READINESS)
    holds = siege.over()
    print(_longest(holds))
    assert [hold for hold in holds if hold.seconds is None] == []
    assert {hold.kind for hold in holds} == {behave.__name__ for behave in HOSTILE}
    pod.wait_for(200, READINESS)
    eventually(lambda: _sockets(pod.health_worker) <= before, "the connections are gone")


def _longest(holds: list[Hold]) -> str:
    seconds = defaultdict(list)
    for hold in holds:
        seconds[hold.kind].append(hold.seconds or PATIENCE)
    counts = Counter(hold.kind for hold in holds)
    return "\n".join(
        f"{kind}: {counts[kind]} times, for at most {max(each):.1f} s"
        for kind, each in seconds.items()
    )


def _sockets(pid: int) -> int:
    """Sockets a process has open."""
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(str(link.readlink()))
    return sum(target.startswith("socket:") for target in targets)
