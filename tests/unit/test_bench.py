"""The bench's own arithmetic: a wrong ratio would be a wrong claim."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import main
from bench.client import Load, LoadError, _size, request
from bench.core import (
    Row,
    Target,
    at_least,
    at_most,
    between,
    exactly,
    in_turns,
    middle,
    paired_difference,
    paired_ratio,
    percentile,
    significant,
)
from bench.families.coordination import Schedule, Window, fleet_rows
from bench.families.endpoints import UP, WEB, endpoint_rows
from bench.families.own_route import overhead
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
        (between(0.9, 1.2), 0.89, False),
        (between(0.9, 1.2), 0.9, True),
        (between(0.9, 1.2), 1.21, False),
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
    ("target", "ratio", "share"),
    [
        (at_most(1 / 25, "1/25"), 0.02, 0.5),
        (at_least(1.0), 0.5, 2.0),
        (exactly(1), 1.05, 1.0),
        (exactly(1), 0.95, 1.0),
        (between(0.9, 1.2), 0.45, 2.0),
        (between(0.9, 1.2), 2.4, 2.0),
    ],
)
def test_a_plot_shows_how_much_of_what_is_allowed_is_taken(
    target: Target, ratio: float, share: float
) -> None:
    assert target.share(ratio) == pytest.approx(share)
    assert Row.of("f", "n", "a", "b", ratio, target).share == pytest.approx(share)


def test_a_row_shows_the_ends_of_its_rounds() -> None:
    row = Row.of("f", "n", "a", "b", 1.0, at_most(1.2), rounds=[1.0, 0.81234, 1.1])
    assert (row.low, row.high) == (0.812, 1.1)
    assert cells(row)[4] == "0.812 to 1.1"
    assert cells(Row.of("f", "n", "a", "b", 1.0))[4] == ""


@pytest.mark.parametrize(
    ("count", "ends"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (9, (1, 7)), (31, (9, 21))]
)
def test_the_middle_is_that_of_the_tables_of_order_statistics(
    count: int, ends: tuple[int, int]
) -> None:
    assert middle([float(each) for each in reversed(range(count))]) == ends


@pytest.mark.parametrize(
    ("theirs", "ours", "met", "note"),
    [
        pytest.param([40.0], [4.0], True, "", id="a tenth of theirs"),
        pytest.param([40.0], [20.0], False, "", id="half of theirs"),
        pytest.param([40.0], [-4.0], True, "below zero", id="firmly less than nothing"),
        pytest.param([40.0], [-30.0, 25.0], False, "not to be told", id="noise is no merit"),
        pytest.param([40.0], [-3.0, 2.0], True, "not to be told", id="noise within the bound"),
        pytest.param([-9.0, 40.0], [1.0], False, "", id="nothing to compare it with"),
    ],
)
def test_an_overhead_below_zero_counts_only_where_its_sign_is_firm(
    theirs: list[float],
    ours: list[float],
    met: bool,  # noqa: FBT001
    note: str,
) -> None:
    row = overhead("n", theirs * 12, ours * 12, at_most(0.25))
    assert row.met is met
    assert row.note.startswith(note)
    assert bool(row.note) == bool(note)


def test_pods_that_take_no_part_are_no_saving() -> None:
    windows = [Window(syncs=0.6, scripts=0.7, share=0.01)] * 5
    calls, scripts, server, look = fleet_rows(1000, windows, [0.005])
    assert (calls.met, scripts.met, server.met, look.met) == (False, False, True, True)


def test_what_ends_a_thread_of_the_fleet_ends_the_measurement() -> None:
    rounds: list[float] = []

    def fine(due: float) -> float:
        rounds.append(due)
        return float("inf")

    def broken(_: float) -> float:
        raise RuntimeError("out of reach")

    pods: list[Any] = [SimpleNamespace(round=fine), SimpleNamespace(round=broken)]
    Schedule(pods, queue=[(0.0, 0)]).run(0.0)
    assert rounds == [0.0]
    with pytest.raises(RuntimeError, match="out of reach"):
        Schedule(pods, queue=[(0.0, 0), (0.0, 1)]).run(0.0)


def test_the_slowest_endpoint_speaks_for_all_of_them() -> None:
    def turn(slow: float) -> dict[str, dict[tuple[int, str], Load]]:
        return {
            WEB: {
                (5003, "/quick"): Load(latencies=[0.001] * 300),
                (5003, "/slow"): Load(latencies=[slow] * 10),
            }
        }

    rows = list(endpoint_rows({UP: [turn(0.010)] * 5, "Redis frozen": [turn(0.060)] * 5}))
    assert [(row.ratio, row.met) for row in rows] == [(0.2, True), (6.0, False)]
    assert rows[1].target == "<= 50 ms"
    assert "/slow" in rows[1].note
    assert "max 60 ms" in rows[1].ours


@pytest.mark.parametrize(
    ("row", "options", "status"),
    [
        (Row.of("f", "n", "a", "b", 1.3, at_most(1.2)), ["--check"], 1),
        (Row.absent("f", "n", "not installed", at_most(1)), ["--check"], 1),
        (Row.of("f", "n", "a", "b", 1.1, at_most(1.2)), ["--check"], 0),
        (Row.of("f", "n", "a", "b", 1.3), ["--check"], 0),
        (Row.of("f", "n", "a", "b", 1.3, at_most(1.2)), [], 0),
    ],
)
def test_a_missed_target_is_the_exit_status_of_a_check(
    row: Row, options: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    family = SimpleNamespace(HOW="so", rows=lambda _: iter([row]))
    assert main(["--quick", *options], {"f": family}) == status
    assert ("1 not reached" in capsys.readouterr().out) is (row.met is False)


def test_only_the_families_that_are_named_are_measured() -> None:
    asked: list[str] = []
    families = {
        name: SimpleNamespace(HOW="so", rows=lambda _, name=name: asked.append(name) or iter(()))
        for name in "abc"
    }
    assert main(["--quick", "--only", "c", "a"], families) == 0
    assert asked == ["c", "a"]


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
