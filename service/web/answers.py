"""Answers as bytes.

For one publication, one set of flags and one class of caller, an endpoint's body differs
only in the time of the answer, and with that in the uptime. So it is rendered once with
placeholders for both, which are then only filled in, until the next publication, flag or expiry.

Liveness is the exception: its verdict is computed from the workers' stamps at every question,
because it must not need a publication.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from service.health import Pod
from service.web import health_json, schemas
from service.web.payload import Answer, Document, Payload, timestamp
from service.web.reader import Reader, Version
from service.web.schemas import Schema
from service.web.twins import Question

log = structlog.get_logger(__name__)

PREFIX = "/api/system/health"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
PROBLEM = "application/problem+json"
OK = "200 OK"
UNAVAILABLE = "503 Service Unavailable"

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

# A moment and an uptime that no answer carries; in a rendered body they mark where these go.
_EPOCH = 0.0
_EPOCH_MARK = timestamp(_EPOCH).encode()
_UPTIME = -86399.97
_UPTIME_MARK = str(_UPTIME).encode()

# The whole version of liveness.
ALIVE = {True: b"alive", False: b"stuck"}

Render = Callable[..., Answer]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One documented path.

    Attributes:
        path: Without a trailing slash.
        summary: The question it answers.
        render: The method of ``Payload`` that makes its document.
        document: The schema of that.
        about: What its verdict is about; None where it is always 200.
        graded: Whether trusted callers see more.
        vital: Whether its verdict follows from the workers' stamps and nothing published.
        hot: Whether balancers and the kubelet ask it all the time.
        shaped: Whether it keeps its own shape even when its handler fails.
        twin: What it asks in the words of Kubernetes; None where it does not.
        media: The ``Content-Type`` of its usual answer.
    """

    path: str
    summary: str
    render: Render
    document: Schema = field(hash=False, compare=False)
    about: health_json.Subject | None = None
    graded: bool = False
    vital: bool = False
    hot: bool = False
    shaped: bool = False
    twin: Question | None = None
    media: str = JSON

    @property
    def enveloped(self) -> bool:
        """Whether it belongs to the blueprint family."""
        return self.path.startswith(PREFIX)


def _system(name: str, summary: str, render: Render, data: Schema, **more: Any) -> Endpoint:
    path = f"{PREFIX}/{name}" if name else PREFIX
    return Endpoint(path, summary, render, schemas.envelope(data), **more)


INDEX = Endpoint("/", "which service is this?", Payload.index, schemas.INDEX, shaped=True)
ENDPOINTS = (
    Endpoint(
        "/health",
        "is the pod well?",
        Payload.health,
        schemas.HEALTH,
        about=health_json.POD,
        hot=True,
        shaped=True,
    ),
    Endpoint(
        "/health/detailed",
        "what is wrong, at a glance?",
        Payload.detailed,
        schemas.DETAILED,
        about=health_json.OVERALL,
        graded=True,
    ),
    Endpoint(
        "/health/database",
        "connection, tables, pools",
        Payload.database,
        schemas.DATABASE_PARTS,
        about=health_json.check("database"),
    ),
    Endpoint(
        "/health/redis",
        "connection, read and write, memory",
        Payload.redis,
        schemas.REDIS_PARTS,
        about=health_json.check("redis"),
        graded=True,
    ),
    Endpoint(
        "/health/external",
        "the four providers",
        Payload.external,
        schemas.EXTERNAL_PARTS,
        about=health_json.PROVIDERS,
    ),
    Endpoint(
        "/health/standard",
        "all, in a compact form",
        Payload.standard,
        schemas.STANDARD,
        about=health_json.OVERALL,
    ),
    Endpoint(
        "/health/metrics",
        "all, with numbers",
        Payload.metrics,
        schemas.METRICS,
        about=health_json.OVERALL,
        graded=True,
    ),
    _system(
        "",
        "everything",
        Payload.comprehensive,
        schemas.SYSTEM,
        about=health_json.OVERALL,
        graded=True,
    ),
    _system(
        "simple",
        "is the pod well, and its two stores?",
        Payload.simple,
        schemas.SIMPLE,
        about=health_json.POD,
        hot=True,
    ),
    _system(
        "detailed",
        "everything, with the process",
        Payload.comprehensive_detailed,
        schemas.SYSTEM_DETAILED,
        about=health_json.OVERALL,
        graded=True,
    ),
    _system(
        "readiness",
        "should this pod get traffic?",
        Payload.readiness,
        schemas.READINESS,
        about=health_json.POD,
        hot=True,
        shaped=True,
    ),
    _system(
        "liveness",
        "does any web worker make progress?",
        Payload.liveness,
        schemas.LIVENESS,
        about=health_json.ALIVE,
        hot=True,
        vital=True,
        shaped=True,
    ),
    _system(
        "startup",
        "has the pod begun to serve?",
        Payload.startup,
        schemas.STARTUP,
        about=health_json.STARTED,
        hot=True,
        graded=True,
        shaped=True,
    ),
    _system(
        "database",
        "the database",
        Payload.system_database,
        schemas.DATABASE,
        about=health_json.check("database"),
    ),
    _system(
        "redis",
        "Redis",
        Payload.system_redis,
        schemas.REDIS,
        about=health_json.check("redis"),
        graded=True,
    ),
    _system(
        "external",
        "the four providers",
        Payload.system_external,
        schemas.PROVIDERS,
        about=health_json.PROVIDERS,
    ),
    _system(
        "resources",
        "CPU, memory, disk, network",
        Payload.system_resources,
        schemas.RESOURCES,
        about=health_json.check("system_resources"),
        graded=True,
    ),
    _system(
        "application",
        "the workers, uptime, migrations",
        Payload.system_application,
        schemas.APPLICATION,
        about=health_json.check("application"),
        graded=True,
    ),
)
# The probes once more, in the words of Kubernetes.
TWINS = tuple(
    Endpoint(
        f"/{name}",
        f"{of}, as Kubernetes asks",
        Question(name).as_text,
        schemas.TWIN,
        vital=name == "livez",
        hot=True,
        shaped=True,
        twin=Question(name),
        media=TEXT,
    )
    for name, of in (("livez", "liveness"), ("readyz", "readiness"), ("startupz", "startup"))
)
# Beyond the documents: the other pods.
FLEET = _system("fleet", "how are the other pods?", Payload.fleet, schemas.FLEET, graded=True)
# Both metrics paths in their JSON form.
METRICS = _system(
    "metrics",
    "what Prometheus wants to know",
    Payload.system_metrics,
    schemas.NINE_METRICS,
    shaped=True,
)
OPENAPI = f"{PREFIX}/openapi.json"


