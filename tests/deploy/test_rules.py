"""Alerts and records: valid, tested, explained, and about series that exist."""

import re
from typing import Any

import pytest

from service.health.codes import CODES
from tests.deploy.files import PROMETHEUS, RULES, RUNBOOK, read_yaml, rules, seconds
from tests.deploy.promql import Exposition, selectors, strangers
from tests.servers.prometheus import promtool

TESTS = PROMETHEUS / "rules_test.yml"
ALERTS = rules("alert")
RECORDS = rules("record")
RECORDED = frozenset(rule["record"] for rule in RECORDS)
HEADING = re.compile(r"^### (\w+)$", re.MULTILINE)


def by_name(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or rule["record"])


def sections() -> dict[str, str]:
    """The runbook's text for each alert."""
    _, *parts = HEADING.split(RUNBOOK.read_text())
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_promtool_accepts_the_rules() -> None:
    assert f"SUCCESS: {len(ALERTS) + len(RECORDS)} rules found" in promtool("check", "rules", RULES)


def test_the_rules_pass_their_unit_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_it_is_shown_silent_firing_and_resolved(alert: dict[str, Any]) -> None:
    shown = False
    for story in read_yaml(TESTS)["tests"]:
        moments = [one for one in story["alert_rule_test"] if one["alertname"] == alert["alert"]]
        moments.sort(key=lambda one: seconds(one["eval_time"]))
        picture = "".join("x" if one.get("exp_alerts") else "." for one in moments)
        shown = shown or re.fullmatch(r"\.+x+\.+|x+\.+", picture) is not None
    # An alert without `for` may fire from the first moment on; all others are silent first.
    assert shown, f"{TESTS.name} does not show {alert['alert']} firing, and then resolved"


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_it_says_what_to_do(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert re.fullmatch(r"(?:[A-Z][a-z]+)+", name)
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    section = sections()[name]
    assert "**Means** " in section
    assert "**Do** " in section


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    assert set(sections()) == {alert["alert"] for alert in ALERTS}


def test_the_runbook_knows_the_codes() -> None:
    found = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", RUNBOOK.read_text(), re.MULTILINE)
    codes = [code for row in found for code in re.findall(r"`(\w+)`", row)]
    assert codes
    assert set(codes) <= set(CODES)


@pytest.mark.parametrize("rule", ALERTS + RECORDS, ids=by_name)
def test_it_asks_for_series_that_exist(rule: dict[str, Any], exposition: Exposition) -> None:
    assert strangers(rule["expr"], exposition, RECORDED) == []


@pytest.mark.parametrize("rule", ALERTS + RECORDS, ids=by_name)
def test_it_takes_the_rate_of_counters_only(rule: dict[str, Any]) -> None:
    for selector in selectors(rule["expr"]):
        if selector.counter and selector.name not in RECORDED:
            rated = selector.window and selector.calls[0] in ("rate", "increase")
            # That a counter is there at all may be asked as well.
            assert rated or (not selector.calls and " unless " in rule["expr"]), selector


@pytest.mark.parametrize("rule", RECORDS, ids=by_name)
def test_it_is_named_by_level_metric_and_operation(rule: dict[str, Any]) -> None:
    level, metric, operation = rule["record"].split(":")
    assert level.startswith("job")
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", operation)
    # By `without`: labels that somebody adds to all his targets must survive.
    assert " by " not in rule["expr"]
    base = metric.removesuffix("_errors")
    assert any(selector.name.startswith(base) for selector in selectors(rule["expr"]))


@pytest.mark.parametrize("rule", ALERTS, ids=by_name)
def test_a_rule_that_uses_a_record_stands_behind_it(rule: dict[str, Any]) -> None:
    """The rules of a group run in order, groups at any time."""
    for group in read_yaml(RULES)["groups"]:
        before: set[str] = set()
        for each in group["rules"]:
            if each is rule:
                used = {one.name for one in selectors(rule["expr"])} & RECORDED
                assert used <= before
            before.add(each.get("record", ""))
