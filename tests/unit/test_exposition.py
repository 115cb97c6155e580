"""What a scrape is answered: in which form, and with which series."""

import gzip
import math
from dataclasses import replace

import pytest
from prometheus_client import Gauge, values
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service.health import Check, CheckState, Lifecycle, Pod, Result, Run, Snapshot, Status
from service.metrics import (
    Format,
    Instruments,
    MultiprocessReader,
    expose,
    negotiate,
    slots,
    take_slot,
    writer,
)
from service.metrics.exposition import GAUGES, TRUSTED

# -- which form

TEXT, OPENMETRICS, JSON = Format.TEXT, Format.OPENMETRICS, Format.JSON
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
    "encoding=delimited;q=0.7,"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=1.0.0", TEXT),
        ("text/*", TEXT),
        ("image/png", TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        (";;;,,q=1,=,/", TEXT),
        ("application/json;q=many", TEXT),
        ("application/json;q=-1", TEXT),
        ("application/json;q=nan", TEXT),
        ("text/plain;q=0", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ('Application/OpenMetrics-Text; Version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;version=2.0.0,application/json;q=0.1", JSON),
        ("application/json", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json, */*;q=0.5", JSON),
        ("application/json, */*", TEXT),
        ("application/json, text/plain, */*", TEXT),
        ("application/json;q=0.5, text/plain;q=0.4", JSON),
        ("application/json;q=0.5, text/plain;q=0.50", TEXT),
        ("application/json, application/openmetrics-text", OPENMETRICS),
        ("application/json, application/openmetrics-text;q=0.999", JSON),
        ("text/plain;q=0, application/json;q=0.001", JSON),
        ("text/plain;q=0, */*", OPENMETRICS),
        ("application/*", OPENMETRICS),
        (
            "text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.9,application/json;q=0.8",
            TEXT,
        ),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (PROTOBUF + PROMETHEUS_3, OPENMETRICS),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
    ],
)
def test_negotiation(accept, expected):
    assert negotiate(accept) is expected


# -- the pod

NAMES = (
    "database",
    "redis",
    "supabase_api",
    "stripe_api",
    "email_service_resend",
    "sms_service_twilio",
    "system_resources",
    "application",
)
DETAILS = {
    "database": {"connection_pool": {"info": {"pool_size": 40, "checked_out": 2}}},
    "redis": {"server": {"used_memory_bytes": 47395635, "connected_clients": 5}},
    "system_resources": {
        "cpu": {"usage_percent": 15.2},
        "memory": {
            "usage_percent": 45.8,
            "total_bytes": 1 << 34,
            "used_bytes": 7 << 30,
            "available_bytes": 9 << 30,
        },
        "disk": {
            "usage_percent": 35.2,
            "total_bytes": 75913548595,
            "used_bytes": 26736171417,
            "free_bytes": 49177377178,
            "mount_point": "/",
        },
    },
    "application": {"workers_expected": 4, "workers_live": 3},
}
AT = 1737973800.25


def checks():
    return [Check(name, critical=name in ("database", "redis")) for name in NAMES]


def run(name, result=None):
    found = result or Result(response_time=0.0125, details=DETAILS.get(name, {}))
    return Run(found, finished=100.0, finished_at=AT - 2 + NAMES.index(name) / 10, duration=0.0452)


def pod(*, lifecycle=Lifecycle.SERVING, readable=True, **results):
    """A serving pod whose checks ran once, with the results given, else healthy."""
    states = {
        check.name: CheckState.initial(check).observe(run(check.name, results.get(check.name)))
        for check in checks()
    }
    snapshot = Snapshot(states, lifecycle, serving_at=AT - 3000)
    return Pod(
        snapshot, readable, alive=True, at=AT, booted_at=AT - 3600, uptime=3600.12345, in_flight=7
    )


def blank(readable):
    snapshot = Snapshot.blank(checks())
    return Pod(snapshot, readable, alive=False, at=AT, booted_at=AT - 5, uptime=5.0, in_flight=0)


class Scrape:
    """The samples of an answer."""

    def __init__(self, families):
        self.families = list(families)
        self.samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __getitem__(self, name):
        return self.samples[(name,)]

    def get(self, name, **labels):
        return self.samples.get((name, *sorted(labels.items())))

    def all(self, name):
        return [value for key, value in self.samples.items() if key[0] == name]

    @property
    def names(self):
        return {key[0] for key in self.samples}


@pytest.fixture
def reader(tmp_path):
    return MultiprocessReader(tmp_path)


@pytest.fixture
def scrape(reader):
    def scrape(pod, fmt=TEXT, *, trusted=True, names=(), reader=reader):
        content_type, body = expose(
            pod, reader, fmt=fmt, trusted=trusted, names=names, version="1.0.0", gzip=False
        )
        assert content_type == fmt.value
        parse = parse_text if fmt is TEXT else parse_openmetrics
        return Scrape(parse(body.decode()))

    return scrape


@pytest.mark.parametrize("fmt", [TEXT, OPENMETRICS])
def test_every_gauge_of_a_healthy_pod(scrape, fmt):
    found = scrape(pod(), fmt)
    assert found.names == set(GAUGES)
    assert all(family.type == "gauge" and family.documentation for family in found.families)
    assert found["mingus_database_status"] == 1
    assert found["mingus_redis_response_time_ms"] == 12.5
    assert found["mingus_cpu_usage_percent"] == found["system_cpu_percent"] == 15.2
    assert found["mingus_memory_usage_percent"] == 45.8
    assert found["mingus_disk_usage_percent"] == 35.2
    assert found["mingus_uptime_seconds"] == 3600.12
    assert found["mingus_health_check_timestamp"] == int(AT - 2 + 0.7)
    assert found.get("health_check_status", component="overall") == 1
    assert found.get("system_memory_bytes", type="available") == 9 << 30
    assert found.get("system_disk_bytes", mount_point="/", type="free") == 49177377178
    assert found.get("db_connection_pool_size", pool_type="app") == 40
    assert found.get("db_connection_pool_used", pool_type="app") == 2
    assert (found["redis_memory_bytes"], found["redis_connected_clients"]) == (47395635, 5)
    assert (found["mingus_health_ready"], found["mingus_health_started"]) == (1, 1)
    assert found.get("mingus_health_check_last_run_timestamp_seconds", check="redis") == AT - 1.9
    assert found.get("mingus_health_check_interval_seconds", check="redis") == 5
    assert found.get("mingus_health_check_expiry_seconds", check="redis") == 17
    assert found.get("mingus_health_workers", state="expected") == 4
    assert found.get("mingus_health_workers", state="live") == 3
    assert found["mingus_health_requests_in_flight"] == 7
    assert found["mingus_health_start_timestamp_seconds"] == AT - 3600
    assert found["mingus_health_metric_files_damaged"] == 0
    assert found.get("mingus_health_build_info", version="1.0.0") == 1


def test_internals_are_absent_for_strangers(scrape):
    assert scrape(pod()).names - scrape(pod(), trusted=False).names == TRUSTED


PODS = [
    pytest.param(pod(), id="healthy"),
    pytest.param(pod(database=Result.failed("timeout")), id="database down"),
    pytest.param(pod(stripe_api=Result.failed("rate_limited")), id="a warning"),
    pytest.param(pod(lifecycle=Lifecycle.DRAINING), id="draining"),
    pytest.param(blank(readable=True), id="nothing known yet"),
]


@pytest.mark.parametrize("pod", PODS)
def test_exactly_one_of_each_state_is_true(scrape, pod):
    found = scrape(pod)
    assert sum(found.all("mingus_health_status")) == 1
    assert len(found.all("mingus_health_status")) == len(Status)
    assert sum(found.all("mingus_health_lifecycle")) == 1
    assert len(found.all("mingus_health_lifecycle")) == len(Lifecycle)
    for check in checks():
        critical = "true" if check.critical else "false"
        states = [
            found.get(
                "mingus_health_check_state", check=check.name, critical=critical, state=status.word
            )
            for status in Status
        ]
        assert sorted(states) == [0, 0, 0, 0, 1]
    assert len(found.all("mingus_health_check_state")) == len(Status) * len(NAMES)


def test_a_failing_database(scrape):
    found = scrape(pod(database=Result.failed("connection_refused", details={})))
    assert found["mingus_database_status"] == 0
    assert found.get("health_check_status", component="database") == 0
    assert found.get("health_check_status", component="overall") == 0
    assert found["mingus_health_ready"] == 0
    assert found.get("mingus_health_status", state="unhealthy") == 1
    assert found.get("mingus_health_check_last_success_timestamp_seconds", check="database") is None
    absent = {"mingus_database_response_time_ms", "db_connection_pool_size"}
    assert not absent & found.names


def test_what_is_not_configured_has_no_status(scrape):
    everything = Snapshot.blank(replace(check, unconfigured="not_configured") for check in checks())
    found = scrape(replace(pod(), snapshot=everything))
    assert "health_check_status" not in found.names
    assert "mingus_database_status" not in found.names
    assert found.get("mingus_health_status", state="not_configured") == 1


def test_stale_results_leave_no_numbers_behind(scrape):
    old = pod()
    found = scrape(replace(old, snapshot=old.snapshot.at(1e6)))
    assert {name for name in found.names if not name.startswith("mingus_health_")} == {
        "health_check_status",
        "mingus_database_status",
        "mingus_redis_status",
        "mingus_uptime_seconds",
    }
    assert found["mingus_redis_status"] == 0
    assert "mingus_health_workers" not in found.names
    assert "mingus_health_check_timestamp" in found.names


@pytest.mark.parametrize("fmt", [TEXT, OPENMETRICS])
def test_an_unreadable_pod_says_so_and_nothing_it_does_not_know(scrape, fmt):
    found = scrape(blank(readable=False), fmt)
    assert found["mingus_health_snapshot_readable"] == 0
    assert found.names == {
        "mingus_health_snapshot_readable",
        "mingus_health_metric_files_damaged",
        "mingus_health_build_info",
    }


def test_checks_of_the_application_are_shown_too(scrape):
    with_own = pod()
    own = CheckState.initial(Check("ledger", critical=True)).observe(run("database"))
    states = {**with_own.snapshot.states, "ledger": own}
    found = scrape(replace(with_own, snapshot=replace(with_own.snapshot, states=states)))
    assert found.get("health_check_status", component="ledger") == 1
    assert (
        found.get("mingus_health_check_state", check="ledger", critical="true", state="healthy")
        == 1
    )


def test_values_are_never_nan(scrape):
    for one in (pod(), blank(readable=True), blank(readable=False)):
        assert not any(math.isnan(value) for value in scrape(one).samples.values())


def test_names_select_gauges(scrape):
    assert scrape(pod(), names={"mingus_health_ready"}).names == {"mingus_health_ready"}
    assert scrape(pod(), names={"redis_memory_bytes"}, trusted=False).names == set()


def test_the_body_may_be_compressed(reader):
    def body(*, zipped):
        return expose(
            pod(), reader, fmt=OPENMETRICS, trusted=True, names=(), version="1", gzip=zipped
        )[1]

    assert gzip.decompress(body(zipped=True)) == body(zipped=False)
    assert body(zipped=False).endswith(b"\n# EOF\n")


def test_json_is_not_an_exposition(reader):
    with pytest.raises(ValueError, match="text"):
        expose(pod(), reader, fmt=JSON, trusted=True, names=(), version="1", gzip=False)


def test_a_reader_that_fails_costs_the_counters_only(scrape):
    class Failing(MultiprocessReader):
        def render(self, *_, **__):
            raise MemoryError

    found = scrape(pod(), reader=Failing(None))
    assert found["mingus_health_ready"] == 1
    assert "mingus_health_metric_files_damaged" not in found.names


# -- what is counted


@pytest.fixture
def instruments(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setattr(slots, "_taken", {})
    take_slot(tmp_path).use()
    yield Instruments()
    writer.WRITER.move(None)


@pytest.mark.parametrize("fmt", [TEXT, OPENMETRICS])
def test_requests_are_counted(instruments, scrape, fmt):
    for seconds in (0.0005, 0.02, 60):
        instruments.request("GET", "/health", "200", seconds)
    instruments.request("BREW", "other", "405", 0.001)
    instruments.request("get", "other", "405", 0.001)
    instruments.worker_started()
    found = scrape(pod(), fmt)
    health = {"method": "GET", "endpoint": "/health", "status": "200"}
    assert found.get("app_request_total", **health) == 3
    name = "app_request_duration_seconds"
    assert found.get(f"{name}_count", **health) == 3
    assert found.get(f"{name}_sum", **health) == 60.0205
    assert found.get(f"{name}_bucket", **health, le="0.001") == 1
    assert found.get(f"{name}_bucket", **health, le="0.025") == 2
    assert found.get("app_request_total", method="other", endpoint="other", status="405") == 2
    assert found["mingus_health_worker_starts_total"] == 1


@pytest.mark.parametrize(
    ("result", "outcome", "code"),
    [
        (Result(), "success", None),
        (Result.failed("slow_response"), "warning", None),
        (Result.failed("http_500"), "failure", "http_500"),
        (Result.failed("timeout"), "timeout", "timeout"),
    ],
)
def test_runs_are_counted(instruments, scrape, result, outcome, code):
    check = Check("redis")
    instruments.run_finished(check, run("redis", result), Status.UNKNOWN, result.status)
    instruments.run_finished(check, run("redis", result), result.status, result.status)
    found = scrape(pod())
    assert found.get("health_check_duration_seconds_count", component="redis") == 2
    assert found.all("mingus_health_checks_total") == [2]
    assert found.get("mingus_health_checks_total", check="redis", result=outcome) == 2
    to = result.status.word
    assert found.all("mingus_health_check_transitions_total") == [1]
    assert found.get("mingus_health_check_transitions_total", check="redis", to=to) == 1
    assert found.all("health_check_failures_total") == ([2] if code else [])
    if code:
        assert found.get("health_check_failures_total", component="redis", error_type=code) == 2


def test_messages_to_webhooks_are_counted(instruments, scrape):
    instruments.declare_webhooks(["generic", "slack"])
    instruments.notified("slack", "failed")
    found = scrape(pod())
    name = "mingus_health_notifications_total"
    assert sorted(found.all(name)) == [0, 0, 0, 1]
    assert found.get(name, target="slack", result="failed") == 1


def test_declared_checks_are_shown_before_they_run(instruments, scrape):
    absent = Check("redis", unconfigured="not_configured")
    instruments.declare([Check("database"), absent])
    found = scrape(pod())
    assert found.all("mingus_health_checks_total") == [0] * 4
    assert found.all("mingus_health_check_transitions_total") == [0] * 3
    assert found.get("health_check_duration_seconds_count", component="database") == 0
    failures = {"component": "database", "error_type": "timeout"}
    assert found.get("health_check_failures_total", **failures) == 0
    assert found.get("health_check_duration_seconds_count", component="redis") is None


@pytest.mark.usefixtures("instruments")
def test_a_metric_of_the_application_cannot_stand_in_for_the_pod(scrape):
    Gauge("mingus_health_ready", "Mine", multiprocess_mode="max", registry=None).set(5)
    Gauge("sales", "Mine", multiprocess_mode="max", registry=None).set(5)
    found = scrape(pod())
    assert found["mingus_health_ready"] == 1
    assert found["sales"] == 5
