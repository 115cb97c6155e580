"""The smoke command, the demo and the contract they compare with, against a stand-in server.

Run as a program this file hands over to the smoke command:

    python tests/test_health_endpoints.py [options]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

if __name__ == "__main__":
    from health_check_smoke import main

    sys.exit(main())

import base64
import json
import os
import signal
import socket
import subprocess
import threading
from copy import deepcopy
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import health_check_demo as demo
import health_check_smoke as smoke
import health_contract
import pytest
from health_check_demo import HealthCheckClient
from health_contract import violations

from tests.contract_examples import (
    BLUEPRINT,
    EXAMPLES,
    METRICS,
    METRICS_FAILING,
    METRICS_UNREADABLE,
    NINE,
    NOW,
    OPENMETRICS,
    TASKS,
    TEXT,
    Example,
    envelope,
    render,
)
from tests.pod import eventually

SCRIPTS = Path(smoke.__file__).parent
METRICS_PATHS = ("/metrics", f"{BLUEPRINT}/metrics")
SMOKE_ORDER = [
    "/health",
    "/health/standard",
    "/health/metrics",
    "/health/detailed",
    "/health/database",
    "/health/redis",
    "/health/external",
    "/metrics",
    *(
        f"{BLUEPRINT}/{name}"
        for name in (
            "",
            "simple",
            "detailed",
            "readiness",
            "liveness",
            "startup",
            "database",
            "redis",
            "external",
            "resources",
            "application",
            "metrics",
        )
    ),
]
HEALTHY, FAILING = 0, 1
REMOVED = object()


# --- good answers and what can be done to them ------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """One answer as it goes over the wire."""

    status: int
    headers: dict
    body: bytes

    def violations(self, path, **context):
        return violations(path, self.status, self.headers, self.body, **context)


def sent(path, example, content_type=None):
    is_json = isinstance(example.body, dict)
    body = (json.dumps(example.body) if is_json else example.body).encode()
    headers = {
        "Content-Type": content_type or ("application/json" if is_json else TEXT),
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    if path in METRICS_PATHS:
        headers["Vary"] = "Accept"
    return Sent(example.status, headers, body)


def changed(path, which, changes):
    """An example with values set, or removed, under dotted keys."""
    example = EXAMPLES[path][which]
    body = deepcopy(example.body)
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        item = body
        for parent in parents:
            item = item[parent]
        if value is REMOVED:
            del item[key]
        else:
            item[key] = value
    return Example(example.status, body)


@pytest.mark.parametrize(
    ("path", "example"),
    [(path, example) for path, examples in EXAMPLES.items() for example in examples],
)
def test_a_good_answer_keeps_the_contract(path, example):
    answer = sent(path, example)
    assert answer.violations(path) == []
    assert answer.violations(path, trusted=True) == []


@pytest.mark.parametrize(("path", "examples"), [*EXAMPLES.items()])
def test_both_spellings_of_a_path_are_the_same_endpoint(path, examples):
    other = path[:-1] if path.endswith("/") and path != "/" else f"{path.rstrip('/')}/"
    assert sent(path, examples[HEALTHY]).violations(other) == []


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path != f"{BLUEPRINT}/metrics"])
def test_a_failing_answer_discloses_nothing(path):
    assert sent(path, EXAMPLES[path][FAILING]).violations(path, trusted=False) == []


@pytest.mark.parametrize("path", [*EXAMPLES])
def test_head_is_judged_without_a_body(path):
    answer = replace(sent(path, EXAMPLES[path][FAILING]), body=b"")
    assert answer.violations(path, method="HEAD") == []


def test_head_must_not_have_a_body():
    answer = sent("/health", EXAMPLES["/health"][HEALTHY])
    assert answer.violations("/health", method="HEAD") == ["body: must be empty for HEAD"]


def test_the_table_holds_every_endpoint_in_the_order_of_the_smoke_test():
    assert [endpoint.path for endpoint in health_contract.ENDPOINTS] == ["/", *SMOKE_ORDER]
    assert EXAMPLES.keys() == {"/", *SMOKE_ORDER}


DETAILED = "/health/detailed"
NUMBERS = "/health/metrics"
STANDARD = "/health/standard"
SYSTEM = f"{BLUEPRINT}/"
READINESS = f"{BLUEPRINT}/readiness"
NO_RUN = {"status": "unknown", "error": "not_yet_checked", "last_check": None}
UNMEASURED = {**NO_RUN, "connection": "unknown", "response_time_ms": None, "table_count": None}


def checked(status, **more):
    """A check that an application registered."""
    error = None if status == "healthy" else "check_failed"
    return {"status": status, "error": error, "last_check": NOW, **more}


BROKEN = [
    # keys and types
    ("/health", {"uptime": 1}, "uptime: is not a key"),
    ("/health", {"timestamp": REMOVED}, "timestamp: is missing"),
    ("/", {"name": None}, "name: must be a string, is null"),
    ("/", {"version": 1}, "version: must be a string"),
    (DETAILED, {"system_resources": []}, "system_resources: must be an object"),
    (DETAILED, {"services.redis.\x1b[31m": 1}, 'services.redis."\\u001b[31m": is not a key'),
    (DETAILED, {"system_resources.cpu.model": "x"}, "system_resources.cpu.model: is not a key"),
    (SYSTEM, {"data.services.redis.redis_version": REMOVED}, "redis.redis_version: is missing"),
    (SYSTEM, {"data.services.application.debug_mode": "no"}, "debug_mode: must be true or false"),
    (SYSTEM, {"success": 1}, "success: must be true or false"),
    (SYSTEM, {"data": None}, "data: must be an object"),
    (f"{BLUEPRINT}/external", {"data.plaid_api": {}}, "data.plaid_api: is not a key"),
    (f"{BLUEPRINT}/external", {"data.stripe_api.scope": "node"}, "scope: must be one of fleet"),
    (f"{BLUEPRINT}/external", {"data.stripe_api.response_code": 99}, "response_code: must be"),
    (f"{BLUEPRINT}/application", {"data.database_migrations": "ok"}, "database_migrations: must"),
    (f"{BLUEPRINT}/application", {"data.workers_live": -1}, "workers_live: must be an integer"),
    (f"{BLUEPRINT}/application", {"data.workers_live": True}, "workers_live: must be an integer"),
    (f"{BLUEPRINT}/application", {"data.workers_live": 3.0}, "workers_live: must be an integer"),
    (f"{BLUEPRINT}/resources", {"data.cpu.source": "docker"}, "cpu.source: must be one of"),
    (f"{BLUEPRINT}/resources", {"data.cpu.cores": 0}, "cpu.cores: must be an integer"),
    (f"{BLUEPRINT}/resources", {"data.network.bytes_sent": 1.5}, "bytes_sent: must be an integer"),
    (f"{BLUEPRINT}/startup", {"data.services.system_resources": REMOVED}, "resources: is missing"),
    (f"{BLUEPRINT}/startup", {"data.tasks.migrate.attempt": None}, "migrate.attempt: must be"),
    ("/health/redis", {"connectivity.port": 70000}, "port: must be an integer from 1 to 65535"),
    ("/health/redis", {"memory_usage.info.maxmemory": 1}, "info.maxmemory: is not a key"),
    ("/health/database", {"connection_pool.scope": "worker"}, "scope: must be one of pod"),
    ("/health/database", {"connection_pool.info.overflow": -1}, "overflow: must be an integer"),
    ("/health/external", {"summary.total_services": 5}, "total_services: must be one of 4"),
    ("/health/external", {"services.sendgrid": {}}, "services.sendgrid: is not a key"),
    (DETAILED, {"unhealthy_services": "none"}, "unhealthy_services: must be a list of names"),
    (DETAILED, {"unhealthy_services": [1]}, "unhealthy_services: must be a list of names"),
    (NUMBERS, {"metrics.health_check_failures_total.redis": None}, "failures_total.redis: must"),
    (NUMBERS, {"metrics.health_check_status.redis": 2}, "health_check_status.redis: must be one"),
    (NUMBERS, {"metrics.health_check_status.redis": True}, "health_check_status.redis: must be"),
    (f"{BLUEPRINT}/metrics", {"data.mingus_pods": 1}, "data.mingus_pods: is not a key"),
    # words and codes
    ("/health", {"status": "degraded"}, "status: must be one of"),
    ("/health", {"status": "not_configured"}, "status: must be one of"),
    (f"{BLUEPRINT}/simple", {"data.redis": "error"}, "data.redis: must be one of"),
    (DETAILED, {"lifecycle": "running"}, "lifecycle: must be one of"),
    (SYSTEM, {"data.services.redis.connection": "open"}, "redis.connection: must be one of"),
    (DETAILED, {"services.redis.error": "broken"}, "redis.error: must be a code"),
    (DETAILED, {"services.redis.error": "http_42"}, "redis.error: must be a code"),
    (DETAILED, {"services.redis.error": "not_found"}, "redis.error: must be a code"),
    # timestamps
    ("/health", {"timestamp": "2025-01-27T10:30:00Z"}, "timestamp: must be a UTC timestamp"),
    ("/health", {"timestamp": "2025-01-27T10:30:00.000+00:00"}, "timestamp: must be a UTC"),
    ("/health", {"timestamp": "2025-02-30T10:30:00.000Z"}, "timestamp: must be a UTC timestamp"),
    ("/health", {"timestamp": 1737973800}, "timestamp: must be a UTC timestamp"),
    # numbers
    (DETAILED, {"response_time_ms": 1.234}, "response_time_ms: must be a number"),
    (DETAILED, {"response_time_ms": -1.0}, "response_time_ms: must be a number"),
    (DETAILED, {"response_time_ms": True}, "response_time_ms: must be a number"),
    (DETAILED, {"response_time_ms": 10**400}, "response_time_ms: must be a number"),
    (DETAILED, {"response_time_ms": "1"}, "response_time_ms: must be a number"),
    (DETAILED, {"application.uptime_seconds": 0.125}, "uptime_seconds: must be a number"),
    (STANDARD, {"checks.redis.response_time": 0.001}, "redis.response_time: must be a number"),
    (DETAILED, {"system_resources.cpu.usage_percent": 100.5}, "usage_percent: must be a number"),
    (DETAILED, {"system_resources.disk.free_gb": 45.812}, "free_gb: must be a number"),
    (NUMBERS, {"metrics.health_check_duration_seconds.redis": 0.02581}, "seconds.redis: must be"),
    (f"{BLUEPRINT}/metrics", {"data.mingus_uptime_seconds": None}, "uptime_seconds: must be"),
    # status, code and measured values of one check
    (DETAILED, {"services.redis.error": "timeout"}, "redis.error: must be null exactly when"),
    (DETAILED, {"services.redis.status": "warning"}, "redis.error: must be null exactly when"),
    (
        DETAILED,
        {"services.redis.status": "unhealthy", "services.redis.error": "slow_response"},
        "redis.error: slow_response does not stand beside the status unhealthy",
    ),
    (
        DETAILED,
        {"services.redis.status": "not_configured", "services.redis.error": "http_500"},
        "redis.error: http_500 does not stand beside the status not_configured",
    ),
    (DETAILED, {"services.redis.last_check": None}, "redis.last_check: must not be null after"),
    (
        DETAILED,
        {"services.redis": {**NO_RUN, "response_time_ms": 2.1}},
        "redis.response_time_ms: must be null while the status is unknown",
    ),
    (
        DETAILED,
        {"services.redis": {**NO_RUN, "response_time_ms": None, "last_check": NOW}},
        "redis.last_check: must be null while no run has finished",
    ),
    (
        DETAILED,
        {
            "services.redis": {**NO_RUN, "response_time_ms": None, "error": "stale"},
        },
        "redis.last_check: must not be null after a finished run",
    ),
    (
        f"{BLUEPRINT}/database",
        {"data": {**UNMEASURED, "connection": "active"}},
        "data.connection: must be unknown while the status is unknown",
    ),
    (
        f"{BLUEPRINT}/database",
        {"data.connection": "not_configured"},
        "data.connection: must be not_configured exactly when",
    ),
    (f"{BLUEPRINT}/startup", {"data.tasks.migrate.error": "task_failed"}, "migrate.error: must"),
    (
        "/health/database",
        {"connection": {"status": "unhealthy", "error": "timeout"}},
        "connection: is unhealthy in a check that is healthy",
    ),
    (
        "/health/database",
        {"connection_pool.status": "unknown", "connection_pool.error": "stale"},
        "connection_pool.info.pool_size: must be null while the status is unknown",
    ),
    (
        "/health/redis",
        {"memory_usage.status": "warning", "memory_usage.error": "memory_high"},
        "memory_usage: is warning in a check that is healthy",
    ),
    (
        f"{BLUEPRINT}/resources",
        {"data.disk.status": "warning", "data.disk.error": "disk_high"},
        "data.status: must be the worst of its parts, warning, is healthy",
    ),
    # lists, summaries and verdicts
    (DETAILED, {"warning_services": ["redis"]}, "warning_services: must be [], is"),
    (SYSTEM, {"data.unknown_services": ["redis"]}, "data.unknown_services: must be [], is"),
    ("/health/external", {"unhealthy_services": ["stripe_api"]}, "unhealthy_services: must be []"),
    ("/health/external", {"summary.healthy_services": 3}, "summary.healthy_services: must be 4"),
    ("/health/external", {"status": "warning"}, "status: must be the worst of the providers"),
    (DETAILED, {"status": "warning"}, "status: must be healthy, is warning"),
    (SYSTEM, {"data.overall_status": "warning"}, "overall_status: must be healthy, is warning"),
    (DETAILED, {"critical_services_failing": True}, "critical_services_failing: does not fit"),
    (
        DETAILED,
        {"critical_services_failing": True, "status": "unhealthy"},
        "status: is unhealthy, and no check that can be critical is",
    ),
    (STANDARD, {"status": "not_configured"}, "status: must be at least healthy"),
    (NUMBERS, {"status": "not_configured"}, "status: must be at least healthy"),
    (NUMBERS, {"metrics.health_check_status.redis": 0}, "status.redis: does not fit healthy"),
    (READINESS, {"data.services.redis": "unknown"}, "services.redis: is unknown in a pod that is"),
    (READINESS, {"data.services.stripe_api": "healthy"}, "stripe_api: can never be critical"),
    (SYSTEM, {"success": False}, "success: must be true exactly when the HTTP status is 200"),
]


@pytest.mark.parametrize(("path", "changes", "expected"), BROKEN)
def test_a_broken_body_is_named(path, changes, expected):
    found = sent(path, changed(path, HEALTHY, changes)).violations(path)
    assert any(expected in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("path", "changes", "expected"),
    [
        (DETAILED, {"unhealthy_services": []}, "unhealthy_services: must be"),
        (
            DETAILED,
            {"unhealthy_services": ["sms_service_twilio", "database"]},
            "unhealthy_services",
        ),
        (DETAILED, {"warning_services": ["stripe_api"] * 2}, "warning_services: must be"),
        (DETAILED, {"critical_services_failing": False}, "critical_services_failing: does not"),
        (DETAILED, {"status": "unknown"}, "status: is unknown, and no check that can be"),
        (STANDARD, {"status": "healthy"}, "status: must be at least warning, is healthy"),
        (SYSTEM, {"success": True}, "success: must be true exactly when"),
        ("/health/external", {"summary.unhealthy_services": 0}, "summary.unhealthy_services"),
    ],
)
def test_a_broken_body_of_a_failing_service_is_named(path, changes, expected):
    found = sent(path, changed(path, FAILING, changes)).violations(path)
    assert any(expected in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        pytest.param(
            DETAILED,
            {
                "services.redis.status": "warning",
                "services.redis.error": "timeout",
                "status": "warning",
                "warning_services": ["redis"],
            },
            id="a first failure is a warning with the code of a failure",
        ),
        pytest.param(
            DETAILED,
            {
                "services.mailbox": checked("warning", queue=3),
                "services.ledger": checked("unhealthy"),
                "status": "warning",
                "warning_services": ["mailbox"],
                "unhealthy_services": ["ledger"],
            },
            id="registered checks follow",
        ),
        pytest.param(
            SYSTEM,
            {"data.services.mailbox": checked("healthy")},
            id="a registered check in the blueprint",
        ),
        pytest.param(
            STANDARD, {"checks.mailbox": checked("healthy", response_time=1.5)}, id="in standard"
        ),
        pytest.param(
            NUMBERS,
            {
                "checks.mailbox": checked("healthy", response_time_ms=1.5),
                "metrics.health_check_duration_seconds.mailbox": 0.0015,
                "metrics.health_check_failures_total.mailbox": 0,
                "metrics.health_check_status.mailbox": 1,
            },
            id="in the numbers",
        ),
        pytest.param(READINESS, {"data.services.mailbox": "healthy"}, id="in readiness"),
        pytest.param(READINESS, {"data.services": {}}, id="nothing is critical"),
        pytest.param(
            f"{BLUEPRINT}/startup", {"data.services.mailbox": "unhealthy"}, id="in startup"
        ),
        pytest.param(
            f"{BLUEPRINT}/startup",
            {"data.tasks": {**TASKS, "seed": {**TASKS["migrate"], "attempt": 2}}},
            id="any number of tasks",
        ),
        pytest.param(
            DETAILED, {"application.cpu_percent": 312.5}, id="per cent of one core may pass 100"
        ),
        pytest.param(DETAILED, {"response_time_ms": 220}, id="JSON has one type of number"),
        pytest.param(
            f"{BLUEPRINT}/resources",
            {
                "data.cpu.status": "unhealthy",
                "data.cpu.error": "cpu_critical",
                "data.status": "warning",
            },
            id="a first critical value is a warning",
        ),
        pytest.param(
            "/health/redis",
            {
                "memory_usage": {
                    "status": "not_configured",
                    "error": "permission_denied",
                    "info": dict.fromkeys(
                        EXAMPLES["/health/redis"][0].body["memory_usage"]["info"]
                    ),
                }
            },
            id="INFO may be withheld",
        ),
    ],
)
def test_what_the_contract_leaves_open_is_accepted(path, changes):
    assert sent(path, changed(path, HEALTHY, changes)).violations(path) == []


def test_a_registered_check_is_a_check():
    body = changed(DETAILED, HEALTHY, {"services.mailbox": {"status": "healthy"}})
    assert sent(DETAILED, body).violations(DETAILED) == [
        "services.mailbox.error: is missing",
        "services.mailbox.last_check: is missing",
    ]


CLASS_T = [
    (DETAILED, "application.memory_rss_mb"),
    (DETAILED, "system_resources.cpu.cores"),
    (DETAILED, "system_resources.memory.total_gb"),
    (DETAILED, "system_resources.disk.source"),
    (DETAILED, "system_resources.network.bytes_sent"),
    ("/health/redis", "connectivity.host"),
    ("/health/redis", "connectivity.port"),
    ("/health/redis", "connectivity.db"),
    ("/health/redis", "memory_usage.info.used_memory_human"),
    ("/health/redis", "memory_usage.info.keyspace_hits"),
    (NUMBERS, "metrics.system_metrics.memory_total_bytes"),
    (NUMBERS, "metrics.redis_metrics.connected_clients"),
    (SYSTEM, "data.services.redis.redis_version"),
    (SYSTEM, "data.services.application.environment"),
    (f"{BLUEPRINT}/detailed", "data.process_info.pid"),
    (f"{BLUEPRINT}/detailed", "data.environment.python_version"),
    (f"{BLUEPRINT}/startup", "data.tasks"),
]


@pytest.mark.parametrize(("path", "key"), CLASS_T)
def test_class_t_is_null_for_untrusted_callers(path, key):
    example = EXAMPLES[path][HEALTHY]
    expected = f"{key}: is of class T and must be null for a caller who is not trusted"
    assert expected in sent(path, example).violations(path, trusted=False)
    hidden = changed(path, HEALTHY, {key: None})
    assert expected not in sent(path, hidden).violations(path, trusted=False)
    assert sent(path, hidden).violations(path, trusted=True) == []
    assert [*health_contract.undisclosed(health_contract.find(path).body, hidden.body)] == [key]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html>", "body: must be an object"),
        (b"\xff", "body: must be an object"),
        (b"[" * 100_000, "body: must be an object"),
        (b"[]", "body: must be an object"),
        (b'{"status": NaN}', "body: must be an object"),
        (b'{"status": 1e999}', "body: must be an object"),
    ],
)
def test_a_body_that_is_no_json_object_is_named(body, expected):
    answer = sent("/health", EXAMPLES["/health"][HEALTHY])
    headers = {**answer.headers, "Content-Length": str(len(body))}
    (sentence,) = Sent(200, headers, body).violations("/health")
    assert sentence.startswith(expected)


@pytest.mark.parametrize(
    ("path", "header", "value"),
    [
        ("/health", "Cache-Control", None),
        ("/health", "Cache-Control", "no-cache"),
        ("/health", "X-Content-Type-Options", None),
        ("/health", "Content-Length", None),
        ("/health", "Content-Length", "3"),
        ("/health", "Content-Length", "-1"),
        ("/health", "Content-Type", "text/html"),
        ("/health", "Content-Type", None),
        ("/health", "Content-Type", TEXT),
        ("/health", "Set-Cookie", "a=b"),
        ("/health", "ETag", '"1"'),
        ("/health", "Last-Modified", "Mon, 27 Jan 2025 10:30:00 GMT"),
        ("/health", "Location", "/"),
        ("/health", "Transfer-Encoding", "chunked"),
        ("/metrics", "Vary", None),
        ("/metrics", "Vary", "Cookie"),
        ("/metrics", "Content-Type", "text/plain"),
    ],
)
def test_a_wrong_header_is_named(path, header, value):
    answer = sent(path, EXAMPLES[path][HEALTHY])
    headers = {**answer.headers, header: value}
    headers = {name: text for name, text in headers.items() if text is not None}
    found = replace(answer, headers=headers).violations(path)
    assert any(sentence.startswith(f"{header}: ") for sentence in found), found


def test_cors_headers_are_named():
    answer = sent("/health", EXAMPLES["/health"][HEALTHY])
    headers = {**answer.headers, "Access-Control-Allow-Origin": "*"}
    found = replace(answer, headers=headers).violations("/health")
    assert found == ["access-control-allow-origin: must not be sent"]


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path not in ("/", *METRICS_PATHS)])
@pytest.mark.parametrize(("which", "other"), [(HEALTHY, 503), (FAILING, 200)])
def test_the_http_status_follows_from_the_verdict(path, which, other):
    body = deepcopy(EXAMPLES[path][which].body)
    if "success" in body:
        body["success"] = other == 200
    found = sent(path, Example(other, body)).violations(path)
    assert found == [f"HTTP status: {other} does not follow from the verdict in the body"]


@pytest.mark.parametrize("path", ["/", *METRICS_PATHS])
def test_some_endpoints_are_always_200(path):
    answer = replace(sent(path, EXAMPLES[path][FAILING]), status=503)
    assert answer.violations(path) == ["HTTP status: must be 200, is 503"]


@pytest.mark.parametrize("status", [204, 301, 404, 429, 500])
def test_no_health_endpoint_has_another_status(status):
    answer = replace(sent("/health", EXAMPLES["/health"][FAILING]), status=status)
    assert answer.violations("/health") == [f"HTTP status: must be 200 or 503, is {status}"]


# --- error bodies -----------------------------------------------------------------------------


def error_body(path, code, kind="http_error"):
    data = {"error": code, "type": kind}
    if path.startswith(f"{BLUEPRINT}/"):
        return envelope(data, success=False)
    status = {"status": "unknown"} if kind == "server_error" else {}
    return {**status, "timestamp": NOW, **data}


@pytest.mark.parametrize("path", ["/nothing", "/health//", "/Health", f"{BLUEPRINT}/nothing"])
def test_unknown_paths(path):
    good = sent(path, Example(404, error_body(path, "not_found")))
    assert good.violations(path) == []
    assert good.violations(path, method="POST") == []
    assert replace(good, status=200).violations(path) == ["HTTP status: must be 404, is 200"]
    other = "/nothing" if path.startswith(BLUEPRINT) else f"{BLUEPRINT}/nothing"
    assert sent(path, Example(404, error_body(other, "not_found"))).violations(path)
    assert sent(path, Example(404, error_body(path, "gone"))).violations(path)
    (html,) = sent(path, Example(404, error_body(path, "not_found")), "text/html").violations(path)
    assert html.startswith("Content-Type: ")


@pytest.mark.parametrize("path", ["/", "/metrics", "/health", f"{BLUEPRINT}/readiness"])
def test_wrong_methods(path):
    bare = sent("", Example(405, error_body(path, "method_not_allowed")))
    good = replace(bare, headers={**bare.headers, "Allow": "GET, HEAD"})
    assert good.violations(path, method="OPTIONS") == []
    (missing,) = bare.violations(path, method="POST")
    assert missing.startswith("Allow: ")
    (refused,) = replace(good, status=501).violations(path, method="PUT")
    assert refused == "HTTP status: must be 405, is 501"


@pytest.mark.parametrize("path", [DETAILED, "/health/database", SYSTEM, f"{BLUEPRINT}/redis"])
def test_a_failing_handler_may_answer_with_the_internal_error(path):
    body = error_body(path, "internal_error", "server_error")
    assert sent(path, Example(503, body)).violations(path) == []
    assert sent(path, Example(503, {**body, "trace": "x"})).violations(path)


@pytest.mark.parametrize("path", ["/health", READINESS, f"{BLUEPRINT}/liveness"])
def test_some_handlers_keep_their_own_shape(path):
    body = error_body(path, "internal_error", "server_error")
    assert sent(path, Example(503, body)).violations(path)


# --- the exposition ---------------------------------------------------------------------------


def exposed(text, content_type=TEXT, **context):
    return sent("/metrics", Example(200, text), content_type).violations("/metrics", **context)


@pytest.mark.parametrize("families", [METRICS, METRICS_FAILING, METRICS_UNREADABLE])
def test_a_good_exposition_keeps_the_contract_in_both_forms(families):
    assert exposed(render(families)) == []
    assert exposed(render(families, openmetrics=True), OPENMETRICS) == []


def test_an_unlisted_family_may_appear():
    added = {**METRICS, "mingus_fleet_pods": ("gauge", [('state="ready"', 3)])}
    assert exposed(render(added)) == []


READY = "mingus_health_ready 1.0"
REDIS_STATE = 'mingus_health_check_state{check="redis",critical="true",state="'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # the form
        (READY, "mingus_health_ready", "is not a sample"),
        (READY, "mingus_health_ready one", "is not a sample"),
        (READY, "mingus_health_ready 1_0", "is not a sample"),
        (READY, "mingus_health_ready{a=1} 1", "is not a sample"),
        (READY, 'mingus_health_ready{a="1",a="2"} 1', "is not a sample"),
        (READY, f"{READY}\n{READY}", "mingus_health_ready: has two samples"),
        ("# TYPE mingus_health_ready gauge\n", "", "mingus_health_ready: has no # TYPE"),
        ("# HELP mingus_health_ready", "# ABOUT mingus_health_ready", "ready: has no # HELP"),
        (READY, f"{READY}\n# TYPE mingus_health_ready gauge", "ready: has two lines of # TYPE"),
        (READY, f"{READY}\n# TYPE mingus_health_ready gauge", "ready: has its # TYPE after"),
        ("ready gauge", "ready dial", "mingus_health_ready: has the unknown type"),
        (READY, f"# HELP x X\n# TYPE x gauge\nx 1\n{READY}", "ready: is not written in one piece"),
        (
            "redis_connected_clients 5.0\n",
            "redis_connected_clients 5.0",
            "body: must end with a line",
        ),
        # names, types, labels and values
        ("ready gauge", "ready counter", "mingus_health_ready: must be a gauge"),
        (READY, "mingus_health_ready 2", "mingus_health_ready: has the value 2.0"),
        (READY, "mingus_health_ready NaN", "mingus_health_ready: must be absent instead of NaN"),
        ("cpu_usage_percent 15.2", "cpu_usage_percent -1", "cpu_usage_percent: has the value -1"),
        ("cpu_usage_percent 15.2", "cpu_usage_percent +Inf", "cpu_usage_percent: must be absent"),
        (READY, 'mingus_health_ready{pod="a"} 1', "mingus_health_ready: must have the labels []"),
        (READY, 'mingus_health_ready{pid="7"} 1', "mingus_health_ready: has a label for a process"),
        ('state="live"', 'state="busy"', "mingus_health_workers.state: must not be"),
        ('result="success"', 'result="ok"', "mingus_health_checks_total.result: must not be"),
        ('type="total"', 'type="sum"', "system_memory_bytes.type: must not be"),
        ('mount_point="/"', 'mount_point="C:"', "system_disk_bytes.mount_point: must not be"),
        ('pool_type="app"', 'pool_type="x"', "db_connection_pool_size.pool_type: must not be"),
        ('total{method="GET"', 'total{method="get it"', "app_request_total.method: must not be"),
        (
            'total{method="GET",endpoint="/health"',
            'total{method="GET",endpoint="/health?x=1"',
            "app_request_total.endpoint: must not be",
        ),
        ('status="200"} 12.0\n# HELP db', 'status="ok"} 12.0\n# HELP db', "total.status: must not"),
        ('component="overall"', 'component="http://x"', "health_check_status.component: must not"),
        # buckets
        ('t="redis",le="+Inf"} 9.0', 't="redis",le="+Inf"} 8.0', "bucket: must not fall while le"),
        ('t="redis",le="+Inf"} 9.0', 't="redis",le="+Inf"} 11.0', "bucket: must end with le=+Inf"),
        ('t="redis",le="+Inf"} 9.0', 't="redis",le="2.0"} 9.0', "bucket: must end with le=+Inf"),
        (
            'health_check_duration_seconds_sum{component="redis"} 0.25\n',
            "",
            "health_check_duration_seconds: must have buckets, a sum and a count",
        ),
        # one series of several is 1, and each state has one
        ('health_status{state="warning"} 0.0', 'health_status{state="warning"} 1.0', "exactly one"),
        ('mingus_health_status{state="warning"} 0.0\n', "", "health_status: has no series for war"),
        ('mingus_health_lifecycle{state="draining"} 0.0\n', "", "lifecycle: has no series for dr"),
        (f'{REDIS_STATE}healthy"}} 1.0', f'{REDIS_STATE}healthy"}} 0.0', "check=redis"),
        # what must be there, and agree
        (
            "mingus_health_snapshot_readable 1.0\n",
            "",
            "mingus_health_snapshot_readable: is missing",
        ),
        (f"{READY}\n", "", "mingus_health_ready: is missing"),
        ('check="application"', 'check="applause"', "check_state: has no state for application"),
        (
            'health_check_status{component="redis"} 1.0\n',
            "",
            "check_status: does not fit the state",
        ),
        ('check_status{component="overall"} 1.0', 'check_status{component="overall"} 0.0', "does"),
        ("mingus_redis_status 1.0", "mingus_redis_status 0.0", "mingus_redis_status: does not fit"),
        ("mingus_redis_status 1.0\n", "", "mingus_redis_status: does not fit the state healthy"),
        (
            'lifecycle{state="serving"} 1.0\nmingus_health_lifecycle{state="maintenance"} 0.0',
            'lifecycle{state="serving"} 0.0\nmingus_health_lifecycle{state="maintenance"} 1.0',
            "mingus_health_ready: must be 0 unless serving",
        ),
    ],
)
def test_a_broken_exposition_is_named(old, new, expected):
    text = render(METRICS)
    assert old in text
    found = exposed(text.replace(old, new))
    assert any(expected in sentence for sentence in found), found


def test_a_pod_is_not_ready_while_a_critical_check_fails():
    found = exposed(render(METRICS_FAILING).replace("mingus_health_ready 0.0", READY))
    assert found == ["mingus_health_ready: must be 0 unless serving and no critical check fails"]


def test_families_of_class_t_are_absent_for_untrusted_callers():
    found = exposed(render(METRICS), trusted=False)
    about = {sentence.partition(":")[0] for sentence in found}
    assert about == {
        "system_memory_bytes",
        "system_disk_bytes",
        "redis_memory_bytes",
        "redis_connected_clients",
    }


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# EOF\n", "", "body: must end with # EOF"),
        ("# EOF\n", "# EOF\nx 1\n", "body: must end with # EOF"),
        ("# HELP mingus_uptime", "\n# HELP mingus_uptime", "is not allowed in OpenMetrics"),
        ("# HELP mingus_uptime", "# hello\n# HELP mingus_uptime", "is not allowed in OpenMetrics"),
        ("app_request counter", "app_request_total counter", "app_request_total: has no # TYPE"),
        (READY, "mingus_health_ready 2", "mingus_health_ready: has the value"),
        ('result="success"', 'result="ok"', "mingus_health_checks_total.result: must not be"),
    ],
)
def test_a_broken_openmetrics_body_is_named(old, new, expected):
    text = render(METRICS, openmetrics=True)
    assert old in text
    found = exposed(text.replace(old, new), OPENMETRICS)
    assert any(expected in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"status": "healthy"}, "healthy"),
        ({"data": {"status": "warning"}}, "warning"),
        ({"data": {"overall_status": "unknown"}}, "unknown"),
        ({"data": {"ready": True}}, "ready"),
        ({"data": {"ready": False}}, "not_ready"),
        ({"data": {"alive": False}}, "not_alive"),
        ({"data": {"started": True}}, "started"),
        ({"data": {"stripe_api": {"status": "healthy"}}}, None),
        ({"data": []}, None),
        ({"status": 3}, None),
        ("# HELP", None),
        (None, None),
    ],
)
def test_the_verdict_in_one_word(body, word):
    assert health_contract.health_word(body) == word


# --- a stand-in for the service ---------------------------------------------------------------


class StandIn:
    """Serves examples on a port from the system, and remembers who asked for what.

    An answer may also be a function, which then gets the request handler and does what it likes.
    """

    def __init__(self):
        self.answers = {}
        self.requests = []
        self.over = threading.Event()
        self.serve(HEALTHY)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def place(self):
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self):
        return f"http://{self.place}"

    @property
    def paths(self):
        return [path for path, _ in self.requests]

    def serve(self, which, prefix=""):
        for path, examples in EXAMPLES.items():
            answer = sent(path, examples[which])
            self.answers[prefix + path] = answer
        text = Example(200, render(METRICS))
        self.answers[f"{prefix}{BLUEPRINT}/metrics"] = sent("/metrics", text)
        self.answers[f"{prefix}{BLUEPRINT}/metrics", "application/json"] = sent(
            "/metrics", EXAMPLES[f"{BLUEPRINT}/metrics"][which]
        )

    def answer(self, handler):
        path, accept = handler.path, handler.headers["Accept"]
        self.requests.append((path, dict(handler.headers)))
        unknown = sent("", Example(404, error_body(path, "not_found")))
        found = self.answers.get((path, accept)) or self.answers.get(path, unknown)
        if isinstance(found, Sent):
            reply(handler, found)
        else:
            found(handler)

    def close(self):
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def handler_of(stand_in):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            stand_in.answer(self)

        def log_message(self, *_):
            pass

    return Handler


def reply(handler, answer):
    handler.send_response_only(answer.status)
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(answer.body)


def plainly(body, status=200, **headers):
    """A function that answers with any body."""
    return lambda handler: reply(
        handler, Sent(status, {"Content-Type": "text/html", **headers}, body)
    )


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEALTH_BASE_URL", raising=False)
    monkeypatch.delenv("HEALTH_DETAILS_TOKEN", raising=False)


@pytest.fixture
def stand_in():
    server = StandIn()
    yield server
    server.close()


@pytest.fixture
def nowhere():
    """A base URL at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


