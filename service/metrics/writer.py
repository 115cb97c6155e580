"""A process counts into its metric files.

prometheus_client keeps each number in an object of one class, ``values.ValueClass``. The class
here keeps it in the file itself: an increment is one addition in shared memory, and nothing is
copied or flushed. The client's own class for this is not used, because it

    takes its directory from the environment of the moment,
    grows its files by holes, so a full file system kills the process by SIGBUS,
    fails the request that makes a new series in a directory that is gone, and
    deadlocks in a child that was forked while another thread counted.

Where there is no room for a number it is kept in the process: counted, not shown, and said
once in the log. A process has one writer, as it has one ``ValueClass``.
"""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import structlog
from prometheus_client import values
from prometheus_client.mmap_dict import mmap_key

from service.metrics.files import RESERVED_BYTES, DamagedError, MetricFile, reserve

log = structlog.get_logger(__name__)

# Gives the path of this process's file of a kind, at any time the right one.
Locate = Callable[[str], Path]


class Writer:
    """The numbers of this process and the files they are in.

    Attributes:
        lock: Held for every change of a number. Reentrant, for what counts while it logs
            and for signal handlers that count.
        moved: Whether the numbers must be placed anew before the next change.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.moved = False
        self._locate: Locate | None = None
        self._files: dict[str, MetricFile] = {}
        self._numbers: WeakSet[SlotValue] = WeakSet()
        self._told = False

    def move(self, locate: Locate | None) -> None:
        """Counts into other files from now on; None: into no file.

        Numbers go on from what their new files say.
        """
        with self.lock:
            self._locate = locate
            self._told = False
            self.place_all()

    def forked(self) -> None:
        """In a forked child: its files are not its parent's, and nobody holds its lock."""
        self.lock = threading.RLock()
        self.moved = True

    def add(self, number: "SlotValue") -> None:
        """Takes in a new number. The lock is held."""
        if self.moved:
            self.place_all()
        self._place(number)
        self._numbers.add(number)

    def place_all(self) -> None:
        """Finds every number its place. The lock is held."""
        for file in self._files.values():
            file.close()
        self._files = {}
        self.moved = False
        for number in self._numbers:
            self._place(number)

    def _place(self, number: "SlotValue") -> None:
        try:
            number.cells, number.at = self._file(number.kind).place(number.key)
        except (OSError, DamagedError) as error:
            number.cells, number.at = memoryview(bytearray(16)).cast("d"), 0
            if self._locate and not self._told:
                self._told = True
                log.warning("metrics not shared", kind=number.kind, reason=str(error))

    def _file(self, kind: str) -> MetricFile:
        if self._locate is None:
            raise FileNotFoundError("this process has no metric files")
        if kind not in self._files:
            path = self._locate(kind)
            reserve(path, RESERVED_BYTES)
            self._files[kind] = MetricFile(path)
        return self._files[kind]


class SlotValue:
    """One number, as prometheus_client wants it; see the module.

    Attributes:
        kind: Which of the process's files it is in.
        key: Its name there.
        cells: The file as doubles.
        at: Index of the number in it; the timestamp is the next.
    """

    __slots__ = ("__weakref__", "at", "cells", "key", "kind")

    _multiprocess: ClassVar[bool] = True

    cells: "memoryview[float]"
    at: int

    def __init__(  # the client's signature
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Any,
        labelvalues: Any,
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        self.kind = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        self.key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
        with WRITER.lock:
            WRITER.add(self)

    def inc(self, amount: float) -> None:
        """Adds to the number."""
        with WRITER.lock:
            if WRITER.moved:
                WRITER.place_all()
            self.cells[self.at] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replaces the number, and when it was set, in Unix seconds."""
        with WRITER.lock:
            if WRITER.moved:
                WRITER.place_all()
            self.cells[self.at] = value
            self.cells[self.at + 1] = timestamp or 0.0

    def get(self) -> float:
        """The number as this process has left it."""
        with WRITER.lock:
            if WRITER.moved:
                WRITER.place_all()
            return float(self.cells[self.at])

    def set_exemplar(self, exemplar: object) -> None:
        """Exemplars have no place in the files."""

    def get_exemplar(self) -> None:
        """Exemplars have no place in the files."""


def add_together(amounts: Iterable[tuple[SlotValue, float]]) -> None:
    """Adds to several numbers under one hold of the lock."""
    with WRITER.lock:
        if WRITER.moved:
            WRITER.place_all()
        for number, amount in amounts:
            number.cells[number.at] += amount


WRITER = Writer()
os.register_at_fork(after_in_child=WRITER.forked)


def install(locate: Locate | None) -> None:
    """Makes every metric of this process count into the files that ``locate`` names.

    Metrics made before the first call keep the client's own class, and are not shown.
    """
    WRITER.move(locate)
    values.ValueClass = SlotValue
