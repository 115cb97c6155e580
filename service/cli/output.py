"""How commands print: JSON in one line, or columns that people and ``awk`` can read."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from service.settings import wants_colour

NO_POD = 2

GAP = "  "
NOTHING = "-"
UNDISCLOSED = "not disclosed: HEALTH_DETAILS_TOKEN has no token that is trusted there"

_COLOURS = {
    "healthy": 32,
    "warning": 33,
    "unknown": 35,
    "unhealthy": 31,
    "stuck": 31,
    "yes": 32,
    "no": 31,
}
_WORDS = re.compile(rf"(?<![\w-])(?:{'|'.join(_COLOURS)})(?![\w-])")


class NoAnswer(Exception):  # noqa: N818 - what there is: no answer
    """Nobody can be asked, or nobody answers; the message is the one line to print."""


def show(options: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Prints a document on standard output, in the form that was asked for."""
    if options.json:
        text = json.dumps(document, ensure_ascii=sys.stdout.encoding.lower() != "utf-8")
    elif sys.stdout.isatty():
        text = tinted(text)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"mingus-health: {plain(line)}\n")
    sys.stderr.flush()


def answer(line: str, status: int) -> int:
    """One line, on standard error where something is wrong; the exit status."""
    if status:
        say(line)
    else:
        sys.stdout.write(f"{line}\n")
    return status


def conclude(options: argparse.Namespace, document: dict[str, Any], line: str, status: int) -> int:
    """What a command has come to: its document or its line, as ``answer`` prints one."""
    if not options.json:
        return answer(line, status)
    show(options, document, line)
    if status:
        say(line)
    return status


def tinted(text: str) -> str:
    """What goes to a terminal: painted where colours are welcome."""
    return painted(text) if wants_colour() else text


def painted(text: str) -> str:
    """The text with each status in its colour."""
    return _WORDS.sub(lambda word: f"\x1b[{_COLOURS[word[0]]}m{word[0]}\x1b[0m", text)


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, each column as wide as its widest cell; numbers to the right."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [_numeric(column[1:]) for column in zip(*cells, strict=True)]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    )


def pairs(rows: Iterable[Sequence[object]]) -> str:
    """Names and what belongs to them, one pair a line."""
    given = [(plain(str(name)), _cell(value)) for name, value in rows]
    width = max(len(name) for name, _ in given)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}" for name, value in given)


def yes(value: object) -> str:
    """A truth in a word."""
    return NOTHING if value is None else "yes" if value else "no"


def plain(text: str) -> str:
    """The text without what a terminal would obey: it may come from another host."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _cell(value: object) -> str:
    return NOTHING if value is None or value == "" else plain(str(value))


def _numeric(cells: Iterable[str]) -> bool:
    return all(re.fullmatch(r"-|[\d.]+( s| ms)?", cell) for cell in cells)
