"""The WSGI callable a worker serves: measure the request, answer probes, dispatch.

    probe paths                        bytes from the scoreboard, without Flask
    /health  /api/system/health  /metrics    the Flask application with the route families
    everything else                    the user's application, unchanged

A request counts from its first line here to the end of its body, whoever serves it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from service.scoreboard import Slot
from service.web.answers import Answers
from service.web.disclosure import Disclosure
from service.web.endpoints import ENDPOINTS, JSON, PAGE, PREFIX, TWINS, Endpoint

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HEADERS = (
    ("Content-Type", JSON),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)
NEGOTIATED = {"Vary": "Accept"}
HOT = {
    path: endpoint
    for endpoint in (*ENDPOINTS, *TWINS)
    if endpoint.hot
    for path in (endpoint.path, f"{endpoint.path}/")
}

FAMILIES = ("/health", PREFIX, PAGE, *(twin.path for twin in TWINS))  # with all that is below
OUR_BEGINNINGS = (*FAMILIES, "/metrics")  # most paths are none of ours: one look tells

# Method, route, HTTP status, seconds.
Count = Callable[[str, str, str, float], None]


class Prepared(list[tuple[str, str]]):
    """The headers of an answer, for any server; and their bytes, for one that can use them.

    Attributes:
        length: Of the body.
        lines: The headers as they are sent, and the empty line after them.
    """

    __slots__ = ("length", "lines")

    def __init__(self, length: int, media: str = JSON) -> None:
        headers = {**dict(HEADERS), "Content-Type": media, **({} if media is JSON else NEGOTIATED)}
        super().__init__((*headers.items(), ("Content-Length", str(length))))
        self.length = length
        self.lines = "".join([*(f"{name}: {value}\r\n" for name, value in self), "\r\n"]).encode()


@lru_cache(maxsize=1024)
def _prepared(length: int, media: str) -> Prepared:
    return Prepared(length, media)


def hot(method: str, path: str, query: str, accept: str) -> Endpoint | None:
    """The endpoint whose bytes answer a request as they are; None where more is asked."""
    endpoint = HOT.get(path)
    if endpoint is None or method not in ("GET", "HEAD"):
        return None
    if endpoint.twin is None:
        return None if "+" in accept else endpoint  # as in application/health+json
    return endpoint if not query and accept in ("", "*/*") else None


class Front:
    """What a worker serves.

    Args:
        answers: The endpoints' answers.
        disclosure: Who may see what.
        slot: Where the worker says what it is doing.
        count: Where a finished request is counted.
        health: Makes the Flask application with the route families, at its first use.
        application: The user's application; None where there is none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        answers: Answers,
        disclosure: Disclosure,
        slot: Slot,
        count: Count,
        health: "Callable[[], WSGIApplication]",
        application: "WSGIApplication | None" = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._answers = answers
        self._disclosure = disclosure
        self.slot = slot
        self.count = count
        self._make_health = health
        self._health: WSGIApplication | None = None
        self._making = threading.Lock()
        self._application = application
        self.clock = clock

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Serves one request; see the module."""
        method = environ["REQUEST_METHOD"]
        endpoint = hot(
            method,
            environ.get("PATH_INFO", ""),
            environ.get("QUERY_STRING", ""),
            environ.get("HTTP_ACCEPT", ""),
        )
        if endpoint is None:
            return _Request(self, environ).serve(self._responsible(environ), start_response)
        begun = self.clock()
        trusted = endpoint.graded and self._disclosure.trusts(environ)
        status, body = self._answers.answer(endpoint, trusted=trusted)
        self.slot.request_answered()
        self.count(method, endpoint.path, status[:3], self.clock() - begun)
        start_response(status, _prepared(len(body), endpoint.media))
        return [] if method == "HEAD" else [body]

    @property
    def version(self) -> bytes:
        """Changes when there is something new to say."""
        return self._answers.reader.version

    def _responsible(self, environ: "WSGIEnvironment") -> "WSGIApplication":
        if self._application is not None and not is_ours(environ.get("PATH_INFO", "")):
            return self._application
        return self.prepare()

    def prepare(self) -> "WSGIApplication":
        """The application with the route families, made now if it has not been yet."""
        if self._health is None:
            with self._making:
                self._health = self._health or self._make_health()
        return self._health


def is_ours(path: str) -> bool:
    """Whether a path belongs to the route families, whatever else is mounted."""
    if not path.startswith(OUR_BEGINNINGS):
        return False
    if path in ("/metrics", "/metrics/"):
        return True
    return any(path == family or path.startswith(f"{family}/") for family in FAMILIES)


class _Request:
    """One request while it is served; it counts itself out exactly once."""

    __slots__ = ("_begun", "_environ", "_front", "_number", "_open", "_route", "_status")

    def __init__(self, front: Front, environ: "WSGIEnvironment") -> None:
        self._front = front
        self._environ = environ
        self._status = "500"
        self._route = "other"
        self._open = True
        self._number = front.slot.request_started()
        self._begun = front.clock()

    def finish(self, status: str, route: str) -> None:
        front = self._front
        self._open = False
        front.slot.request_finished(self._number)
        took = front.clock() - self._begun
        front.count(self._environ["REQUEST_METHOD"], route, status[:3], took)

    def serve(
        self, application: "WSGIApplication", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            self._status = status
            self._route = route_of(self._environ)  # Flask forgets it when it is done
            return start_response(status, headers, *exc_info)

        try:
            body = application(self._environ, start)
        except BaseException:
            self.fail()
            self.close()
            raise
        wrapper = self._environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(body, wrapper):
            self._watch(body)  # and left as it is: the server sends it by sendfile
            return body
        return _Body(body, self)

    def _watch(self, body: Any) -> None:
        close = getattr(body, "close", None)

        def close_both() -> None:
            self.close()
            if close is not None:
                close()

        body.close = close_both

    def fail(self) -> None:
        """The server answers for the application, whatever that has promised."""
        self._status = "500"

    def close(self) -> None:
        if self._open:
            self.finish(self._status, self._route)


class _Body:
    """An application's response that tells when it has been sent, or given up."""

    __slots__ = ("_body", "_request")

    def __init__(self, body: Iterable[bytes], request: _Request) -> None:
        self._body = body
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        begun = False
        try:
            for chunk in self._body:
                begun = True
                yield chunk
        except Exception:
            if not begun:
                self._request.fail()
            raise

    def close(self) -> None:
        self._request.close()
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def route_of(environ: "WSGIEnvironment") -> str:
    """The route a Flask application matched: a fixed set. Of others nothing is known."""
    rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
    return "other" if rule is None else str(rule.rule)