RESULTS = Path("health_check_results.json")


def run_smoke(base_url, *options):
    return smoke.main(["--base-url", getattr(base_url, "url", base_url), *options])


def run_demo(base_url, *options, wait=lambda _: None):
    arguments = ["--base-url", getattr(base_url, "url", base_url), "--interval", "0", *options]
    return demo.main(arguments, wait=wait)


def results():
    return json.loads(RESULTS.read_text())


def result_of(path):
    return next(result for result in results()["results"] if result["endpoint"] == path)


# --- the smoke command ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--contract",)])
def test_smoke_passes_against_a_healthy_service(stand_in, capsys, options):
    assert run_smoke(stand_in, *options) == 0
    assert stand_in.paths == ["/", *SMOKE_ORDER]
    assert capsys.readouterr().out.splitlines()[-1] == "20 of 20 passed"


def test_smoke_fails_against_an_unhealthy_service(stand_in, capsys):
    stand_in.serve(FAILING)
    assert run_smoke(stand_in) == 1
    summary = results()["summary"]
    assert (summary["passed_tests"], summary["failed_tests"]) == (2, 18)
    assert "FAIL  503" in capsys.readouterr().out


def test_smoke_accepts_a_correct_503_with_the_contract(stand_in):
    stand_in.serve(FAILING)
    assert run_smoke(stand_in, "--contract") == 0
    assert {result["contract_errors"] == [] for result in results()["results"]} == {True}


