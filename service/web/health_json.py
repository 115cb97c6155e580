"""``application/health+json``: the same verdicts as draft-inadarei-api-health-check-06 has them.

What an endpoint does not show as JSON it does not show here: one that has only a verdict has no
``checks``. A check that is not configured is left out, and so is a value nobody measured.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from service.health import CheckState, Pod, Status, worst
from service.web.payload import Answer, Document, Payload, milliseconds, timestamp
from service.web.schemas import EXTERNAL

MEDIA_TYPE = "application/health+json"

_DATASTORES = ("database", "redis")


def _none(_pod: Pod) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Subject:
    """What an endpoint is about.

    Attributes:
        verdict: What its HTTP status follows from.
        checks: Names of the checks it shows.
    """

    verdict: Callable[[Pod], Status]
    checks: Callable[[Pod], Iterable[str]] = _none


def _yes(*, yes: bool) -> Status:
    return Status.HEALTHY if yes else Status.UNHEALTHY


def check(name: str) -> Subject:
    """One check."""
    return Subject(lambda pod: pod.snapshot.states[name].status, lambda _pod: (name,))


POD = Subject(lambda pod: pod.snapshot.pod)
ALIVE = Subject(lambda pod: _yes(yes=pod.alive))
STARTED = Subject(lambda pod: _yes(yes=pod.snapshot.started))
OVERALL = Subject(lambda pod: pod.snapshot.overall, lambda pod: pod.snapshot.states)
PROVIDERS = Subject(
    lambda pod: worst(pod.snapshot.states[name].status for name in EXTERNAL), lambda _pod: EXTERNAL
)


def word(status: Status) -> str:
    """The draft's word for a status."""
    if not status.passes:
        return "fail"
    return "warn" if status is Status.WARNING else "pass"


def render(subject: Subject, payload: Payload, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG001 - one signature
    """The answer of an endpoint that is about something."""
    verdict = subject.verdict(pod)
    states = [pod.snapshot.states[name] for name in subject.checks(pod)]
    measured = dict(
        entry for state in states if not state.check.unconfigured for entry in _entries(state, pod)
    )
    body: Document = {
        "status": word(verdict),
        "version": payload.version,
        "serviceId": payload.name,
        **({"checks": measured} if states else {}),
    }
    return Answer(verdict.passes, body)


def _entries(state: CheckState, pod: Pod) -> Iterator[tuple[str, list[Document]]]:
    """A check's measurements by the draft's keys, ``component:measurement``."""
    name, result = state.check.name, state.run and state.run.result
    if name == "system_resources":
        for part in ("cpu", "memory", "disk"):
            found = result.details.get(part) if result else None
            status = Status.of(found["status"]) if found else state.status
            code = found["error"] if found else state.code
            value = found["usage_percent"] if found else None
            entry = _entry(state, status, code, "system", value, "percent")
            yield f"{part}:utilization", [entry]
    elif name == "application":
        uptime = round(pod.uptime, 2)
        entry = _entry(state, state.status, state.code, "component", uptime, "s")
        yield f"{name}:uptime", [entry]
    else:
        kind = "datastore" if name in _DATASTORES else "component"
        value = milliseconds(result.response_time) if result else None
        yield f"{name}:responseTime", [_entry(state, state.status, state.code, kind, value, "ms")]


def _entry(
    state: CheckState,
    status: Status,
    code: str | None,
    kind: str,
    value: float | None,
    unit: str,
) -> Document:
    return {
        "componentType": kind,
        "status": word(status),
        **({} if value is None else {"observedValue": value, "observedUnit": unit}),
        **({"time": timestamp(state.run.finished_at)} if state.run else {}),
        **({"output": code} if code and word(status) != "pass" else {}),
    }
