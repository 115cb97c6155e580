"""docs/performance.md says what bench/results.json says, and shows what was drawn from it."""

import pkgutil
import re

import pytest

from bench import families, report
from bench.claims import CLAIMS, Claim
from bench.families import NAMES, everyone
from bench.plots import CURVES, FAMILY_PLOTS, HERE, path_of

DOCUMENT = report.DOCUMENT.read_text(encoding="utf-8")
RESULTS = report.saved()
ROWS = report.rows_of(RESULTS)
# Families that say how something grows, or where the time goes, have no rows.
WITH_ROWS = [name for name in everyone() if name not in ("growth", "hot path")]


def test_the_document_is_that_of_the_results() -> None:
    fresh = report.filled(DOCUMENT, report.blocks(RESULTS))
    assert fresh == DOCUMENT, "stale: python -m bench --report"


def test_every_module_of_the_families_is_one_of_them() -> None:
    found = [module.name for module in pkgutil.iter_modules(families.__path__)]
    assert sorted(found) == sorted(NAMES)
    assert list(everyone()) == [name.replace("_", " ") for name in NAMES]


@pytest.mark.parametrize("family", everyone())
def test_every_family_is_in_the_document_with_how_it_is_made(family: str) -> None:
    section = DOCUMENT.partition(f"\n### {family.capitalize()}\n")[2]
    how = RESULTS["how"].get(family, everyone()[family].HOW)
    assert section.strip().startswith(how)


def test_every_row_is_that_of_a_family() -> None:
    assert {row.family for row in ROWS} <= set(WITH_ROWS)


def test_a_verdict_is_never_left_out_where_there_is_a_target() -> None:
    for row in ROWS:
        assert bool(row.target) == (row.met is not None), row.name


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.what)
def test_what_was_to_be_reached_is_there_by_its_name_with_its_target(claim: Claim) -> None:
    line = f"| {claim.what} | {claim.reference} | {claim.target} |"
    (found,) = [each for each in DOCUMENT.splitlines() if each.startswith(line)]
    assert re.search(r"(yes|\*\*no\*\*|shown|missing: .+|not measured yet) \|$", found)
    assert claim.family in WITH_ROWS


def test_every_family_with_rows_has_a_plot() -> None:
    assert sorted(FAMILY_PLOTS) == sorted(WITH_ROWS)


def test_every_curve_is_that_of_a_family_that_has_curves() -> None:
    having = {name for name, module in everyone().items() if hasattr(module, "curves")}
    assert {curve.family for curve in CURVES} == having
    assert set(RESULTS["curves"]) <= {curve.name for curve in CURVES}


def test_every_plot_is_shown_and_is_there_and_small() -> None:
    shown = set(re.findall(r"\(performance/([\w-]+\.svg)\)", DOCUMENT))
    measured = {row.family for row in ROWS if not row.missing}
    expected = {path_of(f"growth-{name}").name for name in RESULTS["curves"]}
    expected |= {path_of(family).name for family in measured}
    assert shown == expected == {path.name for path in HERE.glob("*.svg")}
    assert all((HERE / name).stat().st_size < 64 * 1024 for name in shown)
