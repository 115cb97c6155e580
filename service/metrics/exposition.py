"""The whole answer to a scrape: the pod's state as gauges, and what its processes counted.

Nothing here measures. The gauges are the newest snapshot, the counters are the metric files;
either may be missing, and then its series are, but the answer is still one.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from gzip import compress
from typing import Any

import structlog
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.health import CheckState, Lifecycle, Pod, Snapshot, Status
from service.metrics.formats import Format
from service.metrics.reader import MultiprocessReader

log = structlog.get_logger(__name__)

# Every gauge, in the order of the answer. Not one needs an escape: see ``expose``.
GAUGES = {
    "mingus_database_status": "Status of database: 1 healthy or warning, 0 unhealthy or unknown",
    "mingus_redis_status": "Status of redis: 1 healthy or warning, 0 unhealthy or unknown",
    "mingus_database_response_time_ms": "Round trip of the database's connection test",
    "mingus_redis_response_time_ms": "Round trip of a Redis PING",
    "mingus_cpu_usage_percent": "CPU in use",
    "mingus_memory_usage_percent": "Memory in use",
    "mingus_disk_usage_percent": "Disk in use",
    "mingus_uptime_seconds": "Time since the start of the pod's master",
    "mingus_health_check_timestamp": "End of the newest run of any check, Unix time",
    "health_check_status": "Status of a check: 1 healthy or warning, 0 unhealthy or unknown",
    "system_cpu_percent": "CPU in use",
    "system_memory_bytes": "Memory of the container or the machine",
    "system_disk_bytes": "Disk behind the mount point",
    "db_connection_pool_size": "Connections the pools keep, over all workers",
    "db_connection_pool_used": "Connections in use, over all workers",
    "redis_memory_bytes": "Memory Redis uses",
    "redis_connected_clients": "Clients connected to Redis",
    "mingus_health_status": "One series per state, 1 for the current one of all checks together",
    "mingus_health_check_state": "One series per state, 1 for the current one of the check",
    "mingus_health_ready": "Whether the pod should get traffic",
    "mingus_health_started": "Whether the pod has ever been serving",
    "mingus_health_lifecycle": "One series per state, 1 for the current one of the pod's life",
    "mingus_health_check_last_run_timestamp_seconds": "End of the newest run, Unix time",
    "mingus_health_check_last_success_timestamp_seconds": "End of the newest passed run, Unix time",
    "mingus_health_check_interval_seconds": "Time from the end of a run to the next",
    "mingus_health_check_expiry_seconds": "Age beyond which a result says nothing any more",
    "mingus_health_workers": "Web workers configured, and web workers that make progress",
    "mingus_health_requests_in_flight": "Requests being served",
    "mingus_health_start_timestamp_seconds": "Start of the pod's master, Unix time",
    "mingus_health_snapshot_readable": "Whether the pod's shared state can be read",
    "mingus_health_metric_files_damaged": "Metric files that are not counted, or in part only",
    "mingus_health_build_info": "1, with the version of the application",
}

# Internals, for trusted callers only.
TRUSTED = frozenset(
    ("system_memory_bytes", "system_disk_bytes", "redis_memory_bytes", "redis_connected_clients")
)

# Name, labels, number; None where nobody knows it.
Sample = tuple[str, dict[str, str], float | None]


def expose(
    pod: Pod,
    reader: MultiprocessReader,
    *,
    fmt: Format,
    trusted: bool,
    names: Collection[str],
    version: str,
    gzip: bool,
) -> tuple[str, bytes]:
    """The answer to a scrape: its ``Content-Type`` and its body.

    Args:
        pod: The pod at this moment.
        reader: Of the pod's metric files.
        fmt: TEXT or OPENMETRICS. The JSON form is a document of the endpoint families.
        trusted: Whether the caller may see internals.
        names: If not empty: the metrics and samples to show.
        version: Of the application.
        gzip: Whether to compress the body.

    Raises:
        ValueError: It cannot be given in that form.
    """
    if fmt is Format.JSON:
        raise ValueError("an exposition is text")
    counted, damaged = _counted(reader, fmt, names)
    gauges = PodCollector(pod, version, damaged=damaged, trusted=trusted, names=names)
    # One text for both forms: they differ in counters, escapes and the last line only.
    text = generate_latest(gauges).decode() + counted
    if fmt is Format.OPENMETRICS:
        text += "# EOF\n"
    body = text.encode(errors="replace")  # an application's label may be half a character
    return fmt.value, compress(body, compresslevel=1, mtime=0) if gzip else body


def _counted(
    reader: MultiprocessReader, fmt: Format, names: Collection[str]
) -> tuple[str, int | None]:
    """What the processes counted, and how many files are damaged if that can be said."""
    try:
        return reader.render(fmt, names=names, without=GAUGES.keys()), reader.damaged
    except Exception:  # the pod's state must be told whatever another process wrote into a file
        log.exception("metric files not readable")
        return "", None


class PodCollector(Collector):
    """The pod at one moment as gauges; what is not known has no series.

    Args:
        pod: The pod.
        version: Of the application.
        damaged: How many metric files are, if that is known.
        trusted: Whether to show internals.
        names: If not empty: the gauges to show.
    """

    def __init__(
        self,
        pod: Pod,
        version: str,
        *,
        damaged: int | None = None,
        trusted: bool = False,
        names: Collection[str] = (),
    ) -> None:
        self._pod = pod
        self._version = version
        self._damaged = damaged
        self._shown = {
            name
            for name in GAUGES
            if (trusted or name not in TRUSTED) and (not names or name in names)
        }

    def collect(self) -> Iterator[Metric]:
        """Each gauge that has a series."""
        found: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for name, labels, value in self._samples():
            if value is not None and name in self._shown:
                found[name].append((labels, value))
        for name, meaning in GAUGES.items():
            if name in found:
                metric = Metric(name, meaning, "gauge")
                for labels, value in found[name]:
                    metric.add_sample(name, labels, value)
                yield metric

    def _samples(self) -> Iterator[Sample]:
        yield "mingus_health_snapshot_readable", {}, self._pod.readable
        yield "mingus_health_metric_files_damaged", {}, self._damaged
        yield "mingus_health_build_info", {"version": self._version}, 1
        if self._pod.readable:
            yield from _of_the_pod(self._pod)
            for name, state in self._pod.snapshot.states.items():
                yield from _of_a_check(name, state)
            yield from _of_the_services(self._pod.snapshot)
            yield from _of_the_system(_details(self._pod.snapshot, "system_resources"))


def _of_the_pod(pod: Pod) -> Iterator[Sample]:
    snapshot = pod.snapshot
    ends = [state.run.finished_at for state in snapshot.states.values() if state.run]
    workers = _details(snapshot, "application")
    yield "mingus_uptime_seconds", {}, round(pod.uptime, 2)
    yield "mingus_health_check_timestamp", {}, int(max(ends)) if ends else None
    yield "mingus_health_ready", {}, snapshot.ready
    yield "mingus_health_started", {}, snapshot.started
    yield "mingus_health_requests_in_flight", {}, pod.in_flight
    yield "mingus_health_start_timestamp_seconds", {}, pod.booted_at
    for state in ("expected", "live"):
        yield "mingus_health_workers", {"state": state}, workers.get(f"workers_{state}")
    for lifecycle in Lifecycle:
        here = snapshot.lifecycle is lifecycle
        yield "mingus_health_lifecycle", {"state": lifecycle.value}, here
    for status in Status:
        yield "mingus_health_status", {"state": status.word}, snapshot.overall is status


def _of_a_check(name: str, state: CheckState) -> Iterator[Sample]:
    prefix, labels, check = "mingus_health_check", {"check": name}, state.check
    critical = "true" if check.critical else "false"
    yield "health_check_status", {"component": name}, state.status.up
    for status in Status:
        one = {**labels, "critical": critical, "state": status.word}
        yield f"{prefix}_state", one, state.status is status
    finished_at = state.run.finished_at if state.run else None
    yield f"{prefix}_last_run_timestamp_seconds", labels, finished_at
    yield f"{prefix}_last_success_timestamp_seconds", labels, state.passed_at
    yield f"{prefix}_interval_seconds", labels, check.interval
    yield f"{prefix}_expiry_seconds", labels, check.expiry


def _of_the_services(snapshot: Snapshot) -> Iterator[Sample]:
    yield "health_check_status", {"component": "overall"}, snapshot.overall.up
    for name in ("database", "redis"):
        state = snapshot.states.get(name)
        if state is not None:
            yield f"mingus_{name}_status", {}, state.status.up
            yield f"mingus_{name}_response_time_ms", {}, _response_time_ms(state)
    pool = _details(snapshot, "database").get("connection_pool", {}).get("info", {})
    yield "db_connection_pool_size", {"pool_type": "app"}, pool.get("pool_size")
    yield "db_connection_pool_used", {"pool_type": "app"}, pool.get("checked_out")
    server = _details(snapshot, "redis").get("server", {})
    yield "redis_memory_bytes", {}, server.get("used_memory_bytes")
    yield "redis_connected_clients", {}, server.get("connected_clients")


def _of_the_system(resources: Mapping[str, Any]) -> Iterator[Sample]:
    cpu, memory, disk = (resources.get(part, {}) for part in ("cpu", "memory", "disk"))
    yield "mingus_cpu_usage_percent", {}, cpu.get("usage_percent")
    yield "mingus_memory_usage_percent", {}, memory.get("usage_percent")
    yield "mingus_disk_usage_percent", {}, disk.get("usage_percent")
    yield "system_cpu_percent", {}, cpu.get("usage_percent")
    for amount in ("total", "available", "used"):
        yield "system_memory_bytes", {"type": amount}, memory.get(f"{amount}_bytes")
    if disk.get("mount_point"):
        for amount in ("total", "used", "free"):
            labels = {"mount_point": disk["mount_point"], "type": amount}
            yield "system_disk_bytes", labels, disk.get(f"{amount}_bytes")


def _details(snapshot: Snapshot, name: str) -> Mapping[str, Any]:
    state = snapshot.states.get(name)
    return state.run.result.details if state and state.run else {}


def _response_time_ms(state: CheckState) -> float | None:
    seconds = state.run.result.response_time if state.run else None
    return None if seconds is None else round(seconds * 1000, 2)
