"""Whichever worker answers: one truth, of the newest publication."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from scripts.health_contract import violations
from service.checks import definitions
from service.settings import Settings
from tests.pod import Answer, Pod, eventually
from tests.servers.redis import RedisServer, binary

SYSTEM = "/api/system/health/"
SIMPLE, READINESS = f"{SYSTEM}simple", f"{SYSTEM}readiness"
METRICS = "/health/metrics"
PATHS = (SYSTEM, "/health/detailed", METRICS, SIMPLE, READINESS, "/health")
TIME_OF_ANSWER = re.compile(rb'"timestamp":"[^"]*"|"uptime_seconds":[0-9.]+')
# Of a publication: when each check ran last. And of the reader: which of them are too old by now.
MARKS = re.compile(rb'"last_check":(?:"[^"]*"|null)|"error":"stale"')
CLIENTS, RATE = 8, 200.0
# The clock of the answers is not the one by which results grow old.
CLOCKS = 0.5


@dataclass
class Round:
    """Every path, asked one after the other while nothing was published.

    Attributes:
        marks: Which publication it was.
        answers: What it looked like on each path.
    """

    marks: tuple[bytes, ...]
    answers: dict[str, Answer]


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        rounds: The rounds within one publication.
        answers: Every answer, those of other rounds included.
        failures: Questions without an answer.
    """

    rounds: list[Round] = field(default_factory=list)
    answers: list[tuple[str, Answer]] = field(default_factory=list)
    failures: list[OSError] = field(default_factory=list)

    @property
    def publications(self) -> set[tuple[bytes, ...]]:
        """The publications of which there is a round."""
        return {each.marks for each in list(self.rounds)}


@contextmanager
def asking(pod: Pod) -> Iterator[Seen]:
    """Clients that ask both listeners, each question over a connection of its own."""
    seen, stop = Seen(), threading.Event()

    def one_round(turn: int) -> None:
        asked = [
            (path, pod.get(path, health=bool((turn + place) % 2)))
            for place, path in enumerate((*PATHS, SYSTEM))
        ]
        seen.answers.extend(asked)
        before, after = (MARKS.findall(answer.body) for _, answer in (asked[0], asked[-1]))
        if before == after:
            seen.rounds.append(Round(tuple(before), dict(asked)))

    def client(turn: int) -> None:
        next_at = time.monotonic()
        while not stop.wait(max(0.0, next_at - time.monotonic())):
            next_at = max(next_at + CLIENTS * (len(PATHS) + 1) / RATE, time.monotonic() - 1)
            turn += 1
            try:
                one_round(turn)
            except OSError as error:
                seen.failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_one_body_for_each_publication(make_pod: Callable[..., Pod]) -> None:
    with RedisServer(binary("valkey")) as redis:
        pod = make_pod(WEB_CONCURRENCY="4", REDIS_URL=redis.url).start()
        pod.wait_for(200, "/health")
        finished = {worker.slot: worker.finished for worker in pod.workers()}
        with asking(pod) as seen:
            for _ in range(3):
                redis.stop()
                pod.wait_for(503, "/health")
                redis.start()
                pod.wait_for(200, "/health")
            enough = len(seen.publications) + 5
            eventually(
                lambda: len(seen.publications) > max(enough, 20), "publications were compared"
            )
    answered = {worker.slot: worker.finished - finished[worker.slot] for worker in pod.workers()}
    print(
        f"{len(seen.answers)} answers by web workers {sorted(answered.values())} and the health "
        f"worker; {len(seen.rounds)} rounds within {len(seen.publications)} publications"
    )
    assert seen.failures == []
    assert sum(count > 20 for count in answered.values()) > 1, "more than one of them answered"
    _one_body_each(seen.rounds)
    for each in seen.rounds:
        _no_contradiction({path: answer.json for path, answer in each.answers.items()})
        statuses = {path: each.answers[path].status for path in ("/health", SIMPLE, READINESS)}
        assert len(set(statuses.values())) == 1, statuses
    expiry = expiries(pod)
    for path, answer in seen.answers:
        assert violations(path, answer.status, answer.headers, answer.body) == []
        if path == SYSTEM:
            _not_older_than_the_bound(answer.data, expiry)


def _one_body_each(rounds: list[Round]) -> None:
    bodies: dict[tuple[str, tuple[bytes, ...]], set[bytes]] = {}
    for each in rounds:
        for path, answer in each.answers.items():
            body = TIME_OF_ANSWER.sub(b"", answer.body)
            bodies.setdefault((path, each.marks), set()).add(body)
    assert {path for path, _ in bodies} == set(PATHS)
    assert {key: found for key, found in bodies.items() if len(found) > 1} == {}


def _no_contradiction(said: dict[str, Any]) -> None:
    """What two endpoints both say, they say alike."""
    system, detailed, metrics = said[SYSTEM]["data"], said["/health/detailed"], said[METRICS]
    simple, readiness = said[SIMPLE]["data"], said[READINESS]["data"]
    assert system["overall_status"] == detailed["status"] == metrics["status"]
    for name in ("database", "redis"):
        found = system["services"][name]["status"]
        assert found == detailed["services"][name]["status"] == metrics["checks"][name]["status"]
        assert found == simple[name] == readiness["services"][name]
    for name, check in metrics["checks"].items():
        if name != "external_apis":
            assert check["last_check"] == system["services"][name]["last_check"]
            assert check["error"] == system["services"][name]["error"]
    for key in ("unhealthy_services", "warning_services", "unknown_services"):
        assert system[key] == detailed[key]
    for part in ("cpu", "memory", "disk"):
        resources = system["services"]["system_resources"][part]
        assert resources == detailed["system_resources"][part]
    assert readiness["ready"] == (said["/health"]["status"] in ("healthy", "warning"))


def expiries(pod: Pod) -> dict[str, float]:
    """How old the result of each check may become, by the pod's own settings."""
    given = {key.lower(): value for key, value in pod.environ.items() if key.startswith("HEALTH_")}
    checks = definitions(Settings(**given), redis=True)
    return {check.name: check.expiry for check in checks}


def _not_older_than_the_bound(data: Any, expiry: dict[str, float]) -> None:
    for name in ("database", "redis", "system_resources", "application"):
        service = data["services"][name]
        if service["status"] in ("not_configured", "unknown"):
            continue
        age = _time(data["timestamp"]) - _time(service["last_check"])
        assert age.total_seconds() <= expiry[name] + CLOCKS, name


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
