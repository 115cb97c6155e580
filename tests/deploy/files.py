"""The deployment files, read once."""

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
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


# -- nginx

TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|[^\s{};]+""")


@dataclass(frozen=True)
class Directive:
    """One directive of nginx.

    Attributes:
        name: Its first word.
        arguments: Its other words.
        block: The directives in its braces.
    """

    name: str
    arguments: tuple[str, ...]
    block: tuple["Directive", ...]

    def all(self, name: str) -> Iterator["Directive"]:
        """The directives of a name in it, at whatever depth."""
        for each in self.block:
            if each.name == name:
                yield each
            yield from each.all(name)

    def inherited(self, name: str, inner: "Directive") -> "Directive":
        """The directive of a name that counts in a block of this one."""
        own = [each for each in inner.block if each.name == name]
        return (own or [each for each in self.block if each.name == name])[0]


def read_nginx(path: Path, *include_from: Path) -> Directive:
    """A configuration of nginx, with what it includes from its own or other directories."""
    words = iter([word for word in TOKEN.findall(path.read_text()) if not word.startswith("#")])
    return Directive(path.name, (), tuple(_directives(words, (path.parent, *include_from))))


def _directives(words: Iterator[str], places: tuple[Path, ...]) -> Iterator[Directive]:
    line: list[str] = []
    for word in words:
        if word == "}":
            return
        if word not in ("{", ";"):
            line.append(word)
            continue
        if line[0] == "include":
            found = next(place for place in places if (place / line[1]).exists())
            yield from read_nginx(found / line[1]).block
        else:
            block = tuple(_directives(words, places)) if word == "{" else ()
            yield Directive(line[0], tuple(line[1:]), block)
        line = []


# -- systemd


def read_unit(path: Path) -> dict[str, list[str]]:
    """The settings of a unit, each with the values it is given in turn."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return dict(found)


def unit_environment(unit: dict[str, list[str]]) -> dict[str, str]:
    """What a unit sets in the environment of its process."""
    words = shlex.split(" ".join(unit["Environment"]))
    return dict(word.replace("%t", "/run").split("=", 1) for word in words)
