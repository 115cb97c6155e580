"""Invariant 1: every endpoint, with and without slash, by GET and HEAD, and nothing else needed."""

import pytest

from scripts.health_contract import violations
from tests.contract.audit import (
    BOTH,
    HEALTH,
    METRICS,
    PATHS,
    PREFIX,
    RESOURCES,
    WEB,
    Audit,
    comes_to_be_entirely_well,
    comes_to_be_well,
)
from tests.pod import Answer, Pod, eventually

# Headers that say when an answer was given, or how long it is.
MOVING = {"date", "content-length"}
EVERY = {"server", "connection", "content-type", "cache-control", "x-content-type-options", *MOVING}


def spellings(path: str) -> list[str]:
    """A path with and without one trailing slash."""
    bare = path.rstrip("/")
    return [bare, f"{bare}/"] if bare else ["/"]


def listeners(path: str) -> tuple[bool, ...]:
    return (WEB,) if path == "/" else BOTH


def well(path: str, answer: Answer) -> bool:
    """Whether it is 200; how busy the machine is cannot be told beforehand."""
    return answer.status == 200 or path == RESOURCES


@pytest.fixture(autouse=True)
def _well(plain: Pod) -> None:
    comes_to_be_well(plain)


def test_a_pod_with_sqlite_and_the_embedded_redis_keeps_the_contract(plain: Pod) -> None:
    Audit(plain)()
    comes_to_be_entirely_well(plain)


@pytest.mark.parametrize("path", PATHS)
def test_get_with_and_without_slash_on_both_listeners(plain: Pod, path: str) -> None:
    for spelling in spellings(path):
        for health in listeners(path):
            answer = plain.get(spelling, health=health)
            assert well(path, answer)
            assert violations(path, answer.status, answer.headers, answer.body) == []
            assert int(answer.headers["content-length"]) == len(answer.body)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_the_body(plain: Pod, path: str) -> None:
    for spelling in spellings(path):
        for health in listeners(path):
            get, head = pair(plain, spelling, health=health)
            assert head.body == b""
            assert well(path, head)
            assert fixed(head) == fixed(get)
            assert violations(path, head.status, head.headers, b"", method="HEAD") == []
            # A number that grows by a digit between the two questions makes them differ once.
            eventually(
                lambda spelling=spelling, health=health: as_long(plain, spelling, health=health),
                f"HEAD {spelling} gives the Content-Length of GET",
            )


def pair(pod: Pod, path: str, *, health: bool) -> tuple[Answer, Answer]:
    """A path by GET and by HEAD."""
    return pod.get(path, health=health), pod.get(path, health=health, method="HEAD")


def as_long(pod: Pod, path: str, *, health: bool) -> bool:
    get, head = pair(pod, path, health=health)
    return get.headers["content-length"] == head.headers["content-length"]


def fixed(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in MOVING}


@pytest.mark.parametrize("path", PATHS)
def test_no_header_beyond_the_documented_ones(plain: Pod, path: str) -> None:
    allowed = EVERY | ({"vary"} if path in METRICS else set())
    for health in listeners(path):
        for given in ({}, {"Origin": "https://elsewhere.example", "Cookie": "session=1"}):
            assert plain.get(path, health=health, **given).headers.keys() <= allowed


def test_both_listeners_say_the_same(plain: Pod) -> None:
    def same(path: str) -> bool:
        return len({str(settled(answer.json)) for answer in plain.everywhere(path)}) == 1

    for path in PATHS:
        if path not in (*METRICS, "/"):
            # A publication may come between the two questions, but not every time.
            eventually(lambda path=path: same(path), f"one {path} on both listeners")


def settled(body: object) -> object:
    """A body without the time of the answer."""
    if isinstance(body, dict):
        return {key: settled(value) for key, value in body.items() if key not in MOMENTARY}
    return body


MOMENTARY = ("timestamp", "uptime_seconds")


def test_the_index_belongs_to_the_web_listener(plain: Pod) -> None:
    answer = plain.get("/", health=HEALTH)
    assert answer.status == 404
    assert answer.json["error"] == "not_found"
    index = plain.get("/").json
    assert (index["name"], index["version"], index["status"]) == ("MINGUS", "1.0.0", "healthy")


QUIRKS = {
    "query": {"path": "?status=unhealthy&verbose=1&name=x"},
    "accept": {"Accept": "text/html"},
    "any host": {"Host": "no.such.host.example:1"},
    "conditional": {"If_None_Match": '"x"', "If_Modified_Since": "Mon, 27 Jan 2025 10:30:00 GMT"},
    "range": {"Range": "bytes=0-3"},
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_what_a_request_brings_changes_nothing(plain: Pod, quirk: str) -> None:
    given = dict(QUIRKS[quirk])
    query = given.pop("path", "")
    for path in PATHS:
        if path in METRICS:
            continue
        for health in listeners(path):
            answer = plain.get(path + query, health=health, **given)
            assert well(path, answer)
            assert violations(path, answer.status, answer.headers, answer.body) == []


def test_a_request_body_is_ignored(plain: Pod) -> None:
    for path in PATHS:
        for health in listeners(path):
            answer = plain.get(path, health=health, body=b'{"status": "unhealthy"}')
            assert well(path, answer)
            assert violations(path, answer.status, answer.headers, answer.body) == []


def test_success_is_the_http_status(plain: Pod) -> None:
    """Invariant 4, the healthy half; every audit of a failing pod is the other."""
    for path in PATHS:
        if path.startswith(PREFIX) and path not in METRICS:
            answer = plain.get(path)
            assert answer.json["success"] == (answer.status == 200)
