"""``drain``, ``undrain``, ``maintenance``: flags in the scoreboard, so no listener is asked."""

import argparse
import threading
import time
from collections.abc import Callable

from service import settings
from service.cli.output import answer
from service.scoreboard import Scoreboard, find, living


def _flag(change: Callable[[Scoreboard], None]) -> Scoreboard:
    """Changes the flags of the pod, of both its masters in an upgrade; the newest's board."""
    directory = settings.load().directory
    newest = find(directory)
    for board in living(directory):
        change(board)
    return newest


def drain(options: argparse.Namespace) -> int:
    """Takes the pod out of traffic; 0 when nobody waits for requests, or none is in flight."""
    board = _flag(lambda board: board.drain())
    if options.wait is None:
        return answer("draining", 0)
    end = time.monotonic() + options.wait
    while board.in_flight and time.monotonic() < end:
        threading.Event().wait(0.05)
    if board.in_flight:
        return answer(f"draining; {board.in_flight} requests are still in flight", 1)
    return answer("drained", 0)


def undrain(_options: argparse.Namespace) -> int:
    """Puts the pod back into traffic; 1 when it is stopping."""
    board = _flag(lambda board: board.drain(on=False))
    if board.stopping:
        return answer("the pod is stopping, which cannot be undone", 1)
    return answer(f"the pod is {board.lifecycle.value}", 0)


def maintenance(options: argparse.Namespace) -> int:
    """Begins or ends maintenance."""
    board = _flag(lambda board: board.maintain(on=options.switch == "on"))
    return answer(f"the pod is {board.lifecycle.value}", 0)