def test_smoke_names_what_breaks_the_contract(stand_in, capsys):
    stand_in.answers["/health"] = sent("/health", changed("/health", HEALTHY, {"uptime": 1}))
    assert run_smoke(stand_in) == 0
    assert run_smoke(stand_in, "--contract") == 1
    assert result_of("/health")["contract_errors"] == ["uptime: is not a key of this object"]
    assert "        uptime: is not a key of this object\n" in capsys.readouterr().out


def test_the_file_has_the_documented_keys_and_types(stand_in):
    run_smoke(stand_in, "--timeout", "7")
    document = results()
    assert document.keys() == {"test_run", "results", "summary"}
    assert document["test_run"] == {
        "timestamp": document["test_run"]["timestamp"],
        "base_url": stand_in.url,
        "timeout": 7,
    }
    assert [result["endpoint"] for result in document["results"]] == SMOKE_ORDER
    for result in document["results"]:
        assert health_contract.TIME.accepts(result.pop("timestamp"))
        assert health_contract.AMOUNT.accepts(result.pop("response_time"))
        assert result.pop("url") == stand_in.url + result["endpoint"]
        assert result.pop("description")
    first = document["results"][0]
    assert first == {
        "endpoint": "/health",
        "status_code": 200,
        "expected_status": 200,
        "success": True,
        "response_data": {"status": "healthy", "timestamp": NOW},
        "health_status": "healthy",
    }
    summary = document["summary"]
    times = summary.pop("response_time_ms")
    assert summary == {"total_tests": 20, "passed_tests": 20, "failed_tests": 0}
    assert 0 < times["minimum"] <= times["average"] <= times["maximum"]
    assert health_contract.TIME.accepts(document["test_run"]["timestamp"])


