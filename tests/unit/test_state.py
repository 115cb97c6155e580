"""Hysteresis as histories: runs in, published statuses out. Section 1.4 of the contract."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health import (
    Check,
    CheckState,
    History,
    Result,
    Run,
    Status,
    Thresholds,
    Transition,
)
from service.health.history import RUNS, TRANSITIONS
from tests.unit.fakes import HEALTHY, LETTERS, RESULTS, UNHEALTHY, WARNING, after, run

histories = st.text(st.sampled_from(".wx"), max_size=40)
counts = st.integers(1, 5)


def check(failure: int = 2, success: int = 2) -> Check:
    return Check("database", thresholds=Thresholds(failure, success))


def published(check: Check, history: str) -> str:
    """The status a reader sees after each run; at the end of each silence for ``_``."""
    state, now, letters = CheckState.initial(check), 1000.0, []
    for letter in history:
        if letter == "_":
            now += check.expiry + 1
        else:
            now += 1
            state = state.observe(run(RESULTS[letter], finished=now))
        letters.append(LETTERS[state.at(now).status])
    return "".join(letters)


@pytest.mark.parametrize(
    ("failure", "success", "results", "expected"),
    [
        pytest.param(2, 2, "....", "HHHH", id="all is well"),
        pytest.param(3, 1, ".xx.xxx", "HWWHWWU", id="a blip is forgiven"),
        pytest.param(1, 2, ".x.x..", "HUUUUH", id="flapping stays failed"),
        pytest.param(2, 2, ".x.", "HWH", id="one failure changes nothing for long"),
        pytest.param(2, 2, ".xx", "HWU", id="two in a row are believed"),
        pytest.param(2, 2, ".xx..", "HWUUH", id="two in a row are recovery"),
        pytest.param(2, 2, ".x.x.x.x", "HWHWHWHW", id="flapping never fails"),
        pytest.param(2, 2, ".xx.x.x..", "HWUUUUUUH", id="nor does it recover"),
        pytest.param(1, 1, ".x.x", "HUHU", id="without hysteresis"),
        pytest.param(2, 2, "x", "U", id="the first failure counts at once"),
        pytest.param(2, 2, "x.", "UU", id="and needs as much to recover"),
        pytest.param(5, 5, ".", "H", id="the first success counts at once"),
        pytest.param(5, 5, "w", "W", id="so does the first warning"),
        pytest.param(2, 2, ".ww.", "HWWH", id="a warning is not damped"),
        pytest.param(2, 2, "wxwxx", "WWWWU", id="a warning is no failure"),
        pytest.param(2, 2, "xxw.", "UUUH", id="a warning counts as a success"),
        pytest.param(2, 2, "xx.w", "UUUW", id="and is what recovery finds"),
        pytest.param(2, 2, "._x", "H?U", id="after an expiry a failure counts at once"),
        pytest.param(2, 2, "xx_.", "UU?H", id="and so does a success"),
        pytest.param(2, 2, ".x_x", "HW?U", id="even in the middle of a series"),
        pytest.param(3, 3, ".xx_.x", "HWW?HW", id="which begins anew"),
        pytest.param(2, 2, "_", "?", id="nothing has ever run"),
    ],
)
def test_histories(failure: int, success: int, results: str, expected: str) -> None:
    assert published(check(failure, success), results) == expected


def rise_and_fall(rise: int, fall: int, history: str) -> str:
    """HAProxy's check: one integer, up from ``rise`` on, full at ``rise + fall - 1``."""
    full, health, letters = rise + fall - 1, None, []
    for letter in history:
        if health is None:
            health = 0 if letter == "x" else full
        elif letter == "x":
            health = health - 1 if health > rise else 0
        elif health < full:
            health = full if health + 1 >= rise else health + 1
        if health < rise:
            letters.append("U")
        else:
            letters.append("W" if health < full or letter == "w" else "H")
    return "".join(letters)


@given(failure=counts, success=counts, history=histories)
def test_one_integer_says_the_same(failure: int, success: int, history: str) -> None:
    assert published(check(failure, success), history) == rise_and_fall(success, failure, history)


@given(failure=counts, success=counts, before=histories, history=histories)
def test_only_the_series_and_the_status_before_it_count(
    failure: int, success: int, before: str, history: str
) -> None:
    """Two pasts that end in the same status, confirmed, have the same future."""
    definition = check(failure, success)
    past = after(definition, before + ".")
    if past.status is Status.HEALTHY:
        assert published(definition, before + "." + history)[len(before) :] == published(
            definition, "." + history
        )


