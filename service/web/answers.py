"""Answers as bytes.

For one publication, one set of flags and one class of caller, an endpoint's body differs
only in the time of the answer, and with that in the uptime. So it is rendered once with
placeholders for both, which are then only filled in, until the next publication, flag or expiry.

Liveness is the exception: its verdict is computed from the workers' stamps at every question,
because it must not need a publication.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from service.health import Pod
from service.web.endpoints import Endpoint, Render
from service.web.payload import Answer, Document, Payload, timestamp
from service.web.reader import Reader, Version

log = structlog.get_logger(__name__)

OK = "200 OK"
UNAVAILABLE = "503 Service Unavailable"

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

# A moment and an uptime that no answer carries; in a rendered body they mark where these go.
_EPOCH = 0.0
_EPOCH_MARK = timestamp(_EPOCH).encode()
_UPTIME = -86399.97
_UPTIME_MARK = str(_UPTIME).encode()

# The whole version of liveness.
ALIVE = {True: b"alive", False: b"stuck"}


def encode(document: Document) -> bytes:
    """A document as the bytes of a body."""
    return _encode(document).encode()


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A body waiting for the time of its answer."""

    version: Version
    until: float
    status: str
    parts: list[bytes]
    has_uptime: bool


class Answers:
    """The endpoints' answers of one worker. Threads may share one.

    Args:
        reader: The worker's eyes.
        payload: The documents.
    """

    def __init__(self, reader: Reader, payload: Payload) -> None:
        self.reader = reader
        self.payload = payload
        self._rendered: dict[tuple[str, bool], _Rendered] = {}
        self._second = -1, b""

    def answer(self, endpoint: Endpoint, *, trusted: bool) -> tuple[str, bytes]:
        """HTTP status line and body of an endpoint at this moment. Never raises."""
        try:
            return self._join(endpoint, trusted=trusted and endpoint.graded)
        except Exception:  # the rim of a request: a health answer is never a 500
            log.exception("answer failed", path=endpoint.path)
            return self._without_state(endpoint)

    def asked(self, endpoint: Endpoint, render: Render) -> tuple[str, bytes]:
        """An answer of another form, which the request has chosen. Never raises."""
        try:
            return _finish(render(self.payload, self.reader.pod(), trusted=False))
        except Exception:  # the rim of a request, as above
            log.exception("answer failed", path=endpoint.path)
            return self._without_state(replace(endpoint, render=render, shaped=True))

    def _join(self, endpoint: Endpoint, *, trusted: bool) -> tuple[str, bytes]:
        reader, key = self.reader, (endpoint.path, trusted)
        version = ALIVE[reader.alive()] if endpoint.vital else reader.version
        rendered = self._rendered.get(key)
        if rendered is None or rendered.version != version or reader.now() > rendered.until:
            rendered = self._rendered[key] = self._render(endpoint, version, trusted=trusted)
        body = self._moment(reader.wall()).join(rendered.parts)
        if rendered.has_uptime:
            body = body.replace(_UPTIME_MARK, str(round(reader.uptime, 2)).encode())
        return rendered.status, body

    def _moment(self, wall: float) -> bytes:
        """The time of an answer; of one second only the milliseconds are made anew."""
        second, rest_us = divmod(round(wall * 1_000_000), 1_000_000)
        known, text = self._second
        if second != known:
            text = timestamp(second)[:-4].encode()
            self._second = second, text
        return b"%b%03dZ" % (text, rest_us // 1000)

    def _render(self, endpoint: Endpoint, version: Version, *, trusted: bool) -> _Rendered:
        pod = self.reader.pod()
        if endpoint.vital:
            pod = replace(pod, alive=version == ALIVE[True])
        blank = replace(pod, at=_EPOCH, uptime=_UPTIME)
        status, body = _finish(self._document(endpoint, blank, trusted=trusted))
        return _Rendered(
            version, _until(pod), status, body.split(_EPOCH_MARK), _UPTIME_MARK in body
        )

    def _without_state(self, endpoint: Endpoint) -> tuple[str, bytes]:
        """The answer of an endpoint whose handler failed."""
        if endpoint.shaped:
            with suppress(Exception):  # it fails even so: the plain body is left
                return _finish(self._document(endpoint, self.reader.nothing(), trusted=False))
        body = error_body("internal_error", self.reader.wall(), enveloped=endpoint.enveloped)
        return UNAVAILABLE, encode(body)

    def _document(self, endpoint: Endpoint, pod: Pod, *, trusted: bool) -> Answer:
        return endpoint.render(self.payload, pod, trusted=trusted)


def _until(pod: Pod) -> float:
    # What could not be read is worth another look at the next question.
    return pod.snapshot.fresh_until if pod.readable else float("-inf")


def _finish(answer: Answer) -> tuple[str, bytes]:
    body = answer.body.encode() if isinstance(answer.body, str) else encode(answer.body)
    return (OK if answer.passes else UNAVAILABLE), body


def error_body(error: str, at: float, *, enveloped: bool) -> Document:
    """The body of a 404, a 405 or an internal error."""
    kind = "server_error" if error == "internal_error" else "http_error"
    data = {"error": error, "type": kind}
    if enveloped:
        return {"success": False, "timestamp": timestamp(at), "data": data}
    if error == "internal_error":
        return {"status": "unknown", "timestamp": timestamp(at), **data}
    return {**data, "timestamp": timestamp(at)}


def problem_body(error: str, status: str, at: float) -> Document:
    """The same as a problem of RFC 9457."""
    code, _, title = status.partition(" ")
    return {
        "type": "about:blank",
        "title": title,
        "status": int(code),
        "error": error,
        "timestamp": timestamp(at),
    }
