"""CPU, memory, disk and network of the pod, measured against what it may use.

A container may use what its control group allows, not what the machine has: 500 MiB used are
nothing to the host and the end of a pod with a limit of 512. So a limit is looked for in the
control groups of version 2, then of version 1, and only without any the host's figures count.
A group may lie in others that allow less: the smallest limit on the path to the root counts,
as far as the path is visible, and with it the usage of the group that has it.

CPU is a rate, the difference of two samples: of this run and of the run before. Only where
there is no run before to compare with, a run takes both, a moment apart.
"""

import errno
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, Protocol

import psutil

from service.health import Result, Status
from service.health.codes import status_of

_FIGURES = {
    "cpu": ("cores", "source"),
    "memory": ("total_bytes", "used_bytes", "available_bytes", "source"),
    "disk": ("total_bytes", "used_bytes", "free_bytes", "source", "mount_point"),
}
_COUNTERS = ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")


@dataclass(frozen=True, slots=True)
class Levels:
    """From which use on a part is no longer well, percent."""

    warning: float = 80.0
    critical: float = 95.0

    def code(self, part: str, percent: float) -> str | None:
        """The code for a use, such as ``cpu_high``; None when it is below both."""
        if percent >= self.critical:
            return f"{part}_critical"
        return f"{part}_high" if percent >= self.warning else None


class Host(Protocol):
    """The figures of the machine. The module ``psutil`` is one."""

    def cpu_times(self) -> Any:
        """Seconds the CPUs have spent in each state, since boot."""

    def cpu_count(self) -> int | None:
        """How many CPUs there are."""

    def virtual_memory(self) -> Any:
        """Bytes: ``total`` and ``available``."""

    def net_io_counters(self, *, pernic: bool) -> Any:
        """Bytes and packets by interface."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """One hierarchy of control groups, and the path to our own group in it."""

    root: Path
    path: tuple[str, ...]

    def __iter__(self) -> Iterator[Path]:
        """The directories of the groups on the path, the root first."""
        for end in range(len(self.path) + 1):
            yield self.root.joinpath(*self.path[:end])

    @property
    def own(self) -> Path:
        """The directory of our own group."""
        return self.root.joinpath(*self.path)


def _tree(root: Path, path: str) -> _Tree:
    """The tree mounted at ``root``, in which the kernel calls our group ``path``.

    A container may see only the lower end of its path, so the upper end is dropped until
    the rest exists; ``..`` leads out of what is visible.
    """
    parts = tuple(part for part in Path(path).parts if part not in ("/", ".."))
    while parts and not root.joinpath(*parts).is_dir():
        parts = parts[1:]
    return _Tree(root, parts)


def _trees(proc: Path, sys_fs: Path) -> Mapping[str, _Tree]:
    """The trees by the controller of version 1 they belong to; version 2 is ``""``."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = _tree(_mount(sys_fs, name, controllers), path)
    return found


def _mount(sys_fs: Path, name: str, controllers: str) -> Path:
    if name:
        alone = sys_fs / name
        return alone if alone.is_dir() else sys_fs / controllers
    # Beside trees of version 1 the one of version 2 is a directory of its own.
    return sys_fs if (sys_fs / "cgroup.controllers").exists() else sys_fs / "unified"