# -- the reason


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        pytest.param(
            [None, "timeout", "connection_refused"],
            [None, "timeout", "connection_refused"],
            id="the code of the failing run, before and after it is confirmed",
        ),
        pytest.param(
            ["timeout", None, None],
            ["timeout", "timeout", None],
            id="it stays until recovery is confirmed",
        ),
        pytest.param(
            ["timeout", "slow_response", "connection_lost"],
            ["timeout", "timeout", "connection_lost"],
            id="a failure in between has the newest reason",
        ),
        pytest.param(
            ["timeout", None, "slow_response"],
            ["timeout", "timeout", "slow_response"],
            id="recovery into a warning",
        ),
        pytest.param(
            ["slow_response", "timeout", "slow_response", None],
            ["slow_response", "timeout", "slow_response", None],
            id="a warning between",
        ),
    ],
)
def test_codes(codes: list[str | None], expected: list[str | None]) -> None:
    state, seen = CheckState.initial(check()), []
    for count, code in enumerate(codes):
        found = Result() if code is None else Result.failed(code)
        state = state.observe(run(found, finished=1000.0 + count))
        seen.append(state.code)
    assert seen == expected


@given(failure=counts, success=counts, history=histories)
def test_there_is_a_code_exactly_when_it_is_not_healthy(
    failure: int, success: int, history: str
) -> None:
    state = after(check(failure, success), history)
    assert (state.code is None) == (state.status is Status.HEALTHY)


# -- before the first result


def test_nobody_knows_before_the_first_result() -> None:
    state = CheckState.initial(check())
    assert (state.status, state.code, state.run) == (Status.UNKNOWN, "not_yet_checked", None)
    assert not state.passed_once
    assert not state.failing
    assert not state.expired(1e9)


@pytest.mark.parametrize("code", ["not_configured", "configuration_incomplete"])
def test_what_is_not_configured_is_nothing_to_wait_for(code: str) -> None:
    state = CheckState.initial(Check("redis", unconfigured=code))
    assert (state.status, state.code, state.run) == (Status.NOT_CONFIGURED, code, None)
    assert state.passed_once
    assert state.at(1e9) is state


# -- expiry


@pytest.mark.parametrize(
    ("age", "letter"),
    [
        pytest.param(0.0, "H", id="new"),
        pytest.param(17.0, "H", id="at the very limit"),
        pytest.param(17.001, "?", id="beyond it"),
        pytest.param(-1.0, "H", id="from the future"),
    ],
)
def test_expiry(age: float, letter: str) -> None:
    state = after(check(), ".")
    assert LETTERS[state.at(1000.0 + age).status] == letter


def test_an_expired_result_says_nothing_but_when_it_was() -> None:
    found = Result(response_time=0.5, details={"connection": {"status": "healthy"}})
    state = CheckState.initial(check()).observe(run(found, finished=1000.0, at=1.7e9))
    stale = state.at(1100.0)
    assert (stale.status, stale.code) == (Status.UNKNOWN, "stale")
    assert stale.run is not None
    assert stale.run.result.response_time is None
    assert stale.run.result.details == {}
    assert stale.run.finished_at == 1.7e9
    assert stale.failed_runs == state.failed_runs
    assert stale.passed_once
    assert stale.at(1100.0) == stale
    assert state.run is not None
    assert state.run.result == found, "the reader changes nothing"


@given(history=histories, age=st.floats(0, 100))
def test_a_reader_of_a_fresh_result_changes_nothing(history: str, age: float) -> None:
    state = after(check(), history)
    finished = state.run.finished if state.run else 0.0
    now = finished + age
    aged = state.at(now)
    assert aged is state or (aged.status is Status.UNKNOWN and aged.code == "stale")
    assert (aged is state) == (state.run is None or now - finished <= state.check.expiry)


@given(history=histories, walls=st.lists(st.floats(0, 4e9), min_size=40, max_size=40), step=counts)
def test_the_wall_clock_changes_no_status(history: str, walls: list[float], step: int) -> None:
    definition = check()
    steady = stepped = CheckState.initial(definition)
    for count, (letter, wall) in enumerate(zip(history, walls, strict=False)):
        finished = 1000.0 + step * count
        steady = steady.observe(run(RESULTS[letter], finished))
        stepped = stepped.observe(run(RESULTS[letter], finished, at=wall))
        assert (stepped.status, stepped.code) == (steady.status, steady.code)


