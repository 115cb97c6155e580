"""The dashboard follows the rules of grafana/dashboard-linter and asks for what exists."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.files import dashboard
from tests.deploy.promql import Exposition, Selector, selectors, strangers

BOARD = dashboard()
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in BOARD["templating"]["list"]}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Those of Grafana's units that make sense here.
UNITS = {"short", "none", "s", "ms", "percent", "percentunit", "bytes", "ops", "reqps"}
TARGETS = [
    pytest.param(target, id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
targets = pytest.mark.parametrize("target", TARGETS)


def parsed(expression: str) -> list[Selector]:
    return selectors(expression.replace("$__rate_interval", "5m"))


def test_it_cannot_be_edited() -> None:
    assert BOARD["editable"] is False


def test_the_data_source_is_chosen_on_the_dashboard() -> None:
    chosen = VARIABLES["datasource"]
    assert (chosen["type"], chosen["query"], chosen["label"]) == (
        "datasource",
        "prometheus",
        "Data source",
    )


@pytest.mark.parametrize("name", ["job", "instance"])
def test_jobs_and_instances_are_chosen_on_the_dashboard(name: str, exposition: Exposition) -> None:
    variable = VARIABLES[name]
    assert variable["type"] == "query"
    assert variable["datasource"] == DATASOURCE
    assert variable["label"] == name.title()
    assert variable["multi"]
    assert variable["includeAll"]
    assert variable["allValue"] == ".+"
    assert variable["refresh"] == 2  # when the time range changes
    query = variable["query"]["query"]
    assert query == variable["definition"]
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert match is not None
    assert match[2] == name
    assert strangers(match[1], exposition, frozenset()) == []


def test_no_variable_is_unused() -> None:
    text = str([panel["targets"] for panel in PANELS])
    assert all(f"${name}" in text or f"${{{name}}}" in text for name in VARIABLES)


@panels
def test_a_panel_is_explained_and_has_a_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == DATASOURCE
    assert panel["targets"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


@targets
def test_a_query_is_about_the_chosen_pods(target: dict[str, Any]) -> None:
    assert target["datasource"] == DATASOURCE
    assert target["legendFormat"]
    for selector in parsed(target["expr"]):
        assert ("job", "=~", "$job") in selector.matchers, selector
        assert ("instance", "=~", "$instance") in selector.matchers, selector


@targets
def test_a_query_takes_the_rate_of_counters_only(target: dict[str, Any]) -> None:
    for selector in parsed(target["expr"]):
        assert selector.counter == selector.window, selector
        if selector.counter:
            assert selector.calls[0] in ("rate", "increase"), selector
        if selector.name.endswith("_bucket"):
            assert "histogram_quantile" in selector.calls
    windows = re.findall(r"\[(.+?)\]", target["expr"])
    assert set(windows) <= {"$__rate_interval"}


@targets
def test_a_query_asks_for_series_that_exist(target: dict[str, Any], exposition: Exposition) -> None:
    expression = target["expr"].replace("$__rate_interval", "5m")
    assert strangers(expression, exposition, frozenset()) == []


def test_annotations_ask_for_series_that_exist(exposition: Exposition) -> None:
    for annotation in BOARD["annotations"]["list"]:
        assert annotation["datasource"] == DATASOURCE
        assert strangers(annotation["expr"], exposition, frozenset()) == []


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        for place in places(panel["gridPos"]):
            assert taken.setdefault(place, panel["title"]) == panel["title"], place
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert all(column < 24 for column, _ in taken)


def places(grid: dict[str, int]) -> Iterator[tuple[int, int]]:
    """The cells a panel takes."""
    for column in range(grid["x"], grid["x"] + grid["w"]):
        for row in range(grid["y"], grid["y"] + grid["h"]):
            yield column, row
