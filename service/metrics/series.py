"""What the keys of the metric files name, and how it is printed.

A series is one line of the answer; its text up to the number is made once. A family is the
series of one metric, in the order the formats ask for: those of the same labels together, a
histogram's buckets by their ends and then its count, which is the sum of the buckets.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from json import loads
from math import isnan
from operator import add, itemgetter
from typing import Any

from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name
from prometheus_client.utils import floatToGoString

from service.metrics.files import DamagedError
from service.metrics.formats import Format

EXPONENT_FROM = 1e6  # below it the client prints numbers as Python does
MAX_ENDS = 8192
ZERO = -1  # cell behind all others; its number is 0

Labels = tuple[tuple[str, str], ...]

_go_float: Callable[[float], str] = floatToGoString


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One line of the answer, apart from its number. There is one object of each.

    Attributes:
        family: The metric it belongs to.
        kind: The kind of files it comes from, such as ``histogram`` or ``gauge_max``.
        meaning: The metric's help.
        sample: The series' own name.
        labels: Sorted, and without ``le``.
        bound: Upper end of a bucket of a histogram; None for everything else.
        prefix: The line up to its number.
    """

    family: str
    kind: str
    meaning: str
    sample: str
    labels: Labels
    bound: float | None
    prefix: str


def named(kind: str, process: str, key: bytes) -> Series:
    """The series that a key names.

    Args:
        kind: Of the file it is in.
        process: Whose it is, where each process's number is shown by itself; else empty.
        key: As it is in the file.

    Raises:
        ValueError, RecursionError: It names none.
    """
    match loads(key.decode()):
        case [str(family), str(sample), dict(labels), str(meaning)]:
            _check_words(family, sample, labels)
        case _:
            raise DamagedError("a key without its four parts")
    bound = None
    if kind.startswith("gauge"):
        labels.pop("pid", None)
        if process:
            labels["pid"] = process
    elif kind == "histogram" and "le" in labels:
        bound = float(labels.pop("le"))
        sample = f"{family}_bucket"
        if isnan(bound):
            raise DamagedError("a bucket without an end")
    pairs = tuple(sorted(labels.items()))
    return Series(family, kind, meaning, sample, pairs, bound, _prefix(sample, pairs, bound))


def _check_words(family: str, sample: str, labels: dict[str, Any]) -> None:
    if not all(isinstance(value, str) for value in labels.values()):
        raise DamagedError("a label that is no text")
    # The client's escaping lets a line break at the end of a name through.
    if not all(name and "\n" not in name for name in (family, sample, *labels)):
        raise DamagedError("a name that is none")


class Family:
    """One metric as it is printed.

    Args:
        series: What belongs to it.
        cells: Where in the row of totals each series' number is.
    """

    def __init__(self, series: Sequence[Series], cells: Mapping[Series, int]) -> None:
        self.name = series[0].family
        self._heads = {form: _head(series[0], form) for form in (Format.TEXT, Format.OPENMETRICS)}
        self._samples: list[str] = []
        self._prefixes: list[str] = []
        self._buckets: list[slice] = []  # each run of buckets, with the count that ends it
        order: list[int] = []
        by_labels: dict[Labels, list[Series]] = defaultdict(list)
        for one in series:
            by_labels[one.labels].append(one)
        for labels, members in by_labels.items():
            members.sort(key=_position)
            self._samples += [one.sample for one in members]
            self._prefixes += [one.prefix for one in members]
            order += [cells[one] for one in members]
            buckets = sum(one.bound is not None for one in members)
            if buckets:
                self._buckets.append(slice(len(order) - buckets, len(order) + 1))
                self._samples.append(f"{self.name}_count")
                self._prefixes.append(_prefix(f"{self.name}_count", labels))
                order.append(ZERO)
        self._pick = picker(order)

    def text(self, form: Format, totals: Sequence[float | None], names: Collection[str]) -> str:
        """The metric's head and lines, or those of some names, or nothing."""
        values: list[Any] = list(self._pick(totals))
        for run in self._buckets:
            values[run] = accumulate(values[run])
        printed, head = self._heads[form]
        whole = not names or self.name in names or printed in names
        if whole and None not in values:
            return head + "".join(map(add, self._prefixes, map(_end_of_line, values)))
        lines = [
            prefix + _end_of_line(value)
            for sample, prefix, value in zip(self._samples, self._prefixes, values, strict=True)
            if value is not None and (whole or sample in names)
        ]
        return head + "".join(lines) if whole or lines else ""


def families(cells: Mapping[Series, int]) -> list[Family]:
    """The metrics that some series belong to.

    Where an old and a new release disagree on what a metric is, the one met last is right:
    no name may be shown twice.
    """
    by_definition: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for series in cells:
        by_definition[series.family, series.kind].append(series)
    valid = {family: members for (family, _), members in by_definition.items()}
    return [Family(members, cells) for members in valid.values()]


def picker(indices: Sequence[int]) -> Callable[[Any], Sequence[Any]]:
    """Takes the values at some places out of a sequence, as fast as that goes."""
    if len(indices) > 1:
        return itemgetter(*indices)
    return lambda values: [values[index] for index in indices]


def _position(series: Series) -> tuple[bool, float]:
    """Where a series stands among those of the same labels: buckets last, and in order."""
    return series.bound is not None, series.bound or 0.0


def _prefix(sample: str, labels: Labels, bound: float | None = None) -> str:
    """The line of a sample up to its number."""
    if bound is not None:
        labels = tuple(sorted((*labels, ("le", _go_float(bound)))))
    pairs = [f'{escape_label_name(name)}="{_quoted(value)}"' for name, value in labels]
    braced = f"{{{','.join(pairs)}}}" if pairs else ""
    return f"{escape_metric_name(sample)}{braced} "


def _head(series: Series, form: Format) -> tuple[str, str]:
    """The name a metric is printed under, and the lines that introduce it."""
    kind = series.kind.partition("_")[0]
    name, meaning = series.family, series.meaning
    if form is Format.OPENMETRICS:
        meaning = _quoted(meaning)
    else:
        name = f"{name}_total" if kind == "counter" else name
        meaning = meaning.replace("\\", r"\\").replace("\n", r"\n")
    escaped = escape_metric_name(name)
    return name, f"# HELP {escaped} {meaning}\n# TYPE {escaped} {kind}\n"


class _Ends(dict[float, str]):
    """The ends of lines by their numbers: most of them come again in the next scrape.

    A dictionary looks one up in half the time of ``lru_cache``. One that is full starts again.
    """

    def __missing__(self, value: float) -> str:
        if len(self) >= MAX_ENDS:
            self.clear()
        plain = 0.0 <= value < EXPONENT_FROM
        end = self[value] = f"{value!r}\n" if plain else f"{_go_float(value)}\n"
        return end


_ends = _Ends()
_end_of_line = _ends.__getitem__


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
