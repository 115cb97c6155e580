"""All metric files of the pod together, as text; fast when asked again.

Which numbers there are changes rarely, what they are always. So what a key says is parsed
once, and what is left of a scrape is to copy each file, gather its doubles, add them up and
put them behind text that is ready:

    file     its layout: the series it holds, and where the number of each is
    plan     derived from all layouts, dropped when one changes:
               cells     each series' place in the row of totals
               groups    files with the same cells, whose rows are added as a whole
               families  each metric's head, and its lines in order
    scrape   list the directory, read the files, plan if need be, add, print

A file counts for as long as the directory lists it under the same inode; its descriptor is
kept, so that the number of its inode cannot come back as another file's. A damaged file is
kept up to its good part. Lines and numbers are those of prometheus_client's own
``MultiProcessCollector``.
"""

import os
import re
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from operator import add, gt, lt
from pathlib import Path
from typing import Any

import structlog

from service.metrics.files import CORRUPT, HEADER_BYTES, DamagedError, entries, used
from service.metrics.formats import Format
from service.metrics.series import Series, families, named, picker

log = structlog.get_logger(__name__)

PAGE = 4096
AT_ONCE = 5  # rows that are added in one loop

_NAME = re.compile(
    r"(?P<kind>counter|histogram|summary|gauge_(?:live)?(?P<mode>all|sum|min|max|mostrecent))"
    r"_(?P<identity>[^_]+)\.db"
)

Row = Sequence[float]


class MultiprocessReader:
    """The metric files of a pod. One for each process that is scraped; thread-safe.

    Args:
        directory: Where the files are. It may come and go.

    Attributes:
        damaged: Files that the newest scrape could not use as a whole, or not at all, or that
            lie in quarantine.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._listable = True
        self._files: dict[str, _File] = {}
        self._out_of_reach = 0
        self._by_key: dict[tuple[str, str], dict[bytes, Series]] = {}
        self._by_meaning: dict[tuple[Any, ...], Series] = {}
        self._plan: _Plan | None = None
        self._make_room(PAGE)
        self.damaged = 0

    def render(
        self,
        form: Format,
        *,
        names: Collection[str] = frozenset(),
        without: Collection[str] = frozenset(),
    ) -> str:
        """The files as text, apart from the last line of OpenMetrics.

        Args:
            form: TEXT or OPENMETRICS.
            names: If not empty: the metrics and samples to show.
            without: Metrics to leave out.
        """
        with self._lock:
            self._list()
            for file in self._files.values():
                self._read(file)
            if self._plan is None:
                self._plan = _Plan(self._files.values())
                self._forget_strangers(self._plan.cells)
                for file in self._files.values():
                    self._copy(file, file.parsed)
                    file.gather(self._doubles)
            self.damaged = self._out_of_reach + sum(f.damaged for f in self._files.values())
            totals = self._plan.totals()
            shown = (family for family in self._plan.families if family.name not in without)
            return "".join(family.text(form, totals, names) for family in shown)

    # -- which files there are

    def _list(self) -> None:
        listed = self._inodes()
        gone = [name for name, file in self._files.items() if listed.get(name) != file.inode]
        for name in gone:
            del self._files[name]
        self._out_of_reach = sum(name.endswith(CORRUPT) for name in listed)
        found = [name for name in listed if name not in self._files and self._open(name, listed)]
        if gone or found:
            self._plan = None
            self._files = {name: self._files[name] for name in listed if name in self._files}

    def _inodes(self) -> dict[str, int]:
        try:
            with os.scandir(self._directory) as found:
                listed = {entry.name: entry.inode() for entry in found}
        except OSError as error:
            if self._listable:
                log.warning("metric files not listed", reason=error.strerror)
            self._listable = False
            return {}
        self._listable = True
        return listed

    def _open(self, name: str, inodes: dict[str, int]) -> bool:
        match = _NAME.fullmatch(name)
        if match is None:
            return False
        try:
            descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False  # a live gauge whose process has just been declared dead
        except OSError:
            self._out_of_reach += 1
            return False
        self._files[name] = _File(match, inodes[name], descriptor)
        return True

    # -- what is in them

    def _read(self, file: "_File") -> None:
        """Brings a file's numbers here, and its layout up to date."""
        try:
            claimed, end = self._load(file)
        except (OSError, DamagedError):
            claimed, end = -1, HEADER_BYTES
        if end < file.parsed:
            file.forget()
            self._plan = None
        if end > file.parsed:
            self._parse(file, end)
        file.damaged = claimed not in (0, file.parsed)
        file.gather(self._doubles)

    def _load(self, file: "_File") -> tuple[int, int]:
        """Copies what a file has in use: how much it says that is, and how much it can be."""
        here = self._copy(file, max(file.parsed, PAGE))
        claimed = used(self._buffer[:here])
        if claimed == 0:
            return claimed, HEADER_BYTES
        if HEADER_BYTES <= claimed <= here:
            return claimed, claimed
        end = os.fstat(file.descriptor).st_size
        if HEADER_BYTES <= claimed < end:
            end = claimed
        return claimed, self._copy(file, end)

    def _copy(self, file: "_File", size: int) -> int:
        """Copies the first bytes of a file: how many it has. What is missing is 0."""
        if size > len(self._buffer):
            self._make_room(size)
        here = os.preadv(file.descriptor, [self._buffer[:size]], 0)
        if here < size:
            self._buffer[here:size] = bytes(size - here)
        return here

    def _make_room(self, size: int) -> None:
        self._buffer = memoryview(bytearray(size + -size % PAGE))
        self._doubles = self._buffer.cast("d")

    def _parse(self, file: "_File", end: int) -> None:
        """Adds the series that a file has got since; stops before what is no entry."""
        process = file.identity if file.mode == "all" else ""
        known = self._by_key.setdefault((file.kind, process), {})
        try:
            for key, at, after in entries(self._buffer, file.parsed, end):
                if key not in known:
                    known[key] = self._the_one(named(file.kind, process, key))
                file.series.append(known[key])
                file.at.append(at)
                file.parsed = after
                self._plan = None
        except (ValueError, RecursionError):
            return  # what comes after it cannot be trusted either

    def _the_one(self, series: Series) -> Series:
        """The object that stands for a series, however its keys are written."""
        identity = series.kind, series.family, series.sample, series.labels, series.bound
        return self._by_meaning.setdefault(identity, series)

    def _forget_strangers(self, cells: Collection[Series]) -> None:
        """Drops what is known of series that are gone."""
        for process, known in list(self._by_key.items()):
            self._by_key[process] = {key: one for key, one in known.items() if one in cells}
            if not self._by_key[process]:
                del self._by_key[process]
        self._by_meaning = {key: one for key, one in self._by_meaning.items() if one in cells}


