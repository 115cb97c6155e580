"""Every endpoint's document, key by key: sections 2, 3 and 4 of the contract."""

import platform
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.health import (
    Check,
    CheckState,
    Lifecycle,
    Pod,
    Result,
    Run,
    Scope,
    Snapshot,
    TaskState,
)
from service.settings import CHECKS, PROVIDERS
from service.web.endpoints import ENDPOINTS, INDEX, METRICS, Endpoint
from service.web.payload import Answer, Document, Payload, milliseconds, timestamp
from tests.contract_examples import EXAMPLES, RAN, RESOURCES
from tests.unit.pods import (
    ABSENT,
    CLOCK,
    FROZEN,
    GIVEN_UP,
    MEMORY_CRITICAL,
    NOW,
    REDIS_FULL,
    REDIS_GIVEN_UP,
    REFUSED,
    SECRET,
    UPTIME,
    answered,
    application,
    blank,
    failing,
    nowhere,
    pod,
    resources,
    state,
)
from tests.unit.strategies import snapshots

SYSTEM = "/api/system/health"
PAYLOAD = Payload("MINGUS", "1.0.0", "production", debug=False)
ALL = {endpoint.path: endpoint for endpoint in (INDEX, *ENDPOINTS, METRICS)}
PATHS = pytest.mark.parametrize("path", ALL)
BOTH = pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "untrusted"])
TASKS = {"migrate": TaskState(scope=Scope.FLEET).succeeded(0.84216, 1)}


def answer(path: str, pod: Pod, *, trusted: bool = True) -> Answer:
    endpoint: Endpoint = ALL[path]
    return endpoint.render(PAYLOAD, pod, trusted=trusted)


def body(path: str, pod: Pod, *, trusted: bool = True) -> Document:
    return answer(path, pod, trusted=trusted).body


def data(path: str, pod: Pod, *, trusted: bool = True) -> Document:
    found: Document = body(f"{SYSTEM}/{path}" if path else SYSTEM, pod, trusted=trusted)["data"]
    return found


