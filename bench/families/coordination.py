"""What a fleet of a thousand pods costs its one Redis server.

Every simulated pod makes its one call per interval with the service's own client code, at the
rate a fleet of that size would have. The server's processor time is what counts.
"""

from collections.abc import Iterator
from importlib.util import find_spec

from bench.core import Effort, Row, at_most

FAMILY = "coordination"
PODS = 1000
SERVER = at_most(0.05, "5 % of a core")
NAME = f"one coordination call per pod per interval, {PODS:,} simulated pods: server CPU"


def rows(effort: Effort) -> Iterator[Row]:
    """The server's share of a core."""
    del effort
    if find_spec("service.coordination.fleet") is None:
        yield Row.absent(FAMILY, NAME, "service.coordination.fleet is not there yet", SERVER)
        return
    yield Row.absent(FAMILY, NAME, "not measured yet: the simulation is to be written", SERVER)
