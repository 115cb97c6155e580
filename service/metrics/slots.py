"""Whose metric files they are: a slot is a number that one living process holds.

    slot3.lock              locked for as long as the process lives, whatever it dies of
    counter_3.db            one of its files, in which its successor in the slot goes on
    counter_3.db.corrupt    one that was found broken, out of every reader's way

So the number of files follows how many processes live at once and not how many ever lived,
and a counter is never lost with its worker. The lock is POSIX's (``lockf``): a child that a
worker forks must not keep the worker's slot. Its price is that closing any descriptor of the
file drops it, so nothing else here ever opens one.
"""

import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from service.metrics import writer
from service.metrics.files import CORRUPT, DamagedError, check, reserve
from service.metrics.series import named

log = structlog.get_logger(__name__)

# What the instruments write, in bytes of their expected series. Files of other kinds are made
# when the application's first metric of that kind is.
RESERVED = {"counter": 64 * 1024, "histogram": 128 * 1024}

Reserve = Callable[[Path, int], None]


@dataclass(frozen=True, slots=True)
class MetricSlot:
    """The slot of one process. Nothing frees it but the end of the process.

    Attributes:
        directory: Where the files are.
        owner: Process id of the one who took it.
        number: The slot; None when not even a lock file could be had.
        lock: Descriptor of the lock file, or None; open as long as the process lives.
        shared: Whether the process counts into files; if not, into memory nobody else sees.
        quarantined: Files of the slot found broken when it was taken.
    """

    directory: Path
    owner: int
    number: int | None = None
    lock: int | None = None
    shared: bool = False
    quarantined: int = 0

    @property
    def held(self) -> bool:
        """Whether this process has the slot, by the lock file that others go by.

        A forked child has not, nor has anybody after the directory has been emptied.
        """
        if self.lock is None or os.getpid() != self.owner:
            return False
        try:
            there = _lock_file(self.directory, self.number).stat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self.lock))

    @property
    def identity(self) -> str:
        """Last part of the names of this process's files.

        A child that the owner forked counts for itself: two writers break a file.
        """
        pid = os.getpid()
        return str(self.number) if pid == self.owner else f"p{pid}"

    def path(self, kind: str) -> Path:
        """This process's file of a kind, such as ``counter`` or ``gauge_max``.

        Raises:
            FileNotFoundError: The slot is no longer the owner's, nor are its files.
        """
        if os.getpid() == self.owner and not self.held:
            raise FileNotFoundError(f"the lock file of metric slot {self.number} is gone")
        return self.directory / f"{kind}_{self.identity}.db"

    def use(self) -> None:
        """Makes every metric that this process creates from now on count into the slot."""
        writer.install(self.path if self.shared else None)


def prepare(directory: Path, *, fresh: bool) -> None:
    """Makes the directory of the metric files; for the arbiter, before any worker.

    Lock files stay: who made one may live.

    Args:
        directory: Where it shall be.
        fresh: Whether the pod starts, and with it its counters. Never on a reload, and never
            while another master lives in the directory.

    Raises:
        OSError: It cannot be made or emptied.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if fresh:
        for pattern in ("*.db", "*.db.new", f"*.db{CORRUPT}"):
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)


def take_slot(directory: Path, *, reserve: Reserve = reserve) -> MetricSlot:
    """Takes the lowest free slot for this process, for life; the same when asked again.

    What a predecessor left is put right: broken files are renamed away, and its live gauges
    vanish with it. Never raises for the state of the disk: a process that has nowhere to count
    still works.

    Args:
        directory: Where the slots are; see ``prepare``.
        reserve: Makes a file of a size with all its blocks, or raises OSError.
    """
    directory = directory.resolve()
    slot = _taken.get(directory)
    if slot is None or not slot.held:
        slot = _taken[directory] = _take(directory, reserve)
    return slot


_taken: dict[Path, MetricSlot] = {}


def _take(directory: Path, reserve: Reserve) -> MetricSlot:
    slot = MetricSlot(directory, os.getpid())
    try:
        number, lock = _lock_lowest(directory)
        slot = replace(slot, number=number, lock=lock)
        for path in directory.glob(f"gauge_live*_{number}.db"):
            path.unlink(missing_ok=True)
        slot = replace(slot, quarantined=_quarantine(directory.glob(f"*_{number}.db")))
        for kind, size in RESERVED.items():
            reserve(directory / f"{kind}_{number}.db", size)
    except OSError as error:
        log.warning("metrics not shared", slot=slot.number, reason=str(error))
        return slot
    return replace(slot, shared=True)


def _lock_lowest(directory: Path) -> tuple[int, int]:
    """Number and descriptor of the lowest slot that nobody holds, locked."""
    number = 0
    while (lock := _locked(_lock_file(directory, number))) is None:
        number += 1
    return number, lock


def _lock_file(directory: Path, number: int | None) -> Path:
    return directory / f"slot{number}.lock"


def _locked(path: Path) -> int | None:
    """The descriptor of a file, locked; None if somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    return descriptor


def _quarantine(paths: Iterable[Path]) -> int:
    """Renames broken files away; how many there were."""
    broken = 0
    for path in paths:
        kind = path.stem.rpartition("_")[0]
        try:
            check(path, partial(named, kind, ""))
        except DamagedError as error:
            path.rename(path.with_name(path.name + CORRUPT))
            broken += 1
            log.warning("metric file corrupt", file=path.name, reason=str(error))
    return broken
