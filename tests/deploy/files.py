"""The deployment files, read once."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.pod import ROOT

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "mingus-health.json"
UNIT = DEPLOY / "systemd" / "mingus-health.service"
COMPOSE = ROOT / "compose.yaml"
RUNBOOK = ROOT / "docs" / "operations.md"

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@cache
def read_yaml(path: Path) -> Any:
    """A YAML file of one document."""
    return yaml.safe_load(path.read_text())


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules of a kind: ``alert`` or ``record``."""
    groups = read_yaml(RULES)["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def seconds(duration: str | float) -> float:
    """A duration such as ``1m30s``, as Prometheus, compose, nginx and systemd write it."""
    if isinstance(duration, int | float) or duration.isdigit():
        return float(duration)
    parts = DURATION.findall(duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(float(number) * SECONDS[unit] for number, unit in parts)
