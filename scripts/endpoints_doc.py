"""Make the examples and tables of docs/HEALTH_CHECK_ENDPOINTS.md with the service's own code.

    python scripts/endpoints_doc.py            print the document with fresh blocks
    python scripts/endpoints_doc.py --write    put them into the document

Every body is what ``service.web.payload`` says of one of the pods below: one where all is well,
as a trusted caller sees it, and one where several things are not, as everybody else does.
"""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

from document_blocks import run

from service.checks import definitions
from service.health import (
    FleetView,
    Lifecycle,
    Pod,
    Result,
    Run,
    Scope,
    Snapshot,
    Status,
    TaskState,
)
from service.health.state import CheckState
from service.metrics import Format, Instruments, MultiprocessReader, expose
from service.metrics.exposition import TRUSTED, PodCollector
from service.settings import Settings
from service.web import health_json
from service.web.answers import encode, problem_body
from service.web.endpoints import ENDPOINTS, FLEET, INDEX, METRICS, PREFIX, Endpoint
from service.web.payload import Payload
from service.web.twins import Question

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "HEALTH_CHECK_ENDPOINTS.md"
WIDTH = 100
ONE_LINE = 80  # the longest object on one line; before it stands its key
VERSION = "1.0.0"


def unix(moment: str) -> float:
    """A timestamp of the examples as Unix seconds."""
    return datetime.fromisoformat(moment).timestamp()


NOW = unix("2025-01-27T10:30:00.000Z")
BOOTED = unix("2025-01-26T10:30:00.000Z")
SERVING = unix("2025-01-26T10:30:04.118Z")
RAN = unix("2025-01-27T10:29:58.412Z")
RAN_PROVIDERS = unix("2025-01-27T10:29:21.007Z")
RAN_LOCAL = unix("2025-01-27T10:29:57.120Z")
MONOTONIC = 1000.0  # of every run and of the answer; a stale pod is asked later

# --- what the checks found --------------------------------------------------------------------

POOL = {"pool_size": 40, "checked_in": 8, "checked_out": 2, "overflow": 0, "invalid": 0}
WELL = {"status": "healthy", "error": None}
NOT_ATTEMPTED = {"status": "unknown", "error": "not_attempted"}


def _database(connection: Mapping[str, Any], responsiveness: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "connection": connection,
        "responsiveness": responsiveness,
        "connection_pool": {**WELL, "scope": "pod", "workers": 4, "info": POOL},
    }


def _usage(percent: float, code: str | None = None, **figures: Any) -> dict[str, Any]:
    status = "healthy" if code is None else "warning" if code.endswith("_high") else "unhealthy"
    return {"status": status, "usage_percent": percent, "error": code, **figures}


def _resources(**parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "cpu": _usage(15.2, cores=4, source="cgroup_v2"),
        "memory": _usage(45.8, **MEMORY),
        "disk": _usage(35.2, **DISK),
        "network": {
            "bytes_sent": 183400211,
            "bytes_recv": 95120044,
            "packets_sent": 310422,
            "packets_recv": 288910,
        },
        **parts,
    }


MEMORY = {
    "total_bytes": 17179869184,
    "used_bytes": 8053063680,
    "available_bytes": 9126805504,
    "source": "cgroup_v2",
}
DISK = {
    "total_bytes": 75913548595,
    "used_bytes": 26736171417,
    "free_bytes": 49177377178,
    "source": "host",
    "mount_point": "/",
}
REDIS = {
    "connectivity": {
        **WELL,
        "response_time_ms": 2.1,
        "host": "localhost",
        "port": 6379,
        "db": 0,
    },
    "cache_operations": {**WELL, "response_time_ms": 15.3},
    "memory_usage": {
        **WELL,
        "info": {
            "used_memory_human": "45.20M",
            "used_memory_peak_human": "50.10M",
            "used_memory_rss_human": "48.50M",
            "used_memory_lua_human": "38.00K",
            "mem_fragmentation_ratio": 1.12,
            "memory_usage_percent": 35.2,
            "total_connections_received": 1250,
            "total_commands_processed": 45600,
            "keyspace_hits": 42000,
            "keyspace_misses": 3600,
            "uptime_in_seconds": 86400,
            "connected_clients": 5,
        },
    },
    "server": {
        "redis_version": "7.2.4",
        "used_memory_bytes": 47395635,
        "connected_clients": 5,
        "total_commands_processed": 45600,
    },
}
REDIS_FROZEN = {
    "connectivity": {
        "status": "unhealthy",
        "error": "timeout",
        "response_time_ms": None,
        "host": "localhost",
        "port": 6379,
        "db": 0,
    },
    "cache_operations": {**NOT_ATTEMPTED, "response_time_ms": None},
    "memory_usage": {**NOT_ATTEMPTED, "info": dict.fromkeys(REDIS["memory_usage"]["info"])},
    "server": dict.fromkeys(REDIS["server"]),
}
WORKERS = {
    "database_migrations": "unknown",
    "active_connections": 3,
    "requests_per_minute": 120,
    "workers_expected": 4,
    "workers_live": 4,
    "process": {
        "pid": 1,
        "memory_rss_mb": 256.5,
        "cpu_percent": 2.1,
        "num_threads": 28,
        "open_files": 45,
        "connections": 12,
    },
}
TABLES = {**WELL, "response_time_ms": 32.7, "table_count": 25}
UNCOUNTED = {**NOT_ATTEMPTED, "response_time_ms": None, "table_count": None}


