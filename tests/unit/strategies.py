"""Arbitrary checks, runs and snapshots, for properties that hold of all of them."""

from typing import Any

from hypothesis import strategies as st

from service.health import (
    Check,
    CheckState,
    Lifecycle,
    Result,
    Run,
    Scope,
    Snapshot,
    TaskState,
    Thresholds,
)
from service.health.codes import CODES
from service.settings import CHECKS

seconds = st.floats(0.1, 1e6, allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)

# Of probes: nothing, a whole part, and things no endpoint looks for.
MEASURED: list[dict[str, Any]] = [
    {},
    {"response_code": 503},
    {"connection": {"status": "unhealthy", "error": "timeout"}},
    {"memory": {"status": "healthy", "error": None, "usage_percent": 12.5}, "\u00e9": [None, ""]},
]


@st.composite
def results(draw: st.DrawFn) -> Result:
    """What a run may find; without a reason, which does not leave the process."""
    mild = [code for code, status in CODES.items() if status.word == "warning"]
    worse = [code for code, status in CODES.items() if status.word == "unhealthy"]
    code = draw(st.none() | st.sampled_from([*mild, *worse, "http_500"]))
    more: dict[str, Any] = {
        "response_time": draw(st.none() | seconds),
        "retry_after": draw(st.none() | seconds),
        "details": draw(st.sampled_from(MEASURED)),
    }
    return Result(**more) if code is None else Result.failed(code, **more)


@st.composite
def checks(draw: st.DrawFn, name: str) -> Check:
    """A definition of that name."""
    return Check(
        name,
        interval=draw(seconds),
        timeout=draw(seconds),
        failing_interval=draw(seconds),
        thresholds=Thresholds(draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        scope=draw(st.sampled_from(Scope)),
        critical=draw(st.booleans()),
        startup=draw(st.booleans()),
        unconfigured=draw(st.sampled_from([None, None, None, "not_configured"])),
    )


@st.composite
def states(draw: st.DrawFn, name: str) -> CheckState:
    """Where a check may stand after a few runs, or before the first."""
    state = CheckState.initial(draw(checks(name)))
    if state.check.unconfigured:
        return state
    now = draw(st.floats(0, 1e6))
    for result in draw(st.lists(results(), max_size=3)):
        now += draw(st.floats(0, 100))
        state = state.observe(Run(result, now, draw(st.floats(0, 4e9)), draw(seconds)))
    return state


@st.composite
def task_states(draw: st.DrawFn) -> TaskState:
    """How far a task may have come."""
    state = TaskState(scope=draw(st.sampled_from(Scope)), required=draw(st.booleans()))
    for attempt in range(1, draw(st.integers(1, 3))):
        state = state.running(attempt).failed("timeout", draw(st.none() | seconds), attempt)
    ends = [state, state.abandoned("task_failed"), state.succeeded(draw(st.none() | seconds), 9)]
    return draw(st.sampled_from(ends))


@st.composite
def snapshots(draw: st.DrawFn, names: tuple[str, ...] = CHECKS) -> Snapshot:
    """Everything at one moment, the lifecycle included."""
    lifecycle = draw(st.sampled_from(Lifecycle))
    return Snapshot(
        {name: draw(states(name)) for name in names},
        lifecycle=lifecycle,
        serving_at=None if lifecycle is Lifecycle.STARTING else draw(st.floats(1, 4e9)),
        tasks=draw(st.dictionaries(st.text(), task_states(), max_size=3)),
    )
