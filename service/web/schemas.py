"""The documents as JSON Schema: every key of every answer, declared once.

``answers`` hangs one on each endpoint, ``openapi`` publishes them, ``payload`` takes its lists of
keys from here, and the suite holds every answer in every state against them.

A key that is ``internal`` is null for callers who are not trusted. An object lists every key it
always has; readers must ignore what may be added.
"""

from typing import Any

from service.health import CODES, Lifecycle, Scope, Status

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
COMPONENTS: dict[str, Schema] = {}
INTERNAL = "x-internal"


def named(name: str, schema: Schema) -> Schema:
    """A reference to a schema that is declared under a name."""
    COMPONENTS[name] = schema
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    """The same, or null while nobody knows."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def internal(schema: Schema) -> Schema:
    """The same for trusted callers, null for all others."""
    return {**maybe(schema), INTERNAL: True}


def one_of(*values: Any) -> Schema:
    """One of some words or numbers."""
    kind = "string" if isinstance(values[0], str) else "integer"
    return {"type": kind, "enum": list(values)}


def whole(least: int = 0, most: int | None = None) -> Schema:
    """An integer in a range."""
    return {"type": "integer", "minimum": least, **({} if most is None else {"maximum": most})}


def record(keys: dict[str, Schema], *, more: Schema | None = None, **flags: Any) -> Schema:
    """An object that always has these keys; and what further ones hold, where it may have some."""
    schema = {"type": "object", "properties": keys, "required": list(keys), **flags}
    return schema if more is None else {**schema, "additionalProperties": more}


def table(values: Schema) -> Schema:
    """An object whose keys are names."""
    return {"type": "object", "additionalProperties": values}


def _each(names: str, schema: Schema) -> dict[str, Schema]:
    return dict.fromkeys(names.split(), schema)


# -- values

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT = whole()
AMOUNT: Schema = {"type": "number", "minimum": 0}
PERCENT: Schema = {"type": "number", "minimum": 0, "maximum": 100}
NAMES: Schema = {"type": "array", "items": TEXT}
STATUS = named("Status", one_of(*(status.word for status in Status)))
CODE = named(
    "Code",
    {
        "type": "string",
        "description": "why a status is not healthy",
        "anyOf": [{"enum": list(CODES)}, {"pattern": "^http_[1-9][0-9]{2}$"}],
    },
)
TIME = named(
    "Time",
    {
        "type": "string",
        "description": "RFC 3339 in UTC with milliseconds",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
    },
)
MILLISECONDS = named("Milliseconds", maybe(AMOUNT))
REASON = maybe(CODE)
LAST_CHECK = maybe(TIME)
GAUGE = maybe(one_of(0, 1))
SCOPE = one_of(*(scope.value for scope in Scope))
LIFECYCLE = one_of(*(lifecycle.value for lifecycle in Lifecycle))
CONNECTION = one_of("active", "failed", "unknown", "not_configured")

# -- objects of more than one endpoint

_OUTCOME = {"status": STATUS, "error": REASON}
_CHECKED = {
    "status": STATUS,
    "response_time_ms": MILLISECONDS,
    "error": REASON,
    "last_check": LAST_CHECK,
}
CHECK = named("Check", record(_CHECKED))
DATABASE = named(
    "DatabaseCheck",
    record({**_CHECKED, "connection": CONNECTION, "table_count": maybe(COUNT)}),
)
REDIS = named(
    "RedisCheck",
    record(
        {
            **_CHECKED,
            "connection": CONNECTION,
            "memory_usage_mb": internal(AMOUNT),
            "used_memory_human": internal(TEXT),
            "redis_version": internal(TEXT),
            "connected_clients": internal(COUNT),
        }
    ),
)
PROVIDER = named(
    "ProviderCheck",
    record({**_CHECKED, "response_code": maybe(whole(100, 599)), "scope": SCOPE}),
)
EXTERNAL = ("supabase_api", "stripe_api", "email_service_resend", "sms_service_twilio")
PROVIDERS = named("Providers", record(dict.fromkeys(EXTERNAL, PROVIDER)))

USAGE = {
    "usage_percent": maybe(PERCENT),
    "status": STATUS,
    "error": REASON,
    "source": internal(one_of("cgroup_v2", "cgroup_v1", "host")),
}
NETWORK = _each("bytes_sent bytes_recv packets_sent packets_recv", internal(COUNT))
RESOURCES = named(
    "Resources",
    record(
        {
            "status": STATUS,
            "cpu": record({**USAGE, "cores": internal(whole(1))}),
            "memory": record({**USAGE, **_each("total_gb used_gb available_gb", internal(AMOUNT))}),
            "disk": record({**USAGE, **_each("total_gb used_gb free_gb", internal(AMOUNT))}),
            "network": record(NETWORK),
            "last_check": LAST_CHECK,
        }
    ),
)
WORKERS = _each(
    "active_connections requests_per_minute workers_expected workers_live", maybe(COUNT)
)
APPLICATION = named(
    "Application",
    record(
        {
            "status": STATUS,
            "app_name": TEXT,
            "version": TEXT,
            "environment": internal(TEXT),
            "debug_mode": internal(FLAG),
            "database_migrations": one_of("up_to_date", "pending", "unknown"),
            "startup_time": maybe(TIME),
            "uptime_seconds": AMOUNT,
            **WORKERS,
            "error": REASON,
            "last_check": LAST_CHECK,
        }
    ),
)
PROCESS = {
    "memory_rss_mb": internal(AMOUNT),
    "cpu_percent": internal(AMOUNT),  # of one core: may pass 100
    **_each("num_threads open_files connections", internal(COUNT)),
}
_LISTS = _each(
    "unhealthy_services warning_services unknown_services not_configured_services", NAMES
)
_TIMED = {"status": STATUS, "timestamp": TIME, "response_time_ms": MILLISECONDS}


def envelope(data: Schema) -> Schema:
    """A document of the blueprint family."""
    return record({"success": FLAG, "timestamp": TIME, "data": data})


# -- root family

INDEX = record({**_each("name message version", TEXT), "status": STATUS, "timestamp": TIME})
HEALTH = record({"status": STATUS, "timestamp": TIME})
DETAILED = record(
    {
        **_TIMED,
        "lifecycle": LIFECYCLE,
        "services": record(
            {"database": CHECK, "redis": CHECK, "external_services": PROVIDERS}, more=CHECK
        ),
        "system_resources": RESOURCES,
        "application": record(
            {
                "status": STATUS,
                "uptime_seconds": AMOUNT,
                **PROCESS,
                "error": REASON,
                "last_check": LAST_CHECK,
            }
        ),
        **_LISTS,
        "critical_services_failing": FLAG,
    }
)
POOL_INFO = _each("pool_size checked_in checked_out overflow invalid", maybe(COUNT))
DATABASE_PARTS = record(
    {
        **_TIMED,
        "error": REASON,
        "last_check": LAST_CHECK,
        "connection": record(_OUTCOME),
        "responsiveness": record(
            {**_OUTCOME, "response_time_ms": MILLISECONDS, "table_count": maybe(COUNT)}
        ),
        "connection_pool": record(
            {**_OUTCOME, "scope": one_of("pod"), "workers": COUNT, "info": record(POOL_INFO)}
        ),
    }
)
REDIS_INFO = {
    "used_memory_human": internal(TEXT),
    "used_memory_peak_human": internal(TEXT),
    "used_memory_rss_human": internal(TEXT),
    "used_memory_lua_human": internal(TEXT),
    "mem_fragmentation_ratio": maybe(AMOUNT),
    "memory_usage_percent": maybe(AMOUNT),
    "total_connections_received": internal(COUNT),
    "total_commands_processed": internal(COUNT),
    "keyspace_hits": internal(COUNT),
    "keyspace_misses": internal(COUNT),
    "uptime_in_seconds": internal(COUNT),
    "connected_clients": internal(COUNT),
}
REDIS_ADDRESS = {"host": internal(TEXT), "port": internal(whole(1, 65535)), "db": internal(COUNT)}
REDIS_PARTS = record(
    {
        **_TIMED,
        "error": REASON,
        "last_check": LAST_CHECK,
        "connectivity": record({**_OUTCOME, "response_time_ms": MILLISECONDS, **REDIS_ADDRESS}),
        "cache_operations": record({**_OUTCOME, "response_time_ms": MILLISECONDS}),
        "memory_usage": record({**_OUTCOME, "info": record(REDIS_INFO)}),
    }
)
SUMMARY = {
    "total_services": whole(len(EXTERNAL), len(EXTERNAL)),
    "healthy_services": COUNT,
    **dict.fromkeys(_LISTS, COUNT),
}
EXTERNAL_PARTS = record(
    {**_TIMED, "services": PROVIDERS, **_LISTS, "summary": record(SUMMARY)},
)


def _compact(response_time: str) -> Schema:
    check = record({**_OUTCOME, response_time: MILLISECONDS, "last_check": LAST_CHECK})
    four = record(dict.fromkeys(EXTERNAL, check))
    return record({"database": check, "redis": check, "external_apis": four})


STANDARD = record(
    {"status": STATUS, "timestamp": TIME, "version": TEXT, "checks": _compact("response_time")}
)
METRICS = record(
    {
        **_TIMED,
        "version": TEXT,
        "checks": _compact("response_time_ms"),
        "metrics": record(
            {
                "health_check_duration_seconds": table(maybe(AMOUNT)),
                "health_check_failures_total": table(COUNT),
                "health_check_status": table(GAUGE),
                "system_metrics": record(
                    {
                        **_each("memory_percent cpu_percent disk_percent", maybe(PERCENT)),
                        **_each(
                            "memory_total_bytes memory_available_bytes memory_used_bytes"
                            " disk_used_bytes disk_total_bytes",
                            internal(COUNT),
                        ),
                    }
                ),
                "database_metrics": record(
                    _each("connection_pool_size connections_checked_out", maybe(COUNT))
                ),
                "redis_metrics": record(
                    _each(
                        "memory_usage_bytes connected_clients total_commands_processed",
                        internal(COUNT),
                    )
                ),
            }
        ),
    }
)

# -- blueprint family, without the envelope

_EVERYTHING = {
    "overall_status": STATUS,
    "timestamp": TIME,
    "response_time_ms": MILLISECONDS,
    "lifecycle": LIFECYCLE,
    "services": named(
        "Services",
        record(
            {
                "database": DATABASE,
                "redis": REDIS,
                "external_services": PROVIDERS,
                "system_resources": RESOURCES,
                "application": APPLICATION,
            },
            more=CHECK,
        ),
    ),
    **_LISTS,
    "critical_services_failing": FLAG,
}
SYSTEM = record(_EVERYTHING)
SYSTEM_DETAILED = record(
    {
        **_EVERYTHING,
        "process_info": record({"pid": internal(whole(1)), **PROCESS}),
        "environment": record(
            {**_each("python_version flask_env", internal(TEXT)), "debug_mode": internal(FLAG)}
        ),
    }
)
SIMPLE = record({"status": STATUS, "timestamp": TIME, "database": STATUS, "redis": STATUS})
READINESS = record({"ready": FLAG, "timestamp": TIME, "services": table(STATUS)})
LIVENESS = record({"alive": FLAG, "timestamp": TIME, "uptime_seconds": AMOUNT})
TASK = record(
    {**_OUTCOME, "duration_ms": MILLISECONDS, "attempt": COUNT, "scope": SCOPE},
)
STARTUP = record(
    {
        "started": FLAG,
        "timestamp": TIME,
        "services": record(_each("database redis system_resources", STATUS), more=STATUS),
        "tasks": internal(table(TASK)),
    }
)
FLEET_POD = {
    "pod": TEXT,
    "host": maybe(TEXT),
    "release": maybe(TEXT),
    "lifecycle": maybe(LIFECYCLE),
    "ready": maybe(FLAG),
    **_each("workers_ok workers_total", maybe(COUNT)),
    "failing": maybe(NAMES),
    "age_seconds": maybe(AMOUNT),
}
FLEET = record(
    {
        "scope": SCOPE,
        "fresh": FLAG,
        "last_sync": maybe(TIME),
        "floor_percent": internal(PERCENT),
        "this_pod": internal(TEXT),
        "pods_total": internal(COUNT),
        "pods_ready": internal(COUNT),
        "leases": internal(table(maybe(TEXT))),
        "checks": internal(
            table(
                record(
                    {
                        "status": STATUS,
                        "failing_elsewhere": COUNT,
                        "origin": maybe(one_of("local", "shared")),
                    }
                )
            )
        ),
        "pods": internal({"type": "array", "items": record(FLEET_POD)}),
    }
)
NINE_METRICS = record(
    {
        **_each("mingus_database_status mingus_redis_status", GAUGE),
        **_each("mingus_database_response_time_ms mingus_redis_response_time_ms", MILLISECONDS),
        **_each(
            "mingus_cpu_usage_percent mingus_memory_usage_percent mingus_disk_usage_percent",
            maybe(PERCENT),
        ),
        "mingus_uptime_seconds": AMOUNT,
        "mingus_health_check_timestamp": maybe(COUNT),
    }
)

# -- other forms and errors

TWIN = named(
    "Twin",
    record(
        {
            "passed": FLAG,
            "timestamp": TIME,
            "checks": table(record({"passed": FLAG, "reason": maybe(TEXT)})),
            "excluded": NAMES,
            "unknown": NAMES,
        }
    ),
)
HEALTH_STATUS = one_of("pass", "warn", "fail")
HEALTH_JSON = named(
    "HealthJson",
    {
        "type": "object",
        "description": "draft-inadarei-api-health-check-06",
        "properties": {
            "status": HEALTH_STATUS,
            **_each("version serviceId output", TEXT),
            "checks": table(
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "componentType": one_of("component", "datastore", "system"),
                            "observedValue": {"type": "number"},
                            "observedUnit": TEXT,
                            "status": HEALTH_STATUS,
                            "time": TIME,
                            "output": CODE,
                        },
                        "required": ["componentType", "status"],
                    },
                }
            ),
        },
        "required": ["status", "version", "serviceId"],
    },
)
PROBLEM = named(
    "Problem",
    record(
        {
            "type": one_of("about:blank"),
            "title": TEXT,
            "status": one_of(404, 405),
            "error": one_of("not_found", "method_not_allowed"),
            "timestamp": TIME,
        },
        description="RFC 9457",
    ),
)


def error(code: str) -> tuple[Schema, Schema]:
    """The body of an error, flat and in an envelope."""
    kind = "server_error" if code == "internal_error" else "http_error"
    data = {"error": one_of(code), "type": one_of(kind)}
    status = {"status": one_of("unknown")} if code == "internal_error" else {}
    return record({**status, **data, "timestamp": TIME}), envelope(record(data))


ERRORS = {
    code: (
        named(f"{_title}", flat),
        named(f"{_title}Enveloped", enveloped),
    )
    for code, _title in (
        ("not_found", "NotFound"),
        ("method_not_allowed", "MethodNotAllowed"),
        ("internal_error", "InternalError"),
    )
    for flat, enveloped in [error(code)]
}
