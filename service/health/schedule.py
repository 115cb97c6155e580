"""When a check runs next.

An interval counts from the end of a run to the start of the next, so a slow check cannot
overlap itself. Jitter keeps pods that booted together from asking together.
"""

from service.health.state import CheckState

FIRST_OFFSET = 1.0
JITTER = 0.1


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
