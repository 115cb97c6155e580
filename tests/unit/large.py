"""A large pod in a large fleet, for what has to stay small and quick with it."""

import json
from typing import Any

from service.health import Check, CheckState, FleetView, Phase, ProgressLimits, Result, Role, Run
from service.health.snapshot import Snapshot, encode
from service.scoreboard import Scoreboard
from service.web.reader import Reader
from tests.unit.fakes import Clock
from tests.unit.pods import CLOCK, NOW, snapshot

WORKERS, CHECKS, PODS = 64, 40, 200


def large_reader() -> Reader:
    """Eyes on it: every worker is busy, and every check has a full history."""
    clock, wall = Clock(CLOCK), Clock(NOW)
    board = Scoreboard.create(None, slots=WORKERS, clock=clock.nanoseconds, wall=wall)
    for number in range(WORKERS):
        slot = board.slot(number)
        slot.assign(Role.WEB, generation=0, threads=4)
        slot.enter(Phase.READY)
        slot.request_started()
    more = (_long(f"check_number_{number}") for number in range(CHECKS))
    states = {**snapshot().states, **{state.check.name: state for state in more}}
    chosen = dict(list(states.items())[:CHECKS])
    board.publish(1, encode(Snapshot(chosen, fleet=fleet(PODS))))
    board.serve(NOW)
    checks = [state.check for state in chosen.values()]
    return Reader(board, checks, ProgressLimits(), clock=clock, wall=wall)


def _long(name: str) -> CheckState:
    state = CheckState.initial(Check(name))
    for count in range(40):
        result = Result.failed("connection_refused") if count % 3 else Result()
        at = count - 40.0
        state = state.observe(Run(result, CLOCK + at, NOW + at, 0.001 * count))
    return state


def fleet(pods: int, **about: Any) -> FleetView:
    """So many pods, each tenth of them not ready; ``about`` is said of all of them."""
    rows = [
        {
            "pod": f"{number:032x}",
            "host": f"shop-7d4b9c6f5-{number:05d}",
            "release": "2025.1",
            "lifecycle": "serving",
            "ready": number % 10 != 0,
            "workers_ok": 4,
            "workers_total": 4,
            "failing": [] if number % 10 else ["database"],
            "age_seconds": number / 10,
            **about,
        }
        for number in range(pods)
    ]
    members = {"this": f"{0:032x}", "leases": {"checks": f"{1:032x}"}, "pods": rows}
    return FleetView(
        seen=CLOCK, seen_at=NOW, expiry=30.0, others=pods - 1, members=json.dumps(members)
    )
