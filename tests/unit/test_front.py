"""The WSGI callable: who answers which path, and what is counted."""

import io
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

from service.health import Phase, ProgressLimits, Role, TaskState
from service.health.snapshot import encode
from service.scoreboard import Scoreboard
from service.settings import CHECKS
from service.web.answers import Answers
from service.web.disclosure import Disclosure
from service.web.front import Front, hot, is_ours
from service.web.payload import Payload
from service.web.reader import Reader
from tests.unit.fakes import Clock, until
from tests.unit.pods import CLOCK, NOW, check, snapshot

SYSTEM = "/api/system/health"
HOT = ("/health", *(f"{SYSTEM}/{name}" for name in ("simple", "readiness", "liveness", "startup")))
HOT_PATHS = pytest.mark.parametrize("path", [*HOT, *(f"{path}/" for path in HOT)])
TASKS = {"migrate": TaskState().succeeded(0.001, 1)}
SHOWN = {
    "migrate": {
        "status": "healthy",
        "error": None,
        "duration_ms": 1.0,
        "attempt": 1,
        "scope": "pod",
    }
}

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Response:
    """What a server would have sent, and whether it was told more than it should be."""

    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    starts: int = 0


def plain(text: bytes, status: str = "200 OK") -> Application:
    """An application that says one thing."""

    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status, [("Content-Type", "text/plain")])
        return [text]

    return application


class Rig:
    """A front and everything behind it."""

    def __init__(self, application: Application | None = None, *, threads: int = 4) -> None:
        self.clock = Clock(CLOCK)
        self.on_stamp: Callable[[], None] = lambda: None
        self.board = Scoreboard.create(None, slots=1, clock=self._stamp)
        self.slot = self.board.slot(0)
        self.slot.assign(Role.WEB, generation=0, threads=threads)
        self.slot.enter(Phase.READY)
        self.board.serve(NOW)
        self.board.publish(1, encode(snapshot(tasks=TASKS)))
        reader = Reader(
            self.board,
            [check(name) for name in CHECKS],
            ProgressLimits(),
            clock=self.clock,
            wall=lambda: NOW,
        )
        self.counted: list[tuple[str, str, str, float]] = []
        self.made = 0
        self.front = Front(
            Answers(reader, Payload("MINGUS", "1.0.0", "production", debug=False)),
            Disclosure([ip_network("127.0.0.0/8")], [], [], []),
            self.slot,
            lambda *counted: self.counted.append(counted),
            self._make,
            application,
            clock=self.clock,
        )

    def _stamp(self) -> int:
        self.on_stamp()
        return self.clock.nanoseconds()

    def _make(self) -> Application:
        self.made += 1
        return plain(b"ours")

    @property
    def in_flight(self) -> int:
        return self.slot.read().in_flight

    def open(self, path: str, method: str = "GET", **more: Any) -> tuple[Response, Iterable[bytes]]:
        """Begins a request; the body is still to be read and closed."""
        response = Response()
        environ: dict[str, Any] = {
            "PATH_INFO": path,
            "REQUEST_METHOD": method,
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "localhost:5003",
            **more,
        }
        setup_testing_defaults(environ)

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            response.starts += 1
            response.status, response.headers = status, dict(headers)
            assert len(response.headers) == len(headers)

        return response, self.front(environ, start_response)

    def ask(self, path: str, method: str = "GET", **more: Any) -> Response:
        """One request from its beginning to its end, as a server would serve it."""
        response, body = self.open(path, method, **more)
        try:
            response.body = b"".join(body)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        return response


# -- the hot paths


