"""The bench's own arithmetic: a wrong ratio would be a wrong claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Load, LoadError, _size, request
from bench.core import (
    Row,
    Target,
    at_least,
    at_most,
    exactly,
    in_turns,
    paired_difference,
    paired_ratio,
    percentile,
    significant,
)
from bench.plots import _by
from bench.report import cells

POSITIVE = st.floats(min_value=1e-6, max_value=1e6)


@pytest.mark.parametrize(
    ("target", "ratio", "met"),
    [
        (at_most(1.05), 1.05, True),
        (at_most(1.05), 1.051, False),
        (at_least(0.95), 0.95, True),
        (at_least(0.95), 0.949, False),
        (exactly(1), 1.04, True),
        (exactly(1), 0.96, True),
        (exactly(1), 0.94, False),
        (exactly(1), 1.06, False),
    ],
)
def test_targets(target: Target, ratio: float, met: bool) -> None:  # noqa: FBT001
    assert target.met(ratio) is met


def test_a_row_is_judged_by_the_ratio_that_was_measured_not_by_the_one_shown() -> None:
    row = Row.of("f", "n", "a", "b", 1.0501, at_most(1.05))
    assert (row.ratio, row.met) == (1.05, False)


def test_what_is_missing_is_not_met_where_there_is_something_to_reach() -> None:
    assert Row.absent("f", "n", "not installed", at_most(1)).met is False
    assert Row.absent("f", "n", "not installed").met is None
    assert cells(Row.absent("f", "n", "not installed"))[-1] == "missing: not installed"


def test_turns_alternate_and_every_other_round_goes_the_other_way() -> None:
    seen: list[str] = []

    def subject(name: str) -> int:
        seen.append(name)
        return len(seen)

    found = in_turns({name: lambda name=name: subject(name) for name in "abc"}, 3)
    assert "".join(seen) == "abccbaabc"
    assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_ratio_is_of_the_same_round() -> None:
    ours, reference = [2.0, 20.0, 200.0], [1.0, 10.0, 100.0]
    assert paired_ratio(ours, reference) == 2.0
    assert paired_difference(ours, reference) == 10.0
    with pytest.raises(ValueError, match="zip"):
        paired_ratio(ours, reference[:2])


@given(st.lists(POSITIVE, min_size=1), POSITIVE)
def test_a_machine_that_is_slower_in_both_changes_no_ratio(times: list[float], slow: float) -> None:
    assert paired_ratio([2 * each * slow for each in times], [each * slow for each in times]) == (
        pytest.approx(2.0)
    )


@given(st.lists(POSITIVE, min_size=1, max_size=300), st.sampled_from((50, 90, 99, 100)))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(each <= found for each in values) * 100 >= percent * len(values)
    assert sum(each < found for each in values) * 100 < percent * len(values)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 99)


def test_figures_have_three_digits() -> None:
    assert (significant(1234.5), significant(0.0123456)) == (1230.0, 0.0123)


@pytest.mark.parametrize(
    ("row", "share"),
    [
        (Row.of("f", "n", "a", "b", 0.02, at_most(1 / 25, "1/25")), 0.5),
        (Row.of("f", "n", "a", "b", 0.5, at_least(1.0)), 2.0),
        (Row.of("f", "n", "20.0 MB bare", "30.0 MB", 1.5, at_most(2.0, "+20.0 MB")), 0.5),
        (Row.of("f", "n", "a", "b", 1.0, exactly(1)), 1.0),
    ],
)
def test_a_plot_shows_how_far_a_target_is(row: Row, share: float) -> None:
    assert _by(row) == pytest.approx(share)


def test_an_answer_ends_where_its_length_says() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert _size(head[:-2]) is None
    assert _size(head + b"hello") == len(head) + 5
    with pytest.raises(LoadError, match="without Content-Length"):
        _size(b"HTTP/1.1 200 OK\r\n\r\n")


def test_an_answer_that_is_not_200_ends_the_measurement() -> None:
    load = Load()
    load._check(b"HTTP/1.1 503 Service Unavailable\r\n", strict=False)
    assert load.statuses == {"503": 1}
    with pytest.raises(LoadError, match="503"):
        load._check(b"HTTP/1.1 503 Service Unavailable\r\n", strict=True)


def test_a_request_is_whole() -> None:
    assert request("/x") == b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert b"\r\nConnection: close\r\n\r\n" in request("/x", close=True)
