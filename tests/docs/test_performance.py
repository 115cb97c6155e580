"""docs/performance.md says what bench/results.json says, and shows what was drawn from it."""

import re

from bench import report
from bench.__main__ import FAMILIES
from bench.plots import BARS, CURVES, HERE, TO_TARGETS

DOCUMENT = report.DOCUMENT.read_text(encoding="utf-8")
RESULTS = report.saved()


def test_the_table_is_that_of_the_results() -> None:
    fresh = report.filled(DOCUMENT, {report.BLOCK: report.markdown(RESULTS)})
    assert fresh == DOCUMENT, "stale: python -m bench --report"


def test_every_family_has_rows() -> None:
    assert {row.family for row in report.rows_of(RESULTS)} == {*FAMILIES} - {"growth"}


def test_a_verdict_is_never_left_out_where_there_is_a_target() -> None:
    for row in report.rows_of(RESULTS):
        assert bool(row.target) == (row.met is not None), row.name


def test_every_plot_is_shown_and_is_there_and_small() -> None:
    shown = set(re.findall(r"\(performance/([\w-]+\.svg)\)", DOCUMENT))
    expected = {f"growth-{curve.name}.svg" for curve in CURVES}
    expected |= {f"{family.replace(' ', '-')}.svg" for family in (*BARS, *TO_TARGETS)}
    assert shown == expected == {path.name for path in HERE.glob("*.svg")}
    assert all((HERE / name).stat().st_size < 64 * 1024 for name in shown)
