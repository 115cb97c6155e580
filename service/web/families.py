"""What the route families share: how an answer becomes a Flask response."""

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING

import structlog
from flask import Blueprint, Flask, Response, current_app, request

from service.advice import Runbook
from service.metrics import Format, MultiprocessReader, expose, negotiate
from service.metrics.formats import chosen
from service.web import health_json, openapi
from service.web.answers import OK, UNAVAILABLE, Answers, encode, error_body, problem_body
from service.web.disclosure import Disclosure
from service.web.endpoints import JSON, METRICS, OPENAPI, PREFIX, PROBLEM, Endpoint
from service.web.front import HEADERS, NEGOTIATED

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

EXTENSION = "mingus_health"
TRUSTED = "mingus_health.trusted"
ALLOW = "GET, HEAD"


class Health:
    """What the views need; one for each Flask application.

    Args:
        answers: The endpoints' answers.
        disclosure: Who may see what.
        metrics: The reader of the pod's metric files.
        version: The application's version, for the metrics.
        runbook: Where the status page's links to it lead.
        events: Whether the server tells the status page of news.
    """

    def __init__(
        self,
        answers: Answers,
        disclosure: Disclosure,
        metrics: MultiprocessReader,
        version: str,
        runbook: Runbook,
        *,
        events: bool = False,
    ) -> None:
        self.answers = answers
        self.disclosure = disclosure
        self._metrics = metrics
        self._version = version
        self.runbook = runbook
        self.events = events

    @cached_property
    def openapi(self) -> bytes:
        """The description of everything here; it does not change."""
        return encode(openapi.document(self.answers.payload))

    def before(self, families: "WSGIApplication") -> "WSGIApplication":
        """The families as the contract has them: any Host, and a doubled slash is unknown."""

        def serve(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            environ[TRUSTED] = self.disclosure.trusts(environ)
            environ["HTTP_HOST"] = "localhost"  # Werkzeug refuses some
            if environ["PATH_INFO"].startswith("//"):  # and folds these
                environ["PATH_INFO"] = f"/-{environ['PATH_INFO']}"
            return families(environ, start_response)

        return serve

    def trusted(self) -> bool:
        """Whether the caller of the current request may see internals."""
        return bool(request.environ[TRUSTED])

    def exposition(self) -> Response:
        """Both metrics paths: the form the caller asked for, always 200."""
        form = negotiate(request.headers.get("Accept", ""))
        if form is Format.JSON:
            _, body = self.answers.answer(METRICS, trusted=False)
            return respond("200 OK", body, Vary="Accept")
        zipped = request.accept_encodings["gzip"] > 0
        content_type, body = self._expose(form, zipped=zipped)
        if not zipped:
            return respond("200 OK", body, **{"Content-Type": content_type, "Vary": "Accept"})
        return respond(
            "200 OK",
            body,
            **{
                "Content-Type": content_type,
                "Content-Encoding": "gzip",
                "Vary": "Accept, Accept-Encoding",
            },
        )

    def _expose(self, form: Format, *, zipped: bool) -> tuple[str, bytes]:
        reader = self.answers.reader
        expose_of = partial(
            expose,
            reader=self._metrics,
            fmt=form,
            trusted=self.trusted(),
            names=frozenset(request.args.getlist("name[]")),
            version=self._version,
            gzip=zipped,
        )
        try:
            return expose_of(reader.pod())
        except Exception:  # a scrape must not fail: it says that nothing could be read
            log.exception("exposition failed")
            return expose_of(reader.nothing())


def health() -> Health:
    """The views' half of the current application."""
    found: Health = current_app.extensions[EXTENSION]
    return found


def respond(status: str, body: bytes, **headers: str) -> Response:
    """A whole body with the headers every answer has."""
    return Response(body, status, {**dict(HEADERS), **headers})


def other(media: str, status: str, body: bytes, **headers: str) -> Response:
    """An answer in the form that the caller asked for."""
    return respond(status, body, **{"Content-Type": media, **NEGOTIATED, **headers})


def add(blueprint: Blueprint, path: str, name: str, view: Callable[..., Response]) -> None:
    """Hangs a view under a path: GET and HEAD, with and without a trailing slash."""
    blueprint.add_url_rule(
        path, name, view, methods=["GET"], strict_slashes=False, provide_automatic_options=False
    )


def add_endpoint(blueprint: Blueprint, endpoint: Endpoint) -> None:
    """Hangs a documented endpoint into its family."""

    def view() -> Response:
        here = health()
        about, accept = endpoint.about, request.headers.get("Accept", "")
        if about and chosen(accept, health_json.MEDIA_TYPE, over=JSON):
            return other(
                health_json.MEDIA_TYPE,
                *here.answers.asked(endpoint, partial(health_json.render, about)),
            )
        return respond(*here.answers.answer(endpoint, trusted=endpoint.graded and here.trusted()))

    path = endpoint.path.removeprefix(blueprint.url_prefix or "")
    add(blueprint, path, path.strip("/") or "index", view)


def add_metrics(blueprint: Blueprint) -> None:
    """Hangs the exposition into a family."""
    add(blueprint, "/metrics", "exposition", lambda: health().exposition())


def add_openapi(blueprint: Blueprint) -> None:
    """Hangs the description of everything into a family."""
    path = OPENAPI.removeprefix(blueprint.url_prefix or "")
    add(blueprint, path, "openapi", lambda: respond(OK, health().openapi))


def report_errors(app: Flask) -> None:
    """Answers unknown paths and wrong methods in JSON, in the shape of their family."""

    def error(name: str, status: str, **headers: str) -> Response:
        here = health()
        asked = chosen(request.headers.get("Accept", ""), PROBLEM, over=JSON)
        if asked and status != UNAVAILABLE:
            problem = problem_body(name, status, here.answers.reader.wall())
            return other(PROBLEM, status, encode(problem), **headers)
        enveloped = f"{request.path}/".startswith(f"{PREFIX}/")
        body = error_body(name, here.answers.reader.wall(), enveloped=enveloped)
        return respond(status, encode(body), **headers)

    app.register_error_handler(404, lambda _: error("not_found", "404 Not Found"))
    app.register_error_handler(
        405, lambda _: error("method_not_allowed", "405 Method Not Allowed", Allow=ALLOW)
    )
    app.register_error_handler(500, lambda _: error("internal_error", UNAVAILABLE))
