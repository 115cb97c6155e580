"""The vocabulary of reasons, word for word as section 1.9 of the contract has it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health import CODES, CheckFailed, Result, Status, is_code
from service.health.codes import status_of

CONTRACT = {
    "not_configured": "not_configured configuration_incomplete",
    "warning": """
        rate_limited slow_response pool_saturated pool_exhausted connections_invalidated
        memory_high cpu_high disk_high fragmentation_high migrations_pending workers_missing
    """,
    "unknown": "not_attempted not_yet_checked stale",
    "unhealthy": """
        connection_refused connection_lost network_unreachable dns_failure timeout tls_error
        authentication_failed permission_denied database_not_found database_locked
        too_many_connections starting_up read_only out_of_memory cluster_down query_failed
        value_mismatch invalid_response account_inactive memory_critical cpu_critical
        disk_critical workers_stalled configuration_invalid driver_missing check_failed
        task_failed
    """,
}
TABLE = [(code, word) for word, codes in CONTRACT.items() for code in codes.split()]


@pytest.mark.parametrize(("code", "word"), TABLE)
def test_the_result_a_code_leads_to(code: str, word: str) -> None:
    assert status_of(code).word == word
    assert is_code(code)
    assert re.fullmatch(r"[a-z][a-z0-9_]{2,39}", code)


def test_there_are_no_other_words() -> None:
    assert set(CODES) == {code for code, _ in TABLE}


@pytest.mark.parametrize("status", [100, 204, 302, 404, 500, 599, 999])
def test_an_unexpected_answer_of_a_provider_is_a_code(status: int) -> None:
    assert is_code(f"http_{status}")
    assert status_of(f"http_{status}") is Status.UNHEALTHY


@pytest.mark.parametrize(
    "word",
    [
        "",
        "healthy",
        "Timeout",
        "timeout ",
        "http_",
        "http_50",
        "http_5000",
        "http_5xx",
        "HTTP_500",
        "http_\uff15\uff10\uff10",
        "http_500\n",
        "not_found",
        "method_not_allowed",
        "internal_error",
    ],
    ids=repr,
)
def test_no_other_word_is_a_code(word: str) -> None:
    assert not is_code(word)
    with pytest.raises(KeyError):
        status_of(word)


@given(st.text())
def test_a_code_is_a_code_exactly_when_it_leads_to_a_result(word: str) -> None:
    try:
        status_of(word)
    except KeyError:
        assert not is_code(word)
    else:
        assert is_code(word)


# -- what a run may find


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param("timeout", Status.UNHEALTHY, id="unhealthy"),
        pytest.param("http_503", Status.UNHEALTHY, id="a provider"),
        pytest.param("slow_response", Status.WARNING, id="mild"),
    ],
)
def test_a_failed_result_has_the_status_of_its_code(code: str, status: Status) -> None:
    result = Result.failed(code, "the full story", response_time=0.5)
    assert (result.status, result.code, result.reason) == (status, code, "the full story")
    assert result.response_time == 0.5


def test_a_result_is_healthy_until_somebody_says_otherwise() -> None:
    assert Result() == Result(Status.HEALTHY, None, response_time=None, reason="", details={})


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param(Status.HEALTHY, "timeout", id="healthy with a code"),
        pytest.param(Status.UNHEALTHY, None, id="unhealthy without one"),
        pytest.param(Status.WARNING, None, id="warning without one"),
        pytest.param(Status.UNHEALTHY, "no such word", id="free text"),
        pytest.param(Status.UNHEALTHY, "internal_error", id="a word of error bodies"),
        pytest.param(Status.UNKNOWN, "stale", id="a run cannot end unknown"),
        pytest.param(Status.NOT_CONFIGURED, "not_configured", id="nor not configured"),
    ],
)
def test_what_no_run_can_find(status: Status, code: str | None) -> None:
    with pytest.raises(ValueError, match=r"run ends|code"):
        Result(status, code)


@pytest.mark.parametrize("field", ["response_time", "retry_after"])
@pytest.mark.parametrize("seconds", [-0.001, float("inf"), float("nan")])
def test_no_run_takes_a_time_that_is_none(field: str, seconds: float) -> None:
    with pytest.raises(ValueError, match="no number of seconds"):
        Result(**{field: seconds})


@pytest.mark.parametrize("code", ["no_such_code", "internal_error", "stale", "not_configured"])
def test_a_probe_cannot_fail_for_any_other_reason(code: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        CheckFailed(code)


def test_a_probe_that_knows_why_it_fails() -> None:
    failure = CheckFailed("timeout", "no answer from 10.0.0.7")
    assert (failure.code, failure.reason) == ("timeout", "no answer from 10.0.0.7")
    assert str(failure) == "no answer from 10.0.0.7"
    assert str(CheckFailed("timeout")) == "timeout"
