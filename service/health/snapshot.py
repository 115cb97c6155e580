"""Everything at one moment, and the verdict on each question.

A snapshot is what the monitor publishes and every worker reads. A reader first ages it
(``at``): a dead monitor needs no live code to be noticed.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from service.health.check import Check, Scope, Thresholds
from service.health.fleet import FleetView, floored
from service.health.history import History
from service.health.result import Result, Run
from service.health.state import CheckState, Told
from service.health.status import Status, worst
from service.health.tasks import TaskState


class Lifecycle(StrEnum):
    """Where the pod is in its life. One way, but for maintenance."""

    STARTING = "starting"
    SERVING = "serving"
    MAINTENANCE = "maintenance"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment.

    Attributes:
        states: Where each check stands, by name, in the documented order.
        lifecycle: Where the pod is in its life.
        serving_at: When the pod became serving, Unix seconds, or None. This and the
            lifecycle are not published: each reader fills them in from the flags of the
            scoreboard, which no monitor has to be alive for.
        tasks: How far each startup task has come, by name, in the order of the tasks.
        fleet: The other pods, None where nothing is known of any. What follows from it is
            found by ``at``, so that it ends when the view is too old.
    """

    states: Mapping[str, CheckState]
    lifecycle: Lifecycle = Lifecycle.STARTING
    serving_at: float | None = None
    tasks: Mapping[str, TaskState] = field(default_factory=dict)
    fleet: FleetView | None = None

    @classmethod
    def blank(cls, checks: Iterable[Check], **fields: Any) -> "Snapshot":
        """The answer before the first result."""
        return cls({check.name: CheckState.initial(check) for check in checks}, **fields)

    def at(self, now: float) -> "Snapshot":
        """The snapshot as it must be reported at ``now`` (monotonic seconds)."""
        fleet = self.fleet and self.fleet.at(now)
        states = {name: floored(state.at(now), fleet) for name, state in self.states.items()}
        return replace(self, states=states, fleet=fleet)

    @property
    def fresh_until(self) -> float:
        """When the next thing in an aged snapshot expires, monotonic seconds."""
        ends = (
            state.run.finished + state.check.expiry
            for state in self.states.values()
            if state.run and state.code != "stale"
        )
        fleet = self.fleet.fresh_until if self.fleet else float("inf")
        return min(fleet, min(ends, default=float("inf")))

    def _those(self, wanted: Callable[[CheckState], bool]) -> dict[str, CheckState]:
        return {name: state for name, state in self.states.items() if wanted(state)}

    @property
    def critical(self) -> Mapping[str, CheckState]:
        """The checks the pod is not ready without."""
        return self._those(lambda state: state.check.critical)

    @property
    def critical_failing(self) -> bool:
        """Whether at least one critical check is unhealthy or unknown."""
        return any(not state.status.passes for state in self.critical.values())

    @property
    def overall(self) -> Status:
        """Worst of all checks, one that is not critical counting at most as WARNING."""
        return worst(
            state.status if state.check.critical or state.status.passes else Status.WARNING
            for state in self.states.values()
        )

    @property
    def started(self) -> bool:
        """Whether the pod has ever been serving."""
        return self.serving_at is not None

    @property
    def ready(self) -> bool:
        """Whether the pod should get traffic."""
        return self.lifecycle is Lifecycle.SERVING and not self.critical_failing

    @property
    def pod(self) -> Status:
        """The pod verdict: one word that agrees with ``ready``."""
        if self.lifecycle in (Lifecycle.DRAINING, Lifecycle.MAINTENANCE):
            return Status.UNHEALTHY
        if self.lifecycle is Lifecycle.STARTING:
            return Status.UNKNOWN
        return max(
            Status.HEALTHY,
            worst(state.status for state in self.critical.values()),
        )

    def may_serve(self) -> bool:
        """Whether nothing keeps a starting pod from serving, its workers apart."""
        return all(
            (state.run is not None or state.check.unconfigured is not None)
            and (state.passed_once or not state.check.startup)
            for state in self.states.values()
        ) and not any(task.holds_up for task in self.tasks.values())


class Encoder:
    """Snapshots as bytes for the scoreboard: a first line, and one for each state.

    A state that is still the same object has still the same line: what a publication costs
    does not grow with the checks that have not run.
    """

    def __init__(self) -> None:
        self._lines: dict[str, tuple[CheckState, bytes]] = {}

    def __call__(self, snapshot: Snapshot) -> bytes:
        """A snapshot's bytes."""
        lines = {}
        for name, state in snapshot.states.items():
            known = self._lines.get(name)
            same = known is not None and known[0] is state
            lines[name] = known if known and same else (state, _line(_state_document(state)))
        self._lines = lines
        tasks = {name: _fields(task) for name, task in snapshot.tasks.items()}
        fleet = _fields(snapshot.fleet) if snapshot.fleet else None
        head = _line({"checks": len(lines), "tasks": tasks, "fleet": fleet})
        return b"\n".join([head, *(line for _, line in lines.values())])


class Decoder:
    """The snapshots that an ``Encoder`` was given, without what the scoreboard's flags say.

    Lines that were in the newest snapshot are not read again.
    """

    def __init__(self) -> None:
        self._states: dict[bytes, CheckState] = {}

    def __call__(self, body: bytes) -> Snapshot:
        """The snapshot of some bytes.

        Raises:
            ValueError, KeyError, TypeError: They are not a snapshot of this version.
        """
        first, *lines = body.split(b"\n")
        head = json.loads(first)
        if head["checks"] != len(lines):
            raise ValueError(f"{len(lines)} checks where there should be {head['checks']}")
        known = self._states
        self._states = {line: known.get(line) or _state(json.loads(line)) for line in lines}
        states = self._states.values()
        return Snapshot(
            {state.check.name: state for state in states},
            tasks={name: _task(entry) for name, entry in dict(head["tasks"]).items()},
            fleet=FleetView(**head["fleet"]) if head["fleet"] else None,
        )


def encode(snapshot: Snapshot) -> bytes:
    """One snapshot as bytes."""
    return Encoder()(snapshot)


def decode(body: bytes) -> Snapshot:
    """One snapshot from its bytes.

    Raises:
        ValueError, KeyError, TypeError: They are not a snapshot of this version.
    """
    return Decoder()(body)


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _state_document(state: CheckState) -> dict[str, Any]:
    check, run = state.check, state.run
    document = {
        **_fields(state),
        "check": {**_fields(check)},
        "run": None,
        "told": _fields(state.told) if state.told else None,
        "history": _fields(state.history),
    }
    document["check"]["thresholds"] = _fields(check.thresholds)
    if run is not None:
        result = _fields(run.result)
        del result["reason"]  # the log's; no secret may reach a shared file
        document["run"] = {**_fields(run), "result": result}
    return document


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a slotted dataclass; ``asdict`` would copy twenty times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


def _state(entry: dict[str, Any]) -> CheckState:
    check, run = entry["check"], entry["run"]
    check["thresholds"] = Thresholds(**check["thresholds"])
    check["scope"] = Scope(check["scope"])
    if run:
        run["result"]["status"] = Status(run["result"]["status"])
        run["result"] = Result(**run["result"])
    entry["check"] = Check(**check)
    entry["run"] = Run(**run) if run else None
    entry["status"] = Status(entry["status"])
    entry["history"] = History.of(**entry["history"])
    entry["told"] = Told(**entry["told"]) if entry["told"] else None
    return CheckState(**entry)


def _task(entry: dict[str, Any]) -> TaskState:
    return TaskState(**{**entry, "status": Status(entry["status"]), "scope": Scope(entry["scope"])})