def test_text_is_kept_as_text(stand_in):
    run_smoke(stand_in)
    metrics = result_of("/metrics")
    assert metrics["response_data"] == render(METRICS)
    assert "health_status" not in metrics
    assert "json_parse_error" not in metrics


@pytest.mark.parametrize(
    ("body", "unparsable", "data"),
    [
        (b"{", True, "{"),
        (b'{"a": NaN}', True, '{"a": NaN}'),
        (b"\xff", True, "\ufffd"),
        (b"[" * 100_000, True, "[" * 100_000),
        (b'{"a": 1e999}', True, '{"a": 1e999}'),
        (b"[1]", None, "[1]"),
        (b"null", None, None),
    ],
    ids=["cut", "nan", "bytes", "deep", "infinite", "list", "null"],
)
def test_smoke_reads_any_body(stand_in, body, unparsable, data):
    stand_in.answers["/health"] = plainly(body, **{"Content-Type": "application/json"})
    assert run_smoke(stand_in) == 0
    assert result_of("/health").get("json_parse_error") is unparsable
    assert result_of("/health")["response_data"] == data


def test_smoke_follows_no_redirect(stand_in):
    stand_in.answers["/health"] = plainly(b"", status=302, Location="/health/standard")
    assert run_smoke(stand_in) == 1
    assert result_of("/health")["status_code"] == 302
    assert stand_in.paths.count("/health/standard") == 1


