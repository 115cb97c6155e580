"""Show each use of the health endpoints against a running service.

    python scripts/health_check_demo.py [--base-url URL] [--only SECTION] [--json]

Exit status: 0 the demonstration ran to its end (an unhealthy service is a valid one), 1 an
endpoint was missing or contradicted the HTTP contract, or with --require-healthy something was
not 200, 2 the server is not reachable or the usage is wrong. Ctrl-C ends ``continuous`` with 0.

To ask from Python:

    from health_check_demo import HealthCheckClient

    client = HealthCheckClient("http://localhost:5003", timeout=2.0)
    if not client.get_readiness()["success"]:
        ...
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from threading import TIMEOUT_MAX, Event
from typing import Any

from health_check_smoke import (
    DEFAULT_BASE_URL,
    DEFAULT_TIMEOUT,
    GREEN,
    RED,
    Answer,
    Parser,
    Target,
    colored,
    guarded,
    plain,
    reachable,
    timestamp,
)
from health_contract import (
    BLUEPRINT,
    JSON,
    find,
    health_word,
    parse_exposition,
    shown,
    undisclosed,
    violations,
)

Reply = dict[str, Any]
Observer = Callable[[str, Answer], None]


class HealthCheckClient:
    """Asks one service; a server that is down or talks nonsense is a reply, not an exception.

    Every method returns a reply of four keys: ``success`` (bool, HTTP 200), ``status_code`` (int,
    None without an answer), ``data`` (parsed JSON, text or None) and ``error`` (str, None when an
    answer came and could be read).
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        timeout: float = DEFAULT_TIMEOUT,
        token: str | None = None,
        *,
        observe: Observer | None = None,
    ) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            base_url: Where the service is; a path prefix is kept.
            timeout: Longest time for one answer, in seconds.
            token: Bearer token that discloses details.
            observe: Called with the path and the raw answer of every request.

        Raises:
            ValueError: The URL, the timeout or the token cannot be used.
        """
        self._target = Target(base_url, timeout, token)
        self._observe = observe

    def get(self, path: str, *, accept: str | None = None) -> Reply:
        """Ask for any path."""
        answer = self._target.get(path, accept=accept)
        if self._observe:
            self._observe(path, answer)
        data, unparsable = answer.content()
        return {
            "success": answer.status == HTTPStatus.OK,
            "status_code": answer.status,
            "data": data,
            "error": "the answer is not JSON" if unparsable else answer.error,
        }

    def get_basic_health(self) -> Reply:
        """Verdict of the pod in two keys."""
        return self.get("/health")

    def get_detailed_health(self) -> Reply:
        """Everything at a glance."""
        return self.get("/health/detailed")

    def get_database_health(self) -> Reply:
        """The database, its parts and the connection pool of the pod."""
        return self.get("/health/database")

    def get_redis_health(self) -> Reply:
        """Redis and its parts."""
        return self.get("/health/redis")

    def get_external_services_health(self) -> Reply:
        """The four providers and their summary."""
        return self.get("/health/external")

    def get_standard_health(self) -> Reply:
        """The compact format for generic monitors."""
        return self.get("/health/standard")

    def get_metrics_health(self) -> Reply:
        """The verdict with numbers, as JSON."""
        return self.get("/health/metrics")

    def get_prometheus_metrics(self) -> Reply:
        """The exposition as text."""
        return self.get("/metrics")

    def get_system_health(self) -> Reply:
        """Comprehensive state."""
        return self.get(f"{BLUEPRINT}/")

    def get_simple_health(self) -> Reply:
        """Verdict of the pod with the two statuses behind it."""
        return self.get(f"{BLUEPRINT}/simple")

    def get_system_detailed(self) -> Reply:
        """Comprehensive state with process and environment."""
        return self.get(f"{BLUEPRINT}/detailed")

    def get_readiness(self) -> Reply:
        """Whether the pod wants traffic."""
        return self.get(f"{BLUEPRINT}/readiness")

    def get_liveness(self) -> Reply:
        """Whether the pod makes progress."""
        return self.get(f"{BLUEPRINT}/liveness")

    def get_startup(self) -> Reply:
        """Whether the pod has started."""
        return self.get(f"{BLUEPRINT}/startup")

    def get_resources(self) -> Reply:
        """CPU, memory, disk and network."""
        return self.get(f"{BLUEPRINT}/resources")

    def get_application(self) -> Reply:
        """The application and its workers."""
        return self.get(f"{BLUEPRINT}/application")

    def get_metrics(self) -> Reply:
        """The nine documented numbers, as JSON."""
        return self.get(f"{BLUEPRINT}/metrics", accept=JSON)


class Judge:
    """Observes every answer and remembers what was wrong with it.

    Attributes:
        problems: What was missing or contradicted the contract, a line each.
        refusals: The paths that were not answered with 200.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.refusals: list[str] = []

    def __call__(self, path: str, answer: Answer) -> None:
        """Judge one answer."""
        if answer.status is None:
            found = [answer.error or "no answer"]
        else:
            found = violations(path, answer.status, answer.headers, answer.body)
        self.problems += (f"{path}: {problem}" for problem in found)
        if answer.status != HTTPStatus.OK:
            self.refusals.append(path)


