"""Make the tables of docs/settings.md from the declarations in service.settings.

python scripts/settings_doc.py            print the document with fresh tables
python scripts/settings_doc.py --write    put them into the document
"""

import inspect
import re
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from document_blocks import run
from pydantic_core import PydanticUndefined

from service.settings import Reference, Settings, is_secret, variables

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD = "| Variable | Default | Allowed | Meaning | Secret |\n|---|---|---|---|---|"

_WORDS = {int: "whole number", float: "number", bool: "`true`, `false`", Path: "path"}
_BOUNDS = {"ge": "from {:g}", "gt": "above {:g}", "le": "up to {:g}", "lt": "below {:g}"}


def sections() -> dict[str, list[str]]:
    """The fields of each section, as the comments in the source part them."""
    found: dict[str, list[str]] = {}
    for line in inspect.getsource(Settings).splitlines():
        if title := re.fullmatch(r"    # -- (.+)", line):
            fields = found[title[1]] = []
        elif (field := re.match(r"    (\w+): ", line)) and field[1] in Settings.model_fields:
            fields.append(field[1])
    return found


def default(field: str) -> str:
    """The default as one would write it into the environment."""
    value = Settings.model_fields[field].default
    if value is PydanticUndefined or value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


def allowed(field: str) -> str:
    """What a value must be, as far as its type says so."""
    info = Settings.model_fields[field]
    kind, more = _bare(info.annotation)
    limits = [
        text.format(limit)
        for metadata in (*info.metadata, *more)
        for name, text in _BOUNDS.items()
        if (limit := getattr(metadata, name, None)) is not None
    ]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if get_origin(kind) is tuple:
        return "list"
    if more == Reference.__metadata__:
        return "`module:name`"
    return ", ".join([_WORDS.get(kind, "text"), *limits])


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without ``| None``, and what else was said about it."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    more = getattr(annotation, "__metadata__", ())
    return (annotation.__origin__ if more else annotation), more


def row(field: str) -> str:
    """One line of a table."""
    name, *aliases = (f"`{variable}`" for variable in variables(field))
    named = f"{name} (alias {', '.join(aliases)})" if aliases else name
    meaning = Settings.model_fields[field].description or ""
    secret = "yes" if is_secret(field) else ""
    cells = (named, default(field), allowed(field), meaning, secret)
    return f"| {' | '.join(cells)} |"


def blocks() -> dict[str, str]:
    """Each section's table, by the name of its block."""
    return {
        f"settings: {title}": "\n".join([HEAD, *map(row, fields)])
        for title, fields in sections().items()
    }


if __name__ == "__main__":
    sys.exit(run(DOCUMENT, blocks(), __doc__ or ""))
