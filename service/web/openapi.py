"""The OpenAPI 3.1 description of everything the service answers.

Made of the endpoints' own declarations: their paths, schemas and forms. It is the same on both
listeners and does not change while a process lives.
"""

import re
from http import HTTPStatus

from service.metrics import Format
from service.web import health_json, schemas
from service.web.endpoints import (
    ENDPOINTS,
    FLEET,
    INDEX,
    JSON,
    METRICS,
    OPENAPI,
    PAGE,
    PREFIX,
    PROBLEM,
    TWINS,
    Endpoint,
)
from service.web.payload import Document, Payload
from service.web.schemas import Schema

# A form of an answer: media type -> schema.
Forms = dict[str, Schema]

_EVERYWHERE = {
    "Content-Length": "the length of the body",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_VERBOSE = {
    "name": "verbose",
    "in": "query",
    "description": "name every check even if all of them pass; its value does not matter",
    "allowEmptyValue": True,
    "schema": schemas.TEXT,
}
_EXCLUDE = {
    "name": "exclude",
    "in": "query",
    "description": "a check that shall not count in this answer; a name that is none is warned of",
    "schema": schemas.NAMES,
}
_ONE_CHECK = {
    "livez": "worker-progress",
    "readyz": "database",
    "startupz": "database",
}
_SERIES = {
    "name": "name[]",
    "in": "query",
    "description": "only these metrics; text forms",
    "schema": schemas.NAMES,
}


def document(payload: Payload) -> Document:
    """The whole description.

    Args:
        payload: Knows which service this is.
    """
    named = {_title(endpoint): endpoint.document for endpoint in _with_documents()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{payload.name} health",
            "version": payload.version,
            "description": "Every path is answered with and without one trailing slash.",
        },
        "jsonSchemaDialect": schemas.DRAFT,
        "security": [{}, {"token": []}],
        "paths": {
            **{path_of(endpoint): _endpoint(endpoint) for endpoint in _with_documents()},
            "/metrics": _exposition("metrics"),
            path_of(METRICS): _exposition("system_metrics"),
            **{path: item for twin in TWINS for path, item in _twin(twin).items()},
            OPENAPI: _item("openapi", "this description", _answers({JSON: {"type": "object"}})),
            PAGE: _item("status", "all of it, for people", _answers({"text/html": schemas.TEXT})),
        },
        "components": {
            "schemas": {**schemas.COMPONENTS, **named},
            "headers": {
                name: {"description": about, "schema": schemas.TEXT}
                for name, about in _EVERYWHERE.items()
            },
            "responses": {
                **_errors(HTTPStatus.NOT_FOUND, "not_found"),
                **_errors(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", Allow="GET, HEAD"),
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "makes a caller trusted; without one some values are null",
                }
            },
        },
    }


def path_of(endpoint: Endpoint) -> str:
    """The path of an endpoint as it is documented."""
    return f"{PREFIX}/" if endpoint.path == PREFIX else endpoint.path


def _with_documents() -> tuple[Endpoint, ...]:
    return (INDEX, *ENDPOINTS, FLEET)


def _name(endpoint: Endpoint) -> str:
    """Such as ``health_detailed``, ``system_readiness``."""
    words = endpoint.path.replace(PREFIX, "system").replace("/", "_").strip("_")
    return words or "index"


def _title(endpoint: Endpoint) -> str:
    return "".join(word.capitalize() for word in _name(endpoint).split("_")) + "Document"


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _item(
    name: str,
    summary: str,
    answers: dict[str, Schema],
    *parameters: Schema,
    enveloped: bool = False,
    missing: bool = False,
) -> Schema:
    """GET and HEAD of a path: what it answers, and the errors of its family."""
    suffix = "Enveloped" if enveloped else ""
    errors = {"405": _ref("responses", f"MethodNotAllowed{suffix}")}
    if missing:
        errors["404"] = _ref("responses", f"NotFound{suffix}")
    bare = {
        status: {key: value for key, value in answer.items() if key != "content"}
        for status, answer in answers.items()
    }
    more = {"parameters": list(parameters)} if parameters else {}
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "responses": {**answers, **errors},
            **more,
        },
        "head": {
            "operationId": f"{name}_head",
            "summary": f"{summary} (without the body)",
            "responses": {**bare, **{status: _without_body(status) for status in errors}},
            **more,
        },
    }


