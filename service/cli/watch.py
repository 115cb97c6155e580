"""``watch``: ``status`` again and again, until it is interrupted."""

import argparse
import sys
import threading

from service import settings
from service.cli import pod as pods
from service.cli import status
from service.cli.output import say, show
from service.scoreboard import ScoreboardError

TOP = "\x1b[H\x1b[J"  # to the first line, and nothing below


def run(options: argparse.Namespace) -> int:
    """Shows the pod until SIGINT. There must be one at the beginning; later it may come back."""
    given = settings.load()
    reader = pods.reader(given)
    on_screen = sys.stdout.isatty() and not options.json
    try:
        while True:
            try:
                if not reader.scoreboard.master_lives:
                    reader = pods.reader(given)
                found = status.document(reader)
                screen = status.text(found)
                show(options, found, f"{TOP}{screen}" if on_screen else f"{screen}\n")
            except ScoreboardError as error:
                say(str(error))
            threading.Event().wait(options.interval)
    except KeyboardInterrupt:
        return 0
