"""``explain CHECK``: what a check asks, by what rules, what it found, and what to do."""

import argparse
from typing import Any

from service import settings
from service.advice import ASKS, THRESHOLDS, Runbook, advice
from service.cli import pod as pods
from service.cli.output import pairs, say, show
from service.health import CheckState
from service.health.pod import UNREADABLE
from service.scoreboard import ScoreboardError
from service.settings import CONFIGURED_BY, Settings
from service.web.payload import span
from service.web.status_page.document import check_document

NO_SUCH_CHECK = 2


def run(options: argparse.Namespace) -> int:
    """Explains one check; 0 when it passes."""
    given = settings.load()
    reader = pods.reader(given)
    pod, now = reader.pod(), reader.now()
    if not pod.readable:
        raise ScoreboardError(UNREADABLE)
    states = pod.snapshot.states
    if options.check not in states:
        say(f"there is no check {options.check!r}; there are {', '.join(states)}")
        return NO_SUCH_CHECK
    state = states[options.check]
    found = document(given, state, now)
    show(options, found, text(found))
    return int(not state.status.passes)


def document(given: Settings, state: CheckState, now: float) -> dict[str, Any]:
    """Everything there is to say about a check."""
    check, run_ = state.check, state.run
    return {
        "check": check.name,
        "asks": ASKS.get(check.name, f"a check of the application, from {given.health_checks}"),
        "configured_by": CONFIGURED_BY.get(check.name),
        "decides": {"readiness": check.critical, "startup": check.startup},
        "interval_seconds": check.interval,
        "failing_interval_seconds": check.failing_interval,
        "timeout_seconds": check.timeout,
        "expiry_seconds": check.expiry,
        "failure_threshold": check.thresholds.failure,
        "success_threshold": check.thresholds.success,
        "thresholds": {
            settings.variables(field)[0]: {
                "value": getattr(given, field),
                "meaning": Settings.model_fields[field].description,
            }
            for field in THRESHOLDS.get(check.name, ())
        },
        "result": check_document(state, now),
        "failed_runs": state.failed_runs,
        "last_run": run_
        and {
            "status": run_.result.status.word,
            "error": run_.result.code,
            "duration_seconds": round(run_.duration, 4),
        },
        "advice": None if state.code is None else advice(state.code).replace("`", ""),
        "runbook": Runbook(given.runbook).check(state.status, critical=check.critical),
    }


def text(found: dict[str, Any]) -> str:
    """The page."""
    result, last = found["result"], found["last_run"]
    code = f" ({result['error']})" if result["error"] else ""
    decides = [question for question, does in found["decides"].items() if does]
    rows: list[tuple[str, object]] = [
        ("check", found["check"]),
        ("asks", found["asks"]),
        ("needs", found["configured_by"]),
        ("decides", ", ".join(decides) or "nothing but the overall verdict"),
        (
            "runs",
            (
                f"every {found['interval_seconds']:g} s, while failing every "
                f"{found['failing_interval_seconds']:g} s, for "
                f"{found['timeout_seconds']:g} s at most"
            ),
        ),
        (
            "turns",
            (
                f"unhealthy after {found['failure_threshold']} failures in a row, back after "
                f"{found['success_threshold']} other results"
            ),
        ),
        ("expires", f"after {found['expiry_seconds']:g} s"),
        *(
            (name, f"{_number(each['value'])}: {each['meaning']}".replace("`", ""))
            for name, each in found["thresholds"].items()
        ),
        ("status", result["status"] + code),
        ("age", span(result["age_seconds"])),
        ("last run", last and f"{last['status']}, took {last['duration_seconds'] * 1000:.1f} ms"),
        ("failed", f"{found['failed_runs']} runs since the pod started"),
        ("do", found["advice"] or "nothing"),
        *([("runbook", found["runbook"])] if found["runbook"] else []),
    ]
    return pairs(rows)


def _number(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else value