def keys(document: Any) -> Any:
    """The keys of a document, however deep."""
    if isinstance(document, dict):
        return {key: keys(value) for key, value in document.items()}
    return ...


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with its path."""
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, document


def with_own(*states: CheckState, **more: Any) -> Pod:
    """The pod of an application that registered checks of its own."""
    return pod(states={each.check.name: each for each in states}, **more)


# -- the documented examples, to the letter


def example(path: str, number: int) -> Document:
    found = EXAMPLES[path if path != SYSTEM else f"{SYSTEM}/"][number].body
    assert isinstance(found, dict)
    return deepcopy(found)


STARTING = failing(lifecycle=Lifecycle.STARTING)
STALLED = (
    Result.failed("workers_stalled", details=application(active_connections=1, workers_live=0)),
    0,
)
MISSING = (Result.failed("workers_missing", details=application(workers_live=3)), 0)


# The second examples of these are of pods that fail in another way.
OTHER_STATES = (
    "redis",
    "database",
    "liveness",
    "startup",
    "resources",
    "application",
    "metrics",
)


@pytest.mark.parametrize(
    ("path", "number", "pod", "trusted"),
    [
        *(pytest.param(path, 0, pod(tasks=TASKS), True, id=f"{path} healthy") for path in ALL),
        *(
            pytest.param(path, 1, failing(), False, id=f"{path} failing")
            for path in ALL
            if path.rpartition("/")[2] not in OTHER_STATES
        ),
        pytest.param("/health/database", 1, pod(database=FROZEN), False, id="a frozen database"),
        pytest.param("/health/database", 2, pod(database=ABSENT), False, id="no database"),
        pytest.param("/health/redis", 1, pod(redis=REDIS_GIVEN_UP), False, id="a frozen Redis"),
        pytest.param("/health/redis", 2, pod(redis=REDIS_FULL), False, id="a full Redis"),
        pytest.param(f"{SYSTEM}/database", 1, failing(), False, id="a refused database"),
        pytest.param(
            f"{SYSTEM}/redis", 1, pod(redis=REDIS_GIVEN_UP), False, id="frozen, enveloped"
        ),
        pytest.param("/health/metrics", 1, failing(), False, id="numbers of the same"),
        pytest.param(METRICS.path, 1, pod(database=REFUSED), False, id="the nine, database down"),
        pytest.param(f"{SYSTEM}/readiness", 2, pod(later=3600.0), False, id="a dead monitor"),
        pytest.param(f"{SYSTEM}/liveness", 1, pod(alive=False), False, id="a stall"),
        pytest.param(f"{SYSTEM}/startup", 1, STARTING, False, id="starting"),
        pytest.param(
            f"{SYSTEM}/resources", 1, pod(system_resources=MEMORY_CRITICAL), False, id="memory"
        ),
        pytest.param(f"{SYSTEM}/application", 1, pod(application=STALLED), False, id="stalled"),
        pytest.param(f"{SYSTEM}/application", 2, pod(application=MISSING), False, id="missing"),
    ],
)
def test_the_examples(path: str, number: int, pod: Pod, *, trusted: bool) -> None:
    found = answer(path, pod, trusted=trusted)
    expected = example(path, number)
    if path == f"{SYSTEM}/detailed" and trusted:
        expected["data"]["environment"]["python_version"] = platform.python_version()
    if path == f"{SYSTEM}/readiness" and number == 2:
        expected["timestamp"] = expected["data"]["timestamp"] = timestamp(pod.at)
    assert found.body == expected
    assert found.passes == (
        EXAMPLES[path if path != SYSTEM else f"{SYSTEM}/"][number].status == 200
    )


# -- the keys


STATES: dict[str, Pod] = {
    "healthy": pod(),
    "refused": failing(),
    "frozen": pod(database=GIVEN_UP, redis=REDIS_GIVEN_UP, system_resources=GIVEN_UP),
    "all given up": pod(**dict.fromkeys(CHECKS, GIVEN_UP)),
    "not configured": nowhere(),
    "stale": pod(later=3600.0),
    "before the first result": blank(),
    "draining": pod(Lifecycle.DRAINING),
    "maintenance": pod(Lifecycle.MAINTENANCE),
    "starting": failing(lifecycle=Lifecycle.STARTING),
    "stalled": pod(alive=False),
    "unreadable": replace(blank(), readable=False),
}


@PATHS
@BOTH
def test_the_keys_are_the_same_in_every_state(path: str, *, trusted: bool) -> None:
    for name, seen in STATES.items():
        found, expected = body(path, seen, trusted=trusted), example(path, 0)
        if path == f"{SYSTEM}/startup":
            found["data"]["tasks"] = expected["data"]["tasks"] = None  # an object, or null
        assert keys(found) == keys(expected), name


@settings(max_examples=40)
@given(seen=snapshots(), trusted=st.booleans())
def test_the_keys_are_the_same_whatever_was_found(seen: Snapshot, *, trusted: bool) -> None:
    here = replace(pod(), snapshot=seen)
    for path in ALL:
        found, expected = body(path, here, trusted=trusted), example(path, 0)
        if path in (f"{SYSTEM}/startup", f"{SYSTEM}/readiness"):
            # These show the checks that decide, and which ones those are is a setting.
            assert set(found["data"].pop("services")) == decisive(path, seen)
            del expected["data"]["services"]
            found["data"]["tasks"] = expected["data"]["tasks"] = None
        assert keys(found) == keys(expected)


def decisive(path: str, seen: Snapshot) -> set[str]:
    if path.endswith("readiness"):
        return {name for name, each in seen.states.items() if each.check.critical}
    always = {"database", "redis", "system_resources"}
    return always | {name for name, each in seen.states.items() if each.check.startup}


# -- disclosure


PROCESS = ("memory_rss_mb", "cpu_percent", "num_threads", "open_files", "connections")


def under(prefix: str, *names: str) -> set[str]:
    return {f"{prefix}.{name}" for name in names}


RESOURCES_T = {
    *under("cpu", "cores", "source"),
    *under("memory", "total_gb", "used_gb", "available_gb", "source"),
    *under("disk", "total_gb", "used_gb", "free_gb", "source"),
    *under("network", "bytes_sent", "bytes_recv", "packets_sent", "packets_recv"),
}
REDIS_T = {"memory_usage_mb", "used_memory_human", "redis_version", "connected_clients"}
APPLICATION_T = {"environment", "debug_mode"}
EVERYTHING_T = {
    *under("services.redis", *REDIS_T),
    *under("services.system_resources", *RESOURCES_T),
    *under("services.application", *APPLICATION_T),
}
CLASS_T: dict[str, set[str]] = {
    "/health/detailed": {
        *under("system_resources", *RESOURCES_T),
        *under("application", *PROCESS),
    },
    "/health/redis": {
        *under("connectivity", "host", "port", "db"),
        *under(
            "memory_usage.info",
            "used_memory_human",
            "used_memory_peak_human",
            "used_memory_rss_human",
            "used_memory_lua_human",
            "total_connections_received",
            "total_commands_processed",
            "keyspace_hits",
            "keyspace_misses",
            "uptime_in_seconds",
            "connected_clients",
        ),
    },
    "/health/metrics": {
        *under(
            "metrics.system_metrics",
            "memory_total_bytes",
            "memory_available_bytes",
            "memory_used_bytes",
            "disk_used_bytes",
            "disk_total_bytes",
        ),
        *under(
            "metrics.redis_metrics",
            "memory_usage_bytes",
            "connected_clients",
            "total_commands_processed",
        ),
    },
    SYSTEM: under("data", *EVERYTHING_T),
    f"{SYSTEM}/detailed": under(
        "data",
        *EVERYTHING_T,
        *under("process_info", "pid", *PROCESS),
        *under("environment", "python_version", "flask_env", "debug_mode"),
    ),
    f"{SYSTEM}/startup": {"data.tasks"},
    f"{SYSTEM}/redis": under("data", *REDIS_T),
    f"{SYSTEM}/resources": under("data", *RESOURCES_T),
    f"{SYSTEM}/application": under("data", *APPLICATION_T),
}


@PATHS
def test_what_only_trusted_callers_see(path: str) -> None:
    seen = pod(tasks=TASKS)
    known, unknown = answer(path, seen, trusted=True), answer(path, seen, trusted=False)
    assert known.passes == unknown.passes
    internals = CLASS_T.get(path, set())
    public = dict(leaves(unknown.body))
    assert {name for name, value in public.items() if value is None and name in internals} == (
        internals
    )
    for name, value in leaves(known.body):
        if name in internals:
            assert value is not None, "a trusted caller sees it"
        elif not name.startswith("data.tasks."):
            assert public[name] == value
    assert ALL[path].graded == bool(internals)


@PATHS
@BOTH
def test_no_reason_is_ever_shown(path: str, *, trusted: bool) -> None:
    for seen in STATES.values():
        assert SECRET not in repr(answer(path, seen, trusted=trusted).body)


# -- verdicts


HTTP = {"healthy": True, "warning": True, "not_configured": True}


@settings(max_examples=40)
@given(seen=snapshots())
def test_the_verdicts(seen: Snapshot) -> None:
    found = {path: answer(path, replace(pod(), snapshot=seen)) for path in ALL}
    states = seen.states
    providers = max(states[name].status for name in PROVIDERS)
    expected = {
        "/": True,
        "/health": seen.pod.passes,
        "/health/detailed": seen.overall.passes,
        "/health/database": states["database"].status.passes,
        "/health/redis": states["redis"].status.passes,
        "/health/external": providers.passes,
        "/health/standard": seen.overall.passes,
        "/health/metrics": seen.overall.passes,
        SYSTEM: seen.overall.passes,
        f"{SYSTEM}/simple": seen.pod.passes,
        f"{SYSTEM}/detailed": seen.overall.passes,
        f"{SYSTEM}/readiness": seen.ready,
        f"{SYSTEM}/liveness": True,
        f"{SYSTEM}/startup": seen.started,
        f"{SYSTEM}/database": states["database"].status.passes,
        f"{SYSTEM}/redis": states["redis"].status.passes,
        f"{SYSTEM}/external": providers.passes,
        f"{SYSTEM}/resources": states["system_resources"].status.passes,
        f"{SYSTEM}/application": states["application"].status.passes,
        f"{SYSTEM}/metrics": True,
    }
    assert {path: each.passes for path, each in found.items()} == expected
    for path, each in found.items():
        if path.startswith(SYSTEM):
            assert each.body["success"] is each.passes
        elif path != "/":
            assert HTTP.get(each.body["status"], False) == each.passes
    same = (found["/health"], found[f"{SYSTEM}/simple"], found[f"{SYSTEM}/readiness"])
    assert len({each.passes for each in same}) == 1
    assert found["/"].body["status"] == found["/health"].body["status"] == seen.pod.word


@settings(max_examples=40)
@given(seen=snapshots())
def test_the_numbers_agree(seen: Snapshot) -> None:
    here = replace(pod(), snapshot=seen)
    external, enveloped = body("/health/external", here), data("external", here)
    summary = dict(external["summary"])
    assert summary.pop("total_services") == 4
    assert sum(summary.values()) == 4
    for status in ("warning", "unhealthy", "unknown", "not_configured"):
        assert summary[f"{status}_services"] == len(external[f"{status}_services"])
        assert set(external[f"{status}_services"]) == {
            name for name, each in external["services"].items() if each["status"] == status
        }
    assert external["services"] == enveloped
    everything = data("", here)
    assert everything["services"]["external_services"] == enveloped
    assert everything["critical_services_failing"] == seen.critical_failing
    assert everything["overall_status"] == seen.overall.word
    for path in ("/health/detailed", "/health/standard", "/health/metrics"):
        assert body(path, here)["status"] == seen.overall.word
    detailed = data("detailed", here)
    assert {name: detailed[name] for name in everything} == everything


@settings(max_examples=40)
@given(seen=snapshots())
def test_there_is_an_error_exactly_when_it_is_not_healthy(seen: Snapshot) -> None:
    here = replace(pod(), snapshot=seen)

    def walk(document: Any) -> None:
        if isinstance(document, dict):
            if {"status", "error"} <= set(document):
                assert (document["error"] is None) == (document["status"] == "healthy")
            for value in document.values():
                walk(value)

    for path in ALL:
        walk(body(path, here))


# -- the lists


def test_the_lists_are_in_the_documented_order() -> None:
    down = Result.failed("timeout")
    here = pod(**dict.fromkeys(reversed(CHECKS), (down, 1.0)))
    assert body("/health/detailed", here)["unhealthy_services"] == list(CHECKS)
    assert body("/health/external", here)["unhealthy_services"] == list(PROVIDERS)


@pytest.mark.parametrize("path", ["/health/detailed", SYSTEM, f"{SYSTEM}/detailed"])
def test_each_check_is_in_the_list_of_its_status(path: str) -> None:
    here = pod(
        database=REFUSED,
        redis=ABSENT,
        stripe_api=answered(9.0, 200, "slow_response"),
        sms_service_twilio=None,
    )
    found = body(path, here)
    found = found.get("data", found)
    assert {name: value for name, value in found.items() if name.endswith("_services")} == {
        "unhealthy_services": ["database"],
        "warning_services": ["stripe_api"],
        "unknown_services": ["sms_service_twilio"],
        "not_configured_services": ["redis"],
    }


# -- times


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(None, None, id="nobody knows"),
        pytest.param(0.0, 0.0, id="no time at all"),
        pytest.param(0.0123456, 12.35, id="two decimals"),
        pytest.param(3.41277, 3412.77, id="seconds"),
        pytest.param(0.000001, 0.0, id="less than can be told"),
    ],
)
def test_milliseconds(seconds: float | None, expected: float | None) -> None:
    assert milliseconds(seconds) == expected


@pytest.mark.parametrize(
    ("unix", "expected"),
    [
        pytest.param(NOW, "2025-01-27T10:30:00.000Z", id="a whole second"),
        pytest.param(NOW - 1.588, RAN, id="milliseconds"),
        pytest.param(NOW + 0.9999, "2025-01-27T10:30:00.999Z", id="not the next second"),
        pytest.param(0.0, "1970-01-01T00:00:00.000Z", id="the beginning"),
    ],
)
def test_timestamps(unix: float, expected: str) -> None:
    assert timestamp(unix) == expected


@given(st.floats(0, 4e9))
def test_every_timestamp_has_the_same_shape(unix: float) -> None:
    text = timestamp(unix)
    assert len(text) == len("2025-01-27T10:30:00.000Z")
    assert text.endswith("Z")


def test_the_response_time_of_a_service_that_did_not_answer_is_null() -> None:
    here = pod(database=REFUSED, redis=REDIS_GIVEN_UP)
    for name in ("database", "redis"):
        assert data(name, here)["response_time_ms"] is None
        assert body("/health/standard", here)["checks"][name]["response_time"] is None
    assert body("/health/database", here)["response_time_ms"] == 1.2, "but the run took time"
    assert data("metrics", here)["mingus_database_response_time_ms"] is None


def test_the_response_time_beside_a_verdict_is_that_of_the_longest_run() -> None:
    slow = pod(redis=(Result(), 0.9), sms_service_twilio=answered(0.7))
    for path in ("/health/detailed", "/health/metrics"):
        assert body(path, slow)["response_time_ms"] == 900.0
    assert data("", slow)["response_time_ms"] == 900.0
    assert body("/health/external", slow)["response_time_ms"] == 700.0
    assert body("/health/redis", slow)["response_time_ms"] == 900.0


@pytest.mark.parametrize("name", ["before the first result", "stale"])
def test_without_a_fresh_run_there_is_no_response_time(name: str) -> None:
    here = STATES[name]
    for path in ("/health/detailed", "/health/metrics", "/health/external", "/health/database"):
        assert body(path, here)["response_time_ms"] is None
    metrics = body("/health/metrics", here)["metrics"]
    assert set(metrics["health_check_duration_seconds"].values()) == {None}


def test_durations_have_four_decimals() -> None:
    here = pod(redis=(Result(), 0.123456))
    durations = body("/health/metrics", here)["metrics"]["health_check_duration_seconds"]
    assert durations["redis"] == 0.1235


def test_an_expired_result_shows_when_it_was_and_nothing_else() -> None:
    here = pod(later=3600.0)
    redis = body("/health/redis", here)
    assert (redis["status"], redis["error"], redis["last_check"]) == ("unknown", "stale", RAN)
    assert redis["connectivity"] == {
        "status": "unknown",
        "error": "stale",
        "response_time_ms": None,
        "host": None,
        "port": None,
        "db": None,
    }
    assert set(redis["memory_usage"]["info"].values()) == {None}
    assert data("redis", here)["connection"] == "unknown"
    assert data("database", here)["table_count"] is None
    found = data("resources", here)
    assert found["cpu"]["usage_percent"] is None
    assert set(found["network"].values()) == {None}
    assert data("application", here)["workers_live"] is None
    nine = data("metrics", here)
    assert nine["mingus_cpu_usage_percent"] is None
    assert nine["mingus_database_status"] == 0
    assert nine["mingus_health_check_timestamp"] == 1737973798


def test_what_is_not_configured_does_not_expire() -> None:
    here = nowhere(later=3600.0)
    assert answer("/health/database", here).passes
    assert body("/health/database", here)["error"] == "not_configured"
    assert data("redis", here)["connection"] == "not_configured"
    assert data("metrics", here)["mingus_redis_status"] is None


@pytest.mark.parametrize(
    ("found", "word"),
    [
        pytest.param(
            (Result(details={"connection": {"status": "healthy"}}), 0.1), "active", id="ok"
        ),
        pytest.param(REFUSED, "failed", id="refused"),
        pytest.param(GIVEN_UP, "failed", id="given up"),
        pytest.param(ABSENT, "not_configured", id="absent"),
        pytest.param(None, "unknown", id="never run"),
    ],
)
def test_the_connection_in_one_word(found: Any, word: str) -> None:
    assert data("database", pod(database=found))["connection"] == word


def test_components_are_undamped() -> None:
    """A first, unconfirmed failure: the check is warned about, its connection has failed."""
    once = CheckState.initial(STATES["healthy"].snapshot.states["database"].check)
    for count, result in enumerate([Result(), REFUSED[0]]):
        once = once.observe(Run(result, CLOCK - 1 + count / 2, NOW, 0.01))
    found = answer("/health/database", with_own(once))
    assert found.passes
    assert (found.body["status"], found.body["error"]) == ("warning", "connection_refused")
    assert found.body["connection"] == {"status": "unhealthy", "error": "connection_refused"}
    assert data("database", with_own(once))["connection"] == "failed"


# -- startup and the application


def test_startup_shows_what_it_waits_for() -> None:
    own = replace(state("database", REFUSED), check=Check("queue", startup=True))
    other = replace(state("database", REFUSED), check=Check("mail"))
    found = data("startup", with_own(own, other, lifecycle=Lifecycle.STARTING))
    assert found["services"] == {
        "database": "healthy",
        "redis": "healthy",
        "system_resources": "healthy",
        "queue": "unhealthy",
    }
    assert found["started"] is False


def test_startup_is_latched() -> None:
    for lifecycle in (Lifecycle.SERVING, Lifecycle.DRAINING, Lifecycle.MAINTENANCE):
        assert answer(f"{SYSTEM}/startup", failing(lifecycle=lifecycle)).passes


def test_startup_tasks_in_their_order() -> None:
    begun = TaskState().running(1)
    tasks = {
        "migrate": begun.succeeded(0.84216, 1),
        "warm": begun.failed("timeout", 60.0, 1).running(2),
        "announce": TaskState(),
    }
    here = pod(Lifecycle.STARTING, tasks=tasks)
    keys = ("status", "error", "duration_ms", "attempt", "scope")
    assert [
        (name, *(task[key] for key in keys))
        for name, task in data("startup", here)["tasks"].items()
    ] == [
        ("migrate", "healthy", None, 842.16, 1, "pod"),
        ("warm", "warning", "timeout", 60000.0, 2, "pod"),
        ("announce", "unknown", "not_yet_checked", None, 0, "pod"),
    ]
    assert data("startup", here, trusted=False)["tasks"] is None
    assert data("startup", pod())["tasks"] == {}


def test_before_it_serves_a_pod_has_no_startup_time() -> None:
    assert data("application", pod(Lifecycle.STARTING))["startup_time"] is None
    assert data("application", pod())["startup_time"] == "2025-01-26T10:30:04.118Z"


def test_readiness_shows_the_critical_checks() -> None:
    here = pod()
    states = {
        name: replace(each, check=replace(each.check, critical=name == "application"))
        for name, each in here.snapshot.states.items()
    }
    chosen = replace(here, snapshot=replace(here.snapshot, states=states))
    assert data("readiness", chosen)["services"] == {"application": "healthy"}
    none = {
        name: replace(each, check=replace(each.check, critical=False))
        for name, each in states.items()
    }
    nobody = replace(here, snapshot=replace(here.snapshot, states=none))
    assert data("readiness", nobody)["services"] == {}
    assert answer(f"{SYSTEM}/readiness", nobody).passes


@pytest.mark.parametrize(
    "lifecycle", [Lifecycle.STARTING, Lifecycle.DRAINING, Lifecycle.MAINTENANCE]
)
def test_readiness_shows_the_true_statuses_whatever_the_lifecycle(lifecycle: Lifecycle) -> None:
    found = answer(f"{SYSTEM}/readiness", pod(lifecycle, redis=REDIS_FULL))
    assert not found.passes
    assert found.body["data"]["services"] == {"database": "healthy", "redis": "unhealthy"}


@pytest.mark.parametrize("name", STATES)
def test_liveness_asks_the_workers_alone(name: str) -> None:
    here = STATES[name]
    found = answer(f"{SYSTEM}/liveness", here)
    assert found.passes == here.alive == found.body["data"]["alive"]
    assert set(found.body["data"]) == {"alive", "timestamp", "uptime_seconds"}


def test_uptime_has_two_decimals() -> None:
    here = pod()
    odd = replace(here, uptime=1.23456)
    assert data("liveness", odd)["uptime_seconds"] == 1.23
    assert data("application", odd)["uptime_seconds"] == 1.23
    assert data("metrics", odd)["mingus_uptime_seconds"] == 1.23
    assert body("/health/detailed", odd)["application"]["uptime_seconds"] == 1.23


def test_all_tell_the_same_uptime() -> None:
    """Also an hour after the monitor has died; nothing may seem to go back."""
    here = pod(later=3600.0)
    told = [
        data("liveness", here)["uptime_seconds"],
        data("application", here)["uptime_seconds"],
        data("metrics", here)["mingus_uptime_seconds"],
        body("/health/detailed", here)["application"]["uptime_seconds"],
    ]
    assert told == [UPTIME + 3600.0] * 4


def test_sizes_are_in_binary_units() -> None:
    gib = 1024**3
    small = {"total_bytes": 3 * gib // 2, "used_bytes": gib // 3, "available_bytes": None}
    found = data("resources", pod(system_resources=(Result(details=resources(memory=small)), 0.0)))[
        "memory"
    ]
    assert (found["total_gb"], found["used_gb"], found["available_gb"]) == (1.5, 0.33, None)


def test_no_path_but_the_label_is_shown() -> None:
    assert "mount_point" not in data("resources", pod())["disk"]
    assert keys(data("resources", pod())) == keys(RESOURCES)


# -- an application's own checks


QUEUE = Check("queue", critical=True)
OWN_STATE = CheckState.initial(QUEUE).observe(
    Run(Result.failed("timeout", SECRET, details={"depth": 7}), CLOCK - 1, NOW - 1, 0.25)
)


@pytest.mark.parametrize("path", ["/health/detailed", SYSTEM, f"{SYSTEM}/detailed"])
def test_an_own_check_is_among_the_services(path: str) -> None:
    found = body(path, with_own(OWN_STATE))
    found = found.get("data", found)
    assert found["services"]["queue"] == {
        "status": "unhealthy",
        "response_time_ms": None,
        "error": "timeout",
        "last_check": "2025-01-27T10:29:59.000Z",
    }
    assert found["unhealthy_services"] == ["queue"]
    assert found["critical_services_failing"] is True


def test_an_own_check_decides_like_any_other() -> None:
    here = with_own(OWN_STATE)
    for path in ("/health", "/health/standard", SYSTEM, f"{SYSTEM}/simple"):
        assert not answer(path, here).passes
    assert data("readiness", here)["services"]["queue"] == "unhealthy"


def test_own_checks_follow_after_the_documented_ones() -> None:
    others = [replace(OWN_STATE, check=Check(name)) for name in ("zebra", "ant")]
    here = with_own(*others, **dict.fromkeys(CHECKS, (Result.failed("timeout"), 1.0)))
    assert body("/health/detailed", here)["unhealthy_services"] == [*CHECKS, "zebra", "ant"]


def test_an_own_check_has_numbers_too() -> None:
    metrics = body("/health/metrics", with_own(OWN_STATE))["metrics"]
    assert metrics["health_check_duration_seconds"]["queue"] == 0.25
    assert metrics["health_check_failures_total"]["queue"] == 1
    assert metrics["health_check_status"]["queue"] == 0


@PATHS
def test_an_own_check_changes_no_documented_key(path: str) -> None:
    usual = leaves(body(path, pod(tasks=TASKS)))
    found = dict(leaves(body(path, with_own(OWN_STATE, tasks=TASKS))))
    assert {name for name, _ in usual} <= set(found)


def test_fixed_formats_know_nothing_of_it() -> None:
    here = with_own(OWN_STATE)
    assert set(body("/health/standard", here)["checks"]) == {"database", "redis", "external_apis"}
    assert len(data("metrics", here)) == 9


@pytest.mark.parametrize(
    ("found", "plotted"),
    [
        pytest.param((Result(), 0.1), 1, id="healthy"),
        pytest.param((Result.failed("slow_response"), 0.1), 1, id="warning"),
        pytest.param((Result.failed("timeout"), 0.1), 0, id="unhealthy"),
        pytest.param(None, 0, id="unknown"),
        pytest.param(ABSENT, None, id="not configured"),
    ],
)
def test_a_status_as_a_number(found: Any, plotted: int | None) -> None:
    here = pod(redis=found)
    assert data("metrics", here)["mingus_redis_status"] == plotted
    assert body("/health/metrics", here)["metrics"]["health_check_status"]["redis"] == plotted


def test_before_any_run_there_is_no_last_one() -> None:
    assert data("metrics", blank())["mingus_health_check_timestamp"] is None
