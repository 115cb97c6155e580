"""Good answers of every endpoint, healthy and failing, for the tests of the scripts.

The healthy ones are as a trusted caller sees them, the failing ones as an untrusted caller does:
the database is refused, one provider fails, one is slow and one is not configured.
"""

from dataclasses import dataclass

NOW = "2025-01-27T10:30:00.000Z"
RAN = "2025-01-27T10:29:58.412Z"
RAN_FLEET = "2025-01-27T10:29:21.007Z"
RAN_LOCAL = "2025-01-27T10:29:57.120Z"
BLUEPRINT = "/api/system/health"

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True)
class Example:
    """One answer: HTTP status, and the body as a JSON object or as text."""

    status: int
    body: dict | str


def provider(milliseconds, code=200, status="healthy", error=None):
    return {
        "status": status,
        "response_time_ms": milliseconds,
        "response_code": code,
        "scope": "fleet",
        "error": error,
        "last_check": RAN_FLEET,
    }


PROVIDERS = {
    "supabase_api": provider(150.2),
    "stripe_api": provider(200.8),
    "email_service_resend": provider(180.5),
    "sms_service_twilio": provider(220.1),
}
PROVIDERS_FAILING = {
    "supabase_api": provider(151.02),
    "stripe_api": provider(3412.77, status="warning", error="slow_response"),
    "email_service_resend": {
        "status": "not_configured",
        "response_time_ms": None,
        "response_code": None,
        "scope": "pod",
        "error": "not_configured",
        "last_check": None,
    },
    "sms_service_twilio": provider(231.4, 500, "unhealthy", "http_500"),
}

DATABASE = {
    "status": "healthy",
    "connection": "active",
    "response_time_ms": 12.5,
    "table_count": 25,
    "error": None,
    "last_check": RAN,
}
DATABASE_FAILING = {
    "status": "unhealthy",
    "connection": "failed",
    "response_time_ms": None,
    "table_count": None,
    "error": "connection_refused",
    "last_check": RAN,
}
REDIS = {
    "status": "healthy",
    "connection": "active",
    "response_time_ms": 2.1,
    "memory_usage_mb": 45.2,
    "used_memory_human": "45.20M",
    "redis_version": "7.2.4",
    "connected_clients": 5,
    "error": None,
    "last_check": RAN,
}
REDIS_UNTRUSTED = {
    **REDIS,
    "memory_usage_mb": None,
    "used_memory_human": None,
    "redis_version": None,
    "connected_clients": None,
}
REDIS_FAILING = {
    **REDIS_UNTRUSTED,
    "status": "unhealthy",
    "connection": "failed",
    "response_time_ms": None,
    "error": "timeout",
}

RESOURCES = {
    "status": "healthy",
    "cpu": {
        "status": "healthy",
        "usage_percent": 15.2,
        "cores": 4,
        "error": None,
        "source": "cgroup_v2",
    },
    "memory": {
        "status": "healthy",
        "usage_percent": 45.8,
        "total_gb": 16.0,
        "used_gb": 7.5,
        "available_gb": 8.5,
        "error": None,
        "source": "cgroup_v2",
    },
    "disk": {
        "status": "healthy",
        "usage_percent": 35.2,
        "total_gb": 70.7,
        "used_gb": 24.9,
        "free_gb": 45.8,
        "error": None,
        "source": "host",
    },
    "network": {
        "bytes_sent": 183400211,
        "bytes_recv": 95120044,
        "packets_sent": 310422,
        "packets_recv": 288910,
    },
    "last_check": RAN_LOCAL,
}


def resources_untrusted(status, **parts):
    """The resources without amounts; ``disk=("disk_high", "warning", 83.6)`` changes a part."""
    usual = {"cpu": 15.2, "memory": 45.8, "disk": 35.2}
    amounts = {
        "cpu": ("cores",),
        "memory": ("total_gb", "used_gb", "available_gb"),
        "disk": ("total_gb", "used_gb", "free_gb"),
    }
    body = {"status": status, "last_check": RAN_LOCAL}
    body["network"] = dict.fromkeys(RESOURCES["network"])
    for name, percent in usual.items():
        error, word, used = parts.get(name, (None, "healthy", percent))
        body[name] = {"status": word, "usage_percent": used, "error": error, "source": None}
        body[name] |= dict.fromkeys(amounts[name])
    return body


RESOURCES_WARNING = resources_untrusted("warning", disk=("disk_high", "warning", 83.6))

