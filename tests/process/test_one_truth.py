"""Whichever worker answers: one truth, of the newest publication."""

import re
from collections.abc import Callable
from datetime import datetime

from scripts.health_contract import violations
from tests.load import probing
from tests.pod import Answer, Pod, eventually
from tests.servers.redis import RedisServer, binary

PATHS = (
    "/api/system/health/",
    "/health/detailed",
    "/health/metrics",
    "/api/system/health/simple",
    "/api/system/health/readiness",
    "/health",
)
TIME_OF_ANSWER = re.compile(rb'"timestamp":"[^"]*"|"uptime_seconds":[0-9.]+')
MARKED = ("/api/system/health/", "/health/detailed")
# Of a publication: when each check ran last.
MARKS = re.compile(rb'"last_check":("[^"]*"|null)')


def test_one_body_for_each_publication(make_pod: Callable[..., Pod]) -> None:
    with RedisServer(binary("valkey")) as redis:
        pod = make_pod(WEB_CONCURRENCY="4", REDIS_URL=redis.url).start()
        pod.wait_for(200, "/health")
        with probing(pod, PATHS, keep=True) as seen:
            for _ in range(3):
                redis.stop()
                pod.wait_for(503, "/health")
                redis.start()
                pod.wait_for(200, "/health")
            enough = seen.total + 100
            eventually(lambda: seen.total > enough, "some probes more")
    assert not seen.other_than("200", "503"), str(seen)
    _one_body_each(seen.answers)
    _never_older_than_the_bound(seen.answers)
    for path, answer in seen.answers:
        assert violations(path, answer.status, answer.headers, answer.body) == []


def _one_body_each(answers: list[tuple[str, Answer]]) -> None:
    bodies: dict[tuple[str, tuple[bytes, ...]], set[bytes]] = {}
    for path, answer in answers:
        if path in MARKED:
            marks = tuple(MARKS.findall(answer.body))
            bodies.setdefault((path, marks), set()).add(TIME_OF_ANSWER.sub(b"", answer.body))
    assert len(bodies) > 20, "publications were seen"
    contradictions = {key: found for key, found in bodies.items() if len(found) > 1}
    assert contradictions == {}


def _never_older_than_the_bound(answers: list[tuple[str, Answer]]) -> None:
    for path, answer in answers:
        if path != "/api/system/health/":
            continue
        data = answer.data
        for name in ("database", "redis", "system_resources", "application"):
            service = data["services"][name]
            if service["status"] in ("not_configured", "unknown"):
                continue
            age = _time(data["timestamp"]) - _time(service["last_check"])
            assert age.total_seconds() <= 3 * 5 + 2 + 1


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
