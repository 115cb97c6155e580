"""The one place that turns the state of the pod into the documents of the contract.

Each public function of ``Payload`` is one endpoint: it takes the pod at one moment and
whether the caller is trusted, and gives the verdict and the body. Every documented key is
always there; what is not known, or not for this caller, is null. ``schemas`` declares the keys.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from service.health import CheckState, Pod, Scope, Snapshot, Status, TaskState, worst
from service.web import schemas
from service.web.schemas import EXTERNAL, Schema

Document = dict[str, Any]

DOCUMENTED = ("database", "redis", *EXTERNAL, "system_resources", "application")
GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint says.

    Attributes:
        passes: Whether the HTTP status is 200 (else 503).
        body: The document; text where the endpoint's answer is not JSON.
    """

    passes: bool
    body: Document | str


def timestamp(unix: float) -> str:
    """RFC 3339 in UTC with milliseconds, such as ``2025-01-27T10:30:00.000Z``."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def milliseconds(seconds: float | None) -> float | None:
    """Seconds as milliseconds with two decimals."""
    return None if seconds is None else round(seconds * 1000, 2)


def span(seconds: float | None) -> str | None:
    """A length of time for people, in its two largest units, such as ``4 min 10 s``."""
    if seconds is None:
        return None
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    return f"{days} d {hours_of_day} h" if days else f"{hours} h {minutes} min"


def _in_units_of(unit: int, amount: int | None) -> float | None:
    return None if amount is None else round(amount / unit, 2)


def _pick(
    source: Mapping[str, Any], keys: Mapping[str, Schema], *, trusted: bool = True
) -> Document:
    """The declared keys of a source, internal ones for trusted callers."""
    return {
        key: _internal(source.get(key), trusted=trusted or schemas.INTERNAL not in declared)
        for key, declared in keys.items()
    }


def _last_check(state: CheckState) -> str | None:
    return timestamp(state.run.finished_at) if state.run else None


def _details(state: CheckState) -> Mapping[str, Any]:
    return state.run.result.details if state.run else {}


def _response_time(state: CheckState) -> float | None:
    return milliseconds(state.run.result.response_time) if state.run else None


def _duration(state: CheckState) -> float | None:
    """Seconds the newest finished run took."""
    return state.run.duration if state.run and state.code != "stale" else None


def _longest(states: Iterable[CheckState]) -> float | None:
    durations = [duration for state in states if (duration := _duration(state)) is not None]
    return milliseconds(max(durations, default=None))


def summary(state: CheckState) -> Document:
    """The four keys every service object has."""
    return {
        "status": state.status.word,
        "response_time_ms": _response_time(state),
        "error": state.code,
        "last_check": _last_check(state),
    }


def _part(state: CheckState, name: str, *, first: bool = False) -> Document:
    """A component as the newest run found it, undamped."""
    part = _details(state).get(name)
    if part is not None:
        return dict(part)
    if state.run is None or state.code == "stale":
        return {"status": state.status.word, "error": state.code}
    if first:
        return {"status": state.run.result.status.word, "error": state.run.result.code}
    return {"status": Status.UNKNOWN.word, "error": "not_attempted"}


def _connection(state: CheckState, part: str) -> str:
    """The one word for the connection of the newest run."""
    word = _part(state, part, first=True)["status"]
    if word in ("healthy", "warning"):
        return "active"
    return "failed" if word == "unhealthy" else word


class Payload:
    """The documents of the contract.

    Args:
        name: Name of the application, for everybody.
        version: Its version, for everybody.
        environment: Name of the environment, for trusted callers.
        debug: Whether it runs in debug mode, for trusted callers.
    """

    def __init__(self, name: str, version: str, environment: str, *, debug: bool) -> None:
        self.name = name
        self.version = version
        self.environment = environment
        self._debug = debug

    # -- root family: flat documents

    def index(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002 - one signature
        """``/``: which service this is. Always answered 200."""
        return Answer(
            passes=True,
            body={
                "name": self.name,
                "message": f"{self.name} API is running",
                "version": self.version,
                "status": pod.snapshot.pod.word,
                "timestamp": timestamp(pod.at),
            },
        )

    def health(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/health``: the pod verdict and nothing else."""
        verdict = pod.snapshot.pod
        return Answer(verdict.passes, {"status": verdict.word, "timestamp": timestamp(pod.at)})

    def detailed(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/health/detailed``: everything at a glance."""
        snapshot = pod.snapshot
        states = snapshot.states
        own = {name: summary(state) for name, state in _registered(snapshot).items()}
        application = states["application"]
        return _judged(
            snapshot.overall,
            pod,
            {
                "response_time_ms": _longest(states.values()),
                "lifecycle": snapshot.lifecycle.value,
                "services": {
                    "database": summary(states["database"]),
                    "redis": summary(states["redis"]),
                    "external_services": self._providers(snapshot),
                    **own,
                },
                "system_resources": self._resources(states["system_resources"], trusted=trusted),
                "application": {
                    "status": application.status.word,
                    "uptime_seconds": round(pod.uptime, 2),
                    **self._process(application, trusted=trusted),
                    "error": application.code,
                    "last_check": _last_check(application),
                },
                **_lists(snapshot.states),
                "critical_services_failing": snapshot.critical_failing,
            },
        )

    def database(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/health/database``: the parts of the database check."""
        state = pod.snapshot.states["database"]
        responsiveness = _part(state, "responsiveness")
        pool = _part(state, "connection_pool")
        return _judged(
            state.status,
            pod,
            {
                "response_time_ms": milliseconds(_duration(state)),
                "error": state.code,
                "last_check": _last_check(state),
                "connection": _part(state, "connection", first=True),
                "responsiveness": {"response_time_ms": None, "table_count": None, **responsiveness},
                "connection_pool": {
                    "scope": "pod",
                    "workers": 0,
                    **pool,
                    "info": _pick(pool.get("info", {}), schemas.POOL_INFO),
                },
            },
        )

    def redis(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/health/redis``: the parts of the Redis check."""
        state = pod.snapshot.states["redis"]
        memory = _part(state, "memory_usage")
        connectivity = _part(state, "connectivity", first=True)
        return _judged(
            state.status,
            pod,
            {
                "response_time_ms": milliseconds(_duration(state)),
                "error": state.code,
                "last_check": _last_check(state),
                "connectivity": {
                    "response_time_ms": None,
                    **connectivity,
                    **_pick(connectivity, schemas.REDIS_ADDRESS, trusted=trusted),
                },
                "cache_operations": {"response_time_ms": None, **_part(state, "cache_operations")},
                "memory_usage": {
                    **memory,
                    "info": _pick(memory.get("info", {}), schemas.REDIS_INFO, trusted=trusted),
                },
            },
        )

    def external(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/health/external``: the four providers and a summary."""
        states = {name: pod.snapshot.states[name] for name in EXTERNAL}
        lists = _lists(states)
        counts = {name: len(names) for name, names in lists.items()}
        return _judged(
            worst(state.status for state in states.values()),
            pod,
            {
                "response_time_ms": _longest(states.values()),
                "services": self._providers(pod.snapshot),
                **lists,
                "summary": {
                    "total_services": len(states),
                    "healthy_services": len(states) - sum(counts.values()),
                    **counts,
                },
            },
        )

    def standard(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/health/standard``: compact, for generic monitors."""
        return _judged(
            pod.snapshot.overall,
            pod,
            {"version": self.version, "checks": _checks(pod.snapshot, "response_time")},
        )

    def metrics(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/health/metrics``: the overall verdict with numbers."""
        snapshot = pod.snapshot
        states = snapshot.states
        resources = _details(states["system_resources"])
        memory, disk = resources.get("memory", {}), resources.get("disk", {})
        pool = _details(states["database"]).get("connection_pool", {}).get("info", {})
        redis = _details(states["redis"]).get("server", {})
        internal = partial(_internal, trusted=trusted)
        durations = {name: _duration(state) for name, state in states.items()}
        return _judged(
            snapshot.overall,
            pod,
            {
                "version": self.version,
                "response_time_ms": _longest(states.values()),
                "checks": _checks(snapshot, "response_time_ms"),
                "metrics": {
                    "health_check_duration_seconds": {
                        name: None if duration is None else round(duration, 4)
                        for name, duration in durations.items()
                    },
                    "health_check_failures_total": {
                        name: state.failed_runs for name, state in states.items()
                    },
                    "health_check_status": {
                        name: state.status.up for name, state in states.items()
                    },
                    "system_metrics": {
                        "memory_total_bytes": internal(memory.get("total_bytes")),
                        "memory_available_bytes": internal(memory.get("available_bytes")),
                        "memory_used_bytes": internal(memory.get("used_bytes")),
                        "memory_percent": memory.get("usage_percent"),
                        "cpu_percent": resources.get("cpu", {}).get("usage_percent"),
                        "disk_percent": disk.get("usage_percent"),
                        "disk_used_bytes": internal(disk.get("used_bytes")),
                        "disk_total_bytes": internal(disk.get("total_bytes")),
                    },
                    "database_metrics": {
                        "connection_pool_size": pool.get("pool_size"),
                        "connections_checked_out": pool.get("checked_out"),
                    },
                    "redis_metrics": {
                        "memory_usage_bytes": internal(redis.get("used_memory_bytes")),
                        "connected_clients": internal(redis.get("connected_clients")),
                        "total_commands_processed": internal(redis.get("total_commands_processed")),
                    },
                },
            },
        )

    # -- blueprint family: the same states in an envelope

    def comprehensive(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/api/system/health/``: every check with its measurements."""
        return _envelope(pod.snapshot.overall.passes, pod, self._everything(pod, trusted=trusted))

    def comprehensive_detailed(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/api/system/health/detailed``: the same, with process and environment."""
        internal = partial(_internal, trusted=trusted)
        application = pod.snapshot.states["application"]
        process = _details(application).get("process", {})
        return _envelope(
            pod.snapshot.overall.passes,
            pod,
            {
                **self._everything(pod, trusted=trusted),
                "process_info": {
                    "pid": internal(process.get("pid")),
                    **self._process(application, trusted=trusted),
                },
                "environment": {
                    "python_version": internal(platform.python_version()),
                    "flask_env": internal(self.environment),
                    "debug_mode": internal(self._debug),
                },
            },
        )

    def simple(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/api/system/health/simple``: the pod verdict, for load balancers."""
        verdict, states = pod.snapshot.pod, pod.snapshot.states
        return _envelope(
            verdict.passes,
            pod,
            {
                "status": verdict.word,
                "timestamp": timestamp(pod.at),
                "database": states["database"].status.word,
                "redis": states["redis"].status.word,
            },
        )

    def readiness(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/api/system/health/readiness``: whether the pod should get traffic."""
        snapshot = pod.snapshot
        services = {name: state.status.word for name, state in snapshot.critical.items()}
        return _envelope(
            snapshot.ready,
            pod,
            {"ready": snapshot.ready, "timestamp": timestamp(pod.at), "services": services},
        )

    def liveness(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/api/system/health/liveness``: whether a web worker makes progress."""
        return _envelope(
            pod.alive,
            pod,
            {
                "alive": pod.alive,
                "timestamp": timestamp(pod.at),
                "uptime_seconds": round(pod.uptime, 2),
            },
        )

    def startup(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/api/system/health/startup``: whether the pod has ever been serving."""
        snapshot = pod.snapshot
        shown = {
            name: state.status.word
            for name, state in snapshot.states.items()
            if state.check.startup or name in ("database", "redis", "system_resources")
        }
        tasks = {name: _task(state) for name, state in snapshot.tasks.items()}
        return _envelope(
            snapshot.started,
            pod,
            {
                "started": snapshot.started,
                "timestamp": timestamp(pod.at),
                "services": shown,
                "tasks": _internal(tasks, trusted=trusted),
            },
        )

    def system_database(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/api/system/health/database``: the database object."""
        state = pod.snapshot.states["database"]
        return _envelope(state.status.passes, pod, self._database(state))

    def system_redis(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/api/system/health/redis``: the Redis object."""
        state = pod.snapshot.states["redis"]
        return _envelope(state.status.passes, pod, self._redis(state, trusted=trusted))

    def system_external(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """``/api/system/health/external``: the four provider objects."""
        verdict = worst(pod.snapshot.states[name].status for name in EXTERNAL)
        return _envelope(verdict.passes, pod, self._providers(pod.snapshot))

    def system_resources(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/api/system/health/resources``: the resources object."""
        state = pod.snapshot.states["system_resources"]
        return _envelope(state.status.passes, pod, self._resources(state, trusted=trusted))

    def system_application(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/api/system/health/application``: the application object."""
        state = pod.snapshot.states["application"]
        return _envelope(state.status.passes, pod, self._application(pod, trusted=trusted))

    def fleet(self, pod: Pod, *, trusted: bool) -> Answer:
        """``/api/system/health/fleet``: every pod, as this one last saw them. Always 200."""
        return _envelope(True, pod, members(pod, trusted=trusted))  # noqa: FBT003

    def system_metrics(self, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """Both metrics paths in their JSON form: the nine documented names."""
        states = pod.snapshot.states
        resources = _details(states["system_resources"])
        ends = [state.run.finished_at for state in states.values() if state.run]
        usage = {
            f"mingus_{part}_usage_percent": resources.get(part, {}).get("usage_percent")
            for part in ("cpu", "memory", "disk")
        }
        return _envelope(
            True,  # noqa: FBT003
            pod,
            {
                "mingus_database_status": states["database"].status.up,
                "mingus_redis_status": states["redis"].status.up,
                "mingus_database_response_time_ms": _response_time(states["database"]),
                "mingus_redis_response_time_ms": _response_time(states["redis"]),
                **usage,
                "mingus_uptime_seconds": round(pod.uptime, 2),
                "mingus_health_check_timestamp": int(max(ends)) if ends else None,
            },
        )

    # -- shared objects

    def _everything(self, pod: Pod, *, trusted: bool) -> Document:
        snapshot, states = pod.snapshot, pod.snapshot.states
        own = {name: summary(state) for name, state in _registered(snapshot).items()}
        return {
            "overall_status": snapshot.overall.word,
            "timestamp": timestamp(pod.at),
            "response_time_ms": _longest(states.values()),
            "lifecycle": snapshot.lifecycle.value,
            "services": {
                "database": self._database(states["database"]),
                "redis": self._redis(states["redis"], trusted=trusted),
                "external_services": self._providers(snapshot),
                "system_resources": self._resources(states["system_resources"], trusted=trusted),
                "application": self._application(pod, trusted=trusted),
                **own,
            },
            **_lists(states),
            "critical_services_failing": snapshot.critical_failing,
        }

    def _database(self, state: CheckState) -> Document:
        return {
            **summary(state),
            "connection": _connection(state, "connection"),
            "table_count": _part(state, "responsiveness").get("table_count"),
        }

    def _redis(self, state: CheckState, *, trusted: bool) -> Document:
        internal = partial(_internal, trusted=trusted)
        server = _details(state).get("server", {})
        info = _part(state, "memory_usage").get("info", {})
        return {
            **summary(state),
            "connection": _connection(state, "connectivity"),
            "memory_usage_mb": internal(_in_units_of(MIB, server.get("used_memory_bytes"))),
            "used_memory_human": internal(info.get("used_memory_human")),
            "redis_version": internal(server.get("redis_version")),
            "connected_clients": internal(server.get("connected_clients")),
        }

    def _providers(self, snapshot: Snapshot) -> Document:
        return {
            name: {
                **summary(state),
                "response_code": _details(state).get("response_code"),
                "scope": (state.check.scope if state.run else Scope.POD).value,
            }
            for name, state in snapshot.states.items()
            if name in EXTERNAL
        }

    def _resources(self, state: CheckState, *, trusted: bool) -> Document:
        internal = partial(_internal, trusted=trusted)

        def amounts(part: Document, *names: str) -> Document:
            return {
                f"{name}_gb": internal(_in_units_of(GIB, part.get(f"{name}_bytes")))
                for name in names
            }

        def usage(name: str) -> tuple[Document, Document]:
            part = _part(state, name, first=True)
            return part, _pick(part, schemas.USAGE, trusted=trusted)

        cpu, cpu_usage = usage("cpu")
        memory, memory_usage = usage("memory")
        disk, disk_usage = usage("disk")
        network = _details(state).get("network", {})
        return {
            "status": state.status.word,
            "cpu": {**cpu_usage, "cores": internal(cpu.get("cores"))},
            "memory": {**memory_usage, **amounts(memory, "total", "used", "available")},
            "disk": {**disk_usage, **amounts(disk, "total", "used", "free")},
            "network": _pick(network, schemas.NETWORK, trusted=trusted),
            "last_check": _last_check(state),
        }

    def _application(self, pod: Pod, *, trusted: bool) -> Document:
        internal = partial(_internal, trusted=trusted)
        state, serving_at = pod.snapshot.states["application"], pod.snapshot.serving_at
        details = _details(state)
        return {
            "status": state.status.word,
            "app_name": self.name,
            "version": self.version,
            "environment": internal(self.environment),
            "debug_mode": internal(self._debug),
            "database_migrations": details.get("database_migrations", "unknown"),
            "startup_time": None if serving_at is None else timestamp(serving_at),
            "uptime_seconds": round(pod.uptime, 2),
            **_pick(details, schemas.WORKERS),
            "error": state.code,
            "last_check": _last_check(state),
        }

    def _process(self, application: CheckState, *, trusted: bool) -> Document:
        process = _details(application).get("process", {})
        return _pick(process, schemas.PROCESS, trusted=trusted)


def members(pod: Pod, *, trusted: bool) -> Document:
    """The fleet as a pod last saw it."""
    internal = partial(_internal, trusted=trusted)
    view, states = pod.snapshot.fleet, pod.snapshot.states
    seen = json.loads(view.members) if view else {}
    rows = [_pick(row, schemas.FLEET_POD) for row in seen.get("pods", ())]
    checks = {
        name: {
            "status": state.status.word,
            "failing_elsewhere": view.elsewhere.get(name, 0),
            "origin": view.origin(state),
        }
        for name, state in states.items()
        if view and not state.check.unconfigured
    }
    return {
        "scope": (Scope.FLEET if view else Scope.POD).value,
        "fresh": bool(view and view.fresh),
        "last_sync": timestamp(view.seen_at) if view else None,
        "floor_percent": internal(view.floor if view else None),
        "this_pod": internal(seen.get("this")),
        "pods_total": internal(view.others + 1 if view else None),
        "pods_ready": internal(sum(row["ready"] is True for row in rows) if view else None),
        "leases": internal(seen.get("leases", {})),
        "checks": internal(checks),
        "pods": internal(rows),
    }


def _internal(value: Any, *, trusted: bool) -> Any:
    """A value of class T: null for callers who are not trusted."""
    return value if trusted else None


def _task(state: TaskState) -> Document:
    return {
        "status": state.status.word,
        "error": state.code,
        "duration_ms": milliseconds(state.duration),
        "attempt": state.attempt,
        "scope": state.scope.value,
    }


def _registered(snapshot: Snapshot) -> Mapping[str, CheckState]:
    """The checks the application registered itself."""
    return {name: state for name, state in snapshot.states.items() if name not in DOCUMENTED}


def _checks(snapshot: Snapshot, response_time: str) -> Document:
    """The compact form: four keys a check, the response time under the name given."""

    def brief(state: CheckState) -> Document:
        four = summary(state)
        return {response_time: four.pop("response_time_ms"), **four}

    states = snapshot.states
    return {
        "database": brief(states["database"]),
        "redis": brief(states["redis"]),
        "external_apis": {name: brief(states[name]) for name in EXTERNAL},
    }


def _lists(states: Mapping[str, CheckState]) -> Document:
    listed = (Status.UNHEALTHY, Status.WARNING, Status.UNKNOWN, Status.NOT_CONFIGURED)
    return {
        f"{status.word}_services": [
            name for name, state in states.items() if state.status is status
        ]
        for status in listed
    }


def _judged(verdict: Status, pod: Pod, fields: Document) -> Answer:
    """A document of the root family."""
    return Answer(
        verdict.passes, {"status": verdict.word, "timestamp": timestamp(pod.at), **fields}
    )


def _envelope(passes: bool, pod: Pod, data: Document) -> Answer:  # noqa: FBT001
    """A document of the blueprint family: ``success`` is true exactly when the status is 200."""
    return Answer(passes, {"success": passes, "timestamp": timestamp(pod.at), "data": data})