def _result(code: str | None = None, seconds: float | None = None, **details: Any) -> Result:
    if code is None:
        return Result(response_time=seconds, details=details)
    return Result.failed(code, response_time=seconds, details=details)


def _run(result: Result, at: float, duration: float | None = None) -> Run:
    return Run(result, MONOTONIC, at, duration or result.response_time or 0.0)


def _provider(seconds: float, status: int = 200, code: str | None = None) -> Run:
    return _run(_result(code, seconds, response_code=status), RAN_PROVIDERS)


HEALTHY_RUNS = {
    "database": _run(_result(seconds=0.0125, **_database(WELL, TABLES)), RAN, 0.0452),
    "redis": _run(_result(seconds=0.0021, **REDIS), RAN, 0.0258),
    "supabase_api": _provider(0.1502),
    "stripe_api": _provider(0.2008),
    "email_service_resend": _provider(0.1805),
    "sms_service_twilio": _provider(0.2201),
    "system_resources": _run(_result(**_resources()), RAN_LOCAL, 0.0009),
    "application": _run(_result(**WORKERS), RAN_LOCAL, 0.0004),
}
REFUSED = {"status": "unhealthy", "error": "connection_refused"}
FAILING_RUNS = {
    **HEALTHY_RUNS,
    "database": _run(_result("connection_refused", **_database(REFUSED, UNCOUNTED)), RAN, 0.0012),
    "stripe_api": _provider(3.41277, 200, "slow_response"),
    "sms_service_twilio": _provider(0.2314, 500, "http_500"),
    "system_resources": _run(
        _result("disk_high", **_resources(disk=_usage(83.6, "disk_high", **DISK))),
        RAN_LOCAL,
        0.0009,
    ),
}
FAILED_RUNS = {"database": 7, "sms_service_twilio": 3}

# --- the pods ---------------------------------------------------------------------------------

_GIVEN = dict.fromkeys(
    (
        *("database_url", "redis_url", "supabase_url", "supabase_anon_key", "stripe_secret_key"),
        *("resend_api_key", "twilio_account_sid", "twilio_auth_token"),
    ),
    "given",
)


def pod(
    runs: Mapping[str, Run],
    *,
    without: tuple[str, ...] = (),
    lifecycle: Lifecycle = Lifecycle.SERVING,
    alive: bool = True,
    age: float = 0.0,
    tasks: Mapping[str, TaskState] = MappingProxyType({}),
) -> Pod:
    """A pod whose checks ran, asked ``age`` seconds later; without some of its settings."""
    given = {name: value for name, value in _GIVEN.items() if name not in without}
    checks = definitions(Settings.model_construct(**given), redis="redis_url" in given)
    states = {}
    for check in checks:
        state = CheckState.initial(check)
        for _ in range(0 if check.unconfigured else FAILED_RUNS.get(check.name, 1)):
            state = state.observe(runs[check.name])
        states[check.name] = state
    return Pod(
        snapshot=Snapshot(
            states,
            lifecycle=lifecycle,
            serving_at=None if lifecycle is Lifecycle.STARTING else SERVING,
            tasks=tasks,
        ).at(MONOTONIC + age),
        readable=True,
        alive=alive,
        at=NOW,
        booted_at=BOOTED,
        uptime=86400.0,
        in_flight=3,
    )


