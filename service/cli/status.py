"""``status``: the pod on one screen.

Seen through its scoreboard, or over HTTP with ``--url``: the same document, where null is what
that way does not show.
"""

import argparse
from typing import Any

from service import settings
from service.advice import Runbook
from service.cli import pod as pods
from service.cli.output import NOTHING, UNDISCLOSED, columns, pairs, show, yes
from service.cli.remote import Remote
from service.health import Role, Snapshot
from service.settings import Settings
from service.web.payload import span, timestamp
from service.web.reader import Reader
from service.web.status_page.document import check_document


def run(options: argparse.Namespace) -> int:
    """Shows the pod once; 0 when it is ready."""
    found = eyes(options).document()
    show(options, found, text(found))
    return int(not found["verdicts"]["readiness"])


class Local:
    """Eyes on the pod of these settings, and on its successor when it has gone.

    Raises:
        ScoreboardError: There is none.
    """

    def __init__(self, given: Settings) -> None:
        self._given = given
        self.reader = pods.reader(given)

    def document(self) -> dict[str, Any]:
        """The pod at this moment.

        Raises:
            ScoreboardError: There is none any more.
        """
        if not self.reader.scoreboard.master_lives:
            self.reader = pods.reader(self._given)
        return document(self._given, self.reader)


Eyes = Local | Remote


def eyes(options: argparse.Namespace) -> Eyes:
    """On the pod that was asked for.

    Raises:
        NoAnswer: The address cannot be asked.
        ScoreboardError: There is no pod here.
    """
    given = settings.load()
    if options.url is None:
        return Local(given)
    return Remote(options.url, given, options.timeout)


def document(given: Settings, reader: Reader) -> dict[str, Any]:
    """Everything on the screen."""
    pod, board, now = reader.pod(), reader.scoreboard, reader.now()
    snapshot = pod.snapshot
    web = [worker for worker in board.workers() if worker.role is Role.WEB]
    return {
        "timestamp": timestamp(pod.at),
        "url": None,
        "pod_id": board.pod_id,
        "lifecycle": snapshot.lifecycle.value,
        "uptime_seconds": round(pod.uptime, 2),
        "booted_at": timestamp(pod.booted_at),
        "requests_in_flight": pod.in_flight,
        "requests_finished": board.finished,
        "web_workers": {
            "expected": board.expected,
            "live": sum(not worker.stuck(now, reader.limits) for worker in web),
        },
        "usage_percent": _usage(snapshot),
        "verdicts": {
            "liveness": pod.alive,
            "readiness": snapshot.ready,
            "startup": snapshot.started,
            "overall": snapshot.overall.word,
        },
        "obstacles": pod.obstacles,
        "runbook": Runbook(given.runbook).pod(snapshot.lifecycle, ready=snapshot.ready),
        "tasks": {
            name: {"status": task.status.word, "error": task.code}
            for name, task in snapshot.tasks.items()
        },
        "checks": {name: check_document(state, now) for name, state in snapshot.states.items()},
    }


def _usage(snapshot: Snapshot) -> dict[str, float | None]:
    run_ = snapshot.states["system_resources"].run
    details = run_.result.details if run_ else {}
    return {part: details.get(part, {}).get("usage_percent") for part in ("cpu", "memory", "disk")}


def text(found: dict[str, Any]) -> str:
    """The screen."""
    verdicts = found["verdicts"]
    why = f": {', '.join(found['obstacles'])}" if found["obstacles"] else ""
    above = pairs(
        [
            ("url", found["url"]) if found["url"] else ("pod", found["pod_id"]),
            ("lifecycle", found["lifecycle"]),
            ("uptime", span(found["uptime_seconds"])),
            ("workers", _workers(found["web_workers"])),
            ("requests", _requests(found)),
            ("in use", _used(found["usage_percent"])),
            *([] if found["tasks"] == {} else [("tasks", _tasks(found["tasks"]))]),
            ("liveness", yes(verdicts["liveness"])),
            ("readiness", yes(verdicts["readiness"]) + why),
            ("startup", yes(verdicts["startup"])),
            ("overall", verdicts["overall"]),
            *([("runbook", found["runbook"])] if found["runbook"] else []),
        ]
    )
    below = columns(
        ("CHECK", "STATUS", "CODE", "AGE", "RESPONSE", "READINESS"),
        [
            (
                name,
                check["status"],
                check["error"],
                span(check["age_seconds"]),
                None
                if check["response_time_ms"] is None
                else f"{check['response_time_ms']:.2f} ms",
                "needs it" if check["critical"] else None,
            )
            for name, check in found["checks"].items()
        ],
    )
    return f"{above}\n\n{below}"


def _workers(workers: dict[str, int | None]) -> str:
    live, expected = workers["live"], workers["expected"]
    return NOTHING if live is None else f"{live} of {expected} make progress"


def _requests(found: dict[str, Any]) -> str:
    in_flight, finished = found["requests_in_flight"], found["requests_finished"]
    known = [f"{in_flight} in flight"] if in_flight is not None else []
    return ", ".join([*known, *([f"{finished} finished"] if finished is not None else [])])


def _used(usage: dict[str, float | None]) -> str:
    return ", ".join(f"{part} {used:.0f} %" for part, used in usage.items() if used is not None)


def _tasks(tasks: dict[str, Any] | None) -> str:
    if tasks is None:
        return UNDISCLOSED
    return ", ".join(f"{name} {task['status']}" for name, task in tasks.items())
