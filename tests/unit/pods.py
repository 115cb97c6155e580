"""The pod of the contract's examples, as a reader would find it in the scoreboard.

Healthy, or with one thing or another wrong: ``pod(database=REFUSED)``.
"""

from dataclasses import replace
from typing import Any

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

# 2025-01-27T10:30:00.000Z, and the monotonic clock at that moment.
NOW = 1737973800.0
CLOCK = 90_000.0
UPTIME = 86_400.0
BOOTED_AT = NOW - UPTIME
SERVING_AT = BOOTED_AT + 4.118

TIMEOUTS = {"database": 2.0, **dict.fromkeys(PROVIDERS, 5.0)}
AGES = {
    **dict.fromkeys(("database", "redis"), 1.588),
    **dict.fromkeys(PROVIDERS, 38.993),
    **dict.fromkeys(("system_resources", "application"), 2.88),
}


def component(error: str | None = None, word: str | None = None, **figures: Any) -> dict[str, Any]:
    """A part of a check as its probe shows it."""
    status = word or ("healthy" if error is None else "unhealthy")
    return {"status": status, "error": error, **figures}


def pool(error: str | None = None, *figures: int) -> dict[str, Any]:
    """The pool part of the database check."""
    names = ("pool_size", "checked_in", "checked_out", "overflow", "invalid")
    info = dict(zip(names, figures or (40, 8, 2, 0, 0), strict=True))
    word = "warning" if error else "healthy"
    return component(error, word, scope="pod", workers=4, info=info)


def database(connection: str | None = None, **more: Any) -> dict[str, Any]:
    """What the database probe measured."""
    if connection is None:
        counted = component(response_time_ms=32.7, table_count=25)
    else:
        counted = component("not_attempted", "unknown", response_time_ms=None, table_count=None)
    return {
        "connection": component(connection),
        "responsiveness": counted,
        "connection_pool": pool(),
        **more,
    }


REDIS_INFO = {
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
}


def redis(
    ping_ms: float = 2.1, set_ms: float = 15.3, error: str | None = None, **info: Any
) -> dict[str, Any]:
    """What the Redis probe measured."""
    return {
        "connectivity": component(response_time_ms=ping_ms, host="localhost", port=6379, db=0),
        "cache_operations": component(response_time_ms=set_ms),
        "memory_usage": component(error, info={**REDIS_INFO, **info}),
        "server": {
            "redis_version": "7.2.4",
            "used_memory_bytes": 47395635,
            "connected_clients": 5,
            "total_commands_processed": 45600,
        },
    }


def resources(**changed: dict[str, Any]) -> dict[str, Any]:
    """What the resources probe measured."""
    parts = {
        "cpu": component(usage_percent=15.2, cores=4, source="cgroup_v2"),
        "memory": component(
            usage_percent=45.8,
            total_bytes=17179869184,
            used_bytes=8053063680,
            available_bytes=9126805504,
            source="cgroup_v2",
        ),
        "disk": component(
            usage_percent=35.2,
            total_bytes=75913548595,
            used_bytes=26736171417,
            free_bytes=49177375539,
            source="host",
            mount_point="/",
        ),
    }
    network = {
        "bytes_sent": 183400211,
        "bytes_recv": 95120044,
        "packets_sent": 310422,
        "packets_recv": 288910,
    }
    shown = {name: {**part, **changed.get(name, {})} for name, part in parts.items()}
    return {**shown, "network": network}


def application(**changed: Any) -> dict[str, Any]:
    """What the application probe measured."""
    return {
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
        **changed,
    }


# What a run found, and how long it took.
Found = tuple[Result, float]


def answered(seconds: float, code: int = 200, error: str | None = None) -> Found:
    """A provider's answer."""
    measured: dict[str, Any] = {"response_time": seconds, "details": {"response_code": code}}
    return (Result.failed(error, **measured) if error else Result(**measured)), seconds