NO_RESEND = ("resend_api_key",)
MIGRATED = {"migrate": TaskState(scope=Scope.FLEET).succeeded(0.84216, 1)}
HEALTHY = pod(HEALTHY_RUNS, tasks=MIGRATED)
FAILING = pod(FAILING_RUNS, without=NO_RESEND)
# Endpoints that find nothing wrong with FAILING: what fails there.
FAILING_AT = {
    "/health/redis": pod(
        {**FAILING_RUNS, "redis": _run(_result("timeout", **REDIS_FROZEN), RAN, 1.00042)}
    ),
    f"{PREFIX}/liveness": pod(FAILING_RUNS, alive=False),
    f"{PREFIX}/startup": pod(FAILING_RUNS, without=NO_RESEND, lifecycle=Lifecycle.STARTING),
    f"{PREFIX}/resources": pod(
        {
            **FAILING_RUNS,
            "system_resources": _run(
                _result(
                    "memory_critical",
                    **_resources(memory=_usage(96.1, "memory_critical", **MEMORY)),
                ),
                RAN_LOCAL,
            ),
        }
    ),
    f"{PREFIX}/application": pod(
        {
            **FAILING_RUNS,
            "application": _run(
                _result("workers_stalled", **{**WORKERS, "workers_live": 0}), RAN_LOCAL
            ),
        }
    ),
}
FAILING_AT[f"{PREFIX}/redis"] = FAILING_AT["/health/redis"]

# --- the examples -----------------------------------------------------------------------------

PAYLOAD = Payload("MINGUS", VERSION, "production", debug=False)


@dataclass(frozen=True, slots=True)
class Example:
    """One answer.

    Attributes:
        endpoint: Who gives it.
        trusted: Whether the caller is trusted.
        status: HTTP status.
        body: What is sent.
    """

    endpoint: Endpoint
    trusted: bool
    status: HTTPStatus
    body: bytes


def _example(endpoint: Endpoint, of: Pod, *, trusted: bool) -> Example:
    answer = endpoint.render(PAYLOAD, of, trusted=trusted)
    environment = answer.body.get("data", {}).get("environment")
    if isinstance(environment, dict) and environment["python_version"]:
        environment["python_version"] = "3.12.4"  # else it is that of whoever makes the document
    status = HTTPStatus.OK if answer.passes else HTTPStatus.SERVICE_UNAVAILABLE
    return Example(endpoint, trusted, status, encode(answer.body))


def name_of(endpoint: Endpoint) -> str:
    """The path of an endpoint as the document writes it."""
    return f"{PREFIX}/" if endpoint.path == PREFIX else endpoint.path


def examples() -> dict[str, Example]:
    """Every example by the name of its block: the path and the case."""
    found = {}
    for endpoint in (INDEX, *ENDPOINTS, METRICS):
        failing = FAILING_AT.get(endpoint.path, FAILING)
        found[f"{name_of(endpoint)} healthy"] = _example(endpoint, HEALTHY, trusted=True)
        found[f"{name_of(endpoint)} failing"] = _example(endpoint, failing, trusted=False)
    by_path = {endpoint.path: endpoint for endpoint in ENDPOINTS}
    found["/health/database not configured"] = _example(
        by_path["/health/database"], pod(HEALTHY_RUNS, without=("database_url",)), trusted=False
    )
    found[f"{PREFIX}/readiness stale"] = _example(
        by_path[f"{PREFIX}/readiness"], pod(HEALTHY_RUNS, age=60), trusted=False
    )
    return found


