"""When a check runs next.

An interval counts from the end of a run to the start of the next, so a slow check cannot
overlap itself. Jitter keeps pods that booted together from asking together.
"""

from service.health.check import Check, Scope
from service.health.state import CheckState

FIRST_OFFSET = 1.0
JITTER = 0.1
# Nobody is there to do it for the others, so each does it more rarely, and not at once.
ALONE_JITTER = 0.5
# Below so many syncs an interval is over before its result has reached everybody.
SHAREABLE = 1.5


def first_start(booted: float, chance: float) -> float:
    """When a check runs for the first time.

    Args:
        booted: Start of the monitor, monotonic seconds.
        chance: Random number in [0, 1).
    """
    return booted + FIRST_OFFSET * chance


def next_start(state: CheckState, chance: float) -> float:
    """When a check that has run runs again, monotonic seconds.

    Args:
        state: Where the check stands after its newest run.
        chance: Random number in [0, 1).

    A service that asked to be left alone is, for at most one interval longer.
    """
    run, check = state.run, state.check
    if run is None:
        raise ValueError(f"check {check.name} has not run yet")
    interval = check.failing_interval if state.failing else check.interval
    if run.result.retry_after is not None:
        interval = max(interval, min(run.result.retry_after, 2 * check.interval))
        return run.finished + interval
    return run.finished + interval * (1 + JITTER * (2 * chance - 1))


def next_alone(state: CheckState, chance: float, sync: float) -> float:
    """When a check that one pod runs for the fleet runs here, if nothing comes from there.

    Args:
        state: Where the check stands after its newest run, of whatever pod.
        chance: Random number in [0, 1).
        sync: Seconds from one look at the shared results to the next.

    So late that a result under way would have arrived, and in time for the newest one not to
    expire before this run has ended.
    """
    run, check = state.run, state.check
    if run is None:
        raise ValueError(f"check {check.name} has not run yet")
    interval = check.failing_interval if state.failing else check.interval
    patience = max(2 * interval, interval + 2.5 * sync, run.result.retry_after or 0.0)
    return run.finished + min(patience * (1 + ALONE_JITTER * chance), 3 * check.interval)


def shareable(check: Check, sync: float) -> bool:
    """Whether results of a check can be shared in time, if pods look once in ``sync`` seconds."""
    return check.scope is Scope.FLEET and check.interval >= SHAREABLE * sync
