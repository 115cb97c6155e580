"""The description: valid, complete, and the same wherever it is asked for."""

import re
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.web.endpoints import PAGE
from service.web.kubernetes import twins_bp
from service.web.root_health import index_bp, root_health_bp
from service.web.status_page.routes import status_page_bp
from service.web.system_health import system_health_bp
from tests.contract.audit import BOTH, PREFIX
from tests.pod import Pod

PATH = f"{PREFIX}/openapi.json"


def test_it_is_valid(description: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(description).iter_errors()) == []


def test_it_is_served_everywhere_and_always_the_same(pod: Pod) -> None:
    answers = [pod.get(path, health=health) for health in BOTH for path in (PATH, f"{PATH}/")]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert {answer.headers["content-type"] for answer in answers} == {"application/json"}
    assert list(OpenAPIV31SpecValidator(answers[0].json).iter_errors()) == []
    head = pod.get(PATH, method="HEAD")
    assert int(head.headers["content-length"]) == len(answers[0].body)


def test_the_service_it_describes_is_named(pod: Pod) -> None:
    info = pod.get(PATH).json["info"]
    assert (info["title"], info["version"]) == ("MINGUS health", "1.0.0")


def test_every_route_is_described_and_nothing_else(description: dict[str, Any]) -> None:
    described = {re.sub(r"{(\w+)}", r"<\1>", path).rstrip("/") for path in description["paths"]}
    assert described == {path.rstrip("/") for path in routes()}


def routes() -> set[str]:
    app = Flask("routes", static_folder=None)
    for blueprint in (index_bp, root_health_bp, system_health_bp, twins_bp, status_page_bp):
        app.register_blueprint(blueprint)
    return {rule.rule for rule in app.url_map.iter_rules()}


def test_every_operation_has_a_name_of_its_own(description: dict[str, Any]) -> None:
    operations = [each for item in description["paths"].values() for each in item.values()]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names)) == 2 * len(description["paths"])
    assert all(set(item) == {"get", "head"} for item in description["paths"].values())


def test_every_status_has_its_answers(description: dict[str, Any]) -> None:
    statuses = {path: set(item["get"]["responses"]) for path, item in description["paths"].items()}
    always = {"200", "405"}
    assert statuses.pop("/") == {*always, "404"}
    for path in ("/metrics", f"{PREFIX}/metrics", PATH, PAGE):
        assert statuses.pop(path) == always
    for path in ("/livez", "/readyz", "/startupz"):
        assert statuses.pop(f"{path}/{{check}}") == {*always, "503", "404"}
    assert set(map(frozenset, statuses.values())) == {frozenset({*always, "503"})}


@pytest.mark.parametrize("path", ["/metrics", f"{PREFIX}/metrics"])
def test_the_three_forms_of_the_metrics(description: dict[str, Any], path: str) -> None:
    answer = description["paths"][path]["get"]["responses"]["200"]
    assert list(answer["content"]) == [
        "text/plain",
        "application/openmetrics-text",
        "application/json",
    ]


def test_every_reference_leads_somewhere_and_every_component_is_used(
    description: dict[str, Any],
) -> None:
    found = set(references(description))
    components = {
        f"#/components/{kind}/{name}"
        for kind, names in description["components"].items()
        if kind != "securitySchemes"
        for name in names
    }
    # An unknown path belongs to no operation.
    assert components ^ found == {"#/components/responses/NotFoundEnveloped"}


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for each in value for found in references(each)]
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for each in value.values() for found in references(each)]
    return []
