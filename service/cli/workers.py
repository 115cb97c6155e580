"""``workers``: every worker process of the pod, as its slot in the scoreboard shows it."""

import argparse
from typing import Any

from service import settings
from service.cli import pod as pods
from service.cli.advice import section
from service.cli.output import columns, show, span, yes
from service.web.reader import Reader


def run(options: argparse.Namespace) -> int:
    """Shows the slots; 0 when at least one web worker makes progress."""
    found = document(pods.reader(settings.load()))
    show(options, found, text(found))
    return int(not found["alive"])


def document(reader: Reader) -> dict[str, Any]:
    """The occupied slots."""
    board, now = reader.scoreboard, reader.now()
    workers = list(board.workers())
    stuck = any(worker.stuck(now, reader.limits) for worker in workers)
    return {
        "alive": reader.alive(),
        "generation": board.generation,
        "web_workers_expected": board.expected,
        "runbook": section("MingusHealthWorkersMissing") if stuck else None,
        "workers": [
            {
                "slot": worker.slot,
                "pid": worker.pid,
                "role": worker.role.name.lower(),
                "phase": worker.phase.name.lower(),
                "generation": worker.generation,
                "threads": worker.threads,
                "threads_occupied": worker.occupied,
                "requests_in_flight": worker.in_flight,
                "requests_finished": worker.finished,
                "beat_age_seconds": round(max(0.0, now - worker.beat), 2),
                "stuck": worker.stuck(now, reader.limits),
            }
            for worker in workers
        ],
    }


def text(found: dict[str, Any]) -> str:
    """The table, and what it comes to."""
    alive = yes(found["alive"])
    summary = f"progress: {alive}, web workers expected: {found['web_workers_expected']}"
    runbook = f"\nrunbook: {found['runbook']}" if found["runbook"] else ""
    return f"{table(found['workers'])}\n\n{summary}{runbook}"


def table(workers: list[dict[str, Any]]) -> str:
    """A line for each slot."""
    head = (
        *("SLOT", "PID", "ROLE", "PHASE", "GENERATION", "THREADS", "OCCUPIED"),
        *("IN FLIGHT", "FINISHED", "BEAT", "STUCK"),
    )
    rows = [
        (
            *list(worker.values())[:-2],
            span(worker["beat_age_seconds"]),
            "stuck" if worker["stuck"] else None,
        )
        for worker in workers
    ]
    return columns(head, rows)
