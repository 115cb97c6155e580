"""The pod itself: are the workers that should serve there, and what do they cost?

What the workers say of themselves comes from their slots; whether they are still there, and
what they use, from the process files. A process id alone names nobody, since ids come back:
a worker is there when the process with its id also has its start time.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from service.health import Phase, ProgressLimits, Result, Role, WorkerSlot
from service.health.workers import alive

PATIENCE = 10.0  # seconds a worker may be missing: it takes a moment to start another
WINDOW = 60.0  # seconds over which requests are counted

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Process:
    """What one process uses.

    Attributes:
        pid: Its id.
        start: Its start time, clock ticks since boot.
        cpu: CPU seconds it has used, user and system.
        threads: Its threads.
        rss_bytes: Its memory, pages shared with others included.
        open_files: Descriptors of files, devices included; None when they are not ours to see.
        connections: Descriptors of sockets, listeners included; None likewise.
    """

    pid: int
    start: int
    cpu: float
    threads: int
    rss_bytes: int
    open_files: int | None
    connections: int | None


def _process(proc: Path, pid: int) -> _Process | None:
    """A living process; None when there is none with that id."""
    directory = proc / str(pid)
    try:
        stat = (directory / "stat").read_text(encoding="ascii", errors="replace")
        links = _links(directory / "fd")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name before the last parenthesis may hold anything. The first field behind it is
    # the state, number 3 in proc(5).
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    user, system, threads, start, rss = (int(fields[number - 3]) for number in (14, 15, 20, 22, 24))
    return _Process(
        pid=pid,
        start=start,
        cpu=(user + system) / _TICKS,
        threads=threads,
        rss_bytes=rss * _PAGE_BYTES,
        open_files=None if links is None else sum(link.startswith("/") for link in links),
        connections=None if links is None else sum(link.startswith("socket:") for link in links),
    )


def _links(directory: Path) -> list[str] | None:
    """What the open descriptors of a process point to; None when it is another user's."""
    try:
        return list(_readable(directory.iterdir()))
    except PermissionError:
        return None


def _readable(entries: Iterable[Path]) -> Iterator[str]:
    for entry in entries:
        try:
            yield str(entry.readlink())
        except FileNotFoundError:
            continue  # closed since it was listed


def _total(figures: Iterable[int | None]) -> int | None:
    """The sum; None of nothing, and where a figure is missing."""
    known = list(figures)
    if not known or None in known:
        return None
    return sum(filter(None, known))


@dataclass(slots=True, kw_only=True, eq=False)
class ApplicationProbe:
    """Judges the pod's workers and sums up what its processes use. For one thread.

    Attributes:
        workers: What the pod's worker processes, of whatever role, say of themselves.
        expected: How many web workers there should be.
        vacant_since: When a web worker that had booted was last found gone, or the pod started,
            on ``clock``.
        finished: Requests finished in the pod so far.
        limits: How long a worker may stand still.
        master_pid: Process id of the pod's master.
        expected_migration: The schema revision there should be, or None for any.
        revision: The schema revision there is; None when it cannot be read.
        proc: Where the process files are.
        clock: The monotonic clock of the workers' stamps, seconds.
    """

    workers: Callable[[], Iterable[WorkerSlot]]
    expected: Callable[[], int]
    vacant_since: Callable[[], float]
    finished: Callable[[], int]
    limits: ProgressLimits
    master_pid: int
    expected_migration: str | None = None
    revision: Callable[[], str | None] = lambda: None
    proc: Path = Path("/proc")
    clock: Callable[[], float] = monotonic
    _short_since: float | None = field(init=False, default=None)
    _cpu_before: tuple[float, Mapping[tuple[int, int], float]] | None = field(
        init=False, default=None
    )
    _counts: deque[tuple[float, int]] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        self._counts.append((self.clock(), self.finished()))

    def __call__(self) -> Result:
        """Looks at the workers and their processes. Reads files, and waits for nothing."""
        now = self.clock()
        slots = list(self.workers())
        processes = self._processes(slots)
        there = {process.pid: process.start for process in processes}
        web = [
            slot
            for slot in slots
            if slot.role is Role.WEB and there.get(slot.pid) == slot.process_start
        ]
        live = sum(slot.phase is Phase.READY and not slot.stuck(now, self.limits) for slot in web)
        expected = self.expected()
        migrations = self._migrations()
        details = {
            "database_migrations": migrations,
            "active_connections": sum(slot.in_flight for slot in web),
            "requests_per_minute": self._requests_per_minute(now),
            "workers_expected": expected,
            "workers_live": live,
            "process": self._used(processes, now),
        }
        if not alive(slots, self.vacant_since(), now, self.limits):
            code = "workers_stalled"
        elif self._missing(expected - live, now):
            code = "workers_missing"
        elif migrations == "pending":
            code = "migrations_pending"
        else:
            return Result(details=details)
        reason = f"{live} of {expected} web workers make progress, migrations: {migrations}"
        return Result.failed(code, reason, details=details)

    def _processes(self, slots: Iterable[WorkerSlot]) -> list[_Process]:
        """The living processes of the pod, each once: the master may be a worker, too."""
        starts = {slot.pid: slot.process_start for slot in slots}
        found = (_process(self.proc, pid) for pid in {self.master_pid, *starts})
        return [
            process
            for process in found
            if process is not None and starts.get(process.pid, process.start) == process.start
        ]

    def _missing(self, short: int, now: float) -> bool:
        """Whether workers have been missing for too long."""
        if short <= 0:
            self._short_since = None
            return False
        if self._short_since is None:
            self._short_since = now
        return now - self._short_since > PATIENCE

    def _migrations(self) -> str:
        if self.expected_migration is None:
            return "unknown"
        revision = self.revision()
        if revision is None:
            return "unknown"
        return "up_to_date" if revision == self.expected_migration else "pending"

    def _requests_per_minute(self, now: float) -> int | None:
        """Requests finished in the newest ``WINDOW``; None where a predecessor saw some of them."""
        self._counts.append((now, self.finished()))
        begin = now - WINDOW
        first, earlier = self._counts[0]
        if begin < first and earlier:
            return None
        while self._counts[1][0] <= begin:
            self._counts.popleft()
        (before, few), (after, more) = self._counts[0], self._counts[1]
        # The window begins between two samples: requests are taken to have come evenly.
        share = max(0.0, begin - before) / (after - before) if after > before else 0.0
        return round(self._counts[-1][1] - few - share * (more - few))

    def _used(self, processes: list[_Process], now: float) -> dict[str, Any]:
        rss = _total(process.rss_bytes for process in processes)
        return {
            "pid": self.master_pid,
            "memory_rss_mb": None if rss is None else round(rss / _MIB, 2),
            "cpu_percent": self._cpu_percent(processes, now),
            "num_threads": _total(process.threads for process in processes),
            "open_files": _total(process.open_files for process in processes),
            "connections": _total(process.connections for process in processes),
        }

    def _cpu_percent(self, processes: list[_Process], now: float) -> float | None:
        """CPU time since the run before, in percent of one core; None at the first run."""
        before = self._cpu_before
        times = {(process.pid, process.start): process.cpu for process in processes}
        self._cpu_before = now, times
        if before is None or now <= before[0]:
            return None
        then, spent = before
        # Who was not there before was born since, so all of its time counts.
        used = sum(cpu - spent.get(process, 0.0) for process, cpu in times.items())
        return round(100 * max(used, 0.0) / (now - then), 2)
