"""``wait``: until the pod is ready, for the scripts that deploy it."""

import argparse
import threading
import time
from typing import Any

from service import settings
from service.cli import pod as pods
from service.cli.output import conclude, say
from service.scoreboard import ScoreboardError
from service.settings import Settings

POLL = 0.1


def run(options: argparse.Namespace) -> int:
    """Waits, telling each change on standard error; 0 when ready, 1 when time is up."""
    given = settings.load()
    begun = time.monotonic()
    end = begun + options.timeout
    told: list[str] = []
    while (obstacles := _obstacles(given)) and time.monotonic() < end:
        # What keeps a pod changes in detail ten times a second; each is told when it is new.
        if obstacles != told:
            say(f"waiting: {', '.join(obstacles)}")
            told = obstacles
        threading.Event().wait(min(POLL, max(0.0, end - time.monotonic())))
    waited = round(time.monotonic() - begun, 1)
    found: dict[str, Any] = {
        "ready": not obstacles,
        "waited_seconds": waited,
        "obstacles": obstacles,
    }
    if obstacles:
        return conclude(options, found, f"not ready after {waited} s: {', '.join(obstacles)}", 1)
    return conclude(options, found, f"ready after {waited} s", 0)


def _obstacles(given: Settings) -> list[str]:
    """Why the pod is not ready: there may be none yet."""
    try:
        return pods.reader(given).pod().obstacles
    except ScoreboardError as error:
        return [str(error)]