# --- what people see --------------------------------------------------------------------------


def rows(path: str, data: Any) -> Iterator[str]:
    """A JSON body as aligned lines of key and value."""
    endpoint = find(path)
    hidden = set(undisclosed(endpoint.body, data)) if endpoint else set()
    for key, value in _flat(data, ""):
        text = "not disclosed" if key in hidden else _text(value)
        yield f"    {plain(key):<68} {text}"


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return plain(value) if isinstance(value, str) else shown(value)


def _details(replies: Mapping[str, Reply]) -> Iterator[str]:
    for path, reply in replies.items():
        yield headline(path, reply)
        if isinstance(reply["data"], dict):
            yield from rows(path, reply["data"])


def headline(path: str, reply: Reply) -> str:
    """One line for one reply."""
    word = health_word(reply["data"]) or reply["error"] or ""
    return f"  GET {path:<36} {reply['status_code'] or '---'}  {plain(word)}".rstrip()


def _validation(replies: Mapping[str, Reply]) -> Iterator[str]:
    """Deployment validation: what to wait for before traffic is moved."""
    for path, reply in replies.items():
        yield headline(path, reply)
    answers = {
        "alive": replies[f"{BLUEPRINT}/liveness"],
        "ready": replies[f"{BLUEPRINT}/readiness"],
        "overall": replies[f"{BLUEPRINT}/"],
    }
    for question, reply in answers.items():
        yield f"    {question:<8} {'yes' if reply['success'] else 'no'}"
    valid = all(reply["success"] for reply in answers.values())
    yield f"    deployment {'valid' if valid else 'not valid'}"


def _families(replies: Mapping[str, Reply]) -> Iterator[str]:
    for path, reply in replies.items():
        yield headline(path, reply)
        found = parse_exposition(reply["data"] if isinstance(reply["data"], str) else "")
        for family, kind in found.types.items():
            count = sum(sample.family == family for sample in found.samples)
            yield f"    {family:<68} {plain(kind)}, {count} series"


