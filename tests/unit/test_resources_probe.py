"""What the resources probe makes of trees of control groups, and of a host without any."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from service.health import Result, Status
from service.probes.resources import Levels, ResourcesProbe

GIB = 1024**3
MIB = 1024**2
ANYTHING = dict.fromkeys(("cpu", "memory", "disk"), Levels(200, 200))
PATIENCE = 30.0
V1_UNLIMITED = 0x7FFFFFFFFFFFF000


class CpuTimes(NamedTuple):
    user: float
    system: float
    idle: float
    iowait: float
    guest: float


@dataclass
class FakeHost:
    """A machine of 4 cores and 16 GiB, of which a quarter of each is in use."""

    busy: float = 100.0
    idle: float = 300.0
    cores: int | None = 4
    total: int = 16 * GIB
    available: int = 12 * GIB
    interfaces: Mapping[str, Any] = field(default_factory=dict)

    def cpu_times(self) -> CpuTimes:
        # Guests are counted twice by the kernel: on their own and as users.
        return CpuTimes(self.busy / 2, self.busy / 2, self.idle - 7, 7, self.busy / 4)

    def cpu_count(self) -> int | None:
        return self.cores

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=self.total, available=self.available)

    def net_io_counters(self, *, pernic: bool) -> Any:
        assert pernic
        return self.interfaces


class Machine:
    """Files, a host and a clock that a test can turn."""

    def __init__(self, directory: Path) -> None:
        self.proc, self.sys_fs = directory / "proc", directory / "cgroup"
        self.host = FakeHost()
        self.now = 1000.0

    def groups(self, membership: str, files: Mapping[str, object]) -> None:
        self.write(self.proc / "self/cgroup", membership)
        for name, content in files.items():
            self.write(self.sys_fs / name, content)

    @staticmethod
    def write(file: Path, content: object) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n" if content != "" else "")

    def probe(self, **options: Any) -> ResourcesProbe:
        given = {
            "levels": ANYTHING,
            "disk_path": self.proc.parent,
            "proc": self.proc,
            "sys_fs": self.sys_fs,
            "host": self.host,
            "clock": lambda: self.now,
            "settle": 0.0,
        }
        return ResourcesProbe(**{**given, **options})

    def part(self, name: str) -> Mapping[str, Any]:
        part: Mapping[str, Any] = self.probe()().details[name]
        return part


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# -- memory

V2 = {"cgroup.controllers": "cpu memory"}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        pytest.param(
            "0::/",
            {
                **V2,
                "memory.max": 512 * MIB,
                "memory.current": 300 * MIB,
                "memory.stat": f"anon 5\ninactive_file {44 * MIB}\nactive_file 9",
            },
            (512 * MIB, 256 * MIB, "cgroup_v2"),
            id="v2, the container's own root",
        ),
        pytest.param(
            "0::/pod/app",
            {
                **V2,
                "pod/memory.max": 512 * MIB,
                "pod/memory.current": 400 * MIB,
                "pod/app/memory.max": GIB,
                "pod/app/memory.current": 100 * MIB,
            },
            (512 * MIB, 400 * MIB, "cgroup_v2"),
            id="v2, the parent allows less",
        ),
        pytest.param(
            "0::/pod/app",
            {
                **V2,
                "pod/memory.max": 512 * MIB,
                "pod/memory.current": 400 * MIB,
                "pod/app/memory.max": 512 * MIB,
                "pod/app/memory.current": 100 * MIB,
            },
            (512 * MIB, 400 * MIB, "cgroup_v2"),
            id="v2, equal limits: the fuller group",
        ),
        pytest.param(
            "0::/pod/app",
            {
                **V2,
                "pod/memory.max": 1024 * MIB,
                "pod/memory.current": 900 * MIB,
                "pod/app/memory.max": 512 * MIB,
                "pod/app/memory.current": 128 * MIB,
            },
            (512 * MIB, 128 * MIB, "cgroup_v2"),
            id="v2, the child allows less",
        ),
        pytest.param(
            "0::/kubepods/pod1/app",
            {**V2, "memory.max": 512 * MIB, "memory.current": 128 * MIB},
            (512 * MIB, 128 * MIB, "cgroup_v2"),
            id="v2, a path that cannot be seen",
        ),
        pytest.param(
            "0::/../../app",
            {**V2, "app/memory.max": 512 * MIB, "app/memory.current": 128 * MIB},
            (512 * MIB, 128 * MIB, "cgroup_v2"),
            id="v2, a path that leads outside",
        ),
        pytest.param(
            "0::/",
            {**V2, "memory.max": "max", "memory.current": 300 * MIB},
            (16 * GIB, 4 * GIB, "host"),
            id="v2, max",
        ),
        pytest.param(
            "0::/",
            {**V2, "memory.max": 32 * GIB, "memory.current": 300 * MIB},
            (16 * GIB, 4 * GIB, "host"),
            id="v2, more than there is",
        ),
        pytest.param(
            "0::/",
            {**V2, "memory.max": 512 * MIB},
            (16 * GIB, 4 * GIB, "host"),
            id="v2, no usage",
        ),
        pytest.param(
            "0::/",
            {
                **V2,
                "memory.max": 512 * MIB,
                "memory.current": 10 * MIB,
                "memory.stat": f"inactive_file {44 * MIB}",
            },
            (512 * MIB, 0, "cgroup_v2"),
            id="v2, more cache than usage",
        ),
        pytest.param(
            "4:memory:/docker/abc\n0::/",
            {
                "memory/memory.limit_in_bytes": 512 * MIB,
                "memory/memory.usage_in_bytes": 300 * MIB,
                "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {44 * MIB}",
            },
            (512 * MIB, 256 * MIB, "cgroup_v1"),
            id="v1 in a container",
        ),
        pytest.param(
            "4:memory:/a/b",
            {
                "memory/memory.limit_in_bytes": V1_UNLIMITED,
                "memory/memory.usage_in_bytes": 9 * GIB,
                "memory/a/memory.limit_in_bytes": 512 * MIB,
                "memory/a/memory.usage_in_bytes": 384 * MIB,
                "memory/a/b/memory.limit_in_bytes": V1_UNLIMITED,
                "memory/a/b/memory.usage_in_bytes": 1 * MIB,
            },
            (512 * MIB, 384 * MIB, "cgroup_v1"),
            id="v1, the limit in the middle",
        ),
        pytest.param(
            "4:memory:/",
            {
                "memory/memory.limit_in_bytes": V1_UNLIMITED,
                "memory/memory.usage_in_bytes": 9 * GIB,
            },
            (16 * GIB, 4 * GIB, "host"),
            id="v1 without a limit",
        ),
        pytest.param(
            "4:memory:/a\n0::/a",
            {
                "unified/cgroup.controllers": "",
                "unified/a/cgroup.procs": "1",
                "memory/a/memory.limit_in_bytes": 512 * MIB,
                "memory/a/memory.usage_in_bytes": 256 * MIB,
            },
            (512 * MIB, 256 * MIB, "cgroup_v1"),
            id="both, memory under v1",
        ),
        pytest.param("", {}, (16 * GIB, 4 * GIB, "host"), id="host"),
    ],
)
def test_memory(
    machine: Machine, membership: str, files: Mapping[str, object], expected: tuple[int, int, str]
) -> None:
    machine.groups(membership, files)
    part = machine.part("memory")
    total, used, source = expected
    assert (part["total_bytes"], part["used_bytes"], part["source"]) == (total, used, source)
    assert part["available_bytes"] == total - used
    assert part["usage_percent"] == round(100 * used / total, 2)


def test_a_host_without_control_groups(machine: Machine) -> None:
    assert machine.part("memory")["source"] == "host"
    assert machine.part("cpu")["source"] == "host"


# -- CPU: 4 s pass, in which 2 CPU seconds are used

QUOTA_V2 = {**V2, "cpu.max": "50000 100000", "cpu.stat": "usage_usec 7000000\nuser_usec 1"}


@pytest.mark.parametrize(
    ("membership", "files", "later", "expected"),
    [
        pytest.param(
            "0::/", QUOTA_V2, {"cpu.stat": "usage_usec 9000000"}, (100.0, 1, "cgroup_v2"), id="v2"
        ),
        pytest.param(
            "0::/",
            {**QUOTA_V2, "cpu.max": "250000 100000"},
            {"cpu.stat": "usage_usec 9000000"},
            (20.0, 3, "cgroup_v2"),
            id="v2, two cores and a half",
        ),
        pytest.param(
            "0::/",
            {**QUOTA_V2, "cpu.max": "max 100000"},
            {},
            (25.0, 4, "host"),
            id="v2 without a quota",
        ),
        pytest.param(
            "0::/pod/app",
            {
                **V2,
                "pod/cpu.max": "100000 100000",
                "pod/cpu.stat": "usage_usec 5000000",
                "pod/app/cpu.max": "200000 100000",
                "pod/app/cpu.stat": "usage_usec 1000000",
            },
            {"pod/cpu.stat": "usage_usec 7000000"},
            (50.0, 1, "cgroup_v2"),
            id="v2, the parent allows less",
        ),
        pytest.param(
            "0::/app",
            {
                **V2,
                "app/cpu.max": "max 100000",
                "app/cpuset.cpus.effective": "0,2",
                "app/cpu.stat": "usage_usec 1000000",
            },
            {"app/cpu.stat": "usage_usec 3000000"},
            (25.0, 2, "cgroup_v2"),
            id="v2, two CPUs of four",
        ),
        pytest.param(
            "0::/",
            {**QUOTA_V2, "cpu.max": "300000 100000", "cpuset.cpus.effective": "1-2"},
            {"cpu.stat": "usage_usec 9000000"},
            (25.0, 2, "cgroup_v2"),
            id="v2, fewer CPUs than the quota",
        ),
        pytest.param(
            "0::/",
            {**V2, "cpu.max": "max 100000", "cpuset.cpus.effective": "0-3"},
            {},
            (25.0, 4, "host"),
            id="v2, every CPU",
        ),
        pytest.param(
            "2:cpu,cpuacct:/docker/abc",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": 50000,
                "cpu,cpuacct/cpu.cfs_period_us": 100000,
                "cpu,cpuacct/cpu.stat": "nr_periods 1",
                "cpu,cpuacct/cpuacct.usage": 7_000_000_000,
            },
            {"cpu,cpuacct/cpuacct.usage": 8_000_000_000},
            (50.0, 1, "cgroup_v1"),
            id="v1, mounted together",
        ),
        pytest.param(
            "2:cpu:/a/b\n3:cpuacct:/a/b",
            {
                "cpu/cpu.cfs_quota_us": -1,
                "cpu/cpu.cfs_period_us": 100000,
                "cpu/a/cpu.cfs_quota_us": 200000,
                "cpu/a/cpu.cfs_period_us": 100000,
                "cpu/a/b/cpu.cfs_quota_us": -1,
                "cpu/a/b/cpu.cfs_period_us": 100000,
                "cpuacct/a/cpuacct.usage": 7_000_000_000,
                "cpuacct/a/b/cpuacct.usage": 1,
            },
            {"cpuacct/a/cpuacct.usage": 9_000_000_000},
            (25.0, 2, "cgroup_v1"),
            id="v1, mounted apart, the limit in the middle",
        ),
        pytest.param(
            "2:cpu:/a\n3:cpuacct:/a\n4:cpuset:/a\n0::/",
            {
                "unified/cgroup.controllers": "",
                "cpu/a/cpu.cfs_quota_us": -1,
                "cpuacct/a/cpuacct.usage": 7_000_000_000,
                "cpuset/a/cpuset.cpus": "3",
            },
            {"cpuacct/a/cpuacct.usage": 9_000_000_000},
            (50.0, 1, "cgroup_v1"),
            id="v1, one CPU of four",
        ),
        pytest.param("", {}, {}, (25.0, 4, "host"), id="host"),
    ],
)
def test_cpu(
    machine: Machine,
    membership: str,
    files: Mapping[str, object],
    later: Mapping[str, object],
    expected: tuple[float, int, str],
) -> None:
    machine.groups(membership, files)
    probe = machine.probe()
    probe()
    machine.groups(membership, later)
    machine.now += 4
    machine.host.busy += 4
    machine.host.idle += 12
    part = probe().details["cpu"]
    assert (part["usage_percent"], part["cores"], part["source"]) == expected


class BusyHost(FakeHost):
    """A machine on which 4 CPU seconds pass from one look to the next, one of them busy."""

    def cpu_times(self) -> CpuTimes:
        self.busy += 1
        self.idle += 3
        return super().cpu_times()


def test_the_first_run_takes_two_samples(machine: Machine) -> None:
    assert machine.probe(host=BusyHost())().details["cpu"]["usage_percent"] == 25.0


def test_a_changed_limit_starts_anew(machine: Machine) -> None:
    machine.groups("0::/", QUOTA_V2)
    probe = machine.probe()
    probe()
    machine.groups("0::/", {"cpu.max": "100000 100000", "cpu.stat": "usage_usec 9000000"})
    machine.now += 4
    assert probe().details["cpu"]["usage_percent"] is None
    machine.groups("0::/", {"cpu.stat": "usage_usec 11000000"})
    machine.now += 4
    assert probe().details["cpu"]["usage_percent"] == 50.0


def test_no_second_sample_is_no_bad_news(machine: Machine) -> None:
    result = machine.probe(levels={**ANYTHING, "cpu": Levels(0, 0)})()
    assert result.status is Status.HEALTHY
    part = result.details["cpu"]
    assert (part["status"], part["error"]) == ("unknown", "not_yet_checked")
    assert part["usage_percent"] is None


def test_close_ends_the_wait(machine: Machine) -> None:
    probe = machine.probe(host=BusyHost(), settle=600.0)
    found: list[Result] = []
    first = threading.Thread(target=lambda: found.append(probe()))
    first.start()
    for _ in range(int(PATIENCE / 0.1)):
        probe.close()
        first.join(0.1)
        if not first.is_alive():
            break
    assert found[0].details["cpu"]["error"] == "not_yet_checked"
    assert probe().details["cpu"]["usage_percent"] == 25.0, "the next run has a sample before it"


@pytest.mark.parametrize(
    ("busy", "idle", "percent"),
    [pytest.param(-1, 4, 0.0, id="less than 0"), pytest.param(4, -1, 100.0, id="more than 100")],
)
def test_percentages_stay_between_0_and_100(
    machine: Machine, busy: float, idle: float, percent: float
) -> None:
    probe = machine.probe()
    probe()
    machine.host.busy += busy
    machine.host.idle += idle
    assert probe().details["cpu"]["usage_percent"] == percent


# -- disk and network


def test_disk(machine: Machine, tmp_path: Path) -> None:
    part = machine.probe(disk_path=tmp_path)().details["disk"]
    assert 0 < part["used_bytes"] + part["free_bytes"] <= part["total_bytes"]
    shares = 100 * part["used_bytes"] / (part["used_bytes"] + part["free_bytes"])
    assert part["usage_percent"] == pytest.approx(shares, abs=0.01)
    assert part["mount_point"] == str(tmp_path)
    assert part["source"] == "host"


def test_network_leaves_out_loopback(machine: Machine) -> None:
    counters = {"bytes_sent": 1, "bytes_recv": 20, "packets_sent": 300, "packets_recv": 4000}
    nic = SimpleNamespace(**counters)
    machine.host.interfaces = {"lo": nic, "eth0": nic, "eth1": nic}
    network = machine.probe()().details["network"]
    assert network == {name: 2 * count for name, count in counters.items()}


# -- verdicts


@pytest.mark.parametrize(
    ("levels", "percent", "code"),
    [
        (Levels(), 79.99, None),
        (Levels(), 80.0, "memory_high"),
        (Levels(), 94.99, "memory_high"),
        (Levels(), 95.0, "memory_critical"),
        (Levels(50, 50), 50.0, "memory_critical"),
    ],
)
def test_levels(machine: Machine, levels: Levels, percent: float, code: str | None) -> None:
    machine.host.total = 10_000
    machine.host.available = round(10_000 - 100 * percent)
    result = machine.probe(levels={**ANYTHING, "memory": levels})()
    assert result.code == code
    part = result.details["memory"]
    assert part["error"] == code
    assert part["status"] == result.status.word
    assert part["usage_percent"] == percent


def test_the_worst_part_counts(machine: Machine) -> None:
    result = machine.probe(levels={"memory": Levels(0, 100), "disk": Levels(0, 0)})()
    assert (result.status, result.code) == (Status.UNHEALTHY, "disk_critical")
    assert result.details["memory"]["error"] == "memory_high"
    assert "memory" in result.reason
    assert "disk" in result.reason


def test_a_path_that_is_not_there(machine: Machine, tmp_path: Path) -> None:
    result = machine.probe(disk_path=tmp_path / "nowhere")()
    assert (result.status, result.code) == (Status.UNHEALTHY, "configuration_invalid")
    assert result.details["disk"] == {
        "status": "unhealthy",
        "usage_percent": None,
        "error": "configuration_invalid",
        "total_bytes": None,
        "used_bytes": None,
        "free_bytes": None,
        "source": None,
        "mount_point": None,
    }


class BlindHost(FakeHost):
    """A machine that tells nothing."""

    def _blind(self, **_: object) -> Any:
        raise FileNotFoundError("/proc/meminfo")

    cpu_times = virtual_memory = net_io_counters = _blind


def test_what_cannot_be_read(machine: Machine) -> None:
    result = machine.probe(host=BlindHost())()
    assert result.code == "check_failed"
    for name in ("cpu", "memory"):
        part = result.details[name]
        assert (part["status"], part["error"]) == ("unhealthy", "check_failed")
        assert {value for key, value in part.items() if key not in ("status", "error")} == {None}
    assert set(result.details["network"].values()) == {None}
    assert result.details["disk"]["status"] == "healthy"


def test_the_keys_are_always_the_same(machine: Machine, tmp_path: Path) -> None:
    def keys(result: Result) -> dict[str, set[str]]:
        return {name: set(part) for name, part in result.details.items()}

    whole = keys(machine.probe()())
    assert whole == {
        "cpu": {"status", "usage_percent", "error", "cores", "source"},
        "memory": {
            "status",
            "usage_percent",
            "error",
            "total_bytes",
            "used_bytes",
            "available_bytes",
            "source",
        },
        "disk": {
            "status",
            "usage_percent",
            "error",
            "total_bytes",
            "used_bytes",
            "free_bytes",
            "source",
            "mount_point",
        },
        "network": {"bytes_sent", "bytes_recv", "packets_sent", "packets_recv"},
    }
    blind = machine.probe(host=BlindHost(), disk_path=tmp_path / "nowhere")
    assert keys(blind()) == whole


def test_on_this_machine() -> None:
    result = ResourcesProbe(levels=ANYTHING)()
    assert result.status is Status.HEALTHY
    for part in ("cpu", "memory", "disk"):
        assert 0 <= result.details[part]["usage_percent"] <= 100