def pretty(value: Any, indent: int = 0) -> str:
    """JSON for people: objects on one line where they fit, else lines as full as they may be."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        pad = " " * (indent + 2)
        rows = ",\n".join(pad + pretty(each, indent + 2) for each in value)
        return f"[\n{rows}\n{' ' * indent}]"
    if not isinstance(value, dict):
        return json.dumps(value)
    entries = [f"{json.dumps(key)}: {pretty(inner, indent + 2)}" for key, inner in value.items()]
    flat = f"{{{', '.join(entries)}}}"
    if "\n" not in flat and indent + len(flat) <= ONE_LINE:
        return flat
    pad = " " * (indent + 2)
    lines = [pad + entries[0]]
    for entry in entries[1:]:
        together = f"{lines[-1]}, {entry}"
        if "\n" in together or len(together) >= WIDTH:
            lines[-1] += ","
            lines.append(pad + entry)
        else:
            lines[-1] = together
    return "{\n" + "\n".join(lines) + "\n" + " " * indent + "}"


# What the longest answer adds to another one, which is shown in full.
ADDED = {f"{PREFIX}/detailed": ("process_info", "environment")}


def shown(example: Example) -> str:
    """An example as it stands in the document."""
    body, about = json.loads(example.body), f"{int(example.status)}"
    if example.endpoint.graded:
        about += ", to a trusted caller" if example.trusted else ", to everybody else"
    added = ADDED.get(example.endpoint.path)
    if added:
        about += ", only what is added"
        body["data"] = {key: body["data"][key] for key in added}
    return f"{about}:\n\n```json\n{pretty(body)}\n```"


# --- the fleet --------------------------------------------------------------------------------


def _member(number: int, age: float, *failing: str) -> dict[str, Any]:
    return {
        "pod": f"{number:032x}",
        "host": f"shop-{number}",
        "release": "2025-01-27.1",
        "lifecycle": "serving",
        "ready": not failing,
        "workers_ok": 4,
        "workers_total": 4,
        "failing": failing,
        "age_seconds": age,
    }


def fleet() -> str:
    """The fleet as a pod sees it that alone has lost its database."""
    members = {
        "this": f"{1:032x}",
        "leases": {"checks": f"{2:032x}", "startup": None},
        "pods": [_member(1, 0.002, "database"), _member(2, 3.217), _member(3, 7.905)],
    }
    view = FleetView(MONOTONIC, RAN, 30.0, 2, floor=50.0, members=json.dumps(members), elsewhere={})
    of = replace(FAILING, snapshot=replace(FAILING.snapshot, fleet=view))
    return shown(_example(FLEET, of, trusted=True))


# --- other forms ------------------------------------------------------------------------------


def other_forms() -> dict[str, str]:
    """What the pod where several things are wrong answers to whom asks for another form."""
    readyz = Question("readyz", exclude=("redis", "cache"))
    detailed = next(each for each in ENDPOINTS if each.path == "/health/detailed")
    problem = problem_body("not_found", "404 Not Found", NOW)
    return {
        "readyz: text": fenced("text", readyz.as_text(PAYLOAD, FAILING, trusted=False).body),
        "readyz: json": fenced(
            "json", pretty(readyz.as_document(PAYLOAD, FAILING, trusted=False).body)
        ),
        "draft: detailed": fenced(
            "json",
            pretty(health_json.render(detailed.about, PAYLOAD, FAILING, trusted=False).body),
        ),
        "problem: not found": fenced("json", pretty(problem)),
    }


def fenced(language: str, text: str) -> str:
    """A block of the document."""
    return f"```{language}\n{text.rstrip()}\n```"


# --- the metrics ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric of the exposition."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def metrics() -> Iterator[MetricRow]:
    """Every metric the service itself exposes."""
    labels: defaultdict[str, dict[str, None]] = defaultdict(dict)
    gauges = {}
    for each in (HEALTHY, FAILING):
        for metric in PodCollector(each, VERSION, damaged=0, trusted=True).collect():
            gauges[metric.name] = metric
            labels[metric.name] |= {label: None for one in metric.samples for label in one.labels}
    for name, metric in gauges.items():
        yield MetricRow(name, "gauge", tuple(labels[name]), metric.documentation)
    for metric in _counted():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found = {label: None for one in metric.samples for label in one.labels if label != "le"}
        yield MetricRow(name, metric.type, tuple(found), metric.documentation)


def _counted() -> Iterator[Any]:
    """What a process counts, after it has counted each thing once."""
    instruments = Instruments()
    instruments.worker_started()
    instruments.notified("generic", "sent")
    instruments.request("GET", "/health", "200", 0.001)
    failing = FAILING.snapshot.states["database"]
    if failing.run is not None:
        instruments.run_finished(failing.check, failing.run, Status.UNKNOWN, failing.status)
    for instrument in vars(instruments).values():
        if hasattr(instrument, "collect"):
            yield from instrument.collect()


def metrics_table() -> str:
    """The table of all metrics."""
    lines = ["| Name | Type | Labels | Seen by | Meaning |", "|---|---|---|---|---|"]
    for row in metrics():
        labels = ", ".join(f"`{label}`" for label in row.labels) or "-"
        seen = "trusted" if row.name in TRUSTED else "all"
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {seen} | {row.meaning} |")
    return "\n".join(lines)


def exposition(of: Pod, *, trusted: bool, names: frozenset[str] = frozenset()) -> str:
    """What a scrape is answered before any process has counted anything."""
    with tempfile.TemporaryDirectory() as empty:
        _, body = expose(
            of,
            MultiprocessReader(Path(empty)),
            fmt=Format.TEXT,
            trusted=trusted,
            names=names,
            version=VERSION,
            gzip=False,
        )
    return body.decode()


EXCERPT = frozenset(("health_check_status", "mingus_health_ready", "mingus_health_lifecycle"))


def blocks() -> dict[str, str]:
    """Everything in the document that is made."""
    text = exposition(FAILING, trusted=False, names=EXCERPT)
    return {
        **{f"example: {name}": shown(example) for name, example in examples().items()},
        "fleet: example": fleet(),
        **other_forms(),
        "metrics: table": metrics_table(),
        "metrics: excerpt": f"```text\n{text}```",
    }


if __name__ == "__main__":
    sys.exit(run(DOCUMENT, blocks(), __doc__ or ""))
