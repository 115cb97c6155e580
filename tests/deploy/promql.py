"""What a PromQL expression asks for: its selectors, and what stands around each."""

import re
from dataclasses import dataclass
from typing import Any

import promql_parser
from promql_parser import Call, MatchOp, MatrixSelector, VectorSelector

# What Prometheus itself adds to every target.
SYNTHETIC = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "ALERTS"}
TARGET_LABELS = {"job", "instance"}


@dataclass(frozen=True)
class Selector:
    """One selector of an expression.

    Attributes:
        name: The series it asks for.
        matchers: Label, operator (``=``, ``!=``, ``=~``, ``!~``) and value.
        window: Whether it asks for a range.
        calls: The functions around it, the innermost first.
    """

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    window: bool
    calls: tuple[str, ...]

    @property
    def counter(self) -> bool:
        """Whether only its rate makes sense."""
        return self.name.endswith(("_total", "_bucket", "_count", "_sum"))


def selectors(expression: str) -> list[Selector]:
    """The selectors of an expression.

    Raises:
        ValueError: It is not PromQL.
    """
    found: list[Selector] = []
    around: list[Any] = []

    def enter(node: Any) -> None:
        if isinstance(node, VectorSelector):
            found.append(_selector(node, around))
        elif isinstance(node, MatrixSelector):
            found.append(_selector(node.vector_selector, [*around, node]))
        around.append(node)

    def leave(_: Any) -> None:
        around.pop()

    try:
        parsed = promql_parser.parse(expression)
    except ValueError as error:
        raise ValueError(f"{expression}: {error}") from None
    promql_parser.walk(parsed, enter, leave)
    return [selector for selector in found if selector.name]


def _selector(node: Any, around: list[Any]) -> Selector:
    matchers = tuple(
        (matcher.name, _operator(matcher.op), matcher.value) for matcher in node.matchers.matchers
    )
    calls = tuple(each.func.name for each in reversed(around) if isinstance(each, Call))
    window = any(isinstance(each, MatrixSelector) for each in around)
    return Selector(node.name, matchers, window, calls)


def _operator(given: MatchOp) -> str:
    operators = ((MatchOp.Equal, "="), (MatchOp.NotEqual, "!="), (MatchOp.Re, "=~"))
    return next((text for operator, text in operators if operator == given), "!~")


Exposition = dict[str, list[dict[str, str]]]


def strangers(expression: str, exposition: Exposition, recorded: frozenset[str]) -> list[str]:
    """What an expression asks for and no pod has, and no rule records.

    Args:
        expression: PromQL.
        exposition: The labels of each series of a real pod, by name.
        recorded: What rules record.
    """
    wrong = []
    for selector in selectors(expression):
        if selector.name in SYNTHETIC or selector.name in recorded:
            continue
        if selector.name not in exposition:
            wrong.append(selector.name)
            continue
        for label, operator, value in selector.matchers:
            if label in TARGET_LABELS or _known(selector, label, operator, value, exposition):
                continue
            wrong.append(f"{selector.name}{{{label}{operator}{value}}}")
    return wrong


def _known(selector: Selector, label: str, operator: str, value: str, pod: Exposition) -> bool:
    values = {labels[label] for labels in pod[selector.name] if label in labels}
    # Which routes and HTTP status codes there are depends on who has asked.
    if label in ("endpoint", "status"):
        return bool(values)
    if operator in ("=", "!="):
        return value in values
    return all(any(re.fullmatch(part, each) for each in values) for part in value.split("|"))