# -- what is counted


@given(failure=counts, success=counts, history=histories)
def test_failed_runs_are_counted_undamped(failure: int, success: int, history: str) -> None:
    assert after(check(failure, success), history).failed_runs == history.count("x")


@given(failure=counts, success=counts, history=histories)
def test_passed_once_is_about_the_published_status(
    failure: int, success: int, history: str
) -> None:
    definition = check(failure, success)
    letters = published(definition, history)
    passed = after(definition, history).passed_once
    assert passed == any(letter in "HW" for letter in letters)


@pytest.mark.parametrize(
    ("history", "passed_at"),
    [
        pytest.param("", None, id="never"),
        pytest.param("xxx", None, id="never, though it ran"),
        pytest.param(".", 0, id="once"),
        pytest.param(".wx", 1, id="a warning passes"),
        pytest.param("xx.x", 2, id="before it is believed"),
    ],
)
def test_when_it_last_passed(history: str, passed_at: int | None) -> None:
    state = CheckState.initial(check())
    for count, letter in enumerate(history):
        state = state.observe(run(RESULTS[letter], finished=1000.0 + count, at=float(count)))
    assert state.passed_at == passed_at


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param("....", "    ", id="never"),
        pytest.param(".x.", " F ", id="a blip"),
        pytest.param(".xx..", " FFF ", id="until recovery is confirmed"),
        pytest.param("x..", "FF ", id="from the first result"),
        pytest.param("ww", "  ", id="a warning is no failure"),
    ],
)
def test_failing(history: str, expected: str) -> None:
    """From the first unhealthy result until the status has left unhealthy again."""
    states = [after(check(), history[: count + 1]) for count in range(len(history))]
    assert "".join("F" if state.failing else " " for state in states) == expected


def test_the_newest_run_is_kept_undamped() -> None:
    state: CheckState = CheckState.initial(check())
    newest: Run | None = None
    for count, result in enumerate([HEALTHY, UNHEALTHY, UNHEALTHY, HEALTHY, WARNING]):
        newest = run(result, finished=1000.0 + count)
        state = state.observe(newest)
        assert state.run is newest


def test_the_history_has_the_newest_runs_and_every_turn() -> None:
    state = CheckState.initial(check())
    for count, letter in enumerate(".x.xx..", 1):
        state = state.observe(run(RESULTS[letter], finished=1000.0 + count, at=float(count)))
    code = RESULTS["x"].code
    assert [sample.status for sample in state.history.runs] == [
        RESULTS[letter].status for letter in ".x.xx.."
    ]
    assert state.history.transitions == (
        Transition(2.0, Status.WARNING, code),
        Transition(3.0, Status.HEALTHY, None),
        Transition(4.0, Status.WARNING, code),
        Transition(5.0, Status.UNHEALTHY, code),
        Transition(7.0, Status.HEALTHY, None),
    ), "the first, at 1.0, is one too many"


def test_the_history_is_bounded() -> None:
    state = CheckState.initial(check())
    for count in range(10 * RUNS):
        found = RESULTS[".x"[count % 2]]
        state = state.observe(run(found, finished=1000.0 + count, at=float(count)))
    assert len(state.history.runs) == RUNS
    assert len(state.history.transitions) == TRANSITIONS
    assert state.history.transitions[-1].at == 10 * RUNS - 1


def test_an_expired_result_was_a_turn_though_nobody_ran() -> None:
    """What came after an expiry is told, whatever the status before it was."""
    state = CheckState.initial(check()).observe(run(RESULTS["."], finished=1000.0, at=1.0))
    later = 1000.0 + state.check.expiry + 1
    state = state.observe(run(RESULTS["."], finished=later, at=2.0))
    assert [transition.at for transition in state.history.transitions] == [1.0, 2.0]


@pytest.mark.parametrize(
    "history",
    [
        {"runs": [["slow", 1]], "transitions": []},
        {"runs": [[0.1, 9]], "transitions": []},
        {"runs": [[0.1]], "transitions": []},
        {"runs": [], "transitions": [[1.0, 4, "<b>"]]},
        {"runs": [], "transitions": [[1.0, 4]]},
    ],
)
def test_a_history_that_is_none(history: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        History.of(**history)
