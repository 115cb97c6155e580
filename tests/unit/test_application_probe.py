"""Workers that are there, missing or stuck, and what the processes of a pod use."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.health import Phase, ProgressLimits, Result, Role, Status, WorkerSlot
from service.probes.application import ApplicationProbe

MASTER = 100
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FILES = ("/app/db.sqlite3", "/dev/null", "pipe:[7]", "anon_inode:[eventpoll]", "socket:[8]")


class PodFiles:
    """A pod whose processes, stamps and clock a test can turn."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.now = 1000.0
        self.slots: list[WorkerSlot] = []
        self.expected = 2
        self.vacant_since = 1000.0
        self.finished = 0
        self.revision: str | None = None
        self.process(MASTER)
        for number in range(2):
            self.worker(number)

    def process(
        self,
        pid: int,
        *,
        start: int = 5,
        state: str = "S",
        cpu: float = 1.0,
        files: Sequence[str] = FILES,
    ) -> None:
        """Writes the process files: 3 threads and 10 MiB, as proc(5) numbers the fields."""
        directory = self.proc / str(pid)
        fields = ["0"] * 50
        fields[0] = state
        fields[14 - 3] = fields[15 - 3] = str(round(cpu * TICKS / 2))
        fields[20 - 3], fields[22 - 3] = "3", str(start)
        fields[24 - 3] = str(10 * 1024 * 1024 // PAGE_BYTES)
        (directory / "fd").mkdir(parents=True, exist_ok=True)
        # A process may call itself anything.
        (directory / "stat").write_text(f"{pid} (gunicorn: a) S (b) {' '.join(fields)}\n")
        for number, target in enumerate(files):
            link = directory / "fd" / str(number)
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def vanish(self, pid: int) -> None:
        (self.proc / str(pid)).rename(self.proc / f"gone-{pid}")

    def worker(self, number: int, **changes: Any) -> None:
        """A worker with its process, in a slot of its own."""
        slot = WorkerSlot(
            slot=number,
            pid=MASTER + 1 + number,
            process_start=5,
            role=Role.WEB,
            phase=Phase.READY,
            generation=0,
            phase_since=self.now,
            beat=self.now,
            threads=4,
            in_flight=1,
            occupied=1,
            all_busy_since=0.0,
            all_occupied_since=0.0,
            finished=0,
        )
        self.slots.append(replace(slot, **changes))
        self.process(slot.pid)

    def change(self, number: int, **changes: Any) -> None:
        self.slots[number] = replace(self.slots[number], **changes)

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the main loops of the workers go on."""
        self.now += seconds
        self.slots = [replace(slot, beat=self.now) for slot in self.slots]

    def probe(self, **options: Any) -> ApplicationProbe:
        given = {
            "workers": lambda: iter(self.slots),
            "expected": lambda: self.expected,
            "vacant_since": lambda: self.vacant_since,
            "finished": lambda: self.finished,
            "limits": ProgressLimits(boot=60, stall=60),
            "master_pid": MASTER,
            "revision": lambda: self.revision,
            "proc": self.proc,
            "clock": lambda: self.now,
        }
        return ApplicationProbe(**{**given, **options})


@pytest.fixture
def pod(tmp_path: Path) -> PodFiles:
    return PodFiles(tmp_path)


def word(result: Result) -> str:
    return result.code or result.status.word


def test_a_healthy_pod(pod: PodFiles) -> None:
    result = pod.probe()()
    assert (result.status, result.code) == (Status.HEALTHY, None)
    assert result.details == {
        "database_migrations": "unknown",
        "active_connections": 2,
        "requests_per_minute": 0,
        "workers_expected": 2,
        "workers_live": 2,
        "process": {
            "pid": MASTER,
            "memory_rss_mb": 30.0,
            "cpu_percent": None,
            "num_threads": 9,
            "open_files": 6,
            "connections": 3,
        },
    }


# -- who is live

STAMPED_LONG_AGO = 1000.0 - 61


@pytest.mark.parametrize(
    ("changes", "live"),
    [
        pytest.param({}, 2, id="ready"),
        pytest.param({"phase": Phase.BOOTING}, 1, id="booting"),
        pytest.param({"phase": Phase.STOPPING}, 1, id="stopping"),
        pytest.param({"pid": 0, "process_start": 0, "phase": Phase.BOOTING}, 1, id="just forked"),
        pytest.param({"process_start": 4}, 1, id="another process by now"),
        pytest.param({"pid": 4711}, 1, id="no such process"),
        pytest.param({"beat": STAMPED_LONG_AGO}, 1, id="no stamp"),
        pytest.param({"all_busy_since": STAMPED_LONG_AGO}, 1, id="the same requests"),
        pytest.param({"all_busy_since": 999.0, "in_flight": 4}, 2, id="load"),
        pytest.param({"role": Role.HEALTH}, 1, id="not a web worker"),
    ],
)
def test_live(pod: PodFiles, changes: dict[str, Any], live: int) -> None:
    pod.change(1, **changes)
    assert pod.probe()().details["workers_live"] == live


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_dead_process_that_nobody_has_reaped(pod: PodFiles, state: str) -> None:
    pod.process(MASTER + 1, state=state)
    details = pod.probe()().details
    assert details["workers_live"] == 1
    assert details["process"]["num_threads"] == 6


# -- verdicts


def history(pod: PodFiles, probe: ApplicationProbe, live: str, step: float = 5.0) -> list[str]:
    """Words of the runs in which so many workers are live, ``step`` seconds apart."""
    words = []
    for count in map(int, live):
        for number in range(2):
            pod.change(number, phase=Phase.READY if number < count else Phase.STOPPING)
        words.append(word(probe()))
        pod.pass_time(step)
    return words


@pytest.mark.parametrize(
    ("live", "missing"),
    [
        pytest.param("222", "...", id="all there"),
        pytest.param("21112", ".....", id="respawned in time"),
        pytest.param("211112", "....x.", id="for more than 10 s"),
        pytest.param("2112112", ".......", id="twice for a moment"),
        pytest.param("11111", "...xx", id="from the start"),
    ],
)
def test_workers_missing(pod: PodFiles, live: str, missing: str) -> None:
    expected = ["workers_missing" if mark == "x" else "healthy" for mark in missing]
    assert history(pod, pod.probe(), live) == expected


def test_more_workers_than_expected(pod: PodFiles) -> None:
    pod.expected = 1
    assert history(pod, pod.probe(), "2222") == ["healthy"] * 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param([{}, {"beat": STAMPED_LONG_AGO}], "healthy", id="one goes on"),
        pytest.param([{"beat": STAMPED_LONG_AGO}] * 2, "workers_stalled", id="none goes on"),
        pytest.param(
            [{"phase": Phase.BOOTING, "phase_since": STAMPED_LONG_AGO}] * 2,
            "workers_stalled",
            id="hung in boot",
        ),
        pytest.param([{"phase": Phase.BOOTING}] * 2, "healthy", id="booting"),
    ],
)
def test_workers_stalled(pod: PodFiles, changes: list[dict[str, Any]], expected: str) -> None:
    for number, change in enumerate(changes):
        pod.change(number, **change)
    result = pod.probe()()
    assert word(result) == expected
    assert result.details["workers_expected"] == 2, "the details are there in any case"


@pytest.mark.parametrize(("vacant_since", "expected"), [(950.0, "healthy"), (939.0, "stalled")])
def test_nobody_there(pod: PodFiles, vacant_since: float, expected: str) -> None:
    pod.slots.clear()
    pod.vacant_since = vacant_since
    result = pod.probe()()
    assert word(result).removeprefix("workers_") == expected
    assert result.details["workers_live"] == 0
    assert result.details["active_connections"] == 0


def test_stalled_is_worse_than_missing(pod: PodFiles) -> None:
    probe = pod.probe()
    for number in range(2):
        pod.change(number, beat=STAMPED_LONG_AGO)
    for _ in range(4):
        result = probe()
        pod.now += 5
    assert (result.status, result.code) == (Status.UNHEALTHY, "workers_stalled")


@pytest.mark.parametrize(
    ("expected", "revision", "shown", "verdict"),
    [
        (None, "a1", "unknown", "healthy"),
        ("a1", "a1", "up_to_date", "healthy"),
        ("a2", "a1", "pending", "migrations_pending"),
        ("a2", None, "unknown", "healthy"),
    ],
)
def test_migrations(
    pod: PodFiles, expected: str | None, revision: str | None, shown: str, verdict: str
) -> None:
    pod.revision = revision
    result = pod.probe(expected_migration=expected)()
    assert result.details["database_migrations"] == shown
    assert word(result) == verdict


def test_missing_workers_come_before_migrations(pod: PodFiles) -> None:
    probe = pod.probe(expected_migration="a2")
    pod.revision = "a1"
    assert history(pod, probe, "1111") == ["migrations_pending"] * 3 + ["workers_missing"]


# -- counting


@pytest.mark.parametrize(
    ("steps", "per_minute"),
    [
        pytest.param([(5, 0)], 0, id="nothing"),
        pytest.param([(1, 7)], 7, id="since the start"),
        pytest.param([(5, 10)] * 3, 30, id="a young pod"),
        pytest.param([(5, 10)] * 40, 120, id="a steady rate"),
        pytest.param([(7, 14)] * 40, 120, id="a step that does not divide a minute"),
        pytest.param([(50, 20), (20, 0)], 16, id="a fifth of the first step is too old"),
        pytest.param([(5, 20), *[(11, 0)] * 5], 20, id="a burst 55 s ago"),
        pytest.param([(5, 20), *[(7, 0)] * 9], 0, id="a burst more than a minute ago"),
        pytest.param([(300, 600)], 120, id="a probe that was not run for long"),
        pytest.param([(0, 3)], 3, id="no time at all"),
    ],
)
def test_requests_per_minute(
    pod: PodFiles, steps: list[tuple[float, int]], per_minute: int
) -> None:
    probe = pod.probe()
    for seconds, requests in steps:
        pod.pass_time(seconds)
        pod.finished += requests
        counted = probe().details["requests_per_minute"]
    assert counted == per_minute


def test_requests_before_a_successor_came_are_not_taken_for_none(pod: PodFiles) -> None:
    pod.finished = 1_000_000  # seen by a monitor that has died since
    probe = pod.probe()
    counted = []
    for _ in range(14):
        pod.pass_time(5)
        pod.finished += 10
        counted.append(probe().details["requests_per_minute"])
    assert counted == [None] * 11 + [120] * 3


def test_active_connections_are_those_of_web_workers(pod: PodFiles) -> None:
    pod.worker(2, role=Role.HEALTH, in_flight=5)
    pod.change(0, in_flight=3)
    pod.change(1, in_flight=4, pid=4711)
    assert pod.probe()().details["active_connections"] == 3


# -- processes


def used(probe: ApplicationProbe) -> dict[str, Any]:
    figures: dict[str, Any] = probe().details["process"]
    return figures


def test_cpu_is_of_one_core_between_two_runs(pod: PodFiles) -> None:
    probe = pod.probe()
    assert used(probe)["cpu_percent"] is None
    pod.pass_time(5)
    pod.process(MASTER + 1, cpu=3.0)
    pod.process(MASTER + 2, cpu=6.0)
    assert used(probe)["cpu_percent"] == 140.0
    pod.pass_time(5)
    assert used(probe)["cpu_percent"] == 0.0


def test_cpu_when_processes_come_and_go(pod: PodFiles) -> None:
    probe = pod.probe()
    used(probe)
    pod.pass_time(5)
    pod.vanish(MASTER + 1)
    pod.process(MASTER + 2, start=6, cpu=0.5)
    pod.change(1, process_start=6)
    figures = used(probe)
    assert figures["cpu_percent"] == 10.0, "the new process has the id of an old one"
    assert figures["num_threads"] == 6


def test_the_health_worker_is_part_of_the_pod(pod: PodFiles) -> None:
    pod.worker(2, role=Role.HEALTH)
    assert used(pod.probe())["num_threads"] == 12


def test_strangers_are_not(pod: PodFiles) -> None:
    pod.change(1, process_start=4)
    assert used(pod.probe())["num_threads"] == 6


def test_a_pod_of_one_process(pod: PodFiles) -> None:
    pod.slots = [replace(pod.slots[0], pid=MASTER)]
    pod.expected = 1
    details = pod.probe()().details
    assert details["workers_live"] == 1
    assert details["process"]["num_threads"] == 3


def test_nothing_to_sum_up(pod: PodFiles) -> None:
    for pid in range(MASTER, MASTER + 3):
        pod.vanish(pid)
    figures = used(pod.probe())
    assert figures.pop("pid") == MASTER
    assert set(figures.values()) == {None}


def test_descriptors_of_another_user(pod: PodFiles, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is hidden from root")
    (tmp_path / str(MASTER) / "fd").chmod(0)
    figures = used(pod.probe())
    assert (figures["open_files"], figures["connections"]) == (None, None)
    assert figures["num_threads"] == 9


def test_on_this_machine() -> None:
    me = os.getpid()
    probe = ApplicationProbe(
        workers=lambda: (),
        expected=lambda: 0,
        vacant_since=lambda: 0.0,
        finished=lambda: 0,
        limits=ProgressLimits(),
        master_pid=me,
        clock=lambda: 0.0,
    )
    figures = used(probe)
    assert figures["memory_rss_mb"] > 1
    assert figures["num_threads"] >= threading.active_count()
    assert figures["open_files"] >= 1
    assert figures["connections"] >= 0