def hang(stand_in):
    return lambda _handler: stand_in.over.wait(60)


def drip(stand_in):
    """A byte now and then, for as long as anybody listens."""

    def answer(handler):
        handler.send_response_only(200)
        handler.end_headers()
        while not stand_in.over.wait(0.01):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    return answer


@pytest.mark.parametrize("stuck", [hang, drip])
def test_no_answer_takes_longer_than_the_timeout(stand_in, stuck):
    stand_in.answers["/health"] = stuck(stand_in)
    assert run_smoke(stand_in, "--timeout", "2") == 1  # which is enough for all the others
    result = result_of("/health")
    assert result["error"] == "no answer within 2 s"
    assert (result["status_code"], result["response_time"]) == (None, None)
    assert results()["summary"]["failed_tests"] == 1


def test_a_truncated_answer_is_no_answer(stand_in):
    stand_in.answers["/health"] = plainly(b"{}", **{"Content-Length": "10"})
    assert run_smoke(stand_in) == 1
    assert result_of("/health")["error"] == "closed in the middle of the answer"


def test_a_connection_closed_at_once_is_no_answer(stand_in):
    stand_in.answers["/health"] = lambda _handler: None
    assert run_smoke(stand_in) == 1
    assert result_of("/health")["error"] == "closed without an answer"


