"""The HTTP contract of the health service as data, and what one answer does against it.

    violations(path, status, headers, body)  ->  ["data.services.redis.error: ...", ...]

Pure: values go in, sentences come out; asking a server is the business of the scripts beside
this module. Every sentence begins with the key, header or metric it is about, and no sentence at
all means that the answer keeps the contract. The endpoints added to the documented ones (/livez,
/status and the like) are not in the table and count as unknown paths.

In reading order: the vocabulary, values and objects, rules between the keys of one object, the
objects of the contract, the table ``ENDPOINTS``, the exposition format, and ``violations``.
"""

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from http import HTTPStatus
from itertools import pairwise
from typing import Any, NoReturn

Problem = tuple[str, str]  # what it is about, and what is wrong with it
Labels = Mapping[str, str]

LARGEST_NUMBER = sys.float_info.max

# --- vocabulary -------------------------------------------------------------------------------

STATUSES = ("not_configured", "healthy", "warning", "unknown", "unhealthy")  # mildest first
PASSING = frozenset({"not_configured", "healthy", "warning"})
FAILING = frozenset({"unknown", "unhealthy"})
LIFECYCLE = ("starting", "serving", "maintenance", "draining")

PROVIDERS = ("supabase_api", "stripe_api", "email_service_resend", "sms_service_twilio")
CHECKS = ("database", "redis", *PROVIDERS, "system_resources", "application")
NEVER_CRITICAL = frozenset({*PROVIDERS, "system_resources", "application"})
LISTS = ("unhealthy_services", "warning_services", "unknown_services", "not_configured_services")

_UNHEALTHY = frozenset({"unhealthy", "warning"})  # warning: a first failure, not confirmed yet
_WARNING = frozenset({"warning"})
_UNKNOWN = frozenset({"unknown"})
_ABSENT = frozenset({"not_configured"})


def _each(names: str, value: Any) -> dict[str, Any]:
    """The same value for every name in a list written with spaces."""
    return dict.fromkeys(names.split(), value)


CODES: Mapping[str, frozenset[str]] = {  # the statuses each code may stand beside
    **_each("connection_refused connection_lost network_unreachable dns_failure", _UNHEALTHY),
    **_each("timeout tls_error authentication_failed database_not_found", _UNHEALTHY),
    **_each("database_locked too_many_connections starting_up read_only", _UNHEALTHY),
    **_each("out_of_memory cluster_down query_failed value_mismatch", _UNHEALTHY),
    **_each("invalid_response account_inactive pool_exhausted", _UNHEALTHY),
    **_each("memory_critical cpu_critical disk_critical workers_stalled", _UNHEALTHY),
    **_each("configuration_invalid driver_missing check_failed task_failed", _UNHEALTHY),
    **_each("rate_limited slow_response pool_saturated connections_invalidated", _WARNING),
    **_each("memory_high cpu_high disk_high fragmentation_high", _WARNING),
    **_each("migrations_pending workers_missing", _WARNING),
    **_each("not_attempted not_yet_checked stale", _UNKNOWN),
    **_each("not_configured configuration_incomplete", _ABSENT),
    "permission_denied": _UNHEALTHY | _ABSENT,  # Redis INFO may be withheld without harm
}
_HTTP_CODE = re.compile(r"http_[1-9][0-9]{2}")


def statuses_of(code: str) -> frozenset[str]:
    """The statuses a code may stand beside; empty when the word is not in the vocabulary."""
    return _UNHEALTHY if _HTTP_CODE.fullmatch(code) else CODES.get(code, frozenset())


def worst(statuses: Iterable[str]) -> str:
    """The maximum in the order of severity; ``not_configured`` when there is nothing to compare."""
    return max(statuses, key=STATUSES.index, default="not_configured")


def at_most_warning(status: str) -> str:
    """What a check that is not critical contributes to a verdict."""
    return "warning" if status in FAILING else status


# --- values and objects -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value without keys.

    Attributes:
        expected: What it must be, for the sentence that says it is not.
        accepts: Whether a decoded JSON value is that.
        nullable: Whether null is accepted too.
        internal: Class T: null for callers who are not trusted.
    """

    expected: str
    accepts: Callable[[Any], bool]
    nullable: bool = False
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object with exactly these keys.

    Attributes:
        keys: Every key, present in every answer.
        extra: What a further key must hold (checks an application registered); None forbids any.
        rules: Conditions between the keys, asked only when every key by itself is right.
        nullable: Whether null is accepted instead.
        internal: Class T: null for callers who are not trusted.
    """

    keys: Mapping[str, "Node"]
    extra: "Node | None" = None
    rules: tuple[Callable[[Any], Iterable[Problem]], ...] = ()
    nullable: bool = False
    internal: bool = False


Node = Leaf | Object


def maybe(node: Node) -> Node:
    """The same, or null while nobody knows."""
    return replace(node, nullable=True)


def internal(node: Node) -> Node:
    """The same for trusted callers, null for all others."""
    return replace(node, nullable=True, internal=True)


def shown(value: object, *, limit: int = 60) -> str:
    """A value from a server as one short line of printable ASCII."""
    text = json.dumps(value, default=repr).replace("\x7f", "\\u007f")
    return text if len(text) <= limit else f"{text[:limit]}..."


def _below(key: str, problems: Iterable[Problem]) -> Iterator[Problem]:
    for inner, sentence in problems:
        yield f"{key}.{inner}" if inner else key, sentence


def _shape(node: Node, value: object, *, trusted: bool | None) -> Iterator[Problem]:
    if value is None and node.nullable:
        return
    if node.internal and trusted is False:
        yield "", "is of class T and must be null for a caller who is not trusted"
    elif isinstance(node, Object):
        yield from _object(node, value, trusted=trusted)
    elif not node.accepts(value):
        yield "", f"must be {node.expected}, is {shown(value)}"


def _object(node: Object, value: object, *, trusted: bool | None) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield "", f"must be an object, is {shown(value)}"
        return
    found = [*_keys(node, value, trusted=trusted)]
    yield from found or (problem for rule in node.rules for problem in rule(value))


def _keys(node: Object, value: dict[str, Any], *, trusted: bool | None) -> Iterator[Problem]:
    yield from ((key, "is missing") for key in node.keys if key not in value)
    for key, inner in value.items():
        name = key if key.isidentifier() and key.isascii() else shown(key)
        expected = node.keys.get(key, node.extra)
        if expected is None:
            yield name, "is not a key of this object"
        else:
            yield from _below(name, _shape(expected, inner, trusted=trusted))


