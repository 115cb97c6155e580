"""``workers``: every worker process of the pod, as its slot in the scoreboard shows it."""

import argparse
from typing import Any

from service import settings
from service.advice import WORKERS_MISSING, Runbook
from service.cli import pod as pods
from service.cli.output import columns, show, yes
from service.settings import Settings
from service.web.payload import span
from service.web.reader import Reader
from service.web.status_page.document import STUCK, worker_document


def run(options: argparse.Namespace) -> int:
    """Shows the slots; 0 when at least one web worker makes progress."""
    given = settings.load()
    found = document(given, pods.reader(given))
    show(options, found, text(found))
    return int(not found["alive"])


def document(given: Settings, reader: Reader) -> dict[str, Any]:
    """The occupied slots."""
    board, workers = reader.scoreboard, slots(reader)
    stuck = any(worker["state"] == STUCK for worker in workers)
    return {
        "alive": reader.alive(),
        "generation": board.generation,
        "web_workers_expected": board.expected,
        "runbook": Runbook(given.runbook).alert(WORKERS_MISSING) if stuck else None,
        "workers": workers,
    }


def slots(reader: Reader) -> list[dict[str, Any]]:
    """Every worker there is."""
    return [worker_document(worker, reader) for worker in reader.scoreboard.workers()]


def text(found: dict[str, Any]) -> str:
    """The table, and what it comes to."""
    alive = yes(found["alive"])
    summary = f"progress: {alive}, web workers expected: {found['web_workers_expected']}"
    runbook = f"\nrunbook: {found['runbook']}" if found["runbook"] else ""
    return f"{table(found['workers'])}\n\n{summary}{runbook}"


def table(workers: list[dict[str, Any]]) -> str:
    """A line for each slot."""
    head = (
        *("SLOT", "PID", "ROLE", "STATE", "GENERATION", "THREADS", "BUSY", "IN FLIGHT"),
        *("FINISHED", "OLDEST", "QUEUED", "MEMORY", "BEAT"),
    )
    rows = [
        {
            **worker,
            "oldest_seconds": span(worker["oldest_seconds"]),
            "memory_mb": worker["memory_mb"] and f"{worker['memory_mb']:.1f} MB",
            "beat_age_seconds": span(worker["beat_age_seconds"]),
        }.values()
        for worker in workers
    ]
    return columns(head, map(tuple, rows))