def test_nonsense_is_no_answer(stand_in):
    stand_in.answers["/health"] = lambda handler: handler.wfile.write(b"SSH-2.0\r\n")
    assert run_smoke(stand_in) == 1
    assert result_of("/health")["error"] == "not an HTTP answer"


def test_an_endless_answer_is_no_answer(stand_in, monkeypatch):
    monkeypatch.setattr(smoke, "LARGEST_BODY", 9999)
    stand_in.answers["/health"] = plainly(b" " * 10_000)
    assert run_smoke(stand_in) == 1
    assert result_of("/health")["error"] == "the answer is larger than 9999 bytes"


def test_smoke_says_when_nobody_listens(nowhere, capsys):
    assert run_smoke(nowhere) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [output.err.strip()]
    assert f"{nowhere} is not reachable: connection refused" in output.err
    assert not RESULTS.exists()


def test_smoke_says_when_the_root_does_not_answer_in_time(stand_in, monkeypatch, capsys):
    monkeypatch.setattr(smoke, "REACHABLE_SECONDS", 0.05)
    stand_in.answers["/"] = hang(stand_in)
    assert run_smoke(stand_in) == 2
    assert "is not reachable: no answer within 0.05 s" in capsys.readouterr().err
    eventually(lambda: stand_in.paths, "the question arrives, though too late")
    assert stand_in.paths == ["/"]


def test_smoke_reports_a_root_that_is_not_200(stand_in, capsys):
    del stand_in.answers["/"]
    assert run_smoke(stand_in) == 0
    assert capsys.readouterr().out.startswith("NOTE  404  / ")


WRONG_USAGE = [
    ("--nonsense",),
    ("--timeout", "0"),
    ("--timeout", "nan"),
    ("--timeout", "soon"),
    ("--base-url", "localhost:5003"),
    ("--base-url", "ftp://localhost"),
    ("--base-url", "http://"),
    ("--base-url", "http://localhost:99999"),
    ("--base-url", "http://[::1"),
    ("--base-url", "http://localhost/a b"),
    ("--base-url", "http://localhost/\u00fc"),
    ("--base-url", "http://user:s3cret-pass@localhost/?x=1"),
    ("--base-url", "http://localhost/#top"),
    ("--token", "s3cret-pass\nX: y"),
    ("--token", "s3cret-p\u00e4ss"),
]


