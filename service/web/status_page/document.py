"""The pod as people look at it: one document, from which the page is made.

Unlike the endpoints' documents it also has what only people want: ages instead of times, the past
of each check, and every worker's slot.
"""

from typing import Any

from service.advice import Runbook
from service.health import CheckState, Phase, Pod, Role, Status, WorkerSlot
from service.web.payload import Document, Payload, members, milliseconds, summary, timestamp
from service.web.reader import Reader

MIB = 1024**2
STUCK = "stuck"


def document(reader: Reader, payload: Payload, runbook: Runbook, *, trusted: bool) -> Document:
    """Everything on the page, for this moment.

    Args:
        reader: Eyes on the pod.
        payload: Knows which service it is.
        runbook: Where it is read.
        trusted: Whether the caller may see internals; others get the verdicts alone.
    """
    pod = reader.pod()
    found = {**_verdicts(pod, payload), "trusted": trusted}
    if not trusted:
        return found
    board, now = reader.scoreboard, reader.now()
    workers = sorted(board.workers(), key=lambda worker: (worker.role, worker.slot))
    web = [worker for worker in workers if worker.role is Role.WEB]
    startup: Any = payload.startup(pod, trusted=True).body
    return {
        **found,
        "environment": payload.environment,
        "runbook": runbook.pod(pod.snapshot.lifecycle, ready=pod.snapshot.ready),
        "pod_id": board.pod_id,
        "master_pid": board.master[0],
        "generation": board.generation,
        "uptime_seconds": round(pod.uptime, 1),
        "requests_in_flight": pod.in_flight,
        "requests_finished": board.finished,
        "backlog": max((worker.backlog for worker in web), default=0),
        "web_workers": {
            "expected": board.expected,
            "live": sum(not worker.stuck(now, reader.limits) for worker in web),
        },
        "checks": {
            name: {
                **_check(state, pod, now, reader.wall()),
                "runbook": runbook.check(state.status, critical=state.check.critical),
            }
            for name, state in pod.snapshot.states.items()
        },
        "workers": [worker_document(worker, reader) for worker in workers],
        "tasks": startup["data"]["tasks"],
        "fleet": _fleet(pod) if pod.snapshot.fleet else None,
    }


def _fleet(pod: Pod) -> Document:
    found = members(pod, trusted=True)
    return {**found, "pods": sorted(found["pods"], key=lambda row: row["ready"] is True)}


def _verdicts(pod: Pod, payload: Payload) -> Document:
    snapshot = pod.snapshot
    return {
        "timestamp": timestamp(pod.at),
        "name": payload.name,
        "version": payload.version,
        "lifecycle": snapshot.lifecycle.value,
        "status": snapshot.pod.word,
        "headline": _headline(pod),
        "verdicts": {
            "startup": snapshot.started,
            "liveness": pod.alive,
            "readiness": snapshot.ready,
            "overall": snapshot.overall.word,
        },
    }


def _headline(pod: Pod) -> str:
    """One line, by what matters most: starting, draining, stalled, failing, serving."""
    snapshot = pod.snapshot
    if not pod.alive:
        return "No web worker makes progress"
    if pod.obstacles:
        return f"Not ready: {', '.join(pod.obstacles)}"
    if snapshot.overall is Status.WARNING:
        names = [name for name, state in snapshot.states.items() if state.status > Status.HEALTHY]
        return f"Ready, with a warning: {', '.join(names)}"
    return "Ready"


def check_document(state: CheckState, now: float) -> Document:
    """A check as endpoints show it, with what only matters to people who look at it."""
    return {
        **summary(state),
        "age_seconds": round(max(0.0, now - state.run.finished), 1) if state.run else None,
        "critical": state.check.critical,
    }


def _check(state: CheckState, pod: Pod, now: float, wall: float) -> Document:
    view = pod.snapshot.fleet
    return {
        **check_document(state, now),
        "origin": view.origin(state) if view else None,
        "runs": [
            {"duration_ms": milliseconds(seconds), "status": status.word}
            for seconds, status in state.history.runs
        ],
        "transitions": [
            {
                "timestamp": timestamp(at),
                "ago_seconds": round(max(0.0, wall - at), 1),
                "status": status.word,
                "error": code,
            }
            for at, status, code in reversed(state.history.transitions)
        ],
    }


def worker_document(worker: WorkerSlot, reader: Reader) -> Document:
    """A worker process, as its slot in the scoreboard shows it."""
    now = reader.now()
    stuck = worker.stuck(now, reader.limits)
    busy = min(worker.threads, max(worker.in_flight, worker.occupied))
    return {
        "slot": worker.slot,
        "pid": worker.pid,
        "role": worker.role.name.lower(),
        "state": STUCK if stuck else _phase(worker, busy),
        "generation": worker.generation,
        "threads": worker.threads,
        "threads_busy": busy,
        "requests_in_flight": worker.in_flight,
        "requests_finished": worker.finished,
        "oldest_seconds": (
            round(max(0.0, now - worker.oldest_since), 1) if worker.oldest_since else None
        ),
        "queued": worker.queued,
        "memory_mb": round(worker.memory_bytes / MIB, 1) if worker.memory_bytes else None,
        "beat_age_seconds": round(max(0.0, now - worker.beat), 1),
    }


def _phase(worker: WorkerSlot, busy: int) -> str:
    """What a worker that is not stuck is doing."""
    if worker.phase is not Phase.READY:
        return worker.phase.name.lower()
    if busy >= worker.threads:
        return "full"
    return "busy" if busy else "idle"
