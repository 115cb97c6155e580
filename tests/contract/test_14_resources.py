"""Invariant 14: the machine's resources warn people, and take no pod out of traffic.

A disk is really filled, a small one. Memory and CPU are measured against thresholds that every
machine exceeds: to use a machine up would hit whoever else works on it, and a control group of
its own can be given to a pod only where nothing else manages those.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.audit import BOTH, PREFIX, Audit, agreement, becomes, services, system
from tests.contract.conftest import Launch, served
from tests.pod import Pod, eventually

PARTS = ("cpu", "memory", "disk")
UNIMPRESSED = (
    "/health",
    "/health/detailed",
    "/health/standard",
    "/health/metrics",
    "/metrics",
    f"{PREFIX}/",
    f"{PREFIX}/simple",
    f"{PREFIX}/readiness",
    f"{PREFIX}/liveness",
    f"{PREFIX}/startup",
)


@pytest.fixture(scope="module")
def pods(launch: Launch) -> tuple[Pod, Pod]:
    """One on a machine with nothing left, one where memory and disk are getting short."""
    nothing = {f"{part.upper()}_{level}_PERCENT": "0" for part in PARTS for level in LEVELS}
    little = {f"{part.upper()}_WARNING_PERCENT": "0" for part in PARTS[1:]}
    most = {f"{part.upper()}_CRITICAL_PERCENT": "100" for part in PARTS}
    return (
        launch(REDIS_EMBEDDED="off", **nothing),
        launch(REDIS_EMBEDDED="off", CPU_WARNING_PERCENT="100", **little, **most),
    )


LEVELS = ("WARNING", "CRITICAL")


def test_nothing_left_is_seen_and_does_not_matter(pods: tuple[Pod, Pod]) -> None:
    pod, _ = pods
    with agreement(pod):
        served(pod)  # short resources keep no pod from starting
        eventually(
            lambda: {resources(pod)[part]["status"] for part in PARTS} == {"unhealthy"},
            "resources are critical",
        )
    for health in BOTH:
        found = services(pod, health=health)["system_resources"]
        for part in PARTS:
            assert (found[part]["status"], found[part]["error"]) == (
                "unhealthy",
                f"{part}_critical",
            )
        assert pod.status(f"{PREFIX}/resources", health=health) == 503
        assert [pod.status(path, health=health) for path in UNIMPRESSED] == [200] * 10
        assert pod.get("/health", health=health).json["status"] == "healthy"
        overall = system(pod, health=health)
        assert overall["overall_status"] == "warning"
        assert overall["unhealthy_services"] == ["system_resources"]
        assert overall["critical_services_failing"] is False
        startup = pod.get(f"{PREFIX}/startup", health=health).data
        assert startup["services"]["system_resources"] == "unhealthy"
    Audit(pod)()


def test_little_left_is_a_warning(pods: tuple[Pod, Pod]) -> None:
    _, pod = pods
    served(pod)
    eventually(lambda: resources(pod)["memory"]["status"] == "warning", "memory is short")
    found = resources(pod)
    for part in ("memory", "disk"):
        assert (found[part]["status"], found[part]["error"]) == ("warning", f"{part}_high")
    for health in BOTH:
        assert [pod.status(path, health=health) for path in UNIMPRESSED] == [200] * 10
        assert system(pod, health=health)["overall_status"] == "warning"
    Audit(pod)()


ALONE = ("unshare", "--user", "--map-root-user", "--mount")
SMALL = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'


@pytest.mark.skipif(
    "CI" not in os.environ and subprocess.run([*ALONE, "true"], check=False).returncode != 0,
    reason="needs the right to mount something for itself",
)
def test_a_disk_fills_up_and_is_cleared(make_pod: Callable[..., Pod], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    pod = make_pod(REDIS_EMBEDDED="off", HEALTH_DISK_PATH=str(disk))
    pod.prefix = [*ALONE, "sh", "-c", SMALL, str(disk)]
    pod.start()
    file = Path(f"/proc/{pod.pid}/root{disk}/file")  # the disk as the pod sees it

    def comes_to(status: str, code: str | None) -> None:
        becomes(
            lambda: [resources(pod)["disk"][key] for key in ("status", "error")],
            [status, code],
            "status and code of the disk",
        )
        assert [pod.status(path) for path in UNIMPRESSED] == [200] * 10

    comes_to("healthy", None)
    file.write_bytes(bytes(900 << 10))
    comes_to("warning", "disk_high")
    with pytest.raises(OSError, match="No space left"):
        file.write_bytes(bytes(2 << 20))
    comes_to("unhealthy", "disk_critical")
    becomes(lambda: pod.status(f"{PREFIX}/resources"), 503, "the resources")
    file.unlink()
    comes_to("healthy", None)


def resources(pod: Pod) -> dict:
    return services(pod)["system_resources"]


@pytest.mark.parametrize("name", ["system_resources", "application", "stripe_api", "nothing"])
@pytest.mark.parametrize("variable", ["HEALTH_CRITICAL_CHECKS", "HEALTH_STARTUP_CHECKS"])
def test_what_must_not_decide_is_refused_at_start(launch: Launch, name: str, variable: str) -> None:
    pod = launch(**{variable: f"database,{name}"})
    assert pod.process is not None
    assert pod.process.wait(60) == 78
    assert variable in pod.log
    assert len(pod.log.splitlines()) == 1
