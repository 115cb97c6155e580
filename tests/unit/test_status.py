"""Five words, one order, one HTTP status for each: section 1.2 of the contract."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health import Status, worst

some = st.lists(st.sampled_from(Status))


@pytest.mark.parametrize(
    ("status", "word", "passes", "up"),
    [
        pytest.param(Status.HEALTHY, "healthy", True, 1, id="healthy"),
        pytest.param(Status.WARNING, "warning", True, 1, id="warning"),
        pytest.param(Status.NOT_CONFIGURED, "not_configured", True, None, id="not configured"),
        pytest.param(Status.UNHEALTHY, "unhealthy", False, 0, id="unhealthy"),
        pytest.param(Status.UNKNOWN, "unknown", False, 0, id="unknown"),
    ],
)
def test_what_a_word_means(status: Status, word: str, *, passes: bool, up: int | None) -> None:
    assert (status.word, status.passes, status.up) == (word, passes, up)
    assert Status.of(word) is status


def test_there_are_no_other_words() -> None:
    assert {status.word for status in Status} == {
        "healthy",
        "warning",
        "unhealthy",
        "not_configured",
        "unknown",
    }


@pytest.mark.parametrize("word", ["ok", "degraded", "critical", "error", "", "not configured"])
def test_a_word_of_another_product_is_refused(word: str) -> None:
    with pytest.raises(KeyError):
        Status.of(word)


def test_the_order() -> None:
    assert sorted(Status, reverse=True) == [
        Status.UNHEALTHY,
        Status.UNKNOWN,
        Status.WARNING,
        Status.HEALTHY,
        Status.NOT_CONFIGURED,
    ]


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        pytest.param("", "not_configured", id="nobody"),
        pytest.param("not_configured not_configured", "not_configured", id="nobody configured"),
        pytest.param("not_configured healthy", "healthy", id="one is not configured"),
        pytest.param("healthy warning healthy", "warning", id="one is warned about"),
        pytest.param("warning unknown", "unknown", id="one is unknown"),
        pytest.param("unknown unhealthy healthy", "unhealthy", id="one is down"),
    ],
)
def test_the_worst_of_some(words: str, verdict: str) -> None:
    assert worst(map(Status.of, words.split())).word == verdict


@given(some, some)
def test_the_worst_of_all_is_the_worst_of_the_worst(one: list[Status], two: list[Status]) -> None:
    assert worst([*one, *two]) is worst([worst(one), worst(two)])


@given(some)
def test_what_is_not_configured_never_makes_a_verdict_worse(statuses: list[Status]) -> None:
    assert worst([*statuses, Status.NOT_CONFIGURED]) is worst(statuses)


@given(some)
def test_a_verdict_passes_exactly_when_every_member_does(statuses: list[Status]) -> None:
    assert worst(statuses).passes == all(status.passes for status in statuses)