@HOT_PATHS
def test_probes_are_answered_without_flask(path: str) -> None:
    rig = Rig()
    response = rig.ask(path)
    assert response.status == "200 OK"
    assert json.loads(response.body)
    assert response.headers == {
        "Content-Type": "application/json",
        "Content-Length": str(len(response.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    assert (rig.made, response.starts) == (0, 1)
    assert rig.counted == [("GET", path.rstrip("/"), "200", 0.0)]
    assert rig.in_flight == 0


@HOT_PATHS
def test_head_is_get_without_a_body(path: str) -> None:
    rig = Rig()
    get, head = rig.ask(path), rig.ask(path, "HEAD")
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
    assert [method for method, *_ in rig.counted] == ["GET", "HEAD"]


@HOT_PATHS
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_for_flask(path: str, method: str) -> None:
    rig = Rig()
    assert rig.ask(path, method).body == b"ours"


def test_a_failing_pod_is_503() -> None:
    rig = Rig()
    rig.board.drain()
    assert {path: rig.ask(path).status[:3] for path in HOT} == {
        "/health": "503",
        f"{SYSTEM}/simple": "503",
        f"{SYSTEM}/readiness": "503",
        f"{SYSTEM}/liveness": "200",
        f"{SYSTEM}/startup": "200",
    }
    assert [status for _, _, status, _ in rig.counted] == ["503", "503", "503", "200", "200"]


@pytest.mark.parametrize(
    ("environ", "tasks"),
    [
        pytest.param({}, SHOWN, id="trusted"),
        pytest.param({"REMOTE_ADDR": "192.0.2.1"}, None, id="from elsewhere"),
        pytest.param({"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, None, id="forged"),
    ],
)
def test_startup_shows_its_tasks_to_whom_it_may(environ: dict[str, str], tasks: Any) -> None:
    body = json.loads(Rig().ask(f"{SYSTEM}/startup", **environ).body)
    assert body["data"]["tasks"] == tasks


def test_query_and_body_are_ignored() -> None:
    rig = Rig()
    usual = rig.ask("/health").body
    more = {"QUERY_STRING": "format=xml&full=1", "wsgi.input": io.BytesIO(b"x" * 100)}
    assert rig.ask("/health", **more).body == usual


TWINS = ("/livez", "/readyz", "/startupz")
PLAIN = [("/health", ""), ("/health", "text/html"), ("/health", "application/json")]
PLAIN += [(twin, accept) for twin in TWINS for accept in ("", "*/*")]
ASKED = [("/health", "application/health+json"), (f"{SYSTEM}/liveness", "x/y+json, */*")]
ASKED += [(twin, accept) for twin in TWINS for accept in ("application/json", "text/plain")]


@pytest.mark.parametrize(("path", "accept"), PLAIN)
def test_the_usual_form_needs_no_flask(path: str, accept: str) -> None:
    rig = Rig()
    for spelling in (path, f"{path}/"):
        assert rig.ask(spelling, HTTP_ACCEPT=accept).status == "200 OK"
        assert hot("GET", spelling, "", accept)
    assert rig.made == 0


@pytest.mark.parametrize(("path", "accept"), ASKED)
def test_other_forms_are_for_flask(path: str, accept: str) -> None:
    for spelling in (path, f"{path}/"):
        assert Rig().ask(spelling, HTTP_ACCEPT=accept).body == b"ours"
        assert hot("GET", spelling, "", accept) is None


@pytest.mark.parametrize("path", TWINS)
def test_a_query_of_a_twin_is_for_flask(path: str) -> None:
    assert Rig().ask(path, QUERY_STRING="verbose").body == b"ours"


@pytest.mark.parametrize("path", TWINS)
def test_a_twin_is_text(path: str) -> None:
    rig = Rig()
    answer = rig.ask(path)
    assert answer.body == b"ok"
    assert answer.headers == {
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept",
        "Content-Length": "2",
    }
    rig.board.drain()
    assert rig.ask(path).status[:3] == ("503" if path == "/readyz" else "200")
    assert [route for _, route, _, _ in rig.counted] == [path, path]


# -- who answers


OURS = [
    "/health",
    "/health/",
    "/health/database",
    "/health/nothing",
    SYSTEM,
    f"{SYSTEM}/",
    f"{SYSTEM}/detailed",
    f"{SYSTEM}/nothing",
    "/metrics",
    "/metrics/",
    "/livez",
    "/readyz/",
    "/readyz/database",
    "/startupz/nothing",
    "/status",
    "/status/",
    "/status/events",
]
THEIRS = [
    "/",
    "",
    "/healthz",
    "/healthy",
    "/Health",
    "/HEALTH",
    "//health",
    "/health-report",
    "/api/health",
    "/api/system/healthz",
    "/api/system",
    "/metrics/x",
    "/metricsx",
    "/app/health",
    "/readyzz",
    "/readyz-report",
    "/api/livez",
    "/statuses",
    "/status-report",
]


@pytest.mark.parametrize("path", OURS)
def test_ours(path: str) -> None:
    assert is_ours(path)
    rig = Rig(plain(b"theirs"))
    assert rig.ask(path).body != b"theirs"
    assert rig.ask(path, "POST").body == b"ours"


@pytest.mark.parametrize("path", THEIRS)
def test_theirs(path: str) -> None:
    assert not is_ours(path)
    rig = Rig(plain(b"theirs"))
    assert rig.ask(path).body == b"theirs"
    assert rig.ask(path, "POST").body == b"theirs"
    assert rig.made == 0


@pytest.mark.parametrize("path", THEIRS)
def test_where_there_is_no_other_application_all_is_ours(path: str) -> None:
    assert Rig().ask(path).body == b"ours"


def test_flask_is_made_once_and_only_when_it_is_needed() -> None:
    rig = Rig(plain(b"theirs"))
    rig.ask("/")
    rig.ask("/health")
    assert rig.made == 0
    for _ in range(3):
        rig.ask("/health/database")
    rig.front.prepare()
    assert rig.made == 1


def test_flask_is_made_once_for_all_threads() -> None:
    rig, inside, go = Rig(), threading.Semaphore(0), threading.Event()
    make = rig.front._make_health

    def slowly() -> Any:
        inside.release()
        assert go.wait(60)
        return make()

    rig.front._make_health = slowly
    threads = [threading.Thread(target=rig.ask, args=("/health/database",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=60)
    until(rig.front._making.locked, "the making")
    go.set()
    for thread in threads:
        thread.join(60)
    assert rig.made == 1
    assert len(rig.counted) == 4


# -- the user's application, unchanged


def test_it_gets_the_environment_as_it_came() -> None:
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.update(environ)
        return plain(b"")(environ, start_response)  # type: ignore[return-value]

    sent = {"SCRIPT_NAME": "/under", "HTTP_COOKIE": "a=b", "my.key": object()}
    Rig(application).ask("/shop", **sent)
    assert {key: seen[key] for key in sent} == sent
    assert seen["PATH_INFO"] == "/shop"


def test_status_headers_and_body_pass_through() -> None:
    rig = Rig(plain(b"gone", "410 Gone"))
    response = rig.ask("/old")
    assert (response.status, response.body) == ("410 Gone", b"gone")
    assert response.headers == {"Content-Type": "text/plain"}
    assert rig.counted == [("GET", "other", "410", 0.0)]


def test_a_generator_is_not_read_ahead() -> None:
    read = []

    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        for number in range(3):
            read.append(number)
            yield b"%d" % number

    rig = Rig(application)
    _, body = rig.open("/stream")
    chunks = iter(body)
    assert (next(chunks), read) == (b"0", [0])
    assert (next(chunks), read) == (b"1", [0, 1])
    assert rig.in_flight == 1, "it is not sent yet"
    assert b"".join(chunks) == b"2"
    body.close()  # type: ignore[attr-defined]
    assert rig.in_flight == 0


class Body:
    """A body that counts how often it is closed."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.closed += 1


def returning(body: Any, status: str = "200 OK") -> Application:
    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, [])
        return body

    return application


def test_the_body_is_closed_once() -> None:
    body = Body(b"a", b"b")
    rig = Rig(returning(body))
    assert rig.ask("/").body == b"ab"
    assert body.closed == 1
    assert len(rig.counted) == 1


def test_a_server_that_closes_twice_is_counted_once() -> None:
    rig = Rig(returning(Body(b"a")))
    _, body = rig.open("/")
    for _ in range(2):
        body.close()  # type: ignore[attr-defined]
    assert (rig.in_flight, len(rig.counted)) == (0, 1)


def test_a_client_that_goes_away_ends_the_request() -> None:
    body = Body(b"a", b"b")
    rig = Rig(returning(body))
    _, sent = rig.open("/")
    next(iter(sent))
    sent.close()  # type: ignore[attr-defined]
    assert (body.closed, rig.in_flight, len(rig.counted)) == (1, 0, 1)


def test_a_body_without_a_close_is_fine() -> None:
    assert Rig(returning((b"a", b"b"))).ask("/").body == b"ab"


def test_the_write_callable_of_old_applications_is_the_servers() -> None:
    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"written")
        return []

    rig, written = Rig(application), []
    environ = {"PATH_INFO": "/", "REQUEST_METHOD": "GET"}
    setup_testing_defaults(environ)
    rig.front(environ, lambda *_: written.append)
    assert written == [b"written"]


def test_error_information_reaches_the_server() -> None:
    """An application may change its mind until the headers are out."""
    given: list[Any] = []

    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        start_response("500 Internal Server Error", [], ("type", "value", None))
        return [b"oops"]

    rig = Rig(application)
    environ = {"PATH_INFO": "/", "REQUEST_METHOD": "GET"}
    setup_testing_defaults(environ)
    body = rig.front(environ, lambda *arguments: given.append(arguments))
    body.close()  # type: ignore[attr-defined]
    assert given[1] == ("500 Internal Server Error", [], ("type", "value", None))
    assert rig.counted[0][2] == "500"


# -- files


def test_a_file_is_left_to_the_server() -> None:
    """It looks for its own wrapper, to send the file without reading it."""
    file = io.BytesIO(b"content")
    wrapper = FileWrapper(file)
    rig = Rig(returning(wrapper))
    _, body = rig.open("/file", **{"wsgi.file_wrapper": FileWrapper})
    assert body is wrapper
    assert rig.in_flight == 1
    assert b"".join(body) == b"content"
    body.close()  # type: ignore[attr-defined]
    assert file.closed
    assert (rig.in_flight, len(rig.counted)) == (0, 1)


def test_a_file_that_cannot_be_closed_is_counted_all_the_same() -> None:
    class Unclosable:
        def read(self, _size: int) -> bytes:
            return b""

    rig = Rig(returning(FileWrapper(Unclosable())))  # type: ignore[arg-type]
    assert rig.ask("/file", **{"wsgi.file_wrapper": FileWrapper}).body == b""
    assert (rig.in_flight, len(rig.counted)) == (0, 1)


def test_another_servers_wrapper_is_a_body_like_any_other() -> None:
    rig = Rig(returning(FileWrapper(io.BytesIO(b"content"))))
    assert rig.ask("/file", **{"wsgi.file_wrapper": lambda file: file}).body == b"content"
    assert rig.in_flight == 0


# -- what goes wrong


class BrokenError(Exception):
    """Raised by an application."""


def raising(*, started: bool) -> Application:
    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if started:
            start_response("200 OK", [])
        raise BrokenError

    return application


def raising_in_its_body(*, started: bool, chunks: int) -> Application:
    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if started:
            start_response("200 OK", [])
        yield from [b"x"] * chunks
        raise BrokenError

    return application


@pytest.mark.parametrize(
    "application",
    [
        pytest.param(raising(started=False), id="at once"),
        pytest.param(raising(started=True), id="after it promised 200"),
        pytest.param(raising_in_its_body(started=False, chunks=0), id="in its generator"),
        pytest.param(raising_in_its_body(started=True, chunks=0), id="before the first chunk"),
    ],
)
def test_an_exception_is_the_servers_and_counts_as_500(application: Application) -> None:
    rig = Rig(application)
    with pytest.raises(BrokenError):
        rig.ask("/")
    assert rig.counted == [("GET", "other", "500", 0.0)]
    assert rig.in_flight == 0


def test_an_exception_in_the_middle_of_a_body_is_the_servers() -> None:
    rig = Rig(raising_in_its_body(started=True, chunks=2))
    with pytest.raises(BrokenError):
        rig.ask("/")
    assert len(rig.counted) == 1
    assert rig.in_flight == 0


def test_a_close_that_raises_is_the_servers_and_the_request_is_over() -> None:
    class Unclosable(Body):
        def close(self) -> None:
            raise BrokenError

    rig = Rig(returning(Unclosable(b"a")))
    with pytest.raises(BrokenError):
        rig.ask("/")
    assert (rig.in_flight, len(rig.counted)) == (0, 1)


def test_a_worker_that_is_killed_in_a_request_does_not_count_it_twice() -> None:
    def application(_environ: dict[str, Any], _start: Callable[..., Any]) -> Any:
        raise SystemExit(1)

    rig = Rig(application)
    with pytest.raises(SystemExit):
        rig.ask("/")
    assert (rig.in_flight, len(rig.counted)) == (0, 1)


# -- what is counted


def test_a_request_takes_as_long_as_its_body() -> None:
    rig = Rig(returning(Body(b"a")))
    _, body = rig.open("/slow")
    rig.clock.advance(2.5)
    body.close()  # type: ignore[attr-defined]
    assert rig.counted == [("GET", "other", "200", 2.5)]


def matched(rule: Any) -> Application:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["werkzeug.request"] = SimpleNamespace(url_rule=rule)
        return plain(b"")(environ, start_response)

    return application


@pytest.mark.parametrize(
    ("application", "route"),
    [
        pytest.param(
            matched(SimpleNamespace(rule="/users/<int:id>")), "/users/<int:id>", id="rule"
        ),
        pytest.param(matched(None), "other", id="no rule matched"),
        pytest.param(plain(b""), "other", id="no Flask application"),
    ],
)
def test_the_route_is_what_flask_matched(application: Application, route: str) -> None:
    rig = Rig(application)
    rig.ask("/users/4711")
    assert rig.counted[0][1] == route


def test_every_request_is_counted_once() -> None:
    rig = Rig(plain(b"theirs"))
    for path in ("/", "/health", "/health/database", f"{SYSTEM}/liveness", "/metrics", "/x"):
        for method in ("GET", "HEAD", "POST"):
            rig.ask(path, method)
    assert len(rig.counted) == 18
    assert rig.in_flight == 0
    assert rig.board.finished == 18


def test_requests_in_flight_are_those_that_are_not_over() -> None:
    rig = Rig(returning(Body(b"a")))
    bodies = [rig.open("/")[1] for _ in range(3)]
    assert rig.in_flight == 3
    rig.ask("/health")
    assert rig.in_flight == 3
    for count, body in enumerate(bodies, 1):
        body.close()  # type: ignore[attr-defined]
        assert rig.in_flight == 3 - count


def test_the_last_free_thread_is_missed() -> None:
    rig = Rig(returning(Body(b"a")), threads=2)
    first, second = rig.open("/")[1], rig.open("/")[1]
    assert rig.slot.read().all_busy_since == CLOCK
    second.close()  # type: ignore[attr-defined]
    assert rig.slot.read().all_busy_since == 0.0
    first.close()  # type: ignore[attr-defined]


def test_two_threads_do_not_write_the_slot_at_once() -> None:
    """One request fills the worker while another ends: a thread is free in the end.

    The one that fills it is held in the middle, where it looks at the clock.
    """
    rig = Rig(returning(Body(b"a")), threads=2)
    _, first = rig.open("/")
    looks, ended = threading.Event(), threading.Event()

    def stamp() -> None:
        rig.on_stamp = lambda: None
        looks.set()
        ended.wait(0.2)  # in vain, where the slot is locked

    rig.on_stamp = stamp
    filling = threading.Thread(target=rig.open, args=("/",))
    filling.start()
    assert looks.wait(60)
    first.close()  # type: ignore[attr-defined]
    ended.set()
    filling.join(60)
    worker = rig.slot.read()
    assert (worker.in_flight, worker.all_busy_since) == (1, 0.0)
