"""How far a startup task has come, and what a successor makes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health import Scope, StartupTask, Status, TaskState

TASK = StartupTask("migrate", retries=2)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"name": "Migrate"}, "task name 'Migrate' must match"),
        ({"name": ""}, "task name '' must match"),
        ({"once": "fleet"}, "task migrate: once must be release or pod, not 'fleet'"),
        ({"timeout": 0}, "task migrate: timeout must be more than 0 seconds"),
        ({"timeout": float("nan")}, "task migrate: timeout must be more than 0 seconds"),
        ({"timeout": float("inf")}, "task migrate: timeout must be more than 0 seconds"),
        ({"backoff": -1.0}, "task migrate: backoff must be more than 0 seconds"),
        ({"retries": -1}, "task migrate: retries must be at least 0"),
    ],
)
def test_what_no_task_can_be(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        StartupTask(**{"name": "migrate", **options})


def test_pauses_double_up_to_a_limit() -> None:
    task = StartupTask("migrate", backoff=2.0)
    assert [task.pause(failures) for failures in (1, 2, 3, 4, 5, 500)] == [2, 4, 8, 16, 30, 30]
    assert StartupTask("m", timeout=10, retries=2, backoff=1).patience == 10 * 3 + 1 + 2


@pytest.mark.parametrize(
    ("history", "letters"),
    [
        pytest.param(".", "WH", id="it works"),
        pytest.param("x.", "WWWH", id="it works at the second attempt"),
        pytest.param("xxx", "WWWWWU", id="it is given up"),
    ],
)
def test_histories(history: str, letters: str) -> None:
    state, seen = TaskState(), []
    for attempt, letter in enumerate(history, 1):
        state = state.running(attempt)
        seen.append(state)
        if letter == ".":
            state = state.succeeded(0.5, attempt)
        elif attempt > TASK.retries:
            state = state.abandoned("task_failed")
        else:
            state = state.failed("task_failed", 0.5, attempt)
        seen.append(state)
    words = {Status.WARNING: "W", Status.HEALTHY: "H", Status.UNHEALTHY: "U"}
    assert "".join(words[each.status] for each in seen) == letters
    assert all((each.code is None) == each.done for each in seen)
    assert state.attempt == len(history)


def test_a_code_lasts_until_it_is_refuted() -> None:
    first = TaskState().running(1)
    assert first.code == "not_yet_checked"
    second = first.failed("timeout", 60.0, 1).running(2)
    assert (second.status, second.code, second.duration) == (Status.WARNING, "timeout", 60.0)
    assert second.succeeded(1.0, 2).code is None


def test_nobody_can_begin_it() -> None:
    assert TaskState().waiting("connection_refused").status is Status.UNKNOWN
    assert TaskState().running(1).waiting("connection_refused").status is Status.WARNING


@given(st.booleans(), st.sampled_from(["", "r", "rf", "rfa", "rs"]))
def test_what_holds_a_pod_up(required: bool, steps: str) -> None:  # noqa: FBT001
    state = TaskState(required=required)
    for step in steps:
        state = {
            "r": lambda: state.running(1),  # noqa: B023 - called at once
            "f": lambda: state.failed("timeout", 1.0, 1),  # noqa: B023
            "a": lambda: state.abandoned("timeout"),  # noqa: B023
            "s": lambda: state.succeeded(1.0, 1),  # noqa: B023
        }[step]()
    free = steps == "rs" or (steps == "rfa" and not required)
    assert state.holds_up is not free


@pytest.mark.parametrize("serving", [True, False])
def test_a_successor_goes_on(serving: bool) -> None:  # noqa: FBT001
    done = TaskState().running(1).succeeded(0.5, 1)
    assert done.resumed(TASK, Scope.POD, serving=serving) == done
    under_way = TaskState().running(2)
    assert under_way.resumed(TASK, Scope.POD, serving=serving) == under_way


def test_a_successor_tries_again_what_was_given_up_unless_the_pod_serves() -> None:
    task = StartupTask("warm", required=False)
    over = TaskState(required=False).running(4).abandoned("timeout")
    assert over.resumed(task, Scope.FLEET, serving=True).given_up
    assert over.resumed(task, Scope.FLEET, serving=False) == TaskState(
        scope=Scope.FLEET, required=False
    )