def _without_body(status: str) -> Schema:
    return {"description": HTTPStatus(int(status)).phrase}


def _answers(passing: Forms, failing: Forms | None = None, *, vary: bool = False) -> Schema:
    """200, and 503 where there is such a thing."""
    headers = {name: _ref("headers", name) for name in _EVERYWHERE}
    if vary:
        headers["Vary"] = {"description": "Accept", "schema": schemas.TEXT}
    found = {HTTPStatus.OK: passing, HTTPStatus.SERVICE_UNAVAILABLE: failing}
    return {
        str(int(status)): {
            "description": _MEANING[status],
            "headers": headers,
            "content": {media: {"schema": schema} for media, schema in forms.items()},
        }
        for status, forms in found.items()
        if forms
    }


_MEANING = {
    HTTPStatus.OK: "healthy, a warning, or not configured",
    HTTPStatus.SERVICE_UNAVAILABLE: "unhealthy or unknown",
}


def _endpoint(endpoint: Endpoint) -> Schema:
    usual = _ref("schemas", _title(endpoint))
    broken = schemas.ERRORS["internal_error"][endpoint.enveloped]
    other = {health_json.MEDIA_TYPE: schemas.HEALTH_JSON} if endpoint.about else {}
    failing: Forms = {JSON: usual, **other} if endpoint.about else {}
    if not endpoint.shaped:
        failing[JSON] = {"anyOf": [usual, broken]} if endpoint.about else broken
    return _item(
        _name(endpoint),
        endpoint.summary,
        _answers({JSON: usual, **other}, failing),
        enveloped=endpoint.enveloped,
        missing=endpoint is INDEX,  # of the web listener only
    )


def _exposition(name: str) -> Schema:
    forms = {
        Format.TEXT.media_type: schemas.TEXT,
        Format.OPENMETRICS.media_type: schemas.TEXT,
        JSON: METRICS.document,
    }
    enveloped = name != "metrics"
    answers = _answers(forms, vary=True)
    return _item(name, METRICS.summary, answers, _SERIES, enveloped=enveloped)


def _twin(endpoint: Endpoint) -> dict[str, Schema]:
    forms = {"text/plain": schemas.TEXT, JSON: schemas.TWIN}
    answers = _answers(forms, forms, vary=True)
    name = _name(endpoint)
    return {
        endpoint.path: _item(name, endpoint.summary, answers, _VERBOSE, _EXCLUDE),
        f"{endpoint.path}/{{check}}": _item(
            f"{name}_check",
            f"one check of {endpoint.path}",
            answers,
            {
                "name": "check",
                "in": "path",
                "required": True,
                "description": "one of the names that `verbose` shows",
                "schema": {"type": "string", "pattern": "^[a-z][a-z0-9_-]*$"},
                "example": _ONE_CHECK[name],
            },
            _VERBOSE,
            _EXCLUDE,
            missing=True,
        ),
    }


def _errors(status: HTTPStatus, code: str, **headers: str) -> dict[str, Schema]:
    """The answer to what is not there, flat and in an envelope."""
    known = {name: _ref("headers", name) for name in _EVERYWHERE}
    special = {
        name: {"description": value, "schema": schemas.TEXT} for name, value in headers.items()
    }
    title = re.sub(r"\W", "", status.phrase.title())
    return {
        f"{title}{suffix}": {
            "description": status.phrase,
            "headers": {**known, **special},
            "content": {JSON: {"schema": schema}, PROBLEM: {"schema": schemas.PROBLEM}},
        }
        for suffix, schema in zip(("", "Enveloped"), schemas.ERRORS[code], strict=True)
    }