APPLICATION = {
    "status": "healthy",
    "app_name": "MINGUS",
    "version": "1.0.0",
    "environment": "production",
    "debug_mode": False,
    "database_migrations": "unknown",
    "startup_time": "2025-01-26T10:30:04.118Z",
    "uptime_seconds": 86400.0,
    "active_connections": 3,
    "requests_per_minute": 120,
    "workers_expected": 4,
    "workers_live": 4,
    "error": None,
    "last_check": RAN_LOCAL,
}
APPLICATION_UNTRUSTED = {**APPLICATION, "environment": None, "debug_mode": None}

PROCESS = {
    "memory_rss_mb": 256.5,
    "cpu_percent": 2.1,
    "num_threads": 28,
    "open_files": 45,
    "connections": 12,
}
NO_LISTS = {
    "unhealthy_services": [],
    "warning_services": [],
    "unknown_services": [],
    "not_configured_services": [],
}
LISTS_FAILING = {
    "unhealthy_services": ["database", "sms_service_twilio"],
    "warning_services": ["stripe_api", "system_resources"],
    "unknown_services": [],
    "not_configured_services": ["email_service_resend"],
}


def only(source, *keys):
    return {key: source[key] for key in keys}


def brief(source):
    return only(source, "status", "response_time_ms", "error", "last_check")


def detailed(providers, resources, database, application, **verdict):
    return {
        "timestamp": NOW,
        "lifecycle": "serving",
        "services": {
            "database": brief(database),
            "redis": brief(REDIS),
            "external_services": providers,
        },
        "system_resources": resources,
        "application": {
            **only(application, "status", "uptime_seconds", "error", "last_check"),
            **(PROCESS if application is APPLICATION else dict.fromkeys(PROCESS)),
        },
        **verdict,
    }


def compact(providers, database, key):
    def check(source):
        item = brief(source)
        return {key: item.pop("response_time_ms"), **item}

    external = {name: check(item) for name, item in providers.items()}
    return {"database": check(database), "redis": check(REDIS), "external_apis": external}


HEALTHY = {"status": "healthy", "timestamp": NOW, "response_time_ms": 220.1}
FAILING = {"status": "unhealthy", "timestamp": NOW, "response_time_ms": 3412.77}

