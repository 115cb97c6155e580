"""What holds for every answer of a pod, in whatever state it is.

    audit = Audit(pod, secrets=("s3cr3t", ...))
    audit()                 every endpoint, both listeners, trusted and not

Each answer keeps the contract by itself (``violations``), none gives anything away, and the set
of keys of each endpoint is what it was when the same pod was audited before.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from scripts.health_contract import ENDPOINTS, OPENMETRICS, violations
from tests.pod import ROOT, Answer, Pod, eventually

PREFIX = "/api/system/health"
PATHS = tuple(endpoint.path for endpoint in ENDPOINTS)  # the twenty, and "/"
RESOURCES = f"{PREFIX}/resources"
METRICS = ("/metrics", f"{PREFIX}/metrics")
FORMATS = ("text/plain", OPENMETRICS.partition(";")[0], "application/json")
WEB, HEALTH = False, True  # the listeners, as ``Pod.get`` takes them
BOTH = (WEB, HEALTH)
STRANGER = {"Host": "mingus.example"}  # a caller by name is not trusted

# What no answer holds, whatever has gone wrong behind it.
GIVEAWAYS = re.compile(
    r"://|Traceback|Exception|\w+Error\b|[Ee]rrno|psycopg|sqlalchemy|urllib3|redis\.\w+"
    r"|\bSELECT\b|\bFATAL\b|site-packages|/usr/|/home/|/tmp/|0x[0-9a-f]{6}",
)


@dataclass
class Audit:
    """Looks at everything a pod says.

    Attributes:
        pod: The pod.
        secrets: What no body may hold: passwords, keys, roles, hosts, ports, names.
        application: Whether another application is mounted, which then has ``/``.
    """

    pod: Pod
    secrets: tuple[str, ...] = ()
    application: bool = False
    _shapes: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def __call__(self, listeners: Iterable[bool] = BOTH) -> None:
        """Fails with everything that is wrong, a line each."""
        wrong = [line for health in listeners for line in self._listener(health=health)]
        assert not wrong, "\n".join(wrong)

    def _listener(self, *, health: bool) -> Iterator[str]:
        for path in PATHS:
            if path == "/" and (health or self.application):
                continue
            for trusted in (True, False):
                for accept in formats(path, trusted=trusted):
                    caller = {} if trusted else STRANGER
                    answer = self.pod.get(path, health=health, Accept=accept, **caller)
                    about = f"{'health' if health else 'web'} {path} trusted={trusted}"
                    for problem in self._problems(path, accept, answer, trusted=trusted):
                        yield f"{about} {answer.status}: {problem}"

    def _problems(self, path: str, accept: str, answer: Answer, *, trusted: bool) -> Iterator[str]:
        yield from violations(path, answer.status, answer.headers, answer.body, trusted=trusted)
        text = answer.body.decode()
        if "json" in answer.headers["content-type"]:
            body = answer.json
            text = str(without_address(body) if trusted else body)
            yield from self._shape(path, accept, body)
            if "success" in body and body["success"] != (answer.status == 200):
                yield f"success is {body['success']}"
        yield from (f"gives away {found!r}" for found in self.given_away(text))

    def _shape(self, path: str, accept: str, body: Any) -> Iterator[str]:
        # The names of startup tasks are internal, so there the whole object is null.
        keys = frozenset(key for key in keys_of(body) if not key.startswith("data.tasks."))
        known = self._shapes.setdefault((path, accept), keys)
        if keys != known:
            yield f"keys come and go: {sorted(keys ^ known)}"

    def given_away(self, text: str) -> list[str]:
        """What a text tells that it must not."""
        private = (*self.secrets, str(self.pod.directory), str(ROOT))
        generic = [match[0] for match in GIVEAWAYS.finditer(text)]
        return generic + [secret for secret in private if secret in text]


def formats(path: str, *, trusted: bool) -> tuple[str, ...]:
    """What to ask a path for; each metrics format is asked for by somebody."""
    text, open_, json = FORMATS
    if path not in METRICS:
        return ("*/*",)
    return (text, json) if trusted == (path == METRICS[0]) else (open_,)


def without_address(body: Any) -> Any:
    """A body without the address of Redis, which a trusted caller may see."""
    if "connectivity" not in body:
        return body
    connectivity = {**body["connectivity"], "host": None, "port": None, "db": None}
    return {**body, "connectivity": connectivity}


def keys_of(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a document, those of objects in it included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from keys_of(inner, f"{prefix}{key}.")


# -- questions the tests ask again and again


def system(pod: Pod, *, health: bool = WEB) -> Any:
    """What ``/api/system/health/`` says, to a trusted caller."""
    return pod.get(f"{PREFIX}/", health=health).data


def checks(pod: Pod, *, health: bool = WEB) -> dict[str, tuple[str, str | None]]:
    """Status and code of every check."""
    return {
        name: (check["status"], check.get("error"))
        for name, check in services(pod, health=health).items()
    }


def services(pod: Pod, *, health: bool = WEB) -> dict[str, Any]:
    """The service objects of every check, by the name of the check."""
    found = dict(system(pod, health=health)["services"])
    return {**found.pop("external_services"), **found}


def statuses(pod: Pod, *, health: bool = WEB) -> dict[str, int | None]:
    """HTTP status of every path; None where there is no answer."""
    paths = [path for path in PATHS if path != "/" or health is WEB]
    return {path: pod.status(path, health=health) for path in paths}


def becomes(look: Callable[[], Any], wanted: Any, what: str) -> None:
    """Waits until ``look`` gives what is wanted; the failure tells what it gave instead."""
    seen: Any = None

    def there() -> bool:
        nonlocal seen
        seen = look()
        return bool(seen == wanted)

    try:
        eventually(there, what)
    except AssertionError:
        raise AssertionError(f"{what}: wanted {wanted!r}, seen {seen!r}") from None


def comes_to(pod: Pod, name: str, status: str, code: str | None = None) -> None:
    """Waits until a check has a status and a code, on both listeners."""
    for health in BOTH:
        becomes(
            lambda health=health: checks(pod, health=health)[name],
            (status, code),
            f"status and code of {name}",
        )


def comes_to_be_well(pod: Pod) -> None:
    """Waits until every check is healthy and every path is answered 200, on both listeners.

    But for the resources: how busy the machine is that runs the tests must not matter to them.
    """
    for health in BOTH:
        becomes(lambda health=health: _ills(pod, health=health), [], "what is wrong")


def _ills(pod: Pod, *, health: bool) -> list[object]:
    ill = [
        (name, found)
        for name, found in checks(pod, health=health).items()
        if found[0] not in ("healthy", "not_configured") and name != "system_resources"
    ]
    return ill or [
        (path, status)
        for path, status in statuses(pod, health=health).items()
        if status != 200 and path != RESOURCES
    ]


def comes_to_be_entirely_well(pod: Pod) -> None:
    """Waits until every path is answered 200, the resources too unless the machine is too busy."""
    comes_to_be_well(pod)
    becomes(lambda: _ills_of_the_resources(pod), [], "what is wrong with the resources")


def _ills_of_the_resources(pod: Pod) -> list[object]:
    """What is wrong besides the CPU, which may well be busy, and must be said to be then."""
    answer = pod.get(RESOURCES)
    parts = {part: answer.data[part]["error"] for part in ("cpu", "memory", "disk")}
    critical = sorted(part for part, code in parts.items() if code == f"{part}_critical")
    if answer.status == 200 or critical == ["cpu"]:
        return []
    return [answer.status, parts]


# -- witnesses: they look on while a test does something


@contextmanager
def witness(look: Callable[[], Any]) -> Iterator[list[Any]]:
    """Asks again and again in another thread; the list holds every answer that was not None.

    What ``look`` raises for want of an answer is no answer.
    """
    seen: list[Any] = []
    enough = threading.Event()

    def watch() -> None:
        while True:
            with suppress(OSError, HTTPException):
                found = look()
                if found is not None:
                    seen.append(found)
            if enough.wait(0.1):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        enough.set()
        thread.join()


VERDICTS = ("/health", f"{PREFIX}/simple", f"{PREFIX}/readiness")


@contextmanager
def agreement(pod: Pod, *, listeners: Iterable[bool] = BOTH) -> Iterator[list[Any]]:
    """Fails when the three verdicts of the pod ever differ while nothing changes."""
    listeners = tuple(listeners)

    def look() -> tuple[int, ...] | None:
        found: list[int] = []
        for health in listeners:
            asked = [pod.get(path, health=health).status for path in (*VERDICTS, "/health")]
            if asked[0] != asked[-1]:
                return None  # it changed while we asked
            found += asked
        return tuple(found)

    with witness(look) as seen:
        yield seen
    per_listener = len(VERDICTS) + 1
    for statuses_seen in seen:
        for start in range(0, len(statuses_seen), per_listener):
            together = statuses_seen[start : start + per_listener]
            assert len(set(together)) == 1, f"{VERDICTS} said {together}"
