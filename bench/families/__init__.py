"""One module for each family of rows; ``NAMES`` is the order of the table.

FAMILY    how rows, results and plots call it
HOW       how its figures are made, for the document; written from the module's own constants
rows      measures: gives its rows as they are found
curves    points for the plots of how something grows; not every family has them
profile   the steps of an answer and the time of each; one family has it
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Protocol

from bench.core import Effort, Row

NAMES = (
    "probes",
    "own_route",
    "metrics",
    "endpoints",
    "bounded",
    "recovery",
    "memory",
    "coordination",
    "page",
    "peers",
    "growth",
    "hot_path",
)


class Family(Protocol):
    """What a module of this package is to the rest of the bench."""

    FAMILY: str
    HOW: str
    rows: Callable[[Effort], Iterator[Row]]


def load(name: str) -> Any:
    """The module of a family."""
    return import_module(f"bench.families.{name}")


def everyone() -> dict[str, Any]:
    """All families by the name that the table knows, in its order."""
    return {load(name).FAMILY: load(name) for name in NAMES}
