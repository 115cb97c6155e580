"""Invariants 21 and 24: time goes on for a pod, whatever the wall clock says."""

import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.contract.audit import BOTH, PREFIX, Audit, comes_to_be_well, services, witness
from tests.contract.conftest import Launch, served
from tests.pod import ROOT, UNHURRIED, Pod, eventually

STEPPED_CLOCK = Path(__file__).parent / "wall_clock"
HOUR, DAY = 3600.0, 86400.0


def uptimes(pod: Pod, *, health: bool) -> dict[str, float]:
    """Every place that tells how long the pod has been up."""
    return {
        "liveness": pod.get(f"{PREFIX}/liveness", health=health).data["uptime_seconds"],
        "application": pod.get(f"{PREFIX}/application", health=health).data["uptime_seconds"],
        "detailed": pod.get("/health/detailed", health=health).json["application"][
            "uptime_seconds"
        ],
        "metrics": pod.get("/metrics", health=health, Accept="application/json").data[
            "mingus_uptime_seconds"
        ],
    }


class Uptimes:
    """Notices when an uptime falls."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.newest = dict.fromkeys(uptimes(pod, health=False), 0.0)

    def look(self) -> None:
        for health in BOTH:
            now = uptimes(self.pod, health=health)
            for place, uptime in now.items():
                assert uptime >= self.newest[place], place
            self.newest = now


def test_uptime_never_falls(plain: Pod) -> None:
    seen = Uptimes(plain)
    start = dict(seen.newest)

    def grown() -> bool:
        seen.look()
        return all(uptime > start[place] for place, uptime in seen.newest.items())

    for _ in range(3):
        eventually(grown, "every uptime grows")
        start = dict(seen.newest)


def test_last_check_of_every_check_advances(plain: Pod) -> None:
    before = last_checks(plain)
    eventually(lambda: all_later(plain, before), "every check runs again")


def last_checks(pod: Pod) -> dict[tuple[str, bool], str]:
    """When each check that is configured has run, as each listener says."""
    return {
        (name, health): services(pod, health=health)[name]["last_check"]
        for name in ("database", "redis", "system_resources", "application")
        for health in BOTH
    }


def all_later(pod: Pod, before: dict[tuple[str, bool], str]) -> bool:
    now = last_checks(pod)
    assert all(now[which] >= before[which] for which in before)
    return all(now[which] > before[which] for which in before)


@pytest.fixture
def step(tmp_path: Path) -> Path:
    path = tmp_path / "step"
    path.write_text("0")
    return path


@pytest.fixture
def pod(launch: Launch, step: Path, tmp_path: Path) -> Pod:
    """One whose wall clock the test can set."""
    limits = {"HEALTH_DATABASE_TIMEOUT_SECONDS": "3", "HEALTH_REDIS_TIMEOUT_SECONDS": "3"}
    return served(
        launch(
            PYTHONPATH=f"{STEPPED_CLOCK}:{ROOT}",
            WALL_CLOCK_STEP=str(step),
            DATABASE_URL=f"sqlite:///{tmp_path}/shop.sqlite3",
            HEALTH_DATABASE_INTERVAL_SECONDS="0.2",
            HEALTH_REDIS_INTERVAL_SECONDS="0.2",
            **{**UNHURRIED, **limits},
        )
    )


# An hour ahead, a year ahead, to before the pod was started, to before the epoch of many things.
STEPS = (HOUR, 365 * DAY, -DAY, -20 * 365 * DAY, 0.0)


def test_a_step_of_the_wall_clock_changes_no_status(pod: Pod, step: Path) -> None:
    comes_to_be_well(pod)
    up = Uptimes(pod)
    audit = Audit(pod)

    def wrong() -> tuple[str, bool, int] | None:
        for path in ("/health", f"{PREFIX}/readiness", f"{PREFIX}/startup", f"{PREFIX}/liveness"):
            for health in BOTH:
                status = pod.get(path, health=health).status
                if status != 200:
                    return path, health, status
        return None

    with witness(wrong) as seen:
        for seconds in STEPS:
            replacement = step.with_suffix(".new")
            replacement.write_text(str(seconds))
            replacement.rename(step)
            go_on(pod, up, runs=26)  # of 0.2 s: longer than the results take to expire
            assert {service["status"] for service in watched(pod)} == {"healthy"}
            assert abs(clock(pod) - time.time() - seconds) < HOUR / 2, "the step was taken"
            audit()
    assert seen == []


def clock(pod: Pod) -> float:
    """The pod's wall clock, Unix seconds."""
    return datetime.fromisoformat(pod.get("/health").json["timestamp"]).timestamp()


def watched(pod: Pod) -> list[dict[str, str]]:
    found = services(pod)
    return [found[name] for name in ("database", "redis", "application")]


def go_on(pod: Pod, up: Uptimes, *, runs: int) -> None:
    """Lets so many runs of the database check end, uptime growing all the while."""
    for _ in range(runs):
        before = services(pod)["database"]["last_check"]
        eventually(
            lambda before=before: services(pod)["database"]["last_check"] != before,
            "the database is checked again",
        )
        up.look()
