"""Rows of the table, their targets, and how two things are compared.

Two subjects are never measured one after the other but in turns, each round in the opposite
order of the round before, so that a slow minute of the machine meets both. A round gives one
ratio; the row's ratio is the median over the rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self, TypeVar

T = TypeVar("T")

# How far a figure that should be 1 may be from it: what counting whole runs leaves open.
EQUAL_WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio has to reach.

    Attributes:
        relation: ``<=``, ``>=`` or ``=``.
        bound: The ratio.
        shown: How the table writes it, where not as a number.
    """

    relation: str
    bound: float
    shown: str = ""

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        if self.relation == "=":
            return abs(ratio - self.bound) <= EQUAL_WITHIN
        return ratio <= self.bound if self.relation == "<=" else ratio >= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.shown or f'{self.bound:g}'}"


def at_most(bound: float, shown: str = "") -> Target:
    """A ratio may not be higher."""
    return Target("<=", bound, shown)


def at_least(bound: float) -> Target:
    """A ratio may not be lower."""
    return Target(">=", bound)


def exactly(bound: float) -> Target:
    """A ratio has to be this, as far as counting goes."""
    return Target("=", bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        family: Which family measures it.
        name: What is measured.
        reference: The reference's figure, with its name and unit.
        ours: Our figure, with its unit.
        ratio: Ours by the reference's; None where it could not be measured.
        target: What it has to reach; empty for what is only shown beside it.
        met: Whether it does; None where there is no target.
        missing: Why it could not be measured; empty where it was.
    """

    family: str
    name: str
    reference: str
    ours: str
    ratio: float | None
    target: str = ""
    met: bool | None = None
    missing: str = ""

    @classmethod
    def of(
        cls,
        family: str,
        name: str,
        reference: str,
        ours: str,
        ratio: float,
        target: Target | None = None,
    ) -> Self:
        """A measured line."""
        rounded = significant(ratio)
        if target is None:
            return cls(family, name, reference, ours, rounded)
        return cls(family, name, reference, ours, rounded, str(target), target.met(ratio))

    @classmethod
    def absent(cls, family: str, name: str, why: str, target: Target | None = None) -> Self:
        """A line that could not be measured, with the reason; one with a target is not met."""
        return cls(
            family,
            name,
            "",
            "",
            None,
            str(target) if target else "",
            met=False if target else None,
            missing=why,
        )


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: Turns each subject gets; many short ones meet a noisy machine alike.
        slice: Seconds of load in one turn.
        quick: Whether to leave out what takes minutes.
    """

    rounds: int = 31
    slice: float = 0.15
    quick: bool = False


FULL = Effort()
QUICK = Effort(rounds=9, slice=0.12, quick=True)


def in_turns(subjects: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each subject gives, round by round; every other round in the opposite order."""
    found: dict[str, list[T]] = {name: [] for name in subjects}
    for number in range(rounds):
        names = list(subjects)
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(subjects[name]())
    return found


def paired_ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(one / other for one, other in zip(ours, reference, strict=True))


def paired_difference(ours: Sequence[float], reference: Sequence[float]) -> float:
    """The median of the rounds' differences."""
    return median(one - other for one, other in zip(ours, reference, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    if not values:
        raise ValueError("no values, no percentile")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up: the nearest-rank definition
    return ordered[max(0, int(rank) - 1)]


def significant(value: float, digits: int = 3) -> float:
    """A figure without the digits that mean nothing."""
    return float(f"{value:.{digits}g}")


def microseconds(seconds: float) -> str:
    """A short time as the table shows it."""
    return f"{significant(seconds * 1e6):g} us"


def milliseconds(seconds: float) -> str:
    """A time as the table shows it."""
    return f"{significant(seconds * 1e3):g} ms"


def rate(per_second: float) -> str:
    """A throughput as the table shows it."""
    return f"{significant(per_second):,.0f}/s"


def mib(amount: float) -> str:
    """Bytes as the table shows them."""
    return f"{amount / 2**20:.1f} MB"


Json = dict[str, Any]
