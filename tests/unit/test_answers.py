"""What a worker makes of the scoreboard: the pod as a reader sees it, and answers as bytes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.health import Lifecycle, Phase, Pod, ProgressLimits, Role
from service.health.snapshot import encode
from service.scoreboard import Scoreboard
from service.settings import CHECKS
from service.web.answers import OK, UNAVAILABLE, Answers, error_body
from service.web.endpoints import ENDPOINTS, INDEX, METRICS, Endpoint
from service.web.payload import Answer, Payload, timestamp
from service.web.reader import Reader
from tests.unit.fakes import Clock
from tests.unit.pods import ABSENT, BOOTED_AT, CLOCK, NOW, REFUSED, check, snapshot

SYSTEM = "/api/system/health"
PAYLOAD = Payload("MINGUS", "1.0.0", "production", debug=False)
ALL = {endpoint.path: endpoint for endpoint in (INDEX, *ENDPOINTS, METRICS)}
PATHS = pytest.mark.parametrize("path", ALL)
# Its verdict is of the moment and of nothing published.
VITAL = f"{SYSTEM}/liveness"
TIMED = [path for path in ALL if path != VITAL]


class Rig:
    """A scoreboard as the monitor left it, and the answers of one worker."""

    def __init__(self, *, unconfigured: str | None = None) -> None:
        self.clock, self.wall = Clock(CLOCK - 86_400.0), Clock(BOOTED_AT)
        self.board = Scoreboard.create(None, slots=3, clock=self.clock.nanoseconds, wall=self.wall)
        self.checks = [check(name, unconfigured=unconfigured) for name in CHECKS]
        self.reader = Reader(
            self.board, self.checks, ProgressLimits(), clock=self.clock, wall=self.wall
        )
        self.answers = Answers(self.reader, PAYLOAD)
        self.pass_time(86_400.0)
        slot = self.board.slot(0)
        slot.assign(Role.WEB, generation=0, threads=4)
        slot.enter(Phase.READY)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    def publish(self, epoch: int = 1, **found: Any) -> None:
        """What the monitor publishes at this moment."""
        self.board.publish(epoch, encode(snapshot(**found)))

    def ask(self, path: str, *, trusted: bool = True) -> tuple[str, Any]:
        status, body = self.answers.answer(ALL[path], trusted=trusted)
        return status, json.loads(body)

    def renders(self, path: str) -> tuple[Callable[..., bytes], Callable[[], int]]:
        """Asks an endpoint; and says how often it has been rendered."""
        count = 0
        endpoint = ALL[path]

        def render(payload: Payload, pod: Pod, *, trusted: bool) -> Answer:
            nonlocal count
            count += 1
            return endpoint.render(payload, pod, trusted=trusted)

        counted = replace(endpoint, render=render)

        def ask(*, trusted: bool = True) -> bytes:
            return self.answers.answer(counted, trusted=trusted)[1]

        return ask, lambda: count


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.board.serve(NOW - 86_395.0)
    rig.publish()
    return rig


# -- the reader


def test_a_reader_sees_the_pod(rig: Rig) -> None:
    rig.board.slot(0).request_started()
    pod = rig.reader.pod()
    assert pod.readable
    assert pod.alive
    assert (pod.at, pod.booted_at, pod.uptime, pod.in_flight) == (NOW, BOOTED_AT, 86_400.0, 1)
    assert pod.snapshot.lifecycle is Lifecycle.SERVING
    assert pod.snapshot.serving_at == NOW - 86_395.0
    assert list(pod.snapshot.states) == list(CHECKS)


def test_before_the_first_publication_it_knows_the_checks() -> None:
    pod = Rig().reader.pod()
    assert pod.readable
    assert {state.code for state in pod.snapshot.states.values()} == {"not_yet_checked"}
    assert pod.snapshot.lifecycle is Lifecycle.STARTING
    absent = Rig(unconfigured=ABSENT).reader.pod()
    assert {state.code for state in absent.snapshot.states.values()} == {ABSENT}


def test_what_was_published_is_aged_by_who_reads_it(rig: Rig) -> None:
    rig.pass_time(18.0 - 1.588)
    assert rig.reader.pod().snapshot.states["database"].code is None
    rig.pass_time(0.001)
    assert rig.reader.pod().snapshot.states["database"].code == "stale"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"states": 1}', b"\xff"], ids=repr)
def test_what_cannot_be_read_is_said_once_in_the_log(rig: Rig, body: bytes) -> None:
    rig.board.publish(2, body)
    with capture_logs() as logs:
        pods = [rig.reader.pod() for _ in range(5)]
    assert [entry["event"] for entry in logs] == ["publication unreadable"]
    for pod in pods:
        assert not pod.readable
        assert {state.code for state in pod.snapshot.states.values()} == {"not_yet_checked"}
        assert pod.alive, "the workers speak for themselves"
    rig.publish(3)
    assert rig.reader.pod().readable


def test_a_publication_is_decoded_once(rig: Rig) -> None:
    first, _ = rig.reader.published()
    again, _ = rig.reader.published()
    assert again is first
    rig.publish()
    assert rig.reader.published()[0] is not first


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda rig: rig.publish(), id="a publication"),
        pytest.param(lambda rig: rig.publish(epoch=2), id="of a successor"),
        pytest.param(lambda rig: rig.board.maintain(on=True), id="maintenance"),
        pytest.param(lambda rig: rig.board.drain(), id="a drain"),
        pytest.param(lambda rig: rig.board.stop(), id="a stop"),
    ],
)
def test_the_version_changes_with_whatever_may_change_an_answer(
    rig: Rig, step: Callable[[Rig], None]
) -> None:
    before = rig.reader.version
    assert rig.reader.version == before
    step(rig)
    assert rig.reader.version != before


def test_liveness_is_asked_of_the_slots_at_every_question(rig: Rig) -> None:
    assert rig.reader.alive()
    rig.pass_time(60.0)
    assert rig.reader.alive()
    rig.pass_time(0.001)
    assert not rig.reader.alive()
    rig.board.slot(0).beat(0)
    assert rig.reader.alive()


# -- one render a publication


@pytest.mark.parametrize("path", TIMED)
def test_an_answer_is_rendered_once_a_publication(rig: Rig, path: str) -> None:
    ask, renders = rig.renders(path)
    for _ in range(5):
        ask()
        rig.pass_time(0.1)
    assert renders() == 1
    rig.publish()
    ask()
    ask()
    assert renders() == 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rig: rig.publish(database=REFUSED), id="a publication"),
        pytest.param(lambda rig: rig.publish(epoch=2), id="of a successor"),
        pytest.param(lambda rig: rig.board.drain(), id="draining"),
        pytest.param(lambda rig: rig.board.stop(), id="stopping"),
        pytest.param(lambda rig: rig.board.maintain(on=True), id="maintenance"),
        pytest.param(lambda rig: rig.pass_time(18.0), id="an expiry"),
        pytest.param(lambda rig: rig.pass_time(3600.0), id="a dead monitor"),
    ],
)
@pytest.mark.parametrize("path", TIMED)
def test_every_change_is_seen_at_once(rig: Rig, path: str, change: Callable[[Rig], None]) -> None:
    ask, renders = rig.renders(path)
    ask()
    change(rig)
    fresh = Answers(rig.reader, PAYLOAD).answer(ALL[path], trusted=True)[1]
    assert ask() == fresh
    assert renders() == 2
    assert ask() == fresh
    assert renders() == 2


def test_each_expiry_is_seen(rig: Rig) -> None:
    """Redis after 17 s, the database after 18 s, the providers after three minutes."""
    counts = []
    for seconds in (0.0, 15.0, 0.9, 1.0, 1.0, 60.0, 100.0):
        rig.pass_time(seconds)
        _, body = rig.ask("/health/detailed")
        counts.append(len(body["unknown_services"]))
    assert counts == [0, 2, 3, 4, 4, 4, 8]


def test_starting_ends_when_the_latch_does() -> None:
    rig = Rig()
    rig.publish()
    assert rig.ask("/health")[1]["status"] == "unknown"
    rig.board.serve(NOW)
    assert rig.ask("/health")[1]["status"] == "healthy"
    assert rig.ask(f"{SYSTEM}/startup")[0] == OK


@PATHS
def test_only_the_time_differs_and_the_uptime(rig: Rig, path: str) -> None:
    first_status, first = rig.answers.answer(ALL[path], trusted=True)
    before = timestamp(rig.wall()).encode()
    rig.pass_time(0.123)
    status, second = rig.answers.answer(ALL[path], trusted=True)
    now = timestamp(rig.wall()).encode()
    assert status == first_status
    assert first != second
    assert first.replace(before, now).replace(b"86400.0", b"86400.12") == second
    body = json.loads(second)
    assert body["timestamp"] == timestamp(rig.wall())
    assert body.get("data", body).get("timestamp", body["timestamp"]) == body["timestamp"]


@PATHS
@pytest.mark.parametrize("trusted", [True, False])
def test_a_cached_answer_is_what_the_document_says(rig: Rig, path: str, *, trusted: bool) -> None:
    endpoint = ALL[path]
    rig.ask(path, trusted=trusted)
    pod = rig.reader.pod()
    document = endpoint.render(PAYLOAD, pod, trusted=trusted and endpoint.graded)
    status, body = rig.ask(path, trusted=trusted)
    assert body == document.body
    assert status == (OK if document.passes else UNAVAILABLE)


@pytest.mark.parametrize("path", TIMED)
def test_callers_get_what_they_may_see(rig: Rig, path: str) -> None:
    """One after the other, from the same cache."""
    seen = [rig.answers.answer(ALL[path], trusted=trusted) for trusted in (True, False, True)]
    assert seen[0] == seen[2]
    assert (seen[0] != seen[1]) == ALL[path].graded
    assert seen[0][0] == seen[1][0]


@PATHS
def test_there_are_two_renders_only_where_callers_see_different_things(rig: Rig, path: str) -> None:
    ask, renders = rig.renders(path)
    for trusted in (True, False, True, False):
        ask(trusted=trusted)
    assert renders() == (2 if ALL[path].graded else 1)


def test_liveness_needs_no_publication(rig: Rig) -> None:
    rig.pass_time(60.001)
    assert rig.ask(f"{SYSTEM}/liveness")[0] == UNAVAILABLE
    rig.board.slot(0).beat(0)
    status, body = rig.ask(f"{SYSTEM}/liveness")
    assert (status, body["data"]["alive"]) == (OK, True)


def test_what_cannot_be_read_is_tried_again_at_every_question(rig: Rig) -> None:
    ask, renders = rig.renders("/health")
    rig.board.publish(2, b"damaged")
    with capture_logs():
        assert json.loads(ask())["status"] == "unknown"
        ask()
    assert renders() == 2
    rig.publish(3)
    assert json.loads(ask())["status"] == "healthy"
    ask()
    assert renders() == 3


def test_a_torn_publication_is_tried_again_at_every_question(rig: Rig) -> None:
    """The writer was killed, and the memory is not what it wrote: its successor's is."""
    at = rig.board._buffers_at
    for buffer in range(8):
        rig.board._words[at + buffer * ((len(rig.board._words) - at) // 8) + 3] ^= 1
    ask, renders = rig.renders("/health")
    assert json.loads(ask())["status"] == "unknown"
    ask()
    assert renders() == 2
    rig.publish(2)
    assert json.loads(ask())["status"] == "healthy"


# -- uptime


def test_uptime_never_goes_back_from_one_answer_to_the_next(rig: Rig) -> None:
    told = []
    for seconds in (0.0, 0.4, 0.5, 30.0, 3600.0):
        rig.pass_time(seconds)
        for path in ("liveness", "application", "metrics"):
            data = rig.ask(f"{SYSTEM}/{path}")[1]["data"]
            told.append(data.get("uptime_seconds", data.get("mingus_uptime_seconds")))
    assert told == sorted(told)


def test_uptime_goes_on_without_a_monitor(rig: Rig) -> None:
    for blank in (rig, Rig()):
        blank.ask(f"{SYSTEM}/application")
        blank.pass_time(3600.0)
        _, body = blank.ask(f"{SYSTEM}/application")
        assert body["data"]["uptime_seconds"] == pytest.approx(86_400.0 + 3600.0, abs=1.0)


# -- internal errors


def broken_without_state(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose handler fails over what was published."""

    def render(payload: Payload, pod: Pod, *, trusted: bool) -> Answer:
        if pod.readable:
            raise ZeroDivisionError("pa55word")
        return endpoint.render(payload, pod, trusted=trusted)

    return replace(endpoint, render=render)


UNKNOWN = {"database": "unknown", "redis": "unknown"}
FLAT = {"status": "unknown", "error": "internal_error", "type": "server_error"}
ENVELOPED = {"success": False, "data": {"error": "internal_error", "type": "server_error"}}
OWN_SHAPE: dict[str, tuple[str, dict[str, Any]]] = {
    "/": (
        OK,
        {
            "name": "MINGUS",
            "message": "MINGUS API is running",
            "version": "1.0.0",
            "status": "unknown",
        },
    ),
    "/health": (UNAVAILABLE, {"status": "unknown"}),
    f"{SYSTEM}/readiness": (
        UNAVAILABLE,
        {"success": False, "data": {"ready": False, "services": UNKNOWN}},
    ),
    f"{SYSTEM}/startup": (
        UNAVAILABLE,
        {
            "success": False,
            "data": {
                "started": False,
                "services": {**UNKNOWN, "system_resources": "unknown"},
                "tasks": None,
            },
        },
    ),
    f"{SYSTEM}/liveness": (
        OK,
        {"success": True, "data": {"alive": True, "uptime_seconds": 86_400.0}},
    ),
}


def without_times(document: Any) -> Any:
    if isinstance(document, dict):
        items = document.items()
        return {key: without_times(value) for key, value in items if key != "timestamp"}
    return document


@pytest.mark.parametrize("path", [path for path in ALL if path != METRICS.path])
@pytest.mark.parametrize("unconfigured", [None, ABSENT], ids=["configured", "not configured"])
def test_an_internal_error(path: str, unconfigured: str | None) -> None:
    rig = Rig(unconfigured=unconfigured)
    rig.board.serve(NOW)
    rig.publish()
    with capture_logs() as logs:
        status, body = rig.answers.answer(broken_without_state(ALL[path]), trusted=True)
    usual = UNAVAILABLE, ENVELOPED if path.startswith(SYSTEM) else FLAT
    document = json.loads(body)
    assert (status, without_times(document)) == OWN_SHAPE.get(path, usual)
    assert document["timestamp"] == timestamp(NOW)
    assert b"pa55word" not in body
    assert [(entry["event"], entry["path"]) for entry in logs] == [("answer failed", path)]


def test_the_metrics_stay_200(rig: Rig) -> None:
    with capture_logs():
        status, body = rig.answers.answer(broken_without_state(METRICS), trusted=True)
    document = json.loads(body)
    assert (status, document["success"], len(document["data"])) == (OK, True, 9)
    assert document["data"]["mingus_database_response_time_ms"] is None


@PATHS
def test_an_endpoint_that_always_fails_still_answers(rig: Rig, path: str) -> None:
    def render(_payload: Payload, _pod: Pod, *, trusted: bool) -> Answer:
        raise ZeroDivisionError(str(trusted))

    broken = replace(ALL[path], render=render)
    with capture_logs():
        status, body = rig.answers.answer(broken, trusted=True)
    assert status in (OK, UNAVAILABLE)
    assert json.loads(body)


@PATHS
def test_a_damaged_slot_fails_no_answer(rig: Rig, path: str) -> None:
    rig.board._words[rig.board._slots_at + 2] = 99  # a role that does not exist
    with capture_logs():
        status, body = rig.answers.answer(ALL[path], trusted=True)
    assert status in (OK, UNAVAILABLE)
    assert json.loads(body)
    if path == f"{SYSTEM}/liveness":
        assert status == OK, "an unreadable state is no evidence of a stall"


def test_an_error_is_not_kept(rig: Rig) -> None:
    failing = True

    def render(payload: Payload, pod: Pod, *, trusted: bool) -> Answer:
        if failing:
            raise ZeroDivisionError
        return ALL["/health"].render(payload, pod, trusted=trusted)

    endpoint = replace(ALL["/health/standard"], render=render)
    with capture_logs():
        assert rig.answers.answer(endpoint, trusted=False)[0] == UNAVAILABLE
    failing = False
    assert rig.answers.answer(endpoint, trusted=False)[0] == OK


@pytest.mark.parametrize(
    ("error", "enveloped", "expected"),
    [
        pytest.param(
            "not_found", False, {"error": "not_found", "type": "http_error"}, id="not found"
        ),
        pytest.param(
            "method_not_allowed",
            False,
            {"error": "method_not_allowed", "type": "http_error"},
            id="method not allowed",
        ),
        pytest.param("internal_error", False, FLAT, id="internal error"),
        pytest.param("internal_error", True, ENVELOPED, id="internal error, enveloped"),
        pytest.param(
            "not_found",
            True,
            {"success": False, "data": {"error": "not_found", "type": "http_error"}},
            id="not found, enveloped",
        ),
        pytest.param(
            "method_not_allowed",
            True,
            {"success": False, "data": {"error": "method_not_allowed", "type": "http_error"}},
            id="method not allowed, enveloped",
        ),
    ],
)
def test_error_bodies(error: str, expected: dict[str, Any], *, enveloped: bool) -> None:
    assert error_body(error, NOW, enveloped=enveloped) == {
        **expected,
        "timestamp": "2025-01-27T10:30:00.000Z",
    }


# -- the table of endpoints


def test_the_documented_paths() -> None:
    names = (
        "simple detailed readiness liveness startup database redis external resources application"
    )
    assert set(ALL) == {
        "/",
        "/health",
        *(
            f"/health/{name}"
            for name in ("detailed", "database", "redis", "external", "standard", "metrics")
        ),
        SYSTEM,
        *(f"{SYSTEM}/{name}" for name in names.split()),
        f"{SYSTEM}/metrics",
    }
    assert len({endpoint.path for endpoint in ENDPOINTS}) == len(ENDPOINTS)
    assert {path for path, endpoint in ALL.items() if endpoint.enveloped} == {
        path for path in ALL if path.startswith(SYSTEM)
    }


def test_a_body_is_compact_utf8() -> None:
    payload = Payload("Caf\u00e9 \u2615", "1.0.0", "production", debug=False)
    rig = Rig()
    rig.board.serve(NOW)
    rig.publish()
    _, body = Answers(rig.reader, payload).answer(INDEX, trusted=False)
    assert "Caf\u00e9 \u2615 API is running".encode() in body
    assert b": " not in body.replace(b"API is running", b"")


@given(tenths_ms=st.integers(min_value=0, max_value=4 * 10**13))
def test_the_time_of_an_answer_is_that_of_every_other_timestamp(tenths_ms: int) -> None:
    wall = tenths_ms / 10_000
    rig = Rig()
    rig.wall.now = wall
    _, body = rig.answers.answer(ALL["/health"], trusted=False)
    assert json.loads(body)["timestamp"] == timestamp(wall)


def test_liveness_looks_at_one_worker_while_that_one_cannot_be_stuck(rig: Rig) -> None:
    stranger = rig.board.slot(1)
    assert rig.ask(VITAL)[0] == OK
    stranger.assign(Role.WEB, generation=0, threads=4)
    rig.board.free(0)  # the worker that was looked at is gone; the other boots
    assert rig.ask(VITAL)[0] == OK
    rig.pass_time(61.0)
    assert rig.ask(VITAL)[0] == UNAVAILABLE  # stuck in boot
    for _ in range(3):  # an attempt that comes too late is no progress, however often one asks
        rig.board.slot(0).assign(Role.WEB, generation=1, threads=4)
        assert rig.ask(VITAL)[0] == UNAVAILABLE
    stranger.enter(Phase.READY)
    assert rig.ask(VITAL)[0] == OK
    rig.board.free(1)
    rig.board.slot(0).assign(Role.WEB, generation=1, threads=4)
    assert rig.ask(VITAL)[0] == OK
    rig.pass_time(59.0)
    assert rig.ask(VITAL)[0] == OK
    rig.pass_time(2.0)
    assert rig.ask(VITAL)[0] == UNAVAILABLE