DATABASE_ANSWER = {
    "status": "healthy",
    "timestamp": NOW,
    "response_time_ms": 45.2,
    "error": None,
    "last_check": RAN,
    "connection": {"status": "healthy", "error": None},
    "responsiveness": {
        "status": "healthy",
        "error": None,
        "response_time_ms": 32.7,
        "table_count": 25,
    },
    "connection_pool": {
        "status": "healthy",
        "error": None,
        "scope": "pod",
        "workers": 4,
        "info": {
            "pool_size": 40,
            "checked_in": 8,
            "checked_out": 2,
            "overflow": 0,
            "invalid": 0,
        },
    },
}
DATABASE_ANSWER_FAILING = {
    **DATABASE_ANSWER,
    "status": "unhealthy",
    "response_time_ms": 2000.31,
    "error": "timeout",
    "connection": {"status": "unhealthy", "error": "timeout"},
    "responsiveness": {
        "status": "unknown",
        "error": "not_attempted",
        "response_time_ms": None,
        "table_count": None,
    },
    "connection_pool": {
        "status": "warning",
        "error": "pool_saturated",
        "scope": "pod",
        "workers": 4,
        "info": {
            "pool_size": 40,
            "checked_in": 1,
            "checked_out": 99,
            "overflow": 60,
            "invalid": 0,
        },
    },
}
DATABASE_ANSWER_ABSENT = {
    "status": "not_configured",
    "timestamp": NOW,
    "response_time_ms": None,
    "error": "not_configured",
    "last_check": None,
    "connection": {"status": "not_configured", "error": "not_configured"},
    "responsiveness": {
        "status": "not_configured",
        "error": "not_configured",
        "response_time_ms": None,
        "table_count": None,
    },
    "connection_pool": {
        "status": "not_configured",
        "error": "not_configured",
        "scope": "pod",
        "workers": 0,
        "info": {
            "pool_size": None,
            "checked_in": None,
            "checked_out": None,
            "overflow": None,
            "invalid": None,
        },
    },
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
REDIS_ANSWER = {
    "status": "healthy",
    "timestamp": NOW,
    "response_time_ms": 25.8,
    "error": None,
    "last_check": RAN,
    "connectivity": {
        "status": "healthy",
        "error": None,
        "response_time_ms": 2.1,
        "host": "localhost",
        "port": 6379,
        "db": 0,
    },
    "cache_operations": {"status": "healthy", "error": None, "response_time_ms": 15.3},
    "memory_usage": {"status": "healthy", "error": None, "info": REDIS_INFO},
}
REDIS_ANSWER_FAILING = {
    "status": "unhealthy",
    "timestamp": NOW,
    "response_time_ms": 1000.42,
    "error": "timeout",
    "last_check": RAN,
    "connectivity": {
        "status": "unhealthy",
        "error": "timeout",
        "response_time_ms": None,
        "host": None,
        "port": None,
        "db": None,
    },
    "cache_operations": {"status": "unknown", "error": "not_attempted", "response_time_ms": None},
    "memory_usage": {
        "status": "unknown",
        "error": "not_attempted",
        "info": dict.fromkeys(REDIS_INFO),
    },
}
REDIS_ANSWER_FULL = {
    **REDIS_ANSWER,
    "status": "unhealthy",
    "response_time_ms": 24.9,
    "error": "memory_critical",
    "connectivity": {
        "status": "healthy",
        "error": None,
        "response_time_ms": 2.04,
        "host": None,
        "port": None,
        "db": None,
    },
    "cache_operations": {"status": "healthy", "error": None, "response_time_ms": 14.8},
    "memory_usage": {
        "status": "unhealthy",
        "error": "memory_critical",
        "info": {
            **dict.fromkeys(REDIS_INFO),
            "mem_fragmentation_ratio": 1.08,
            "memory_usage_percent": 96.31,
        },
    },
}

CHECKS = (
    "database",
    "redis",
    *PROVIDERS,
    "system_resources",
    "application",
)
SYSTEM_METRICS = {
    "memory_total_bytes": 17179869184,
    "memory_available_bytes": 9126805504,
    "memory_used_bytes": 8053063680,
    "memory_percent": 45.8,
    "cpu_percent": 15.2,
    "disk_percent": 35.2,
    "disk_used_bytes": 26736171417,
    "disk_total_bytes": 75913548595,
}
NUMBERS = {
    "health_check_duration_seconds": {
        "database": 0.0452,
        "redis": 0.0258,
        "supabase_api": 0.1502,
        "stripe_api": 0.2008,
        "email_service_resend": 0.1805,
        "sms_service_twilio": 0.2201,
        "system_resources": 0.0009,
        "application": 0.0004,
    },
    "health_check_failures_total": dict.fromkeys(CHECKS, 0),
    "health_check_status": dict.fromkeys(CHECKS, 1),
    "system_metrics": SYSTEM_METRICS,
    "database_metrics": {"connection_pool_size": 40, "connections_checked_out": 2},
    "redis_metrics": {
        "memory_usage_bytes": 47395635,
        "connected_clients": 5,
        "total_commands_processed": 45600,
    },
}
NUMBERS_FAILING = {
    "health_check_duration_seconds": {
        "database": 0.0012,
        "redis": 0.0258,
        "supabase_api": 0.151,
        "stripe_api": 3.4128,
        "email_service_resend": None,
        "sms_service_twilio": 0.2314,
        "system_resources": 0.0009,
        "application": 0.0004,
    },
    "health_check_failures_total": {
        **dict.fromkeys(CHECKS, 0),
        "database": 7,
        "sms_service_twilio": 3,
    },
    "health_check_status": {
        **dict.fromkeys(CHECKS, 1),
        "database": 0,
        "email_service_resend": None,
        "sms_service_twilio": 0,
    },
    "system_metrics": {
        **dict.fromkeys(SYSTEM_METRICS),
        "memory_percent": 45.8,
        "cpu_percent": 15.2,
        "disk_percent": 83.6,
    },
    "database_metrics": {"connection_pool_size": 40, "connections_checked_out": 2},
    "redis_metrics": {
        "memory_usage_bytes": None,
        "connected_clients": None,
        "total_commands_processed": None,
    },
}


def envelope(data, *, success=True):
    return {"success": success, "timestamp": NOW, "data": data}


SYSTEM = {
    "overall_status": "healthy",
    "timestamp": NOW,
    "response_time_ms": 220.1,
    "lifecycle": "serving",
    "services": {
        "database": DATABASE,
        "redis": REDIS,
        "external_services": PROVIDERS,
        "system_resources": RESOURCES,
        "application": APPLICATION,
    },
    **NO_LISTS,
    "critical_services_failing": False,
}
SYSTEM_FAILING = {
    "overall_status": "unhealthy",
    "timestamp": NOW,
    "response_time_ms": 3412.77,
    "lifecycle": "serving",
    "services": {
        "database": DATABASE_FAILING,
        "redis": REDIS_UNTRUSTED,
        "external_services": PROVIDERS_FAILING,
        "system_resources": RESOURCES_WARNING,
        "application": APPLICATION_UNTRUSTED,
    },
    **LISTS_FAILING,
    "critical_services_failing": True,
}
ENVIRONMENT = {"python_version": "3.12.4", "flask_env": "production", "debug_mode": False}
NINE = {
    "mingus_database_status": 1,
    "mingus_redis_status": 1,
    "mingus_database_response_time_ms": 12.5,
    "mingus_redis_response_time_ms": 2.1,
    "mingus_cpu_usage_percent": 15.2,
    "mingus_memory_usage_percent": 45.8,
    "mingus_disk_usage_percent": 35.2,
    "mingus_uptime_seconds": 86400.0,
    "mingus_health_check_timestamp": 1737973798,
}
NINE_FAILING = {
    **NINE,
    "mingus_database_status": 0,
    "mingus_database_response_time_ms": None,
}


def probe(**data):
    """The envelope of a probe; the first value is its answer."""
    return envelope({"timestamp": NOW, **data}, success=next(iter(data.values())))


def identification(status):
    return {
        "name": "MINGUS",
        "message": "MINGUS API is running",
        "version": "1.0.0",
        "status": status,
        "timestamp": NOW,
    }


# --- the exposition ---

STATES = ("not_configured", "healthy", "warning", "unknown", "unhealthy")
LIFECYCLE = ("starting", "serving", "maintenance", "draining")
STATUSES = dict.fromkeys(CHECKS, "healthy")
STATUSES_FAILING = {
    **STATUSES,
    "database": "unhealthy",
    "stripe_api": "warning",
    "email_service_resend": "not_configured",
    "sms_service_twilio": "unhealthy",
    "system_resources": "warning",
}


def one_hot(states, current, labels=""):
    return [(f'{labels}state="{state}"', int(state == current)) for state in states]


def check_states(statuses):
    series = []
    for check, status in statuses.items():
        critical = str(check in ("database", "redis")).lower()
        series += one_hot(STATES, status, f'check="{check}",critical="{critical}",')
    return series


def gauges(statuses, overall):
    """1, 0 or, for what is not configured, no series."""
    words = {**statuses, "overall": overall}
    return [
        (f'component="{name}"', int(word in ("healthy", "warning")))
        for name, word in words.items()
        if word != "not_configured"
    ]


def histogram(labels, count):
    return [
        ("_bucket", f'{labels},le="0.1"', count - 1),
        ("_bucket", f'{labels},le="1.0"', count),
        ("_bucket", f'{labels},le="+Inf"', count),
        ("_sum", labels, 0.25),
        ("_count", labels, count),
    ]


REQUEST = 'method="GET",endpoint="/health",status="200"'


def families(statuses, overall, ready):
    """Name -> type and series, as a caller who is not trusted sees them."""
    configured = [name for name, word in statuses.items() if word != "not_configured"]
    by_check = [f'check="{name}"' for name in configured]
    failed = [name for name in configured if statuses[name] == "unhealthy"]
    return {
        "mingus_database_status": ("gauge", [("", int("database" not in failed))]),
        "mingus_redis_status": ("gauge", [("", 1)]),
        "mingus_redis_response_time_ms": ("gauge", [("", 2.1)]),
        "mingus_cpu_usage_percent": ("gauge", [("", 15.2)]),
        "mingus_uptime_seconds": ("gauge", [("", 86400.5)]),
        "mingus_health_check_timestamp": ("gauge", [("", 1737973798)]),
        "health_check_duration_seconds": (
            "histogram",
            [row for name in configured for row in histogram(f'component="{name}"', 9)],
        ),
        "health_check_failures_total": (
            "counter",
            [(f'component="{name}",error_type="connection_refused"', 7) for name in failed],
        ),
        "health_check_status": ("gauge", gauges(statuses, overall)),
        "app_request_duration_seconds": ("histogram", histogram(REQUEST, 12)),
        "app_request_total": ("counter", [(REQUEST, 12)]),
        "db_connection_pool_size": ("gauge", [('pool_type="app"', 40)]),
        "mingus_health_status": ("gauge", one_hot(STATES, overall)),
        "mingus_health_check_state": ("gauge", check_states(statuses)),
        "mingus_health_ready": ("gauge", [("", ready)]),
        "mingus_health_started": ("gauge", [("", 1)]),
        "mingus_health_lifecycle": ("gauge", one_hot(LIFECYCLE, "serving")),
        "mingus_health_checks_total": ("counter", [('check="redis",result="success"', 9)]),
        "mingus_health_check_last_run_timestamp_seconds": (
            "gauge",
            [(labels, 1737973798.4) for labels in by_check],
        ),
        "mingus_health_workers": ("gauge", [('state="expected"', 4), ('state="live"', 4)]),
        "mingus_health_worker_starts_total": ("counter", [("", 4)]),
        "mingus_health_start_timestamp_seconds": ("gauge", [("", 1737887400)]),
        "mingus_health_snapshot_readable": ("gauge", [("", 1)]),
        "mingus_health_build_info": ("gauge", [('version="1.0.0"', 1)]),
    }


INTERNAL = {
    "system_memory_bytes": ("gauge", [('type="total"', 17179869184)]),
    "system_disk_bytes": ("gauge", [('mount_point="/",type="used"', 26736171417)]),
    "redis_memory_bytes": ("gauge", [("", 47395635)]),
    "redis_connected_clients": ("gauge", [("", 5)]),
}


def render(named, *, openmetrics=False):
    """Families as a text body."""
    lines = []
    for name, (kind, series) in named.items():
        counter = openmetrics and kind == "counter"
        family = name.removesuffix("_total") if counter else name
        lines += [f"# HELP {family} What {family} means", f"# TYPE {family} {kind}"]
        for row in series:
            suffix, labels, value = row if len(row) == 3 else ("", *row)
            lines.append(f"{name}{suffix}{'{' + labels + '}' if labels else ''} {float(value)}")
    return "\n".join([*lines, "# EOF", ""] if openmetrics else [*lines, ""])


METRICS = {**families(STATUSES, "healthy", ready=1), **INTERNAL}
METRICS_FAILING = families(STATUSES_FAILING, "unhealthy", ready=0)
METRICS_UNREADABLE = {"mingus_health_snapshot_readable": ("gauge", [("", 0)])}

# --- every endpoint ---

OVERVIEW = {**NO_LISTS, "critical_services_failing": False}
OVERVIEW_FAILING = {**LISTS_FAILING, "critical_services_failing": True}
DETAILED = detailed(PROVIDERS, RESOURCES, DATABASE, APPLICATION, **HEALTHY, **OVERVIEW)
DETAILED_FAILING = detailed(
    PROVIDERS_FAILING,
    RESOURCES_WARNING,
    DATABASE_FAILING,
    APPLICATION_UNTRUSTED,
    **FAILING,
    **OVERVIEW_FAILING,
)
COUNTS = {
    "total_services": 4,
    "healthy_services": 4,
    "warning_services": 0,
    "unhealthy_services": 0,
    "unknown_services": 0,
    "not_configured_services": 0,
}
EXTERNAL = {**HEALTHY, "services": PROVIDERS, **NO_LISTS, "summary": COUNTS}
EXTERNAL_FAILING = {
    **FAILING,
    "services": PROVIDERS_FAILING,
    "unhealthy_services": ["sms_service_twilio"],
    "warning_services": ["stripe_api"],
    "unknown_services": [],
    "not_configured_services": ["email_service_resend"],
    "summary": {
        **COUNTS,
        "healthy_services": 1,
        "warning_services": 1,
        "unhealthy_services": 1,
        "not_configured_services": 1,
    },
}
VERSIONED = {"timestamp": NOW, "version": "1.0.0"}
STANDARD = {
    "status": "healthy",
    **VERSIONED,
    "checks": compact(PROVIDERS, DATABASE, "response_time"),
}
STANDARD_FAILING = {
    "status": "unhealthy",
    **VERSIONED,
    "checks": compact(PROVIDERS_FAILING, DATABASE_FAILING, "response_time"),
}
WITH_NUMBERS = {
    **HEALTHY,
    "version": "1.0.0",
    "checks": compact(PROVIDERS, DATABASE, "response_time_ms"),
    "metrics": NUMBERS,
}
WITH_NUMBERS_FAILING = {
    **FAILING,
    "version": "1.0.0",
    "checks": compact(PROVIDERS_FAILING, DATABASE_FAILING, "response_time_ms"),
    "metrics": NUMBERS_FAILING,
}
SYSTEM_DETAILED = {
    **SYSTEM,
    "process_info": {"pid": 1, **PROCESS},
    "environment": ENVIRONMENT,
}
SYSTEM_DETAILED_FAILING = {
    **SYSTEM_FAILING,
    "process_info": dict.fromkeys(("pid", *PROCESS)),
    "environment": dict.fromkeys(ENVIRONMENT),
}
UP = {"database": "healthy", "redis": "healthy"}
DOWN = {"database": "unhealthy", "redis": "healthy"}
TASKS = {
    "migrate": {
        "status": "healthy",
        "error": None,
        "duration_ms": 842.16,
        "attempt": 1,
        "scope": "fleet",
    }
}


def stated(status, services):
    data = {"status": status, "timestamp": NOW, **services}
    return envelope(data, success=status == "healthy")


def pair(healthy, failing):
    return Example(200, healthy), Example(503, failing)


def enveloped_pair(healthy, failing):
    return pair(envelope(healthy), envelope(failing, success=False))


EXAMPLES = {
    "/": (Example(200, identification("healthy")), Example(200, identification("unhealthy"))),
    "/health": pair(
        {"status": "healthy", "timestamp": NOW}, {"status": "unhealthy", "timestamp": NOW}
    ),
    "/health/detailed": pair(DETAILED, DETAILED_FAILING),
    "/health/database": (
        *pair(DATABASE_ANSWER, DATABASE_ANSWER_FAILING),
        Example(200, DATABASE_ANSWER_ABSENT),
    ),
    "/health/redis": (
        *pair(REDIS_ANSWER, REDIS_ANSWER_FAILING),
        Example(503, REDIS_ANSWER_FULL),
    ),
    "/health/external": pair(EXTERNAL, EXTERNAL_FAILING),
    "/health/standard": pair(STANDARD, STANDARD_FAILING),
    "/health/metrics": pair(WITH_NUMBERS, WITH_NUMBERS_FAILING),
    "/metrics": (Example(200, render(METRICS)), Example(200, render(METRICS_FAILING))),
    f"{BLUEPRINT}/": enveloped_pair(SYSTEM, SYSTEM_FAILING),
    f"{BLUEPRINT}/simple": pair(stated("healthy", UP), stated("unhealthy", DOWN)),
    f"{BLUEPRINT}/detailed": enveloped_pair(SYSTEM_DETAILED, SYSTEM_DETAILED_FAILING),
    f"{BLUEPRINT}/readiness": (
        *pair(probe(ready=True, services=UP), probe(ready=False, services=DOWN)),
        Example(503, probe(ready=False, services=dict.fromkeys(UP, "unknown"))),
    ),
    f"{BLUEPRINT}/liveness": pair(
        probe(alive=True, uptime_seconds=86400.0), probe(alive=False, uptime_seconds=86400.0)
    ),
    f"{BLUEPRINT}/startup": pair(
        probe(started=True, services={**UP, "system_resources": "healthy"}, tasks=TASKS),
        probe(started=False, services={**DOWN, "system_resources": "warning"}, tasks=None),
    ),
    f"{BLUEPRINT}/database": enveloped_pair(DATABASE, DATABASE_FAILING),
    f"{BLUEPRINT}/redis": enveloped_pair(REDIS, REDIS_FAILING),
    f"{BLUEPRINT}/external": enveloped_pair(PROVIDERS, PROVIDERS_FAILING),
    f"{BLUEPRINT}/resources": enveloped_pair(
        RESOURCES,
        resources_untrusted("unhealthy", memory=("memory_critical", "unhealthy", 96.1)),
    ),
    f"{BLUEPRINT}/application": (
        *enveloped_pair(
            APPLICATION,
            {
                **APPLICATION_UNTRUSTED,
                "status": "unhealthy",
                "active_connections": 1,
                "workers_live": 0,
                "error": "workers_stalled",
            },
        ),
        Example(
            200,
            envelope(
                {
                    **APPLICATION_UNTRUSTED,
                    "status": "warning",
                    "workers_live": 3,
                    "error": "workers_missing",
                }
            ),
        ),
    ),
    f"{BLUEPRINT}/metrics": (
        Example(200, envelope(NINE)),
        Example(200, envelope(NINE_FAILING)),
        Example(200, render(METRICS)),
    ),
}
