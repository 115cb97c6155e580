"""When a check runs next, and the bounds that follow from it: section 1.4 of the contract."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.checks import definitions
from service.health import Check, CheckState, Result
from service.health.schedule import first_start, next_start
from service.settings import Settings
from tests.unit.fakes import after, run

DATABASE = Check("database", interval=5.0, timeout=2.0, failing_interval=1.0)
PROVIDER = Check("stripe_api", interval=60.0, timeout=5.0, failing_interval=15.0)
chances = st.floats(0, 1, exclude_max=True)


@given(booted=st.floats(0, 1e6), chance=chances)
def test_the_first_run_starts_within_a_second(booted: float, chance: float) -> None:
    assert booted <= first_start(booted, chance) <= booted + 1


def test_pods_that_boot_together_do_not_ask_together() -> None:
    assert [first_start(100.0, chance) for chance in (0.0, 0.5)] == [100.0, 100.5]


@pytest.mark.parametrize(
    ("check", "history", "chance", "wait"),
    [
        pytest.param(DATABASE, ".", 0.5, 5.0, id="the interval"),
        pytest.param(DATABASE, ".", 0.0, 4.5, id="at most a tenth earlier"),
        pytest.param(DATABASE, ".", 0.75, 5.25, id="or later"),
        pytest.param(DATABASE, "w", 0.5, 5.0, id="a warning is no failure"),
        pytest.param(DATABASE, "x", 0.5, 1.0, id="failing"),
        pytest.param(DATABASE, ".x", 0.5, 1.0, id="failing, not confirmed"),
        pytest.param(DATABASE, ".x", 0.0, 0.9, id="failing, a tenth earlier"),
        pytest.param(DATABASE, ".xx.", 0.5, 1.0, id="recovering, not confirmed"),
        pytest.param(DATABASE, ".xx..", 0.5, 5.0, id="recovered"),
        pytest.param(PROVIDER, ".", 0.5, 60.0, id="provider"),
        pytest.param(PROVIDER, ".x", 0.5, 15.0, id="provider, failing"),
    ],
)
def test_the_wait_between_two_runs(check: Check, history: str, chance: float, wait: float) -> None:
    state = after(check, history)
    assert state.run is not None
    assert next_start(state, chance) == pytest.approx(state.run.finished + wait)


@given(history=st.text(st.sampled_from(".wx"), min_size=1, max_size=20), chance=chances)
def test_jitter_is_a_tenth_at_most(history: str, chance: float) -> None:
    state = after(DATABASE, history)
    assert state.run is not None
    interval = DATABASE.failing_interval if state.failing else DATABASE.interval
    wait = next_start(state, chance) - state.run.finished
    assert 0.9 * interval - 1e-9 <= wait <= 1.1 * interval + 1e-9


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        pytest.param(90.0, 90.0, id="as asked"),
        pytest.param(3600.0, 120.0, id="at most one interval longer"),
        pytest.param(1e9, 120.0, id="however long"),
        pytest.param(61.0, 61.0, id="a little longer"),
    ],
)
def test_a_service_is_left_alone_when_it_asks(retry_after: float, wait: float) -> None:
    asked = Result.failed("rate_limited", retry_after=retry_after)
    state = CheckState.initial(PROVIDER).observe(run(asked, finished=1000.0))
    assert next_start(state, 0.5) == pytest.approx(1000.0 + wait)


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("retry_after", [0.0, 1.0, 30.0])
def test_a_short_wait_asked_for_shortens_nothing(retry_after: float, chance: float) -> None:
    asked = Result.failed("rate_limited", retry_after=retry_after)
    state = CheckState.initial(PROVIDER).observe(run(asked, finished=1000.0))
    usual = CheckState.initial(PROVIDER).observe(run(finished=1000.0))
    assert next_start(state, chance) >= min(1060.0, next_start(usual, chance))


def test_a_check_that_never_ran_has_no_next_run() -> None:
    with pytest.raises(ValueError, match="database has not run yet"):
        next_start(CheckState.initial(DATABASE), 0.5)


# -- the documented checks


SCHEDULE = {
    "database": (5, 2, 1, 18),
    "redis": (5, 1, 1, 17),
    "supabase_api": (60, 5, 15, 186),
    "stripe_api": (60, 5, 15, 186),
    "email_service_resend": (60, 5, 15, 186),
    "sms_service_twilio": (60, 5, 15, 186),
    "system_resources": (5, 1, 1, 17),
    "application": (5, 1, 1, 17),
}


@pytest.fixture
def documented() -> dict[str, Check]:
    return {check.name: check for check in definitions(Settings.model_construct(), redis=True)}


def test_the_documented_checks_in_their_order(documented: dict[str, Check]) -> None:
    assert {
        name: (check.interval, check.timeout, check.failing_interval, check.expiry)
        for name, check in documented.items()
    } == SCHEDULE
    assert list(documented) == list(SCHEDULE)


@pytest.mark.parametrize(
    ("name", "failure", "recovery"),
    [
        pytest.param("database", 12.0, 10.0, id="database"),
        pytest.param("redis", 10.0, 7.0, id="redis"),
    ],
)
def test_the_bounds_that_follow(
    documented: dict[str, Check], name: str, failure: float, recovery: float
) -> None:
    """A check that fails just after a good run: two runs that use up their time limit."""
    check, publication, latest = documented[name], 1.0, 0.999999
    found = [0.0]
    for history in (".", ".x"):
        state = after(check, history)
        assert state.run is not None
        wait = next_start(state, latest) - state.run.finished
        found.append(found[-1] + wait + check.timeout)
    assert found[-1] + publication <= failure
    back = 2 * (1.1 * check.failing_interval + check.timeout) + publication
    assert back <= recovery
    assert first_start(0.0, latest) + check.timeout + publication <= 4.0 + 1e-6


@pytest.mark.parametrize("name", SCHEDULE)
def test_no_regular_wait_lets_a_result_expire(documented: dict[str, Check], name: str) -> None:
    check = documented[name]
    asked = Result.failed("rate_limited", retry_after=1e6)
    for result in (Result(), asked):
        state = CheckState.initial(check).observe(run(result, finished=0.0))
        assert next_start(state, 0.999999) + check.timeout < check.expiry
