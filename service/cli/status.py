"""``status``: the pod on one screen."""

import argparse
from typing import Any

from service import settings
from service.cli import pod as pods
from service.cli.output import columns, pairs, show, span, yes
from service.health import Role
from service.web.payload import timestamp
from service.web.reader import Reader


def run(options: argparse.Namespace) -> int:
    """Shows the pod once; 0 when it is ready."""
    found = document(pods.reader(settings.load()))
    show(options, found, text(found))
    return int(not found["verdicts"]["readiness"])


def document(reader: Reader) -> dict[str, Any]:
    """Everything on the screen."""
    pod, board, now = reader.pod(), reader.scoreboard, reader.now()
    snapshot = pod.snapshot
    web = [worker for worker in board.workers() if worker.role is Role.WEB]
    return {
        "timestamp": timestamp(pod.at),
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
        "verdicts": {
            "liveness": pod.alive,
            "readiness": snapshot.ready,
            "startup": snapshot.started,
            "overall": snapshot.overall.word,
        },
        "obstacles": pods.obstacles(pod),
        "checks": {
            name: pods.check_document(state, now) for name, state in snapshot.states.items()
        },
    }


def text(found: dict[str, Any]) -> str:
    """The screen."""
    verdicts, workers = found["verdicts"], found["web_workers"]
    why = f": {', '.join(found['obstacles'])}" if found["obstacles"] else ""
    above = pairs(
        [
            ("pod", found["pod_id"]),
            ("lifecycle", found["lifecycle"]),
            ("uptime", span(found["uptime_seconds"])),
            ("workers", f"{workers['live']} of {workers['expected']} make progress"),
            (
                "requests",
                f"{found['requests_in_flight']} in flight, {found['requests_finished']} finished",
            ),
            ("liveness", yes(verdicts["liveness"])),
            ("readiness", yes(verdicts["readiness"]) + why),
            ("startup", yes(verdicts["startup"])),
            ("overall", verdicts["overall"]),
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
                check["response_time_ms"] and f"{check['response_time_ms']:.2f} ms",
                "needs it" if check["critical"] else None,
            )
            for name, check in found["checks"].items()
        ],
    )
    return f"{above}\n\n{below}"
