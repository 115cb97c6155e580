"""Answers held against the schemas that are published."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from service.web import schemas

Schema = dict[str, Any]


def closed(schema: Any) -> Any:
    """The same schema, with no key that is not declared: what readers must ignore, nobody adds."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        inner.setdefault("additionalProperties", False)
    return inner


@cache
def _components() -> Schema:
    return {"schemas": closed(schemas.COMPONENTS)}


def problems(schema: Schema, body: Any) -> list[str]:
    """What is wrong with a body, a line each."""
    whole = {**closed(schema), "components": _components()}
    validator = Draft202012Validator(whole, format_checker=FormatChecker())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]


def resolved(schema: Schema) -> Schema:
    """A schema, followed to where it is declared."""
    while "$ref" in schema:
        schema = schemas.COMPONENTS[schema["$ref"].rpartition("/")[2]]
    return schema


def declared(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every key of a schema by its dotted path, and what it declares; ``*`` for any name."""
    schema = resolved(schema)
    inner = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        inner["*"] = schema["additionalProperties"]
    for key, below in inner.items():
        yield f"{path}{key}", below
        yield from declared(below, f"{path}{key}.")
    for each in (*schema.get("anyOf", ()), *filter(None, [schema.get("items")])):
        yield from declared(each, path)


def hidden(schema: Schema) -> set[str]:
    """The keys that are null for callers who are not trusted."""
    return {path for path, below in declared(schema) if below.get(schemas.INTERNAL)}