class _File:
    """A file as it was when it was read last.

    Attributes:
        kind: First part of its name.
        mode: How its numbers are combined with those of other files.
        identity: Whose it is.
        inode: What the directory listed it under.
        descriptor: Open for as long as this object lives.
        parsed: How many of its bytes are known.
        damaged: Whether there are more that are of no use.
        series: What is in it, in its own order.
        at: Where the number of each is, in words.
        cells: The plan's cells of its numbers, ascending.
        row: Its numbers, in the order of ``cells``.
        ranks: What decides between files, where that is not the sum.
    """

    def __init__(self, name: re.Match[str], inode: int, descriptor: int) -> None:
        self.kind = name["kind"]
        self.mode = name["mode"] or "sum"
        self.identity = name["identity"]
        self.inode = inode
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self.forget()

    def forget(self) -> None:
        """Starts again from the first byte."""
        self.parsed = HEADER_BYTES
        self.damaged = False
        self.series: list[Series] = []
        self.at: list[int] = []
        self.row: Row = ()
        self.ranks: Row = ()
        self.arrange({})

    def arrange(self, cells: dict[Series, int]) -> None:
        """Puts the numbers into the order of their cells."""
        ordered = sorted(
            (cells[series], at) for series, at in zip(self.series, self.at, strict=True)
        )
        self.cells = tuple(cell for cell, _ in ordered)
        self._pick = picker([at for _, at in ordered])
        self._pick_stamps = picker([at + 1 for _, at in ordered])

    def gather(self, doubles: "memoryview[float]") -> None:
        """Takes its numbers out of its bytes."""
        self.row = self._pick(doubles)
        self.ranks = self._pick_stamps(doubles) if self.mode == "mostrecent" else self.row


class _Plan:
    """What follows from the layouts of all files; see the module.

    Attributes:
        cells: Each series' place in the row of totals.
        families: The metrics, in the order in which they were met.
    """

    def __init__(self, files: Collection[_File]) -> None:
        self.cells: dict[Series, int] = {}
        for file in files:
            for series in file.series:
                self.cells.setdefault(series, len(self.cells))
        groups: dict[tuple[int, ...], list[_File]] = defaultdict(list)
        self._rivals: list[_File] = []
        for file in files:
            file.arrange(self.cells)
            if file.mode in _WINS:
                self._rivals.append(file)
            elif file.cells:
                groups[file.cells].append(file)
        self._groups = list(groups.items())
        self.families = families(self.cells)

    def totals(self) -> list[float | None]:
        """The numbers of all files together, by cell; None for what nobody has ever set."""
        totals: list[float | None] = [*[None] * len(self.cells), 0.0]
        for cells, files in self._groups:
            row = _added([file.row for file in files])
            for cell, value in zip(cells, row, strict=True):
                totals[cell] = (totals[cell] or 0.0) + value
        self._decide(totals)
        return totals

    def _decide(self, totals: list[float | None]) -> None:
        best: dict[int, float] = {}
        for file in self._rivals:
            wins = _WINS[file.mode]
            never = 0.0 if file.mode == "mostrecent" else None
            for cell, value, rank in zip(file.cells, file.row, file.ranks, strict=True):
                standing = best.get(cell, never)
                if standing is None or wins(rank, standing):
                    best[cell] = rank
                    totals[cell] = value + 0.0  # so that -0.0 is printed as other zeros are


def _added(rows: list[Row]) -> Row:
    """The sum of some rows, in their order.

    Not by ``sum``, which compensates rounding errors since Python 3.12: the last digits would
    depend on the version, and differ from the client's. A loop that adds five at once takes half
    the time of one that makes a list for each.
    """
    total, *rest = rows
    while len(rest) >= AT_ONCE:
        five, rest = rest[:AT_ONCE], rest[AT_ONCE:]
        total = [a + b + c + d + e + f for a, b, c, d, e, f in zip(total, *five, strict=True)]
    for row in rest:
        total = list(map(add, total, row))
    return total


# How files that are no summands settle whose number stands, the later against the standing.
_WINS: dict[str, Callable[[float, float], bool]] = {"min": lt, "max": gt, "mostrecent": gt}