@pytest.mark.parametrize("command", [smoke.main, demo.main], ids=["smoke", "demo"])
@pytest.mark.parametrize("options", WRONG_USAGE, ids=ascii)
def test_wrong_usage_is_one_line_without_secrets(command, options, capsys):
    assert command([*options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.isascii()
    assert "s3cret" not in output.err


def test_smoke_takes_one_of_output_and_no_output(capsys):
    assert smoke.main(["--output", "x", "--no-output"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_the_base_url_may_come_from_the_environment(stand_in, monkeypatch):
    monkeypatch.setenv("HEALTH_BASE_URL", stand_in.url)
    assert smoke.main([]) == 0


def test_a_path_prefix_is_kept(stand_in):
    stand_in.answers.clear()
    stand_in.serve(HEALTHY, prefix="/team/mingus")
    assert run_smoke(f"{stand_in.url}/team/mingus/") == 0
    assert stand_in.paths == [f"/team/mingus{path}" for path in ("/", *SMOKE_ORDER)]
    assert results()["test_run"]["base_url"] == f"{stand_in.url}/team/mingus"


def test_quiet_prints_failures_only(stand_in, capsys):
    assert run_smoke(stand_in, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    del stand_in.answers["/health"]
    assert run_smoke(stand_in, "--quiet") == 1
    assert capsys.readouterr().out.split()[:2] == ["FAIL", "404"]


def test_no_output_writes_no_file(stand_in, tmp_path):
    assert run_smoke(stand_in, "--no-output") == 0
    assert [*tmp_path.iterdir()] == []


def test_an_older_file_is_replaced_as_a_whole(stand_in, tmp_path):
    older = tmp_path / "link-target.json"
    older.write_text("x" * 1_000_000)
    link = tmp_path / "link.json"
    link.symlink_to(older)
    assert run_smoke(stand_in, "--output", str(link)) == 0
    assert json.loads(older.read_text())["summary"]["total_tests"] == 20
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"link.json", "link-target.json"}


def test_an_interrupted_run_leaves_the_older_file(stand_in, tmp_path, monkeypatch, capsys):
    RESULTS.write_text("older")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    assert run_smoke(stand_in) == 130
    assert RESULTS.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS.name]
    assert capsys.readouterr().err.endswith(": interrupted\n")


def make_directory(path):
    path.mkdir()


def make_pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_directory, make_pipe])
def test_only_a_regular_file_is_replaced(stand_in, tmp_path, make, capsys):
    make(tmp_path / "taken")
    assert run_smoke(stand_in, "--output", "taken") == 2
    assert capsys.readouterr().err.endswith(": cannot write taken: not a regular file\n")
    assert not (tmp_path / "taken").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("output", ["missing/results.json", "file/results.json"])
def test_an_output_that_cannot_be_written_is_one_line(stand_in, tmp_path, output, capsys):
    (tmp_path / "file").touch()
    assert run_smoke(stand_in, "--output", output) == 2
    error = capsys.readouterr().err
    assert f"cannot write {output}: " in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


TOKEN = "tok3n-of-sixteen-chars"


def echo(handler):
    """What a careless server does with a credential."""
    credential = handler.headers["Authorization"]
    scheme, _, secret = credential.partition(" ")
    if scheme == "Basic":
        secret = base64.b64decode(secret).decode()
    body = json.dumps({credential: [secret], "status": secret, secret: 1}).encode()
    reply(handler, Sent(200, {"Content-Type": "application/json"}, body))


def test_the_token_is_sent_and_never_written(stand_in, capsys):
    stand_in.answers["/health"] = echo
    run_smoke(stand_in, "--token", TOKEN, "--contract")
    assert {headers["Authorization"] for _, headers in stand_in.requests} == {f"Bearer {TOKEN}"}
    output = capsys.readouterr()
    assert TOKEN not in RESULTS.read_text() + output.out + output.err
    assert result_of("/health")["response_data"] == {
        "Bearer ***": ["***"],
        "status": "***",
        "***": 1,
    }


def test_user_info_is_sent_and_never_written(stand_in, capsys):
    stand_in.answers["/health"] = echo
    run_smoke(f"http://reader:p%40ss-word@{stand_in.place}", "--contract")
    basic = base64.b64encode(b"reader:p@ss-word").decode()
    assert {headers["Authorization"] for _, headers in stand_in.requests} == {f"Basic {basic}"}
    output = capsys.readouterr()
    written = RESULTS.read_text() + output.out + output.err
    assert not any(word in written for word in ("reader", "ss-word", basic))
    assert results()["test_run"]["base_url"] == stand_in.url


def test_a_token_wins_over_user_info(stand_in):
    run_smoke(f"http://reader:word@{stand_in.place}", "--token", TOKEN)
    assert stand_in.requests[0][1]["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("command", [run_smoke, run_demo])
def test_the_token_may_come_from_the_list_of_the_service(stand_in, monkeypatch, command):
    monkeypatch.setenv("HEALTH_DETAILS_TOKEN", f" {TOKEN}, another-token-of-16")
    command(stand_in)
    assert stand_in.requests[0][1]["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("command", [run_smoke, run_demo])
def test_color_is_for_terminals(stand_in, monkeypatch, capsys, command):
    command(stand_in)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command(stand_in, "--no-color")
    assert "\x1b" not in capsys.readouterr().out
    command(stand_in)
    assert "\x1b[32m" in capsys.readouterr().out


@pytest.mark.parametrize("command", [run_smoke, run_demo])
def test_output_is_plain_whatever_the_server_says(stand_in, capsys, command):
    body = changed("/health", HEALTHY, {"status": "\u00fc\x1b[31m\x7f", "\u202e\x1b": "\x1b"})
    stand_in.answers["/health"] = sent("/health", body)
    assert command(stand_in, *(["--contract"] if command is run_smoke else [])) == 1
    output = capsys.readouterr().out
    assert output.isascii()
    assert all(character.isprintable() or character == "\n" for character in output)


# --- the demo ---------------------------------------------------------------------------------


def test_the_demo_shows_every_section(stand_in, capsys):
    assert run_demo(stand_in) == 0
    output = capsys.readouterr().out
    heads = [line.partition(":")[0] for line in output.splitlines() if line[:1].isalpha()]
    assert heads == [*demo.SECTIONS, "every answer keeps the contract"]
    assert [*demo.SECTIONS] == [
        "basic",
        "kubernetes",
        "database",
        "redis",
        "external",
        "standard",
        "metrics",
        "prometheus",
        "integration",
        "continuous",
    ]
    assert "connectivity.host" in output
    assert "deployment valid\n" in output
    assert "not disclosed" not in output


def test_an_unhealthy_service_is_a_valid_demonstration(stand_in, capsys):
    stand_in.serve(FAILING)
    assert run_demo(stand_in) == 0
    output = capsys.readouterr().out
    assert "deployment not valid\n" in output
    hidden = [line.split() for line in output.splitlines() if line.endswith("not disclosed")]
    assert ["connectivity.host", "not", "disclosed"] in hidden
    assert ["data.process_info.pid", "not", "disclosed"] in hidden
    assert not any(key == "response_time_ms" for key, *_ in hidden)


@pytest.mark.parametrize("section", [*demo.SECTIONS])
def test_the_demo_shows_one_section(stand_in, capsys, section):
    assert run_demo(stand_in, "--only", section, "--iterations", "1") == 0
    assert capsys.readouterr().out.startswith(f"{section}: ")
    assert stand_in.paths == ["/", *demo.SECTIONS[section].paths]


def test_sections_are_shown_once_and_in_order(stand_in, capsys):
    options = ("--only", "redis", "--only", "basic", "--only", "redis")
    assert run_demo(stand_in, *options) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()]
    assert [head.partition(":")[0] for head in heads[:-1]] == ["basic", "redis"]


def test_the_integration_asks_for_json(stand_in, capsys):
    assert run_demo(stand_in, "--only", "integration") == 0
    assert stand_in.requests[-1][1]["Accept"] == "application/json"
    output = capsys.readouterr().out
    assert all(name in output for name in NINE)


def test_the_demo_may_print_one_json_object(stand_in, capsys):
    assert run_demo(stand_in, "--json", "--iterations", "2") == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"timestamp", "base_url", "sections", "problems"}
    assert [*document["sections"]] == [*demo.SECTIONS]
    assert document["problems"] == []
    assert document["sections"]["basic"]["/health"] == {
        "success": True,
        "status_code": 200,
        "data": {"status": "healthy", "timestamp": NOW},
        "error": None,
    }
    assert len(document["sections"]["continuous"]) == 2


def test_the_demo_may_require_health(stand_in):
    assert run_demo(stand_in, "--require-healthy") == 0
    stand_in.serve(FAILING)
    assert run_demo(stand_in, "--require-healthy") == 1


def test_a_missing_endpoint_fails_the_demo(stand_in, capsys):
    del stand_in.answers["/health/redis"]
    assert run_demo(stand_in) == 1
    wrong = "WRONG  /health/redis: HTTP status: must be 200 or 503, is 404"
    assert wrong in capsys.readouterr().out.splitlines()


def test_a_contradiction_fails_the_demo(stand_in, capsys):
    stand_in.answers["/health"] = sent("/health", changed("/health", HEALTHY, {"uptime": 1}))
    assert run_demo(stand_in, "--json") == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert set(problems) == {"/health: uptime: is not a key of this object"}


def test_an_answer_that_never_comes_fails_the_demo(stand_in, capsys):
    stand_in.answers["/health"] = hang(stand_in)
    assert run_demo(stand_in, "--only", "basic", "--timeout", "0.3") == 1
    assert "WRONG  /health: no answer within 0.3 s" in capsys.readouterr().out


def test_the_demo_says_when_nobody_listens(nowhere, capsys):
    assert run_demo(nowhere, "--json") == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [("--only", "plaid"), ("--iterations", "0"), ("--interval", "-1"), ("--interval", "nan")],
)
def test_wrong_usage_of_the_demo(stand_in, capsys, options):
    assert demo.main(["--base-url", stand_in.url, *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_continuous_waits_between_the_rounds(stand_in, capsys):
    waits = []
    options = ("--only", "continuous", "--iterations", "3", "--interval", "7")
    assert run_demo(stand_in, *options, wait=waits.append) == 0
    assert waits == [7.0, 7.0]
    rounds = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert rounds == ["basic healthy  system healthy  readiness ready  liveness alive"] * 3


def interrupt(_seconds):
    raise KeyboardInterrupt


@pytest.mark.parametrize("options", [(), ("--require-healthy",), ("--json",)])
def test_an_interrupt_ends_continuous_with_0(stand_in, capsys, options):
    stand_in.serve(FAILING)
    arguments = ("--only", "continuous", *options)
    assert run_demo(stand_in, *arguments, wait=interrupt) == 0
    output = capsys.readouterr().out
    if options == ("--json",):
        assert len(json.loads(output)["sections"]["continuous"]) == 1
    else:
        assert output.count("readiness not_ready") == 1


# --- the client -------------------------------------------------------------------------------

METHODS = {
    "get_basic_health": "/health",
    "get_detailed_health": "/health/detailed",
    "get_database_health": "/health/database",
    "get_redis_health": "/health/redis",
    "get_external_services_health": "/health/external",
    "get_standard_health": "/health/standard",
    "get_metrics_health": "/health/metrics",
    "get_prometheus_metrics": "/metrics",
    "get_system_health": f"{BLUEPRINT}/",
    "get_simple_health": f"{BLUEPRINT}/simple",
    "get_system_detailed": f"{BLUEPRINT}/detailed",
    "get_readiness": f"{BLUEPRINT}/readiness",
    "get_liveness": f"{BLUEPRINT}/liveness",
    "get_startup": f"{BLUEPRINT}/startup",
    "get_resources": f"{BLUEPRINT}/resources",
    "get_application": f"{BLUEPRINT}/application",
    "get_metrics": f"{BLUEPRINT}/metrics",
}


@pytest.mark.parametrize("which", [HEALTHY, FAILING])
@pytest.mark.parametrize(("method", "path"), [*METHODS.items()])
def test_the_client_asks_for_every_endpoint(stand_in, method, path, which):
    stand_in.serve(which)
    client = HealthCheckClient(base_url=stand_in.url, timeout=5, token=TOKEN)
    example = EXAMPLES[path][which]
    assert getattr(client, method)() == {
        "success": example.status == 200,
        "status_code": example.status,
        "data": example.body,
        "error": None,
    }
    ((asked, headers),) = stand_in.requests
    assert (asked, headers["Authorization"]) == (path, f"Bearer {TOKEN}")


@pytest.mark.parametrize("method", [*METHODS])
def test_the_client_does_not_raise_when_nobody_listens(nowhere, method):
    assert getattr(HealthCheckClient(nowhere), method)() == {
        "success": False,
        "status_code": None,
        "data": None,
        "error": "connection refused",
    }


def test_the_client_does_not_raise_for_a_host_that_cannot_be():
    reply = HealthCheckClient(f"http://{'a' * 64}.invalid").get_basic_health()
    assert (reply["success"], reply["status_code"], reply["data"]) == (False, None, None)
    assert reply["error"]


@pytest.mark.parametrize("stuck", [hang, drip])
def test_the_client_does_not_wait_for_ever(stand_in, stuck):
    stand_in.answers["/health"] = stuck(stand_in)
    reply = HealthCheckClient(stand_in.url, timeout=0.2).get_basic_health()
    assert reply["error"] == "no answer within 0.2 s"


def test_the_client_says_when_json_is_none(stand_in):
    stand_in.answers["/health"] = plainly(b"<p>", **{"Content-Type": "application/json"})
    assert HealthCheckClient(stand_in.url).get_basic_health() == {
        "success": True,
        "status_code": 200,
        "data": "<p>",
        "error": "the answer is not JSON",
    }


# --- as programs ------------------------------------------------------------------------------


def program(script, *options, **settings):
    """A script as its own process, started somewhere else, in the plainest of locales."""
    return subprocess.Popen(
        [sys.executable, str(script), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
        **settings,
    )


PROGRAMS = [
    (SCRIPTS / "health_check_smoke.py", "20 of 20 passed"),
    (SCRIPTS / "health_check_demo.py", "every answer keeps the contract"),
    (Path(__file__), "20 of 20 passed"),
]


@pytest.mark.parametrize(("script", "last"), PROGRAMS, ids=lambda value: Path(value).name)
def test_a_script_runs_from_any_directory(stand_in, tmp_path, script, last):
    options = ("--base-url", stand_in.url)
    extra = ("--iterations", "1") if script.name == "health_check_demo.py" else ("--contract",)
    with program(script, *options, *extra, cwd=tmp_path) as process:
        output, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    assert output.splitlines()[-1] == last


def test_an_interrupt_from_outside_ends_continuous_with_0(stand_in):
    options = ("--base-url", stand_in.url, "--only", "continuous", "--interval", "60")
    with program(SCRIPTS / "health_check_demo.py", *options) as process:
        assert process.stdout.readline().startswith("continuous: ")
        assert "liveness alive" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")


def test_a_reader_that_goes_away_is_no_error(stand_in):
    options = ("--base-url", stand_in.url, "--no-output")
    with program(SCRIPTS / "health_check_smoke.py", *options) as process:
        process.stdout.close()
        error = process.stderr.read()
        process.wait(timeout=30)
    assert (process.returncode, error) == (141, "")
