"""What a check has been through lately: for people who look, never for a decision.

Of a state's past only this is kept: how long its newest runs took, and when its status turned.
It is published with the state, so every worker shows the same, and a successor goes on with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from service.health.codes import is_code
from service.health.result import Run
from service.health.status import Status

RUNS = 20
TRANSITIONS = 5


class Sample(NamedTuple):
    """One run.

    Attributes:
        seconds: How long it took.
        status: What it found, undamped.
    """

    seconds: float
    status: Status


class Transition(NamedTuple):
    """One turn of a published status.

    Attributes:
        at: When, Unix seconds; for display only.
        status: What it became.
        code: Why; None exactly when HEALTHY.
    """

    at: float
    status: Status
    code: str | None


@dataclass(frozen=True, slots=True)
class History:
    """The newest of both, oldest first.

    Attributes:
        runs: ``RUNS`` at most.
        transitions: ``TRANSITIONS`` at most.
    """

    runs: tuple[Sample, ...] = ()
    transitions: tuple[Transition, ...] = ()

    def after(self, run: Run, before: Status, now: Status, code: str | None) -> Self:
        """The history after one more run, which took the status from ``before`` to ``now``."""
        transitions = self.transitions
        if now is not before:
            transitions = (*transitions, Transition(round(run.finished_at, 3), now, code))
        sample = Sample(round(run.duration, 5), run.result.status)
        return type(self)((*self.runs, sample)[-RUNS:], transitions[-TRANSITIONS:])

    @classmethod
    def of(cls, runs: Iterable[Any], transitions: Iterable[Any]) -> Self:
        """The history whose fields came through JSON, perhaps from another pod.

        Raises:
            ValueError, TypeError: They are none.
        """
        return cls(
            tuple(Sample(float(seconds), Status(status)) for seconds, status in runs),
            tuple(_transition(*transition) for transition in transitions),
        )


def _transition(at: float, status: int, code: str | None) -> Transition:
    if code is not None and not is_code(code):
        raise ValueError(f"{code!r} is not a documented code")
    return Transition(float(at), Status(status), code)