def undisclosed(node: Node, value: object) -> Iterator[str]:
    """The dotted keys of class T that are null in a body."""
    if value is None and node.internal:
        yield ""
    elif isinstance(node, Object) and isinstance(value, dict):
        for key, expected in node.keys.items():
            for inner in undisclosed(expected, value.get(key, "")):
                yield f"{key}.{inner}" if inner else key


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object, *, least: int, most: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_decimal(value: object, *, places: int, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= most and round(value, places) == value


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_code(value: object) -> bool:
    return isinstance(value, str) and bool(statuses_of(value))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def whole(least: int = 0, most: float = math.inf) -> Leaf:
    """An integer in a range."""
    bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
    return Leaf(f"an integer {bounds}", partial(_is_whole, least=least, most=most))


def decimal(places: int, most: float = LARGEST_NUMBER) -> Leaf:
    """A finite number from 0 on, rounded to so many decimals."""
    bounds = f"from 0 to {most}" if most < LARGEST_NUMBER else "of at least 0"
    expected = f"a number {bounds} with at most {places} decimals"
    return Leaf(expected, partial(_is_decimal, places=places, most=most))


def one_of(*words: object) -> Leaf:
    """One of some words, or one of some numbers."""
    expected = "one of " + ", ".join(map(str, words))
    return Leaf(
        expected, lambda value: not isinstance(value, bool | list | dict) and value in words
    )


TEXT = Leaf("a string", _is_text)
FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
TIME = Leaf("a UTC timestamp with milliseconds and Z", _is_time)
CODE = maybe(Leaf("a code of the vocabulary", _is_code))
NAMES = Leaf("a list of names", _is_names)
STATUS = one_of(*STATUSES)
POD_VERDICT = one_of(*STATUSES[1:])
COUNT = whole()
AMOUNT = decimal(2)
PERCENT = decimal(2, most=100)
RATIO = decimal(17)
ANYTHING = Leaf("anything", lambda _: True, nullable=True)
GAUGE = maybe(one_of(0, 1))

# --- rules between the keys of one object -----------------------------------------------------

_MEASURED = (
    "response_time_ms",
    "response_time",
    "response_code",
    "table_count",
    "usage_percent",
    "memory_usage_mb",
    "used_memory_human",
    "connected_clients",
    "active_connections",
    "requests_per_minute",
)


def _error_is_null_when_healthy(item: Mapping[str, Any]) -> Iterator[Problem]:
    if (item["error"] is None) != (item["status"] == "healthy"):
        yield "error", "must be null exactly when the status beside it is healthy"


def _error_fits_status(item: Mapping[str, Any]) -> Iterator[Problem]:
    status, code = item["status"], item["error"]
    if code is not None and status != "healthy" and status not in statuses_of(code):
        yield "error", f"{code} does not stand beside the status {status}"


def _unmeasured_is_null(item: Mapping[str, Any]) -> Iterator[Problem]:
    if item["status"] not in ("unknown", "not_configured"):
        return
    for key in _MEASURED:
        if item.get(key) is not None:
            yield key, f"must be null while the status is {item['status']}"
    for key, value in item.get("info", {}).items():
        if value is not None:
            yield f"info.{key}", f"must be null while the status is {item['status']}"


def _last_check_fits(item: Mapping[str, Any]) -> Iterator[Problem]:
    ran = item["status"] in ("healthy", "warning", "unhealthy") or item.get("error") == "stale"
    if ran and item["last_check"] is None:
        yield "last_check", "must not be null after a finished run"
    if item.get("error") == "not_yet_checked" and item["last_check"] is not None:
        yield "last_check", "must be null while no run has finished"


def _connection_fits(item: Mapping[str, Any]) -> Iterator[Problem]:
    status, connection = item["status"], item["connection"]
    if status == "unknown" and connection != "unknown":
        yield "connection", "must be unknown while the status is unknown"
    if (status == "not_configured") != (connection == "not_configured"):
        yield "connection", "must be not_configured exactly when the status is"


def _no_part_is_worse(item: Mapping[str, Any], *, parts: tuple[str, ...]) -> Iterator[Problem]:
    """Damping moves a status between warning and unhealthy, never to healthy."""
    if item["status"] == "healthy":
        for part in parts:
            if item[part]["status"] not in ("healthy", "not_configured"):
                yield part, f"is {item[part]['status']} in a check that is healthy"


def _resources_are_the_worst_part(item: Mapping[str, Any]) -> Iterator[Problem]:
    """A first failure may still be a warning, a first recovery still unhealthy."""
    expected = worst(item[part]["status"] for part in ("cpu", "memory", "disk"))
    damped = {expected, "warning"} if expected == "unhealthy" else {expected, "unhealthy"}
    if item["status"] not in damped:
        yield "status", f"must be the worst of its parts, {expected}, is {item['status']}"


def _statuses(data: Mapping[str, Any]) -> dict[str, str]:
    """Check name -> status, in the order of the contract, registered checks last."""
    services = dict(data["services"])
    beside = {name: data[name] for name in CHECKS if name in data}
    found = {**services.pop("external_services"), **services, **beside}
    names = [*CHECKS, *(name for name in found if name not in CHECKS)]
    return {name: found[name]["status"] for name in names}


def _listed(data: Mapping[str, Any], statuses: Mapping[str, str]) -> Iterator[Problem]:
    """Each list holds the checks with its status: ours in their order, registered ones after."""
    for key in LISTS:
        wanted = [name for name, word in statuses.items() if f"{word}_services" == key]
        ours = [name for name in wanted if name in CHECKS]
        found = data[key]
        if found[: len(ours)] != ours or sorted(found) != sorted(wanted):
            yield key, f"must be {shown(wanted)}, is {shown(found)}"


def _verdict_key(data: Mapping[str, Any]) -> str:
    return "overall_status" if "overall_status" in data else "status"


def _lists_and_overall(data: Mapping[str, Any]) -> Iterator[Problem]:
    statuses = _statuses(data)
    yield from _listed(data, statuses)
    yield from _overall(data, statuses)


def _overall(data: Mapping[str, Any], statuses: Mapping[str, str]) -> Iterator[Problem]:
    """Which checks are critical is not in the body; what follows from any choice of them is."""
    key, failing = _verdict_key(data), data["critical_services_failing"]
    overall = data[key]
    suspects = {word for name, word in statuses.items() if name not in NEVER_CRITICAL}
    if failing != (overall in FAILING):
        yield "critical_services_failing", f"does not fit the overall status {overall}"
    elif failing and overall not in suspects:
        yield key, f"is {overall}, and no check that can be critical is"
    elif not failing and overall != (mild := worst(map(at_most_warning, statuses.values()))):
        yield key, f"must be {mild}, is {overall}"


def _not_better_than_its_checks(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Resources and application count too and are not shown here: only a lower bound is known."""
    checks = dict(data["checks"])
    parts = [*checks.pop("external_apis").values(), *checks.values()]
    least = worst(at_most_warning(part["status"]) for part in parts)
    if worst((data["status"], least)) != data["status"]:
        yield "status", f"must be at least {least}, is {data['status']}"


def _as_gauge(status: str) -> int | None:
    return None if status == "not_configured" else int(status in PASSING)


def _gauges_fit_checks(data: Mapping[str, Any]) -> Iterator[Problem]:
    checks, gauges = dict(data["checks"]), data["metrics"]["health_check_status"]
    for name, check in {**checks.pop("external_apis"), **checks}.items():
        if name in gauges and gauges[name] != _as_gauge(check["status"]):
            yield f"metrics.health_check_status.{name}", f"does not fit {check['status']}"


def _external_summary(data: Mapping[str, Any]) -> Iterator[Problem]:
    statuses = {name: data["services"][name]["status"] for name in PROVIDERS}
    yield from _listed(data, statuses)
    if data["status"] != (expected := worst(statuses.values())):
        yield "status", f"must be the worst of the providers, {expected}, is {data['status']}"
    for word in STATUSES:
        count = sum(word == status for status in statuses.values())
        if data["summary"][f"{word}_services"] != count:
            yield f"summary.{word}_services", f"must be {count}"


def _ready_without_failures(data: Mapping[str, Any]) -> Iterator[Problem]:
    for name, status in data["services"].items():
        if name in NEVER_CRITICAL:
            yield f"services.{name}", "can never be critical"
        elif data["ready"] and status in FAILING:
            yield f"services.{name}", f"is {status} in a pod that is ready"


# --- the objects of the contract --------------------------------------------------------------

Rule = Callable[[Any], Iterable[Problem]]

_PART_RULES = (_error_is_null_when_healthy, _error_fits_status, _unmeasured_is_null)
_VERDICT_RULES = (_error_is_null_when_healthy, _error_fits_status, _last_check_fits)

MS = maybe(AMOUNT)
CONNECTION = one_of("active", "failed", "unknown", "not_configured")
_OUTCOME: Mapping[str, Node] = {"status": STATUS, "error": CODE}
_CHECKED: Mapping[str, Node] = {**_OUTCOME, "last_check": maybe(TIME)}
_ANSWER: Mapping[str, Node] = {"status": STATUS, "timestamp": TIME, "response_time_ms": MS}


def _part(**keys: Node) -> Object:
    return Object({**_OUTCOME, **keys}, rules=_PART_RULES)


def _check(*rules: Rule, extra: Node | None = None, **keys: Node) -> Object:
    return Object({**_CHECKED, **keys}, extra, (*_PART_RULES, _last_check_fits, *rules))


def _check_in_parts(**parts: Object) -> Object:
    """A check as the whole answer; its duration stays that of the newest run, however old."""
    no_part_is_worse = partial(_no_part_is_worse, parts=tuple(parts))
    return Object({**_ANSWER, **_CHECKED, **parts}, rules=(*_VERDICT_RULES, no_part_is_worse))


REGISTERED_CHECK = _check(extra=ANYTHING)
BRIEF = _check(response_time_ms=MS)
DATABASE = _check(
    _connection_fits, connection=CONNECTION, response_time_ms=MS, table_count=maybe(COUNT)
)
REDIS = _check(
    _connection_fits,
    connection=CONNECTION,
    response_time_ms=MS,
    memory_usage_mb=internal(AMOUNT),
    connected_clients=internal(COUNT),
    **_each("used_memory_human redis_version", internal(TEXT)),
)
PROVIDER = _check(
    response_time_ms=MS, response_code=maybe(whole(100, 599)), scope=one_of("fleet", "pod")
)
FOUR_PROVIDERS = Object(dict.fromkeys(PROVIDERS, PROVIDER))

_USAGE = {
    "usage_percent": maybe(PERCENT),
    "source": internal(one_of("cgroup_v2", "cgroup_v1", "host")),
}
RESOURCES = Object(
    {
        "status": STATUS,
        "cpu": _part(cores=internal(whole(1)), **_USAGE),
        "memory": _part(**_USAGE, **_each("total_gb used_gb available_gb", internal(AMOUNT))),
        "disk": _part(**_USAGE, **_each("total_gb used_gb free_gb", internal(AMOUNT))),
        "network": Object(
            _each("bytes_sent bytes_recv packets_sent packets_recv", internal(COUNT))
        ),
        "last_check": maybe(TIME),
    },
    rules=(_last_check_fits, _resources_are_the_worst_part),
)
APPLICATION = _check(
    **_each("app_name version", TEXT),
    environment=internal(TEXT),
    debug_mode=internal(FLAG),
    database_migrations=one_of("up_to_date", "pending", "unknown"),
    startup_time=maybe(TIME),
    uptime_seconds=AMOUNT,
    **_each("active_connections requests_per_minute", maybe(COUNT)),
    **_each("workers_expected workers_live", maybe(COUNT)),
)
_PROCESS: Mapping[str, Node] = {
    **_each("memory_rss_mb cpu_percent", internal(AMOUNT)),  # of one core: may pass 100
    **_each("num_threads open_files connections", internal(COUNT)),
}
_LISTS: Mapping[str, Node] = dict.fromkeys(LISTS, NAMES)
_OVERVIEW: Mapping[str, Node] = {
    "lifecycle": one_of(*LIFECYCLE),
    "critical_services_failing": FLAG,
    **_LISTS,
}

# The root family

ROOT = Object({**_each("name message version", TEXT), "status": POD_VERDICT, "timestamp": TIME})
HEALTH = Object({"status": POD_VERDICT, "timestamp": TIME})
HEALTH_DETAILED = Object(
    {
        **_ANSWER,
        **_OVERVIEW,
        "services": Object(
            {"database": BRIEF, "redis": BRIEF, "external_services": FOUR_PROVIDERS},
            extra=REGISTERED_CHECK,
        ),
        "system_resources": RESOURCES,
        "application": _check(uptime_seconds=AMOUNT, **_PROCESS),
    },
    rules=(_lists_and_overall,),
)
HEALTH_DATABASE = _check_in_parts(
    connection=_part(),
    responsiveness=_part(response_time_ms=MS, table_count=maybe(COUNT)),
    connection_pool=_part(
        scope=one_of("pod"),
        workers=COUNT,
        info=Object(_each("pool_size checked_in checked_out overflow invalid", maybe(COUNT))),
    ),
)
_REDIS_INFO = Object(
    {
        **_each("used_memory_human used_memory_peak_human", internal(TEXT)),
        **_each("used_memory_rss_human used_memory_lua_human", internal(TEXT)),
        "mem_fragmentation_ratio": maybe(RATIO),
        "memory_usage_percent": maybe(PERCENT),
        **_each("total_connections_received total_commands_processed", internal(COUNT)),
        **_each("keyspace_hits keyspace_misses", internal(COUNT)),
        **_each("uptime_in_seconds connected_clients", internal(COUNT)),
    }
)
HEALTH_REDIS = _check_in_parts(
    connectivity=_part(
        response_time_ms=MS,
        host=internal(TEXT),
        port=internal(whole(1, 65535)),
        db=internal(COUNT),
    ),
    cache_operations=_part(response_time_ms=MS),
    memory_usage=_part(info=_REDIS_INFO),
)
HEALTH_EXTERNAL = Object(
    {
        **_ANSWER,
        **_LISTS,
        "services": FOUR_PROVIDERS,
        "summary": Object(
            {
                "total_services": one_of(len(PROVIDERS)),
                **{f"{word}_services": COUNT for word in STATUSES},
            }
        ),
    },
    rules=(_external_summary,),
)


def _compact(duration: str) -> Object:
    check = _check(**{duration: MS})
    providers = Object(dict.fromkeys(PROVIDERS, check))
    named = {"database": check, "redis": check, "external_apis": providers}
    return Object(named, extra=REGISTERED_CHECK)


HEALTH_STANDARD = Object(
    {"status": STATUS, "timestamp": TIME, "version": TEXT, "checks": _compact("response_time")},
    rules=(_not_better_than_its_checks,),
)


def _by_check(node: Node) -> Object:
    return Object(dict.fromkeys(CHECKS, node), extra=node)


_NUMBERS = Object(
    {
        "health_check_duration_seconds": _by_check(maybe(decimal(4))),
        "health_check_failures_total": _by_check(COUNT),
        "health_check_status": _by_check(GAUGE),
        "system_metrics": Object(
            {
                **_each("memory_percent cpu_percent disk_percent", maybe(PERCENT)),
                **_each("memory_total_bytes memory_available_bytes", internal(COUNT)),
                **_each("memory_used_bytes disk_used_bytes disk_total_bytes", internal(COUNT)),
            }
        ),
        "database_metrics": Object(
            _each("connection_pool_size connections_checked_out", maybe(COUNT))
        ),
        "redis_metrics": Object(
            _each("memory_usage_bytes connected_clients total_commands_processed", internal(COUNT))
        ),
    }
)
HEALTH_METRICS = Object(
    {**_ANSWER, "version": TEXT, "checks": _compact("response_time_ms"), "metrics": _NUMBERS},
    rules=(_not_better_than_its_checks, _gauges_fit_checks),
)

# The blueprint family, without the envelope

SYSTEM = Object(
    {
        "overall_status": STATUS,
        "timestamp": TIME,
        "response_time_ms": MS,
        **_OVERVIEW,
        "services": Object(
            {
                "database": DATABASE,
                "redis": REDIS,
                "external_services": FOUR_PROVIDERS,
                "system_resources": RESOURCES,
                "application": APPLICATION,
            },
            extra=REGISTERED_CHECK,
        ),
    },
    rules=(_lists_and_overall,),
)
SYSTEM_DETAILED = replace(
    SYSTEM,
    keys={
        **SYSTEM.keys,
        "process_info": Object({"pid": internal(whole(1)), **_PROCESS}),
        "environment": Object(
            {**_each("python_version flask_env", internal(TEXT)), "debug_mode": internal(FLAG)}
        ),
    },
)
SIMPLE = Object({"status": POD_VERDICT, "timestamp": TIME, "database": STATUS, "redis": STATUS})
READINESS = Object(
    {"ready": FLAG, "timestamp": TIME, "services": Object({}, extra=STATUS)},
    rules=(_ready_without_failures,),
)
LIVENESS = Object({"alive": FLAG, "timestamp": TIME, "uptime_seconds": AMOUNT})
TASK = Object(  # any code will do: the vocabulary has none for a task that is running
    {**_OUTCOME, "duration_ms": MS, "attempt": COUNT, "scope": one_of("fleet", "pod")},
    rules=(_error_is_null_when_healthy,),
)
STARTUP = Object(
    {
        "started": FLAG,
        "timestamp": TIME,
        "services": Object(_each("database redis system_resources", STATUS), extra=STATUS),
        "tasks": internal(Object({}, extra=TASK)),
    }
)
NINE_METRICS = Object(
    {
        **_each("mingus_database_status mingus_redis_status", GAUGE),
        **_each("mingus_database_response_time_ms mingus_redis_response_time_ms", MS),
        **_each("mingus_cpu_usage_percent mingus_memory_usage_percent", maybe(PERCENT)),
        "mingus_disk_usage_percent": maybe(PERCENT),
        "mingus_uptime_seconds": AMOUNT,
        "mingus_health_check_timestamp": maybe(COUNT),
    }
)


def envelope(data: Node) -> Object:
    """The body of the blueprint family around its data."""
    return Object({"success": FLAG, "timestamp": TIME, "data": data})


def _error(code: str) -> Object:
    return Object({"error": one_of(code), "type": one_of("http_error"), "timestamp": TIME})


def _error_data(code: str, kind: str) -> Object:
    return Object({"error": one_of(code), "type": one_of(kind)})


INTERNAL_ERROR = Object(
    {
        "status": one_of("unknown"),
        "timestamp": TIME,
        "error": one_of("internal_error"),
        "type": one_of("server_error"),
    }
)
INTERNAL_ERROR_DATA = _error_data("internal_error", "server_error")

# --- the endpoints ----------------------------------------------------------------------------

BLUEPRINT = "/api/system/health"
JSON = "application/json"
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def _status_passes(data: Mapping[str, Any]) -> bool:
    return data["status"] in PASSING


def _overall_passes(data: Mapping[str, Any]) -> bool:
    return data["overall_status"] in PASSING


def _providers_pass(data: Mapping[str, Any]) -> bool:
    return worst(data[name]["status"] for name in PROVIDERS) in PASSING


def _always(_data: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the contract.

    Attributes:
        path: As documented; answered with and without one trailing slash.
        description: What it is for, a few words.
        data: The body, or what its envelope holds.
        passes: Whether that verdict is HTTP 200; otherwise it is 503.
        metrics: Whether text is served unless JSON is asked for.
        may_break: Whether a failing handler answers with the internal-error body.
    """

    path: str
    description: str
    data: Object
    passes: Callable[[Mapping[str, Any]], bool] = _status_passes
    metrics: bool = False
    may_break: bool = True

    @property
    def enveloped(self) -> bool:
        """Whether the JSON body is an envelope with the data inside."""
        return self.metrics or _in_blueprint(self.path)

    @property
    def body(self) -> Object:
        """The whole JSON body."""
        return envelope(self.data) if self.enveloped else self.data

    @property
    def broken(self) -> Object:
        """The whole JSON body when the handler itself failed."""
        return envelope(INTERNAL_ERROR_DATA) if self.enveloped else INTERNAL_ERROR

    @property
    def statuses(self) -> tuple[HTTPStatus, ...]:
        """Every HTTP status it may answer a GET with."""
        verdicts = (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)
        return verdicts[:1] if self.passes is _always else verdicts


def _in_blueprint(path: str) -> bool:
    return path == BLUEPRINT or path.startswith(f"{BLUEPRINT}/")


_METRICS = partial(Endpoint, data=NINE_METRICS, passes=_always, metrics=True, may_break=False)

ENDPOINTS: tuple[Endpoint, ...] = (  # the order in which the smoke test asks
    Endpoint("/", "identification of the service", ROOT, _always, may_break=False),
    Endpoint("/health", "pod verdict for load balancers", HEALTH, may_break=False),
    Endpoint("/health/standard", "compact format for monitors", HEALTH_STANDARD),
    Endpoint("/health/metrics", "verdict with numbers", HEALTH_METRICS),
    Endpoint("/health/detailed", "everything at a glance", HEALTH_DETAILED),
    Endpoint("/health/database", "database, its parts and pool", HEALTH_DATABASE),
    Endpoint("/health/redis", "Redis and its parts", HEALTH_REDIS),
    Endpoint("/health/external", "the four providers", HEALTH_EXTERNAL),
    _METRICS("/metrics", "exposition for Prometheus"),
    Endpoint(f"{BLUEPRINT}/", "comprehensive state", SYSTEM, _overall_passes),
    Endpoint(f"{BLUEPRINT}/simple", "quick pod verdict", SIMPLE, may_break=False),
    Endpoint(f"{BLUEPRINT}/detailed", "state with process", SYSTEM_DETAILED, _overall_passes),
    Endpoint(
        f"{BLUEPRINT}/readiness",
        "Kubernetes readiness probe",
        READINESS,
        lambda data: data["ready"],
        may_break=False,
    ),
    Endpoint(
        f"{BLUEPRINT}/liveness",
        "Kubernetes liveness probe",
        LIVENESS,
        lambda data: data["alive"],
        may_break=False,
    ),
    Endpoint(
        f"{BLUEPRINT}/startup",
        "Kubernetes startup probe",
        STARTUP,
        lambda data: data["started"],
        may_break=False,
    ),
    Endpoint(f"{BLUEPRINT}/database", "database", DATABASE),
    Endpoint(f"{BLUEPRINT}/redis", "Redis", REDIS),
    Endpoint(f"{BLUEPRINT}/external", "the four providers", FOUR_PROVIDERS, _providers_pass),
    Endpoint(f"{BLUEPRINT}/resources", "CPU, memory, disk, network", RESOURCES),
    Endpoint(f"{BLUEPRINT}/application", "application and workers", APPLICATION),
    _METRICS(f"{BLUEPRINT}/metrics", "the same exposition as /metrics"),
)
_BY_PATH = {endpoint.path.removesuffix("/"): endpoint for endpoint in ENDPOINTS}


def find(path: str) -> Endpoint | None:
    """The endpoint of a path with or without one trailing slash, None for an unknown path."""
    return _BY_PATH.get(path.removesuffix("/"))


def health_word(body: object) -> str | None:
    """The verdict a body states in one word, None where it states none."""
    if not isinstance(body, dict):
        return None
    data = body.get("data")
    inner = data if isinstance(data, dict) else {}
    words = (body.get("status"), inner.get("status"), inner.get("overall_status"))
    stated = next((word for word in words if isinstance(word, str)), None)
    return stated or next(
        (
            key if inner[key] else f"not_{key}"
            for key in ("ready", "alive", "started")
            if isinstance(inner.get(key), bool)
        ),
        None,
    )


# --- the exposition format --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One line with a value.

    Attributes:
        name: As written, suffix included.
        family: The name in the # TYPE line above it; its own name when there is none.
        labels: Label -> value.
        value: The number.
    """

    name: str
    family: str
    labels: Labels
    value: float


@dataclass(slots=True)
class Exposition:
    """What a text body holds.

    Attributes:
        types: Family -> type.
        samples: In the order of the body.
        problems: What is wrong with the form of the body.
    """

    types: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def of(self, name: str) -> list[Sample]:
        """The samples written under one name."""
        return [sample for sample in self.samples if sample.name == name]


_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})?[ \t]+(\S+)(?:[ \t]+-?[0-9.]+)?")
_LABELS = re.compile(rf"(?:{_LABEL}(?:,{_LABEL})*,?)?")
_META = re.compile(rf"# (HELP|TYPE|UNIT) ({_NAME})(?: (.*))?")
_TYPES = frozenset({"counter", "gauge", "histogram", "summary", "untyped", "unknown", "info"})
_SERIES = ("_bucket", "_sum", "_count")
_SUFFIXES: Mapping[str, tuple[str, ...]] = {"histogram": _SERIES, "summary": ("", *_SERIES[1:])}
_SUFFIXES_OPENMETRICS: Mapping[str, tuple[str, ...]] = {
    "histogram": (*_SERIES, "_created"),
    "summary": ("", *_SERIES[1:], "_created"),
    "counter": ("_total", "_created"),
    "info": ("_info",),
}


class _Reader:
    """Reads an exposition line by line; what cannot be read becomes a problem, not an error."""

    def __init__(self, *, openmetrics: bool) -> None:
        self.found = Exposition()
        self._openmetrics = openmetrics
        self._suffixes = _SUFFIXES_OPENMETRICS if openmetrics else _SUFFIXES
        self._helped: set[str] = set()
        self._series: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        self._sampled: set[str] = set()
        self._current = ""
        self._left: set[str] = set()

    def read(self, text: str) -> Exposition:
        """The whole body."""
        lines = text.split("\n")
        if lines.pop() != "":
            self._problem("body", "must end with a line feed")
        if self._openmetrics and (not lines or lines.pop() != "# EOF"):
            self._problem("body", "must end with # EOF")
        for number, line in enumerate(lines, start=1):
            self._line(number, line)
        return self.found

    def _problem(self, key: str, sentence: str) -> None:
        self.found.problems.append((key, sentence))

    def _line(self, number: int, line: str) -> None:
        if match := _META.fullmatch(line):
            self._meta(*match.groups(default=""))
        elif line.startswith("#") or not line.strip():
            if self._openmetrics:
                self._problem(f"line {number}", f"is not allowed in OpenMetrics: {shown(line)}")
        else:
            self._sample(number, line)

    def _meta(self, keyword: str, family: str, rest: str) -> None:
        self._enter(family)
        known = self._helped if keyword == "HELP" else self.found.types
        if keyword != "UNIT" and family in known:
            self._problem(family, f"has two lines of # {keyword}")
        if keyword != "UNIT" and family in self._sampled:
            self._problem(family, f"has its # {keyword} after a sample")
        if keyword == "HELP":
            self._helped.add(family)
        elif keyword == "TYPE":
            self._typed(family, rest)

    def _typed(self, family: str, kind: str) -> None:
        self.found.types[family] = kind
        if kind not in _TYPES:
            self._problem(family, f"has the unknown type {shown(kind)}")

    def _enter(self, family: str) -> None:
        if family == self._current:
            return
        if family in self._left:
            self._problem(family, "is not written in one piece")
        self._left.add(self._current)
        self._current = family

    def _sample(self, number: int, line: str) -> None:
        match = _SAMPLE.fullmatch(line)
        labels = _labels(match[2] or "") if match else None
        value = _value(match[3]) if match else None
        if match is None or labels is None or value is None:
            self._problem(f"line {number}", f"is not a sample: {shown(line)}")
            return
        family = self._family(match[1])
        sample = Sample(match[1], family or match[1], labels, value)
        if family is None:
            self._problem(sample.name, "has no # TYPE before its first sample")
        elif family not in self._helped:
            self._problem(sample.name, "has no # HELP before its first sample")
        self._sampled.add(sample.family)
        self._enter(sample.family)
        self._once(sample)
        self.found.samples.append(sample)

    def _family(self, name: str) -> str | None:
        for family, kind in self.found.types.items():
            if any(name == family + suffix for suffix in self._suffixes.get(kind, ("",))):
                return family
        return None

    def _once(self, sample: Sample) -> None:
        series = (sample.name, frozenset(sample.labels.items()))
        if series in self._series:
            self._problem(sample.name, f"has two samples with the labels {shown(sample.labels)}")
        self._series.add(series)


def _labels(text: str) -> Labels | None:
    """Label -> value; None when the text is no list of labels or names one twice."""
    if not _LABELS.fullmatch(text):
        return None
    pairs = re.findall(_LABEL, text)
    return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else None


def _value(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def parse_exposition(text: str, *, openmetrics: bool = False) -> Exposition:
    """The samples of a text body, and what is wrong with its form; exemplars are not read."""
    return _Reader(openmetrics=openmetrics).read(text)


def _pattern(expression: str) -> Callable[[str], bool]:
    compiled = re.compile(expression)
    return lambda value: compiled.fullmatch(value) is not None


def _words(words: str) -> Callable[[str], bool]:
    return frozenset(words.split()).__contains__


_STATUS_WORD = STATUSES.__contains__
_CHECK_NAME = _pattern(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_BY_CHECK = {"check": _CHECK_NAME}
_BY_COMPONENT = {"component": _CHECK_NAME}
_BY_REQUEST = {
    "method": _pattern(r"[A-Z]{1,20}|other"),
    "endpoint": _pattern(r"/[^?#\s]*|other"),
    "status": _pattern(r"[1-5][0-9]{2}"),
}
_BIT = frozenset({0.0, 1.0})


@dataclass(frozen=True, slots=True)
class Metric:
    """One documented name of the exposition.

    Attributes:
        kind: Its type.
        labels: Label -> whether a value is in its set; every label on every series.
        values: The only values allowed, None for any finite number of at least 0.
        internal: Class T: absent for callers who are not trusted.
    """

    kind: str = "gauge"
    labels: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    values: frozenset[float] | None = None
    internal: bool = False


METRICS: Mapping[str, Metric] = {
    **dict.fromkeys(NINE_METRICS.keys, Metric()),
    **_each("mingus_database_status mingus_redis_status", Metric(values=_BIT)),
    "health_check_duration_seconds": Metric("histogram", _BY_COMPONENT),
    "health_check_failures_total": Metric("counter", {**_BY_COMPONENT, "error_type": _is_code}),
    "health_check_status": Metric(labels=_BY_COMPONENT, values=_BIT),
    "app_request_duration_seconds": Metric("histogram", _BY_REQUEST),
    "app_request_total": Metric("counter", _BY_REQUEST),
    "system_cpu_percent": Metric(),
    "system_memory_bytes": Metric(labels={"type": _words("total available used")}, internal=True),
    "system_disk_bytes": Metric(
        labels={"mount_point": _pattern(r"/.*"), "type": _words("total used free")},
        internal=True,
    ),
    **_each(
        "db_connection_pool_size db_connection_pool_used",
        Metric(labels={"pool_type": _words("app")}),
    ),
    **_each("redis_memory_bytes redis_connected_clients", Metric(internal=True)),
    "mingus_health_status": Metric(labels={"state": _STATUS_WORD}, values=_BIT),
    "mingus_health_check_state": Metric(
        labels={**_BY_CHECK, "critical": _words("true false"), "state": _STATUS_WORD},
        values=_BIT,
    ),
    "mingus_health_ready": Metric(values=_BIT),
    "mingus_health_started": Metric(values=_BIT),
    "mingus_health_lifecycle": Metric(labels={"state": LIFECYCLE.__contains__}, values=_BIT),
    "mingus_health_checks_total": Metric(
        "counter", {**_BY_CHECK, "result": _words("success warning failure timeout")}
    ),
    "mingus_health_check_transitions_total": Metric("counter", {**_BY_CHECK, "to": _STATUS_WORD}),
    "mingus_health_check_last_run_timestamp_seconds": Metric(labels=_BY_CHECK),
    "mingus_health_check_last_success_timestamp_seconds": Metric(labels=_BY_CHECK),
    "mingus_health_check_interval_seconds": Metric(labels=_BY_CHECK),
    "mingus_health_check_expiry_seconds": Metric(labels=_BY_CHECK),
    "mingus_health_workers": Metric(labels={"state": _words("expected live")}),
    "mingus_health_worker_starts_total": Metric("counter"),
    "mingus_health_requests_in_flight": Metric(),
    "mingus_health_start_timestamp_seconds": Metric(),
    "mingus_health_snapshot_readable": Metric(values=_BIT),
    "mingus_health_build_info": Metric(labels={"version": bool}, values=frozenset({1.0})),
}
_WHEN_READABLE = (
    "mingus_health_status",
    "mingus_health_check_state",
    "mingus_health_ready",
    "mingus_health_started",
    "mingus_health_lifecycle",
    "mingus_health_start_timestamp_seconds",
    "mingus_health_build_info",
    "mingus_uptime_seconds",
)
_REVEALING = frozenset({"pid", "host", "hostname", "instance", "address", "url", "query"})


def _documented(sample: Sample) -> str:
    """The name in the contract; OpenMetrics writes the family of a counter without _total."""
    counter = f"{sample.family}_total"
    return counter if sample.family not in METRICS and counter in METRICS else sample.family


def _metric(sample: Sample, kind: str, *, trusted: bool | None) -> Iterator[Problem]:
    """What is wrong with one sample by itself."""
    metric = METRICS.get(_documented(sample))
    if not math.isfinite(sample.value):
        yield sample.name, "must be absent instead of NaN or infinite"
    if _REVEALING & sample.labels.keys():
        yield sample.name, "has a label for a process, host or address"
    if metric is None or sample.name.endswith("_created"):
        return
    if kind != metric.kind:
        yield sample.name, f"must be a {metric.kind}, is a {shown(kind)}"
    if metric.internal and trusted is False:
        yield sample.name, "is of class T and must be absent for a caller who is not trusted"
    if sample.value < 0 or (metric.values is not None and sample.value not in metric.values):
        yield sample.name, f"has the value {sample.value}, which is not allowed"
    yield from _label_set(sample, metric)


def _label_set(sample: Sample, metric: Metric) -> Iterator[Problem]:
    expected = {*metric.labels} | ({"le"} if sample.name.endswith("_bucket") else set())
    if sample.labels.keys() != expected:
        yield sample.name, f"must have the labels {shown(sorted(expected))}"
        return
    for label, accepts in metric.labels.items():
        if not accepts(sample.labels[label]):
            yield f"{sample.name}.{label}", f"must not be {shown(sample.labels[label])}"


def _grouped(samples: Iterable[Sample], *without: str) -> dict[tuple[str, ...], list[Sample]]:
    """Samples by the values of all their labels but some."""
    groups: defaultdict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        kept = sorted((name, value) for name, value in sample.labels.items() if name not in without)
        groups[tuple(f"{name}={value}" for name, value in kept)].append(sample)
    return groups


def _one_hot(found: Exposition, name: str, states: tuple[str, ...]) -> Iterator[Problem]:
    for labels, samples in _grouped(found.of(name), "state").items():
        about = f"{name}{{{','.join(labels)}}}" if labels else name
        if sum(sample.value for sample in samples) != 1:
            yield about, "must be 1 for exactly one state"
        if missing := set(states) - {sample.labels["state"] for sample in samples}:
            yield about, f"has no series for {', '.join(sorted(missing))}"


def _bound(bucket: Sample) -> float:
    return _value(bucket.labels.get("le", "")) or 0.0


def _buckets(found: Exposition, family: str) -> Iterator[Problem]:
    """Counts rise with their bound, and the last one is the count of everything."""
    counts = {
        labels: group[0].value for labels, group in _grouped(found.of(f"{family}_count")).items()
    }
    sums = _grouped(found.of(f"{family}_sum"))
    groups = _grouped(found.of(f"{family}_bucket"), "le")
    if not counts.keys() == sums.keys() == groups.keys():
        yield family, "must have buckets, a sum and a count for the same labels"
        return
    for labels, samples in groups.items():
        bounds = sorted((_bound(sample), sample.value) for sample in samples)
        if bounds[-1] != (math.inf, counts[labels]):
            yield f"{family}_bucket", "must end with le=+Inf, equal to the count"
        if any(lower[1] > upper[1] for lower, upper in pairwise(bounds)):
            yield f"{family}_bucket", "must not fall while le rises"


def _states(found: Exposition) -> dict[str, str]:
    """Check name -> its current state."""
    samples = found.of("mingus_health_check_state")
    return {one.labels["check"]: one.labels["state"] for one in samples if one.value == 1}


def _single(found: Exposition, name: str) -> float | None:
    return next((sample.value for sample in found.of(name)), None)


def _present(found: Exposition) -> Iterator[Problem]:
    readable = _single(found, "mingus_health_snapshot_readable")
    if readable is None:
        yield "mingus_health_snapshot_readable", "is missing"
    if not readable:
        return
    for name in _WHEN_READABLE:
        if not found.of(name):
            yield name, "is missing"
    for check in CHECKS:
        if check not in _states(found):
            yield "mingus_health_check_state", f"has no state for {check}"


def _agreeing(found: Exposition) -> Iterator[Problem]:
    """The same status under its different names."""
    states = _states(found)
    overall = (one.labels["state"] for one in found.of("mingus_health_status") if one.value == 1)
    named = {**states, "overall": next(overall, "not_configured")}
    expected = {name: _as_gauge(state) for name, state in named.items()}
    gauges = {one.labels["component"]: one.value for one in found.of("health_check_status")}
    for name, gauge in expected.items():
        if gauges.get(name) != gauge:
            yield "health_check_status", f"does not fit the state of {name}"
    for name in ("database", "redis"):
        if name in states and _single(found, f"mingus_{name}_status") != expected[name]:
            yield f"mingus_{name}_status", f"does not fit the state {states[name]}"


def _ready_fits(found: Exposition) -> Iterator[Problem]:
    if not _single(found, "mingus_health_ready"):
        return
    states = found.of("mingus_health_check_state")
    failing = [
        one.labels["check"]
        for one in states
        if one.value == 1 and one.labels["critical"] == "true" and one.labels["state"] in FAILING
    ]
    lifecycle = [one.labels["state"] for one in found.of("mingus_health_lifecycle") if one.value]
    if failing or lifecycle != ["serving"]:
        yield "mingus_health_ready", "must be 0 unless serving and no critical check fails"


def exposition_problems(
    text: str, *, openmetrics: bool = False, trusted: bool | None = None
) -> Iterator[Problem]:
    """What a text body does against section 5; names beyond the documented ones may appear."""
    found = parse_exposition(text, openmetrics=openmetrics)
    single = [
        problem
        for sample in found.samples
        for problem in _metric(sample, found.types.get(sample.family, ""), trusted=trusted)
    ]
    problems = [*found.problems, *single]
    yield from problems or _together(found)


def _together(found: Exposition) -> Iterator[Problem]:
    yield from _one_hot(found, "mingus_health_status", STATUSES)
    yield from _one_hot(found, "mingus_health_lifecycle", LIFECYCLE)
    yield from _one_hot(found, "mingus_health_check_state", STATUSES)
    for family, kind in found.types.items():
        if kind == "histogram":
            yield from _buckets(found, family)
    yield from _present(found)
    yield from _agreeing(found)
    yield from _ready_fits(found)


# --- one answer -------------------------------------------------------------------------------

_FORBIDDEN = ("Set-Cookie", "ETag", "Last-Modified", "Location", "Transfer-Encoding")


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request and its answer; names of headers in lower case."""

    path: str
    method: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def bodiless(self) -> bool:
        return self.method == "HEAD"


def violations(
    path: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str = "GET",
    trusted: bool | None = None,
) -> list[str]:
    """What one answer does against the contract, a sentence each; empty when nothing.

    Args:
        path: Path of the request, without query. An unknown one must have been answered with 404.
        status: HTTP status of the answer.
        headers: Its headers, in any letter case.
        body: Its body as sent; empty for HEAD.
        method: Method of the request. Other than GET and HEAD must have been answered with 405.
        trusted: Whether the caller is trusted: False demands that everything of class T is null.
            Nothing more is demanded for True, because what nobody knows is null for everybody.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    exchange = _Exchange(path, method, status, lowered, body)
    problems = [*_header_problems(exchange), *_content_problems(exchange, trusted=trusted)]
    return [f"{key or 'body'}: {sentence}" for key, sentence in problems]


def parse_json(body: bytes) -> Any:
    """A JSON body, read strictly.

    Raises:
        ValueError: It is not UTF-8, not JSON, holds NaN or Infinity, or is nested without end.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _header_problems(exchange: _Exchange) -> Iterator[Problem]:
    headers = exchange.headers
    yield from _header(exchange, "Cache-Control", "no-store")
    yield from _header(exchange, "X-Content-Type-Options", "nosniff")
    if not headers.get("content-length", "").isdecimal():
        yield "Content-Length", "is missing"
    elif not exchange.bodiless and int(headers["content-length"]) != len(exchange.body):
        yield "Content-Length", f"must be {len(exchange.body)}, is {headers['content-length']}"
    for name in _FORBIDDEN:
        if name.lower() in headers:
            yield name, "must not be sent"
    for name in headers:
        if name.startswith("access-control-"):
            yield shown(name)[1:-1], "must not be sent"


def _header(exchange: _Exchange, name: str, *allowed: str) -> Iterator[Problem]:
    value = exchange.headers.get(name.lower())
    if value not in allowed:
        yield name, f"must be {' or '.join(allowed)}, is {shown(value)}"


def _content_problems(exchange: _Exchange, *, trusted: bool | None) -> Iterator[Problem]:
    if exchange.bodiless and exchange.body:
        yield "body", "must be empty for HEAD"
    if (endpoint := find(exchange.path)) is None:
        yield from _refused(exchange, HTTPStatus.NOT_FOUND, "not_found")
    elif exchange.method not in ("GET", "HEAD"):
        yield from _header(exchange, "Allow", "GET, HEAD")
        yield from _refused(exchange, HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed")
    elif exchange.status not in endpoint.statuses:
        allowed = " or ".join(str(int(status)) for status in endpoint.statuses)
        yield "HTTP status", f"must be {allowed}, is {exchange.status}"
    elif endpoint.metrics:
        yield from _metrics_answer(endpoint, exchange, trusted=trusted)
    else:
        yield from _header(exchange, "Content-Type", JSON)
        yield from _json_answer(endpoint, exchange, trusted=trusted)


def _refused(exchange: _Exchange, status: int, code: str) -> Iterator[Problem]:
    """An error body of a path or method that does not exist."""
    inside = _in_blueprint(exchange.path)
    body = envelope(_error_data(code, "http_error")) if inside else _error(code)
    if exchange.status != status:
        yield "HTTP status", f"must be {int(status)}, is {exchange.status}"
        return
    yield from _header(exchange, "Content-Type", JSON)
    if not exchange.bodiless:
        yield from _body(body, _document(exchange.body), exchange.status)


def _metrics_answer(
    endpoint: Endpoint, exchange: _Exchange, *, trusted: bool | None
) -> Iterator[Problem]:
    yield from _header(exchange, "Content-Type", TEXT_FORMAT, OPENMETRICS, JSON)
    yield from _header(exchange, "Vary", "Accept", "Accept, Accept-Encoding")
    kind = exchange.headers.get("content-type")
    if kind not in (TEXT_FORMAT, OPENMETRICS):
        yield from _json_answer(endpoint, exchange, trusted=trusted)
    elif not exchange.bodiless:
        text = exchange.body.decode(errors="replace")
        yield from exposition_problems(text, openmetrics=kind == OPENMETRICS, trusted=trusted)


def _json_answer(
    endpoint: Endpoint, exchange: _Exchange, *, trusted: bool | None
) -> Iterator[Problem]:
    if exchange.bodiless:
        return
    document, status = _document(exchange.body), exchange.status
    broken = endpoint.may_break and status != HTTPStatus.OK and _is_internal_error(document)
    node = endpoint.broken if broken else endpoint.body
    found = [*_body(node, document, status, trusted=trusted)]
    yield from found
    if not found and not broken:
        data = document["data"] if endpoint.enveloped else document
        if endpoint.passes(data) != (status == HTTPStatus.OK):
            yield "HTTP status", f"{status} does not follow from the verdict in the body"


def _body(
    node: Object, document: Any, status: int, *, trusted: bool | None = None
) -> Iterator[Problem]:
    found = [*_shape(node, document, trusted=trusted)]
    yield from found
    if not found and "success" in node.keys and document["success"] != (status == HTTPStatus.OK):
        yield "success", "must be true exactly when the HTTP status is 200"


def _document(body: bytes) -> Any:
    """The JSON of a body, or words that no object of the contract accepts."""
    try:
        return parse_json(body)
    except ValueError:
        return "not JSON in UTF-8"


def _is_internal_error(document: object) -> bool:
    if not isinstance(document, dict):
        return False
    data = document.get("data", document)
    return isinstance(data, dict) and data.get("type") == "server_error"