WELL: dict[str, Found] = {
    "database": (Result(response_time=0.0125, details=database()), 0.0452),
    "redis": (Result(response_time=0.0021, details=redis()), 0.0258),
    "supabase_api": answered(0.1502),
    "stripe_api": answered(0.2008),
    "email_service_resend": answered(0.1805),
    "sms_service_twilio": answered(0.2201),
    "system_resources": (Result(details=resources()), 0.0009),
    "application": (Result(details=application()), 0.0004),
}
SECRET = "carol:pa55word@db.internal"
REFUSED = (
    Result.failed("connection_refused", SECRET, details=database("connection_refused")),
    0.0012,
)
# The probe saw the time limit pass, or the monitor had to end the run.
SLOW_POOL = pool("pool_saturated", 40, 1, 99, 60, 0)
FROZEN = (
    Result.failed("timeout", SECRET, details=database("timeout", connection_pool=SLOW_POOL)),
    2.00031,
)
GIVEN_UP = (Result.failed("timeout", "the time limit passed"), 2.0)
REDIS_GIVEN_UP = (Result.failed("timeout", "the time limit passed"), 1.00042)
REDIS_FULL = (
    Result.failed(
        "memory_critical",
        response_time=0.00204,
        details=redis(
            2.04,
            14.8,
            "memory_critical",
            mem_fragmentation_ratio=1.08,
            memory_usage_percent=96.31,
        ),
    ),
    0.0249,
)
DISK_HIGH = (
    Result.failed(
        "disk_high",
        details=resources(
            disk={"status": "warning", "error": "disk_high", "usage_percent": 83.6},
        ),
    ),
    0.0009,
)
MEMORY_CRITICAL = (
    Result.failed(
        "memory_critical",
        details=resources(
            memory={"status": "unhealthy", "error": "memory_critical", "usage_percent": 96.1},
        ),
    ),
    0.0009,
)
ABSENT = "not_configured"
NEVER = None


def check(name: str, *, unconfigured: str | None = None, **more: Any) -> Check:
    """The definition of a documented check, as the defaults have it."""
    provider = name in PROVIDERS
    decides = name in ("database", "redis")
    usual: dict[str, Any] = {
        "interval": 60.0 if provider else 5.0,
        "timeout": TIMEOUTS.get(name, 1.0),
        "scope": Scope.FLEET if provider and not unconfigured else Scope.POD,
        "critical": decides,
        "startup": decides,
    }
    return Check(name, unconfigured=unconfigured, **{**usual, **more})


def state(name: str, found: Found | str | None, *, failed_runs: int | None = None) -> CheckState:
    """Where a check stands after one run, long confirmed; or without one."""
    if not isinstance(found, tuple):
        return CheckState.initial(check(name, unconfigured=found))
    result, duration = found
    age = AGES.get(name, 1.0)
    run = Run(result, CLOCK - age, NOW - age, duration)
    after = CheckState.initial(check(name)).observe(run)
    return after if failed_runs is None else replace(after, failed_runs=failed_runs)


def snapshot(
    lifecycle: Lifecycle = Lifecycle.SERVING,
    *,
    tasks: dict[str, TaskState] | None = None,
    states: dict[str, CheckState] | None = None,
    **found: Found | str | None,
) -> Snapshot:
    """Everything, as it is published and as the flags of the scoreboard complete it."""
    known = {name: state(name, found.get(name, WELL[name])) for name in CHECKS}
    return Snapshot(
        {**known, **(states or {})},
        lifecycle=lifecycle,
        serving_at=None if lifecycle is Lifecycle.STARTING else SERVING_AT,
        tasks=tasks or {},
    )


def pod(lifecycle: Lifecycle = Lifecycle.SERVING, *, later: float = 0.0, **found: Any) -> Pod:
    """The pod of the examples, seen so many seconds after they were written."""
    alive = found.pop("alive", True)
    return Pod(
        snapshot=snapshot(lifecycle, **found).at(CLOCK + later),
        readable=True,
        alive=alive,
        at=NOW + later,
        booted_at=BOOTED_AT,
        uptime=UPTIME + later,
        in_flight=3,
    )


def failing(**more: Any) -> Pod:
    """The second example: the database refused, a provider down, one slow and one absent."""
    return pod(
        database=REFUSED,
        stripe_api=answered(3.41277, 200, "slow_response"),
        supabase_api=answered(0.15102),
        email_service_resend=ABSENT,
        system_resources=DISK_HIGH,
        states={
            "database": state("database", REFUSED, failed_runs=7),
            "sms_service_twilio": state(
                "sms_service_twilio", answered(0.2314, 500, "http_500"), failed_runs=3
            ),
        },
        **more,
    )


def nowhere(**more: Any) -> Pod:
    """Nothing is configured, but for what always is."""
    return pod(**dict.fromkeys(("database", "redis", *PROVIDERS), ABSENT), **more)


def blank(**more: Any) -> Pod:
    """Before the first result."""
    return pod(Lifecycle.STARTING, **dict.fromkeys(CHECKS, NEVER), **more)
