"""A pod as its endpoints show it: what ``status``, ``watch`` and ``fleet`` say of a URL.

What is asked is asked over one connection and within one time limit, which holds from outside:
no name server that hangs and no server that drips is waited for any longer. Certificates are
verified, redirects are not followed and no proxy is used, so the token reaches the host that was
named and no other. It comes from HEALTH_DETAILS_TOKEN, because everybody on a host may read the
command lines of its processes.

What endpoints do not say is null; what they say to trusted callers only, is null to others.
"""

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    PlainSerializer,
)

from service.advice import Runbook
from service.cli.address import cause, split
from service.cli.output import NoAnswer
from service.health import CheckFailed, Lifecycle, Scope, Status
from service.health.pod import obstacle
from service.probes.limit import Aside, Limit
from service.settings import Settings
from service.web.endpoints import PREFIX
from service.web.payload import timestamp

ANSWERING = (200, 503)
LARGEST_BODY = 1024 * 1024

Word = Annotated[
    Status,
    BeforeValidator({status.word: status for status in Status}.get),
    PlainSerializer(lambda status: status.word),
]
Moment = Annotated[AwareDatetime, PlainSerializer(lambda moment: timestamp(moment.timestamp()))]
Answer = TypeVar("Answer", bound=BaseModel)


class _Check(BaseModel):
    status: Word
    response_time_ms: FiniteFloat | None = None
    error: str | None = None
    last_check: AwareDatetime | None = None


class _Resource(BaseModel):
    status: Word
    error: str | None
    usage_percent: FiniteFloat | None


class _Resources(_Check):
    cpu: _Resource
    memory: _Resource
    disk: _Resource


class _Application(_Check):
    uptime_seconds: FiniteFloat
    active_connections: int | None
    workers_expected: int | None
    workers_live: int | None


class _Services(BaseModel, extra="allow"):
    __pydantic_extra__: dict[str, _Check] = Field(init=False)
    database: _Check
    redis: _Check
    external_services: dict[str, _Check]
    system_resources: _Resources
    application: _Application


class _Detailed(BaseModel):
    overall_status: Word
    timestamp: AwareDatetime
    lifecycle: Lifecycle
    services: _Services


class _Readiness(BaseModel):
    ready: bool
    services: dict[str, Word]


class _Liveness(BaseModel):
    alive: bool


class _Task(BaseModel):
    status: Word
    error: str | None


class _Startup(BaseModel):
    started: bool
    tasks: dict[str, _Task] | None


class _Part(BaseModel):
    passed: bool


class _Twin(BaseModel):
    checks: dict[str, _Part]


class _FleetCheck(BaseModel):
    status: Word
    failing_elsewhere: int
    origin: Literal["local", "shared"] | None


class _Member(BaseModel):
    pod: str
    host: str | None
    release: str | None
    lifecycle: str | None
    ready: bool | None
    workers_ok: int | None
    workers_total: int | None
    failing: list[str] | None
    age_seconds: FiniteFloat | None


class _Fleet(BaseModel):
    timestamp: AwareDatetime = Field(exclude=True)
    scope: Scope
    fresh: bool
    last_sync: Moment | None
    floor_percent: FiniteFloat | None
    this_pod: str | None
    pods_total: int | None
    pods_ready: int | None
    leases: dict[str, str | None] | None
    checks: dict[str, _FleetCheck] | None
    pods: list[_Member] | None


class Remote:
    """Eyes on the pod at an address.

    Args:
        url: Where its paths begin.
        given: For the token, and where the runbook is.
        seconds: How long all answers together may take.

    Raises:
        NoAnswer: The address cannot be asked.
    """

    def __init__(self, url: str, given: Settings, seconds: float) -> None:
        found = split(url)
        if found is None or found.query or found.fragment or not _sendable(found.path):
            raise NoAnswer("the URL must be like http://localhost:5004, where a pod's paths begin")
        if "@" in found.netloc:
            raise NoAnswer("the URL has a login in it: leave it out, others read command lines")
        self.url = url.rstrip("/")
        self._parts = urlsplit(self.url)
        self._headers = {"Accept": "application/json", "User-Agent": "mingus-health"}
        for token in given.health_details_token[:1]:
            if not _sendable(token.get_secret_value()):
                raise NoAnswer("HEALTH_DETAILS_TOKEN: holds what no header can carry")
            self._headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        self._seconds = seconds
        self._aside = Aside()
        self._runbook = Runbook(given.runbook)

    def document(self) -> dict[str, Any]:
        """The pod at this moment, in the keys of ``status``.

        Raises:
            NoAnswer: There is none, none in time, or none of a pod.
        """
        return self._within_limit(self._document)

    def fleet(self) -> dict[str, Any]:
        """The fleet as the pod last saw it, in the keys of ``fleet``.

        Raises:
            NoAnswer: There is none, none in time, or none of a pod.
        """
        return self._within_limit(self._fleet)

    def _within_limit(self, ask: Callable[[HTTPConnection], dict[str, Any]]) -> dict[str, Any]:
        connection = self._connection()
        limit = Limit(self._seconds, time.monotonic)
        try:
            with closing(limit):
                return self._aside.call(lambda: ask(connection), limit)
        except (CheckFailed, TimeoutError):
            with suppress(OSError, AttributeError):  # ends the thread, if it has got so far
                connection.sock.shutdown(SHUT_RDWR)
            why = f"no whole answer within {self._seconds:g} s"
        except (OSError, HTTPException) as error:
            why = cause(error)
        except (ValueError, TypeError, LookupError, RecursionError):
            why = "what answers there is not this service"
        raise NoAnswer(f"{self.url}: {why}")

    def _connection(self) -> HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return HTTPConnection(host, port, timeout=self._seconds)
        context = ssl.create_default_context()
        return HTTPSConnection(host, port, timeout=self._seconds, context=context)

    def _fleet(self, connection: HTTPConnection) -> dict[str, Any]:
        with closing(connection):
            found = self._get(connection, "fleet", _Fleet)
        age = found.last_sync and _age(found.timestamp, found.last_sync)
        return {"configured": None, "age_seconds": age, **found.model_dump(mode="json")}

    def _document(self, connection: HTTPConnection) -> dict[str, Any]:
        with closing(connection):
            return document(
                self.url,
                self._runbook,
                self._get(connection, "detailed", _Detailed),
                self._get(connection, "readiness", _Readiness),
                self._get(connection, "liveness", _Liveness),
                self._get(connection, "startup", _Startup),
                _Twin.model_validate(self._fetch(connection, "/startupz")),
            )

    def _get(self, connection: HTTPConnection, name: str, shape: type[Answer]) -> Answer:
        document = self._fetch(connection, f"{PREFIX}/{name}")
        return shape.model_validate({"timestamp": document["timestamp"], **document["data"]})

    def _fetch(self, connection: HTTPConnection, path: str) -> Any:
        connection.request("GET", f"{self._parts.path}{path}", headers=self._headers)
        with connection.getresponse() as response:
            body = response.read(LARGEST_BODY)
            if response.status not in ANSWERING:
                raise HTTPException(f"answers {response.status} to {path}")
            if response.length and len(body) < LARGEST_BODY:
                raise HTTPException("the answer breaks off")
        return json.loads(body)


