"""What the kernel says of processes: processor time, memory, and who holds which connection."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# The last bits of the id of a process's clock, as clock_getcpuclockid(3) makes it.
CPUCLOCK_SCHED = 2


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of whole processes, threads that have ended included.

    By each process's own clock, in nanoseconds; /proc/PID/stat has ticks of 10 ms.
    """
    return sum(time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED) for pid in pids)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process, in bytes.

    Attributes:
        rss: All pages it has, those it shares with others included.
        pss: The same, each shared page divided by the number of those who share it.
        uss: The pages nobody else has: what would be free without it.
    """

    rss: int
    pss: int
    uss: int


def memory(pid: int) -> Memory:
    """Memory of a process now."""
    found = {}
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name.rstrip(":")] = int(value) * 1024
    return Memory(found["Rss"], found["Pss"], found["Private_Clean"] + found["Private_Dirty"])


def children(pid: int) -> list[int]:
    """The children of a process."""
    return [int(word) for word in (PROC / f"{pid}/task/{pid}/children").read_text().split()]


def owners(ports: Sequence[int], pids: Iterable[int]) -> dict[int, int]:
    """Which of the processes holds the server's end of each connection from a local port."""
    wanted = set(ports)
    inodes = {}
    for line in (PROC / "net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        remote = int(fields[2].rpartition(":")[2], 16)
        if remote in wanted and fields[9] != "0":
            inodes[f"socket:[{fields[9]}]"] = remote
    found = {}
    for pid in pids:
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target in inodes:
                found[inodes[target]] = pid
    return found


def cores() -> list[int]:
    """The processor cores this process may use."""
    return sorted(os.sched_getaffinity(0))
