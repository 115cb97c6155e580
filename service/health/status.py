"""The five words every answer is made of, and how they combine.

    NOT_CONFIGURED < HEALTHY < WARNING < UNKNOWN < UNHEALTHY

Aggregation is ``max``: whoever has nothing to check never makes anybody worse.
"""

from collections.abc import Iterable
from enum import IntEnum


class Status(IntEnum):
    """Outcome of a check, of a part of one, or of everything."""

    NOT_CONFIGURED = 0
    HEALTHY = 1
    WARNING = 2
    UNKNOWN = 3
    UNHEALTHY = 4

    @property
    def word(self) -> str:
        """The word on the wire, such as ``not_configured``."""
        return self.name.lower()

    @property
    def passes(self) -> bool:
        """Whether a question with this verdict is answered 200 (else 503)."""
        return self <= Status.WARNING

    @property
    def up(self) -> int | None:
        """1 or 0 as a number to plot; None where there is nothing to check."""
        return None if self is Status.NOT_CONFIGURED else int(self.passes)

    @classmethod
    def of(cls, word: str) -> "Status":
        """The status a wire word stands for.

        Raises:
            KeyError: The word is none of the five.
        """
        return cls[word.upper()]


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of some statuses; NOT_CONFIGURED of none."""
    return max(statuses, default=Status.NOT_CONFIGURED)