def encode(document: Document) -> bytes:
    """A document as the bytes of a body."""
    return _encode(document).encode()


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A body waiting for the time of its answer."""

    version: Version
    until: float
    status: str
    parts: list[bytes]
    has_uptime: bool


class Answers:
    """The endpoints' answers of one worker. Threads may share one.

    Args:
        reader: The worker's eyes.
        payload: The documents.
    """

    def __init__(self, reader: Reader, payload: Payload) -> None:
        self.reader = reader
        self.payload = payload
        self._rendered: dict[tuple[str, bool], _Rendered] = {}
        self._second = -1, b""

    def answer(self, endpoint: Endpoint, *, trusted: bool) -> tuple[str, bytes]:
        """HTTP status line and body of an endpoint at this moment. Never raises."""
        try:
            return self._join(endpoint, trusted=trusted and endpoint.graded)
        except Exception:  # the rim of a request: a health answer is never a 500
            log.exception("answer failed", path=endpoint.path)
            return self._without_state(endpoint)

    def asked(self, endpoint: Endpoint, render: Render) -> tuple[str, bytes]:
        """An answer of another form, which the request has chosen. Never raises."""
        try:
            return _finish(render(self.payload, self.reader.pod(), trusted=False))
        except Exception:  # the rim of a request, as above
            log.exception("answer failed", path=endpoint.path)
            return self._without_state(replace(endpoint, render=render, shaped=True))

    def _join(self, endpoint: Endpoint, *, trusted: bool) -> tuple[str, bytes]:
        reader, key = self.reader, (endpoint.path, trusted)
        version = ALIVE[reader.alive()] if endpoint.vital else reader.version
        rendered = self._rendered.get(key)
        if rendered is None or rendered.version != version or reader.now() > rendered.until:
            rendered = self._rendered[key] = self._render(endpoint, version, trusted=trusted)
        body = self._moment(reader.wall()).join(rendered.parts)
        if rendered.has_uptime:
            body = body.replace(_UPTIME_MARK, str(round(reader.uptime, 2)).encode())
        return rendered.status, body

    def _moment(self, wall: float) -> bytes:
        """The time of an answer; of one second only the milliseconds are made anew."""
        second, rest_us = divmod(round(wall * 1_000_000), 1_000_000)
        known, text = self._second
        if second != known:
            text = timestamp(second)[:-4].encode()
            self._second = second, text
        return b"%b%03dZ" % (text, rest_us // 1000)

    def _render(self, endpoint: Endpoint, version: Version, *, trusted: bool) -> _Rendered:
        pod = self.reader.pod()
        if endpoint.vital:
            pod = replace(pod, alive=version == ALIVE[True])
        blank = replace(pod, at=_EPOCH, uptime=_UPTIME)
        status, body = _finish(self._document(endpoint, blank, trusted=trusted))
        return _Rendered(
            version, _until(pod), status, body.split(_EPOCH_MARK), _UPTIME_MARK in body
        )

    def _without_state(self, endpoint: Endpoint) -> tuple[str, bytes]:
        """The answer of an endpoint whose handler failed."""
        if endpoint.shaped:
            with suppress(Exception):  # it fails even so: the plain body is left
                return _finish(self._document(endpoint, self.reader.nothing(), trusted=False))
        body = error_body("internal_error", self.reader.wall(), enveloped=endpoint.enveloped)
        return UNAVAILABLE, encode(body)

    def _document(self, endpoint: Endpoint, pod: Pod, *, trusted: bool) -> Answer:
        return endpoint.render(self.payload, pod, trusted=trusted)


def _until(pod: Pod) -> float:
    # What could not be read is worth another look at the next question.
    return pod.snapshot.fresh_until if pod.readable else float("-inf")


def _finish(answer: Answer) -> tuple[str, bytes]:
    body = answer.body.encode() if isinstance(answer.body, str) else encode(answer.body)
    return (OK if answer.passes else UNAVAILABLE), body


def error_body(error: str, at: float, *, enveloped: bool) -> Document:
    """The body of a 404, a 405 or an internal error."""
    kind = "server_error" if error == "internal_error" else "http_error"
    data = {"error": error, "type": kind}
    if enveloped:
        return {"success": False, "timestamp": timestamp(at), "data": data}
    if error == "internal_error":
        return {"status": "unknown", "timestamp": timestamp(at), **data}
    return {**data, "timestamp": timestamp(at)}


def problem_body(error: str, status: str, at: float) -> Document:
    """The same as a problem of RFC 9457."""
    code, _, title = status.partition(" ")
    return {
        "type": "about:blank",
        "title": title,
        "status": int(code),
        "error": error,
        "timestamp": timestamp(at),
    }
