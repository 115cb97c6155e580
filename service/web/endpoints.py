"""Every endpoint, declared once: its question, its document and what its verdict is about.

The routes, the probes answered from bytes, the OpenAPI description and the documentation's tables
all follow from here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.web import schemas
from service.web.health_json import ALIVE, OVERALL, POD, PROVIDERS, STARTED, Subject, check
from service.web.payload import Answer, Payload
from service.web.schemas import Schema
from service.web.twins import Question

PREFIX = "/api/system/health"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
PROBLEM = "application/problem+json"
HTML = "text/html; charset=utf-8"

Render = Callable[..., Answer]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One documented path.

    Attributes:
        path: Without a trailing slash.
        summary: The question it answers.
        render: The method of ``Payload`` that makes its document.
        document: The schema of that; of a twin, of its other form.
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
    about: Subject | None = None
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


def _system(
    name: str,
    summary: str,
    render: Render,
    data: Schema,
    about: Subject | None = None,
    **more: Any,
) -> Endpoint:
    path = f"{PREFIX}/{name}" if name else PREFIX
    return Endpoint(path, summary, render, schemas.envelope(data), about, **more)


INDEX = Endpoint("/", "which service is this?", Payload.index, schemas.INDEX, shaped=True)
ENDPOINTS = (
    Endpoint(
        "/health", "is the pod well?", Payload.health, schemas.HEALTH, POD, hot=True, shaped=True
    ),
    Endpoint(
        "/health/detailed",
        "what is wrong, at a glance?",
        Payload.detailed,
        schemas.DETAILED,
        OVERALL,
        graded=True,
    ),
    Endpoint(
        "/health/database",
        "connection, tables, pools",
        Payload.database,
        schemas.DATABASE_PARTS,
        check("database"),
    ),
    Endpoint(
        "/health/redis",
        "connection, read and write, memory",
        Payload.redis,
        schemas.REDIS_PARTS,
        check("redis"),
        graded=True,
    ),
    Endpoint(
        "/health/external",
        "the four providers",
        Payload.external,
        schemas.EXTERNAL_PARTS,
        PROVIDERS,
    ),
    Endpoint(
        "/health/standard", "all, in a compact form", Payload.standard, schemas.STANDARD, OVERALL
    ),
    Endpoint(
        "/health/metrics",
        "all, with numbers",
        Payload.metrics,
        schemas.METRICS,
        OVERALL,
        graded=True,
    ),
    _system("", "everything", Payload.comprehensive, schemas.SYSTEM, OVERALL, graded=True),
    _system(
        "simple",
        "is the pod well, and its two stores?",
        Payload.simple,
        schemas.SIMPLE,
        POD,
        hot=True,
    ),
    _system(
        "detailed",
        "everything, with the process",
        Payload.comprehensive_detailed,
        schemas.SYSTEM_DETAILED,
        OVERALL,
        graded=True,
    ),
    _system(
        "readiness",
        "should this pod get traffic?",
        Payload.readiness,
        schemas.READINESS,
        POD,
        hot=True,
        shaped=True,
    ),
    _system(
        "liveness",
        "does any web worker make progress?",
        Payload.liveness,
        schemas.LIVENESS,
        ALIVE,
        hot=True,
        vital=True,
        shaped=True,
    ),
    _system(
        "startup",
        "has the pod begun to serve?",
        Payload.startup,
        schemas.STARTUP,
        STARTED,
        hot=True,
        graded=True,
        shaped=True,
    ),
    _system(
        "database", "the database", Payload.system_database, schemas.DATABASE, check("database")
    ),
    _system("redis", "Redis", Payload.system_redis, schemas.REDIS, check("redis"), graded=True),
    _system(
        "external", "the four providers", Payload.system_external, schemas.PROVIDERS, PROVIDERS
    ),
    _system(
        "resources",
        "CPU, memory, disk, network",
        Payload.system_resources,
        schemas.RESOURCES,
        check("system_resources"),
        graded=True,
    ),
    _system(
        "application",
        "the workers, uptime, migrations",
        Payload.system_application,
        schemas.APPLICATION,
        check("application"),
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
# For people; and the stream that tells the page of news, which only the health listener has.
PAGE = "/status"
EVENTS = f"{PAGE}/events"
