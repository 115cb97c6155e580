"""``drain``, ``undrain``, ``maintenance``: flags in the scoreboard, so no listener is asked."""

import argparse
import threading
import time
from collections.abc import Callable

from service import settings
from service.cli.output import conclude
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
        return _tell(options, board, "draining")
    end = time.monotonic() + options.wait
    while board.in_flight and time.monotonic() < end:
        threading.Event().wait(0.05)
    if left := board.in_flight:
        return _tell(options, board, f"draining; {left} requests are still in flight", 1)
    return _tell(options, board, "drained")


def undrain(options: argparse.Namespace) -> int:
    """Puts the pod back into traffic; 1 when it is stopping."""
    board = _flag(lambda board: board.drain(on=False))
    if board.stopping:
        return _tell(options, board, "the pod is stopping, which cannot be undone", 1)
    return _tell(options, board, f"the pod is {board.lifecycle.value}")


def maintenance(options: argparse.Namespace) -> int:
    """Begins or ends maintenance."""
    board = _flag(lambda board: board.maintain(on=options.switch == "on"))
    return _tell(options, board, f"the pod is {board.lifecycle.value}")


def _tell(options: argparse.Namespace, board: Scoreboard, line: str, status: int = 0) -> int:
    found = {
        "pod_id": board.pod_id,
        "lifecycle": board.lifecycle.value,
        "requests_in_flight": board.in_flight,
    }
    return conclude(options, found, line, status)
