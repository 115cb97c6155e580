"""``watch``: ``status`` and the workers below it, again and again, until it is interrupted.

On a terminal it has the whole screen, as ``top`` has; elsewhere one screen, or one document,
follows the other.
"""

import argparse
import threading
import time
from contextlib import suppress
from typing import Any

from service.cli import screen, status, workers
from service.cli.output import NoAnswer, say, show
from service.scoreboard import ScoreboardError


def run(options: argparse.Namespace) -> int:
    """Shows the pod until SIGINT. There must be one at first; later it may come back."""
    eyes = status.eyes(options)
    found = look(eyes)
    go_on = _one_by_one if options.json or not screen.usable() else _on_screen
    with suppress(KeyboardInterrupt):
        go_on(options, eyes, found)
    return 0


def look(eyes: status.Eyes) -> dict[str, Any]:
    """The document of ``status``, and every worker where they can be seen.

    Raises:
        NoAnswer: The address does not answer.
        ScoreboardError: There is no pod any more.
    """
    found = eyes.document()
    slots = workers.slots(eyes.reader) if isinstance(eyes, status.Local) else None
    return found | {"workers": slots}


def text(found: dict[str, Any]) -> str:
    """The screen."""
    parts = [status.text(found), *([workers.table(found["workers"])] if found["workers"] else [])]
    return "\n\n".join(parts)


def _one_by_one(options: argparse.Namespace, eyes: status.Eyes, found: dict[str, Any]) -> None:
    while True:
        show(options, found, f"seen       {found['timestamp']}\n{text(found)}\n")
        threading.Event().wait(options.interval)
        try:
            found = look(eyes)
        except (NoAnswer, ScoreboardError) as error:
            say(str(error))


def _on_screen(options: argparse.Namespace, eyes: status.Eyes, found: dict[str, Any]) -> None:
    trouble = ""
    with screen.Screen() as terminal:
        while True:
            due = time.monotonic() + options.interval
            seen = f"seen {found['timestamp']}, every {options.interval:g} s; q ends{trouble}"
            keys = ""
            while not keys and time.monotonic() < due:
                terminal.draw(f"{seen}\n\n{text(found)}")
                keys = terminal.wait(due - time.monotonic())
            if "q" in keys:
                return
            try:
                found, trouble = look(eyes), ""
            except (NoAnswer, ScoreboardError) as error:
                trouble = f"\n{error}"