# --- the sections -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """One use of the endpoints.

    Attributes:
        title: What it shows.
        paths: What it asks for, in order.
        show: The replies as lines.
        accept: The form to ask for, None for the default.
    """

    title: str
    paths: tuple[str, ...]
    show: Callable[[Mapping[str, Reply]], Iterator[str]] = _details
    accept: str | None = None


SECTIONS: Mapping[str, Section] = {
    "basic": Section(
        "load balancers, and people who look",
        (
            "/health",
            f"{BLUEPRINT}/simple",
            "/health/detailed",
            f"{BLUEPRINT}/detailed",
        ),
    ),
    "kubernetes": Section(
        "probes and deployment validation",
        tuple(f"{BLUEPRINT}/{path}" for path in ("liveness", "readiness", "startup", "")),
        _validation,
    ),
    "database": Section(
        "connection, response and pool", ("/health/database", f"{BLUEPRINT}/database")
    ),
    "redis": Section("connection, cache and memory", ("/health/redis", f"{BLUEPRINT}/redis")),
    "external": Section("the four providers", ("/health/external", f"{BLUEPRINT}/external")),
    "standard": Section("generic monitors", ("/health/standard",)),
    "metrics": Section(
        "numbers as JSON",
        ("/health/metrics", f"{BLUEPRINT}/resources", f"{BLUEPRINT}/application"),
    ),
    "prometheus": Section("the exposition", ("/metrics",), _families),
    "integration": Section(
        "the nine numbers for other systems", (f"{BLUEPRINT}/metrics",), accept=JSON
    ),
    "continuous": Section(
        "monitoring, a line per round",
        ("/health", f"{BLUEPRINT}/", f"{BLUEPRINT}/readiness", f"{BLUEPRINT}/liveness"),
    ),
}


def ask(client: HealthCheckClient, section: Section) -> dict[str, Reply]:
    """Path -> reply, for every path of a section."""
    return {path: client.get(path, accept=section.accept) for path in section.paths}


def round_line(asked_at: str, replies: Mapping[str, Reply]) -> str:
    """One line of continuous monitoring."""
    names = ("basic", "system", "readiness", "liveness")
    words = (health_word(reply["data"]) or reply["error"] for reply in replies.values())
    stated = (f"{name} {plain(word or '-')}" for name, word in zip(names, words, strict=True))
    return f"  {asked_at}  {'  '.join(stated)}"


class Demo:
    """One run of the command.

    Attributes:
        judge: What was wrong with the answers.
        document: What --json prints.
    """

    def __init__(
        self, options: argparse.Namespace, target: Target, wait: Callable[[float], object]
    ) -> None:
        self.judge = Judge()
        self.document: dict[str, Any] = {
            "timestamp": timestamp(),
            "base_url": target.base_url,
            "sections": {},
            "problems": self.judge.problems,
        }
        self._options = options
        self._wait = wait
        self._client = HealthCheckClient(
            options.base_url, options.timeout, options.token, observe=self.judge
        )

    def run(self) -> int:
        """Show every chosen section; the exit status."""
        ended = True
        for name in SECTIONS:
            if name in (self._options.only or SECTIONS):
                self._say(f"{name}: {SECTIONS[name].title}")
                ended = self._continuous() if name == "continuous" else self._once(name)
        self._conclude()
        return self._status() if ended else 0

    def _once(self, name: str) -> bool:
        replies = ask(self._client, SECTIONS[name])
        self.document["sections"][name] = replies
        for line in SECTIONS[name].show(replies):
            self._say(line)
        return True

    def _continuous(self) -> bool:
        """Whether it came to its end; False when Ctrl-C ended it."""
        rounds = self.document["sections"]["continuous"] = []
        try:
            for number in range(self._options.iterations):
                if number:
                    self._wait(self._options.interval)
                asked_at = timestamp()
                replies = ask(self._client, SECTIONS["continuous"])
                rounds.append({"timestamp": asked_at, "replies": replies})
                self._say(round_line(asked_at, replies))
        except KeyboardInterrupt:
            return False
        return True

    def _status(self) -> int:
        if self.judge.problems or (self._options.require_healthy and self.judge.refusals):
            return 1
        return 0

    def _conclude(self) -> None:
        if self._options.json:
            print(json.dumps(self.document, indent=2))
        for problem in self.judge.problems:
            self._say(f"{colored('WRONG', RED, self._options)}  {plain(problem)}")
        if not self.judge.problems:
            self._say(colored("every answer keeps the contract", GREEN, self._options))

    def _say(self, line: str) -> None:
        if not self._options.json:
            print(line, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--only",
        metavar="SECTION",
        action="append",
        choices=SECTIONS,
        help=f"show this section, repeatable: {', '.join(SECTIONS)}",
    )
    parser.add_argument(
        "--iterations", metavar="N", type=int, default=10, help="rounds of continuous (default: 10)"
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=float,
        default=2.0,
        help="pause between the rounds of continuous (default: 2)",
    )
    parser.add_argument(
        "--require-healthy", action="store_true", help="exit 1 when something is not 200"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(argv)
    if options.iterations < 1:
        parser.error("argument --iterations: must be at least 1")
    if not 0 <= options.interval <= TIMEOUT_MAX:
        parser.error("argument --interval: must be at least 0")
    return options


def _run(argv: Sequence[str] | None, wait: Callable[[float], object]) -> int:
    options = _parse(argv)
    target, _ = reachable(options)
    return Demo(options, target, wait).run()


def main(
    argv: Sequence[str] | None = None, *, wait: Callable[[float], object] | None = None
) -> int:
    """Run the command; see the head of this file.

    Args:
        argv: Its arguments, those of the process by default.
        wait: Lets so many seconds pass between two rounds of ``continuous``.
    """
    return guarded(lambda: _run(argv, wait or Event().wait))


if __name__ == "__main__":
    sys.exit(main())