def _number(file: Path) -> int | None:
    """The number a file holds; None when there is no such file or it says ``max``."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _field(file: Path, name: str) -> int | None:
    """The number behind a name in a file of such lines; None without it."""
    try:
        fields = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
        return int(fields[name])
    except (OSError, ValueError, KeyError):
        return None


@dataclass(frozen=True, slots=True)
class _MemoryFiles:
    """How one version of the control groups tells limit, usage and cache."""

    source: str
    controller: str
    limit: str
    usage: str
    cache: str


_MEMORY_FILES = (
    _MemoryFiles("cgroup_v2", "", "memory.max", "memory.current", "inactive_file"),
    _MemoryFiles(
        "cgroup_v1",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


@dataclass(frozen=True, slots=True)
class _Memory:
    total: int
    used: int
    source: str


def _group_memory(trees: Mapping[str, _Tree], host_total: int) -> _Memory | None:
    """Limit and usage of the group with the smallest limit; None without a limit."""
    for files in _MEMORY_FILES:
        limits = {
            group: limit
            for group in trees.get(files.controller, ())
            if (limit := _number(group / files.limit)) and 0 < limit < host_total
        }
        if not limits:
            continue
        group = min(limits, key=limits.__getitem__)
        usage = _number(group / files.usage)
        if usage is not None:
            cache = _field(group / "memory.stat", files.cache) or 0
            return _Memory(limits[group], max(usage - cache, 0), files.source)
    return None


@dataclass(frozen=True, slots=True)
class _CpuSample:
    """How much CPU time has been used and could have been, since some beginning.

    Attributes:
        source: Where the figures come from.
        group: The control group they are of, or None.
        cores: How many cores may be used.
        used: CPU seconds used.
        capacity: CPU seconds that could have been used.
    """

    source: str
    group: Path | None
    cores: float
    used: float
    capacity: float

    def percent_since(self, other: "_CpuSample | None") -> float | None:
        """The share of the capacity used since another sample; None if that says nothing."""
        if other is None or (self.group, self.cores) != (other.group, other.cores):
            return None
        capacity = self.capacity - other.capacity
        return 100 * (self.used - other.used) / capacity if capacity > 0 else None


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: Path) -> float | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _group_cpu(trees: Mapping[str, _Tree], host_cores: int, now: float) -> _CpuSample | None:
    """Cores and CPU time of the group with the smallest limit; None without a limit."""
    for source, controller, cpuset, quota_of in (
        ("cgroup_v2", "", "", _quota_v2),
        ("cgroup_v1", "cpu", "cpuset", _quota_v1),
    ):
        tree = trees.get(controller)
        if tree is None:
            continue
        limits = {group: quota for group in tree if (quota := quota_of(group))}
        usable = _usable_cpus(trees.get(cpuset))
        if usable is not None and usable < host_cores:
            limits[tree.own] = min(limits.get(tree.own, usable), usable)
        if not limits:
            continue
        group = min(limits, key=limits.__getitem__)
        used = _cpu_time(trees, tree, group)
        if used is not None:
            cores = limits[group]
            return _CpuSample(source, group, cores, used, now * cores)
    return None


def _cpu_time(trees: Mapping[str, _Tree], tree: _Tree, group: Path) -> float | None:
    """CPU seconds a group has used; None when it does not say."""
    microseconds = _field(group / "cpu.stat", "usage_usec")
    if microseconds is not None:
        return microseconds / 1e6
    accounts = trees.get("cpuacct", tree)  # of version 1, and maybe mounted elsewhere
    nanoseconds = _number(accounts.root / group.relative_to(tree.root) / "cpuacct.usage")
    return None if nanoseconds is None else nanoseconds / 1e9


def _usable_cpus(tree: _Tree | None) -> int | None:
    """How many CPUs the nearest group that says so may run on."""
    for group in reversed(list(tree or ())):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            count = _list_length(group / name)
            if count:
                return count
    return None


def _list_length(file: Path) -> int | None:
    """How many numbers a list such as ``0-3,8`` names."""
    try:
        ranges = [[int(end) for end in span.split("-")] for span in file.read_text().split(",")]
    except (OSError, ValueError):
        return None
    return sum(span[-1] - span[0] + 1 for span in ranges)


class ResourcesProbe:
    """Measures what the pod uses of what it may use. For one thread, ``close`` apart.

    Args:
        levels: From which use on ``cpu``, ``memory`` and ``disk`` are no longer well.
        disk_path: A path on the file system that is watched.
        proc: Where the process files are.
        sys_fs: Where the control groups are.
        host: The figures of the machine.
        clock: Monotonic seconds.
        settle: Seconds between the two samples of a first run.
    """

    def __init__(
        self,
        *,
        levels: Mapping[str, Levels] = MappingProxyType({}),
        disk_path: Path = Path("/"),
        proc: Path = Path("/proc"),
        sys_fs: Path = Path("/sys/fs/cgroup"),
        host: Host = psutil,
        clock: Callable[[], float] = monotonic,
        settle: float = 0.25,
    ) -> None:
        self._levels = {part: levels.get(part, Levels()) for part in _FIGURES}
        self._disk_path = disk_path
        self._find_trees = partial(_trees, proc, sys_fs)
        self._host = host
        self._clock = clock
        self._settle = settle
        self._sample: _CpuSample | None = None
        self._impatient = threading.Event()

    def __call__(self) -> Result:
        """One measurement; the first takes up to ``settle`` seconds.

        The first use of the CPU is that of the pod's own boot: it warns at most.
        """
        self._impatient.clear()
        booting = self._sample is None
        trees = self._find_trees()
        reasons: list[str] = []
        parts = {
            "cpu": self._part("cpu", lambda: self._cpu(trees), reasons),
            "memory": self._part("memory", lambda: self._memory(trees), reasons),
            "disk": self._part("disk", self._disk, reasons),
        }
        if booting and parts["cpu"]["error"] == "cpu_critical":
            parts["cpu"].update(status=Status.WARNING.word, error="cpu_high")
        details = {**parts, "network": self._network()}
        # An unknown part, and only that, is one without a second sample: no news.
        known = [part for part in parts.values() if part["status"] != Status.UNKNOWN.word]
        code = max(known, key=lambda part: Status.of(part["status"]))["error"]
        if code is None:
            return Result(details=details)
        return Result.failed(code, "; ".join(reasons), details=details)

    def close(self) -> None:
        """End the wait for a second sample. From any thread, idempotent."""
        self._impatient.set()

    def _part(
        self,
        name: str,
        measure: Callable[[], tuple[float | None, Mapping[str, Any]]],
        reasons: list[str],
    ) -> dict[str, Any]:
        nothing = dict.fromkeys(_FIGURES[name])
        try:
            percent, figures = measure()
        except OSError as error:
            reasons.append(f"{name}: {error}")
            code = _code_of(error) if name == "disk" else "check_failed"
            return _shown(status_of(code), None, code, nothing)
        if percent is None:
            return _shown(Status.UNKNOWN, None, "not_yet_checked", figures)
        percent = round(min(max(percent, 0.0), 100.0), 2)
        exceeded = self._levels[name].code(name, percent)
        if exceeded is None:
            return _shown(Status.HEALTHY, percent, None, figures)
        reasons.append(f"{name}: {percent} %, {dict(figures)}")
        return _shown(status_of(exceeded), percent, exceeded, figures)

    def _cpu(self, trees: Mapping[str, _Tree]) -> tuple[float | None, Mapping[str, Any]]:
        sample = self._cpu_sample(trees)
        percent = sample.percent_since(self._sample)
        if percent is None and not self._impatient.wait(self._settle):
            before, sample = sample, self._cpu_sample(trees)
            percent = sample.percent_since(before)
        self._sample = sample
        return percent, {"cores": max(1, math.ceil(sample.cores)), "source": sample.source}

    def _cpu_sample(self, trees: Mapping[str, _Tree]) -> _CpuSample:
        cores = self._host.cpu_count() or 1
        limited = _group_cpu(trees, cores, self._clock())
        if limited is not None:
            return limited
        times = self._host.cpu_times()._asdict()
        # The time of guests is part of the time of users, too.
        total = sum(times.values()) - times.get("guest", 0) - times.get("guest_nice", 0)
        idle = times["idle"] + times.get("iowait", 0)
        return _CpuSample("host", None, cores, total - idle, total)

    def _memory(self, trees: Mapping[str, _Tree]) -> tuple[float, Mapping[str, Any]]:
        machine = self._host.virtual_memory()
        memory = _group_memory(trees, machine.total) or _Memory(
            machine.total, machine.total - machine.available, "host"
        )
        return 100 * memory.used / memory.total, {
            "total_bytes": memory.total,
            "used_bytes": memory.used,
            "available_bytes": max(memory.total - memory.used, 0),
            "source": memory.source,
        }

    def _disk(self) -> tuple[float, Mapping[str, Any]]:
        space = os.statvfs(self._disk_path)
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        free = space.f_bavail * space.f_frsize
        if used + free == 0:
            raise OSError(errno.EINVAL, "a file system without a size", str(self._disk_path))
        return 100 * used / (used + free), {
            "total_bytes": space.f_blocks * space.f_frsize,
            "used_bytes": used,
            "free_bytes": free,
            "source": "host",
            "mount_point": str(self._disk_path),
        }

    def _network(self) -> Mapping[str, int | None]:
        try:
            interfaces = self._host.net_io_counters(pernic=True)
        except OSError:
            return dict.fromkeys(_COUNTERS)
        real = [counters for name, counters in interfaces.items() if name != "lo"]
        return {name: sum(getattr(counters, name) for counters in real) for name in _COUNTERS}


def _shown(
    status: Status, percent: float | None, code: str | None, figures: Mapping[str, Any]
) -> dict[str, Any]:
    return {"status": status.word, "usage_percent": percent, "error": code, **figures}


def _code_of(error: OSError) -> str:
    """A path that is not there is a wrong setting; any other failure is the disk's."""
    wrong = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EINVAL)
    return "configuration_invalid" if wrong else "check_failed"