def _sendable(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def document(
    url: str,
    runbook: Runbook,
    detailed: _Detailed,
    readiness: _Readiness,
    liveness: _Liveness,
    startup: _Startup,
    awaited: _Twin,
) -> dict[str, Any]:
    """The keys of ``status`` from what endpoints say."""
    application, resources = detailed.services.application, detailed.services.system_resources
    checks = _checks(detailed.services)
    return {
        "timestamp": timestamp(detailed.timestamp.timestamp()),
        "url": url,
        "pod_id": None,
        "lifecycle": detailed.lifecycle.value,
        "uptime_seconds": application.uptime_seconds,
        "booted_at": None,
        "requests_in_flight": application.active_connections,
        "requests_finished": None,
        "web_workers": {
            "expected": application.workers_expected,
            "live": application.workers_live,
        },
        "usage_percent": {
            part: getattr(resources, part).usage_percent for part in ("cpu", "memory", "disk")
        },
        "verdicts": {
            "liveness": liveness.alive,
            "readiness": readiness.ready,
            "startup": startup.started,
            "overall": detailed.overall_status.word,
        },
        "obstacles": list(_obstacles(detailed.lifecycle, checks, readiness, startup, awaited)),
        "runbook": runbook.pod(detailed.lifecycle, ready=readiness.ready),
        "tasks": startup.tasks
        and {
            name: {"status": task.status.word, "error": task.error}
            for name, task in startup.tasks.items()
        },
        "checks": {
            name: {
                "status": check.status.word,
                "response_time_ms": check.response_time_ms,
                "error": check.error,
                "last_check": check.last_check and timestamp(check.last_check.timestamp()),
                "age_seconds": check.last_check and _age(detailed.timestamp, check.last_check),
                "critical": name in readiness.services,
            }
            for name, check in checks.items()
        },
    }


def _checks(services: _Services) -> dict[str, _Check]:
    """Every check by its name, in the documented order."""
    resources = services.system_resources
    parts = (resources.cpu, resources.memory, resources.disk)
    # The one object without a code of its own: it has the status of its worst part.
    codes = [part.error for part in parts if part.status is resources.status]
    return {
        "database": services.database,
        "redis": services.redis,
        **services.external_services,
        "system_resources": resources.model_copy(update={"error": (*codes, None)[0]}),
        "application": services.application,
        **services.__pydantic_extra__,
    }


def _age(answered: datetime, then: datetime) -> float:
    """Seconds by the pod's own clock: that of whoever asks may be wrong."""
    return round(max(0.0, (answered - then).total_seconds()), 1)


def _obstacles(
    lifecycle: Lifecycle,
    checks: dict[str, _Check],
    readiness: _Readiness,
    startup: _Startup,
    awaited: _Twin,
) -> Iterator[str]:
    """Why the pod is not ready, in the words of ``Pod.obstacles``."""
    starting = lifecycle is Lifecycle.STARTING
    if lifecycle is not Lifecycle.SERVING:
        yield lifecycle.value
    needed = {*readiness.services}
    if starting:
        needed |= {name for name, part in awaited.checks.items() if not part.passed}
    for name, check in checks.items():
        first = starting and check.last_check is None
        if not check.status.passes and (name in needed or first):
            yield obstacle(name, check.status, check.error)
    for name, task in (startup.tasks or {}).items() if starting else ():
        if task.status is not Status.HEALTHY:
            yield obstacle(f"task {name}", task.status, task.error)
