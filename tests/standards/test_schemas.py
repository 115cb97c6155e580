"""What is declared is what is answered, and the other way round."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import endpoints_doc

from service.health import FleetView, Lifecycle, Pod, Snapshot, TaskState
from service.web import health_json, schemas
from service.web.answers import error_body, problem_body
from service.web.endpoints import ENDPOINTS, FLEET, INDEX, METRICS, TWINS
from service.web.payload import Payload
from service.web.twins import Question
from tests import contract_examples
from tests.standards.schemas import Schema, declared, hidden, problems
from tests.unit import pods
from tests.unit.strategies import snapshots

PAYLOAD = Payload("MINGUS", "1.0.0", "production", debug=False)
ALL = (INDEX, *ENDPOINTS, FLEET, METRICS)
ROOT = Path(__file__).resolve().parents[2]


def with_fleet(pod: Pod, **more: Any) -> Pod:
    members = {
        "this": "a" * 32,
        "leases": {"checks": "b" * 32, "startup": None},
        "pods": [endpoints_doc._member(1, 0.002, "database"), {"pod": "c" * 32}],
    }
    view = FleetView(pods.CLOCK, pods.NOW, 30.0, 2, members=json.dumps(members), **more)
    return replace(pod, snapshot=replace(pod.snapshot, fleet=view))


OWN = {
    "states": {
        "stock": pods.CheckState.initial(pods.Check("stock")),
        "queue": pods.state("queue", pods.REFUSED),
    }
}
TASKS = {
    "migrate": TaskState().succeeded(0.842, 1),
    "warm_up": TaskState().failed("task_failed", None, 2),
    "later": TaskState(),
}
STATES: dict[str, Pod] = {
    "healthy": pods.pod(),
    "failing": pods.failing(),
    "before the first result": pods.blank(),
    "nothing configured": pods.nowhere(),
    "monitor dead": pods.pod(later=3600.0),
    "frozen": pods.pod(database=pods.FROZEN, redis=pods.REDIS_GIVEN_UP),
    "given up": pods.pod(database=pods.GIVEN_UP, stripe_api=pods.GIVEN_UP),
    "redis full": pods.pod(redis=pods.REDIS_FULL),
    "memory critical": pods.pod(system_resources=pods.MEMORY_CRITICAL),
    "draining": pods.pod(Lifecycle.DRAINING),
    "maintenance": pods.pod(Lifecycle.MAINTENANCE),
    "no worker": pods.pod(alive=False),
    "own checks and tasks": pods.pod(tasks=TASKS, **OWN),
    "a fleet": with_fleet(pods.failing(), elsewhere={"database": 2}, floor=50.0),
    "a fleet long ago": with_fleet(pods.pod(later=3600.0)),
}
EACH_STATE = pytest.mark.parametrize("pod", STATES.values(), ids=STATES)


@EACH_STATE
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "stranger"])
def test_every_answer_in_every_state_is_as_declared(pod: Pod, trusted: bool) -> None:  # noqa: FBT001
    wrong = {
        endpoint.path: found
        for endpoint in ALL
        if (found := problems(endpoint.document, said(endpoint, pod, trusted=trusted)))
    }
    assert wrong == {}


@given(snapshots())
def test_any_snapshot_is_answered_as_declared(snapshot: Snapshot) -> None:
    pod = replace(pods.pod(), snapshot=snapshot)
    for endpoint in ALL:
        assert problems(endpoint.document, said(endpoint, pod, trusted=True)) == []


def test_a_key_nobody_declared_is_a_problem_and_so_is_one_that_is_missing() -> None:
    body = said(FLEET, with_fleet(pods.pod()), trusted=True)
    assert problems(FLEET.document, body) == []
    body["data"]["pods"][0]["color"] = "red"
    del body["data"]["fresh"]
    wrong = {line.partition(":")[0] for line in problems(FLEET.document, body)}
    assert wrong == {"$.data", "$.data.pods[0]"}


def said(endpoint: Any, pod: Pod, *, trusted: bool) -> Any:
    return json.loads(json.dumps(endpoint.render(PAYLOAD, pod, trusted=trusted).body))


@EACH_STATE
def test_the_status_follows_from_what_an_endpoint_is_about(pod: Pod) -> None:
    for endpoint in ALL:
        passes = endpoint.render(PAYLOAD, pod, trusted=False).passes
        expected = endpoint.about.verdict(pod).passes if endpoint.about else True
        assert passes == expected, endpoint.path


@EACH_STATE
def test_the_other_forms_are_as_declared(pod: Pod) -> None:
    for endpoint in ALL:
        if endpoint.about:
            answer = health_json.render(endpoint.about, PAYLOAD, pod, trusted=False)
            assert problems(schemas.HEALTH_JSON, answer.body) == [], endpoint.path
    for endpoint in TWINS:
        question = Question(endpoint.path.strip("/"), exclude=("database", "nobody"))
        answer = question.as_document(PAYLOAD, pod, trusted=False)
        assert problems(schemas.TWIN, answer.body) == []


@pytest.mark.parametrize("endpoint", ALL, ids=lambda endpoint: endpoint.path)
def test_every_key_that_is_declared_is_answered_with_more_than_null(endpoint: Any) -> None:
    """Nothing is declared that is never there, nor as nullable alone."""
    seen = {
        path
        for pod in STATES.values()
        for path in filled(endpoint.document, said(endpoint, pod, trusted=True))
    }
    assert {path for path, _ in declared(endpoint.document)} - seen == set()


def filled(schema: Schema, body: Any) -> Iterator[str]:
    """The declared paths of a body under which there is a value."""
    names = {path for path, _ in declared(schema)}
    for path in paths(body):
        for known in names:
            if re.fullmatch(re.escape(known).replace(r"\*", r"[^.]+"), path):
                yield known


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from paths(each, prefix)
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner is not None:
                yield f"{prefix}{key}"
                yield from paths(inner, f"{prefix}{key}.")


@pytest.mark.parametrize("endpoint", ALL, ids=lambda endpoint: endpoint.path)
def test_what_strangers_do_not_see_is_what_is_declared_internal(endpoint: Any) -> None:
    differs = set()
    for pod in STATES.values():
        bodies = (said(endpoint, pod, trusted=trusted) for trusted in (True, False))
        differs |= set(differing(*bodies))
    assert differs == hidden(endpoint.document)
    assert endpoint.graded == bool(differs)


def differing(one: Any, other: Any, prefix: str = "") -> Iterator[str]:
    for key, value in one.items():
        if isinstance(value, dict) and other[key] is not None:
            yield from differing(value, other[key], f"{prefix}{key}.")
        elif value != other[key]:
            yield f"{prefix}{key}"


def test_errors_are_as_declared() -> None:
    for code, (flat, enveloped) in schemas.ERRORS.items():
        assert problems(flat, error_body(code, pods.NOW, enveloped=False)) == []
        assert problems(enveloped, error_body(code, pods.NOW, enveloped=True)) == []
    problem = problem_body("not_found", "404 Not Found", pods.NOW)
    assert problems(schemas.PROBLEM, problem) == []


# -- examples


@pytest.mark.parametrize("name", endpoints_doc.examples())
def test_an_example_of_the_documents_is_as_declared(name: str) -> None:
    example = endpoints_doc.examples()[name]
    assert problems(example.endpoint.document, json.loads(example.body)) == []


BY_PATH = {endpoints_doc.name_of(endpoint): endpoint for endpoint in ALL}
CONTRACT = {
    f"{path} {example.status} {number}": (path, example.body)
    for path, examples in contract_examples.EXAMPLES.items()
    for number, example in enumerate(examples)
    if isinstance(example.body, dict)
}


@pytest.mark.parametrize("name", CONTRACT)
def test_an_example_of_the_contract_is_as_declared(name: str) -> None:
    path, body = CONTRACT[name]
    assert problems(BY_PATH[path].document, body) == []


def written_by_hand() -> Iterator[str]:
    """The JSON of the documents that no test above has looked at.

    What webhooks are sent is no answer; tests/docs/test_events.py holds it against the code.
    """
    documents = sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "events.md"})
    for file in (ROOT / "README.md", *documents):
        text = re.sub(r"(?ms)^<!-- example: .*?^<!-- end -->", "", file.read_text("utf-8"))
        yield from re.findall(r"(?ms)^```json\n(.*?)^```", text)


@pytest.mark.parametrize("text", [*written_by_hand()])
def test_json_that_is_written_by_hand_is_as_declared(text: str) -> None:
    body = json.loads(text)
    errors = [each for both in schemas.ERRORS.values() for each in both]
    known = [*errors, schemas.PROBLEM, schemas.TWIN, schemas.HEALTH_JSON, FLEET.document]
    assert any(not problems(schema, body) for schema in known)
