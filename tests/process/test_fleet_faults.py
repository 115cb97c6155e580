"""Whatever becomes of the Redis of the fleet, the probes are answered as before."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.load import probing
from tests.pod import PATIENCE, Pod, eventually
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import RedisServer, binary

PROBES = (
    "/health",
    "/api/system/health/simple",
    "/api/system/health/readiness",
    "/api/system/health/liveness",
    "/api/system/health/startup",
)
FLEET = "/api/system/health/fleet"
ENOUGH = 600
SYNC, TTL = 2.0, 3.0
# A lease and two syncs, and what a busy machine needs.
BACK = TTL + 2 * SYNC + 15.0


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with (
        RedisServer(binary("valkey")) as server,
        FaultProxy(("127.0.0.1", server.port)) as between,
    ):
        yield between


def thread_count(pod: Pod) -> int:
    return len(list(Path(f"/proc/{pod.health_worker}/task").iterdir()))


def p99(pod: Pod) -> float:
    """Of the probes on both ports, milliseconds; every one of them answered 200."""
    with probing(pod, PROBES, clients=4, rate=150, keep=True) as seen:
        eventually(lambda: seen.total >= ENOUGH, "enough answers")
    assert not seen.other_than("200"), str(seen)
    times = sorted(answer.seconds for _, answer in seen.answers)
    return 1000 * times[len(times) * 99 // 100]


def test_probes_do_not_notice(make_pod: Callable[..., Pod], proxy: FaultProxy) -> None:
    pod = make_pod(
        REDIS_URL=f"redis://127.0.0.1:{proxy.address[1]}/0",
        HEALTH_CRITICAL_CHECKS="none",
        HEALTH_FLEET_INTERVAL_SECONDS=str(SYNC),
        HEALTH_DETAILS_TOKEN="a-token-of-the-tests",
    ).start()

    def holds() -> bool:
        seen = pod.get(FLEET).data
        return bool(seen["fresh"] and seen["leases"].get("checks") == seen["this_pod"])

    eventually(holds, "the pod holds the lease")
    threads = thread_count(pod)
    before = p99(pod)
    for fault in (
        Fault.FREEZE,
        Fault.BLACK_HOLE,
        Fault.DRIP,
        Fault.REFUSE,
        Fault.MUTE,
        Fault.RESET,
    ):
        proxy.fault = fault
        eventually(lambda: not pod.get(FLEET).data["fresh"], f"{fault.name} is noticed")
        during = p99(pod)
        assert pod.get(FLEET).status == pod.get(FLEET, health=True).status == 200
        proxy.fault = Fault.NONE
        begun = time.monotonic()
        eventually(holds, f"the pod holds the lease again after {fault.name}", BACK)
        print(
            f"{fault.name}: p99 {during:.1f} ms, {during / before:.2f} of {before:.1f} ms before; "
            f"the lease held again after {time.monotonic() - begun:.1f} s"
        )
    eventually(lambda: thread_count(pod) <= threads + 2, "those left behind have ended")


def test_strangers_hear_nothing_of_the_fleet(
    make_pod: Callable[..., Pod], proxy: FaultProxy
) -> None:
    pod = make_pod(REDIS_URL=f"redis://127.0.0.1:{proxy.address[1]}/0").start()
    eventually(lambda: pod.get(FLEET).data["pods"], "a view of the fleet")
    for answer in pod.everywhere(FLEET, X_Forwarded_For="203.0.113.9"):
        assert answer.status == 200
        assert answer.data.keys() == pod.get(FLEET).data.keys()
        shown = {key for key, value in answer.data.items() if value is not None}
        assert shown == {"scope", "fresh", "last_sync"}


def test_a_pod_without_others_says_so(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(REDIS_EMBEDDED="off").start()
    for answer in pod.everywhere(FLEET):
        assert answer.status == 200
        assert answer.data["scope"] == "pod"
        assert answer.data["fresh"] is False
        assert answer.data["pods"] == []


def test_a_stopped_pod_releases_the_lease(make_pod: Callable[..., Pod], proxy: FaultProxy) -> None:
    pods = [
        make_pod(
            REDIS_URL=f"redis://127.0.0.1:{proxy.address[1]}/0",
            HEALTH_FLEET_INTERVAL_SECONDS="3600",
            APP_NAME="stopped",
        )
        for _ in range(2)
    ]
    first, second = pods
    first.start()
    name = eventually(lambda: first.get(FLEET).data["leases"].get("checks"), "a holder")
    assert name == first.get(FLEET).data["this_pod"]
    first.stop(PATIENCE)
    second.start()
    # The lease would have lasted for an hour and a half.
    eventually(lambda: second.get(FLEET).data["leases"].get("checks"), "another holder")
    assert second.get(FLEET).data["leases"]["checks"] == second.get(FLEET).data["this_pod"]
    assert second.get(FLEET).data["pods_total"] == 1
