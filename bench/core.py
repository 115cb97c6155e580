"""Rows of the table, their targets, and how two things are compared.

Two subjects are never measured one after the other but in turns, each round in the opposite
order of the round before, so that a slow minute of the machine meets both. A round gives one
ratio; the row's ratio is the median over the rounds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Any, Self, TypeVar

T = TypeVar("T")

# How far a figure that should be 1 may be from it: what counting whole runs leaves open.
EQUAL_WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio has to reach.

    Attributes:
        low: The least it may be.
        high: The most it may be.
        shown: How the table writes it.
    """

    low: float
    high: float
    shown: str

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return self.low <= ratio <= self.high

    def share(self, ratio: float) -> float:
        """How much of what is allowed a ratio takes: at 1 it is just reached, beyond missed."""
        above = ratio / self.high if self.high < float("inf") else 0.0
        below = self.low / ratio if self.low > 0 and ratio > 0 else 0.0
        return max(above, below)

    def __str__(self) -> str:
        return self.shown


def at_most(bound: float, shown: str = "") -> Target:
    """A ratio may not be higher."""
    return Target(float("-inf"), bound, f"<= {shown or f'{bound:g}'}")


def at_least(bound: float) -> Target:
    """A ratio may not be lower."""
    return Target(bound, float("inf"), f">= {bound:g}")


def exactly(bound: float) -> Target:
    """A ratio has to be this, as far as counting goes."""
    return Target(bound - EQUAL_WITHIN, bound + EQUAL_WITHIN, f"= {bound:g}")


def between(low: float, high: float) -> Target:
    """A ratio may be neither lower nor higher: where too little is a fault as well."""
    return Target(low, high, f"{low:g} to {high:g}")


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
        low: The lowest ratio of a round; None where rounds have none of their own.
        high: The highest.
        share: How much of what is allowed the ratio takes, see ``Target.share``.
        note: What has to be known to read it.
    """

    family: str
    name: str
    reference: str
    ours: str
    ratio: float | None
    target: str = ""
    met: bool | None = None
    missing: str = ""
    low: float | None = None
    high: float | None = None
    share: float | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        family: str,
        name: str,
        reference: str,
        ours: str,
        ratio: float,
        target: Target | None = None,
        *,
        rounds: Sequence[float] = (),
        note: str = "",
    ) -> Self:
        """A measured line.

        Args:
            family: Which family measures it.
            name: What is measured.
            reference: The reference's figure.
            ours: Our figure.
            ratio: Ours by the reference's.
            target: What it has to reach, if anything.
            rounds: The ratio of each round, of which only the ends are kept.
            note: What has to be known to read it.
        """
        return cls(
            family,
            name,
            reference,
            ours,
            significant(ratio),
            str(target) if target else "",
            target.met(ratio) if target else None,
            low=significant(min(rounds)) if rounds else None,
            high=significant(max(rounds)) if rounds else None,
            share=significant(target.share(ratio)) if target else None,
            note=note,
        )

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

    def of(self, full: float, quick: float) -> float:
        """So many seconds in a full run, or in a quick one."""
        return quick if self.quick else full

    def times(self, full: int, quick: int) -> int:
        """So many times in a full run, or in a quick one."""
        return quick if self.quick else full


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


def ratios(ours: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [one / other for one, other in zip(ours, reference, strict=True)]


def paired_ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(ratios(ours, reference))


def differences(ours: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The difference of each round."""
    return [one - other for one, other in zip(ours, reference, strict=True)]


def paired_difference(ours: Sequence[float], reference: Sequence[float]) -> float:
    """The median of the rounds' differences."""
    return median(differences(ours, reference))


def middle(values: Sequence[float]) -> tuple[float, float]:
    """Between which two values the true median lies, in 19 of 20 cases at least.

    By order statistics, so whatever the distribution is; of fewer than six values all are taken.
    """
    ordered, count = sorted(values), len(values)
    tail, cut = 0.0, 0  # how many values may be cut off at either end
    for rank in range(count // 2):
        tail += comb(count, rank) / 2**count
        if tail > 0.025:
            break
        cut = rank
    return ordered[cut], ordered[count - 1 - cut]


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


_BEGUN = time.monotonic()


def say(text: str) -> None:
    """Tells who waits how far the run has come."""
    print(f"bench: {time.monotonic() - _BEGUN:5.0f} s  {text}", flush=True)


Json = dict[str, Any]
