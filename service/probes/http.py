"""HTTP with a deadline for the whole of a call, whatever the other side does.

Requests limits each read but not their sum, so a server that sends a byte a second could hold
a call for hours; a timer cuts its connection from outside instead (``Line``), be it in the
dial, the TLS handshake, the headers or the body. Only the name lookup cannot be cut: whoever
calls does so in a thread that can be left behind.

No redirect is followed, nothing is retried, TLS is verified, and no proxy and no password is
taken from the environment.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException, IncompleteRead
from time import monotonic
from typing import Any, Self

from requests import PreparedRequest, Request, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import ContentDecodingError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError

from service.probes.errors import causes, os_error_code

MAX_BODY_BYTES = 64 * 1024

# What getaddrinfo returns for each address of a name.
Address = tuple[Any, Any, int, str, Any]
Resolve = Callable[[str, int], list[Address]]


def lookup(host: str, port: int) -> list[Address]:
    """The addresses of a name, by the system's resolver."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Line:
    """The connection of one call, which any thread may cut.

    It is cut by shutting down a duplicate of the socket. That ends the connection for
    whoever reads it, also during a TLS handshake, which takes the original out of reach;
    and no other file can have got the number of a descriptor that is still held here.
    """

    def __init__(self, timeout: float, resolve: Resolve = lookup) -> None:
        self._deadline = monotonic() + timeout
        self._resolve = resolve
        self._timer = threading.Timer(timeout, self.cut)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._spare: socket.socket | None = None
        self._is_cut = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._watch(None)

    @property
    def is_cut(self) -> bool:
        """Whether the deadline has passed or somebody lost patience before it did."""
        return self._is_cut

    def cut(self) -> None:
        """End the connection, now and for every later dial. From any thread, idempotent."""
        with self._lock:
            self._is_cut = True
            if self._spare is not None:
                with suppress(OSError):  # the peer was faster
                    self._spare.shutdown(socket.SHUT_RDWR)

    def dial(self, host: str, port: int) -> socket.socket:
        """A TCP connection to the first address of a name that accepts one.

        The addresses share the time that is left, so that a silent one leaves some.

        Raises:
            OSError: The name does not resolve, or no address of it accepts.
        """
        addresses = self._resolve(host, port)
        failure = OSError(f"{host} has no address")
        for tried, address in enumerate(addresses):
            patience = self._remaining() / (len(addresses) - tried)
            try:
                return self._connect(address, patience)
            except OSError as error:
                failure = error
        raise failure

    def _connect(self, address: Address, patience: float) -> socket.socket:
        family, kind, protocol, _, where = address
        sock = socket.socket(family, kind, protocol)
        try:
            self._watch(sock)
            sock.settimeout(patience)
            sock.connect(where)
            # Asked again: a cut finds nothing to shut down before the connect has begun.
            sock.settimeout(self._remaining())
        except BaseException:
            sock.close()
            raise
        return sock

    def _watch(self, sock: socket.socket | None) -> None:
        spare = sock and sock.dup()
        with self._lock:
            spare, self._spare = self._spare, spare
        if spare is not None:
            spare.close()

    def _remaining(self) -> float:
        left = self._deadline - monotonic()
        if self._is_cut or left <= 0:
            raise TimeoutError("no time is left to dial")
        return left


class _Dialled(HTTPConnection):
    """An HTTP connection over a line."""

    def __init__(self, line: Line, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line

    def _new_conn(self) -> socket.socket:
        try:
            return self._line.dial(self.host.strip("[]"), self.port)
        except OSError as error:
            # As it is, urllib3 takes a broken pipe for one of a request that was sent.
            raise NewConnectionError(self, str(error)) from error


class _DialledTls(_Dialled, HTTPSConnection):
    """An HTTPS connection over a line."""


class _Adapter(HTTPAdapter):
    """Requests' transport over a line; one for each call.

    It is used without a Session, which would read the environment for proxies and
    passwords and, without following a redirect, the whole of its body.
    """

    def __init__(self, line: Line) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._line = line

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The connection pool for a request, its connections dialled over the line."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind = _DialledTls if pool.scheme == "https" else _Dialled
        pool.ConnectionCls = partial(kind, self._line)
        return pool


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer; of a body that is too long only the beginning.

    Attributes:
        status: HTTP status code.
        headers: By name, in whatever case.
        body: Up to ``MAX_BODY_BYTES`` and one more.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> object:
        """What the body says as JSON; None when it is none or is too long."""
        if len(self.body) > MAX_BODY_BYTES:
            return None
        try:
            document: object = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return document

    @property
    def excerpt(self) -> str:
        """The body as text, whatever it is."""
        return self.body.decode(errors="replace")


def prepared(
    method: str, url: str, headers: Mapping[str, str], version: str, body: bytes | None = None
) -> PreparedRequest:
    """A request that says who we are and asks for nothing but the answer.

    Raises:
        ValueError: There can be no such request.
    """
    given = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": f"mingus-health/{version.encode('ascii', 'replace').decode()}",
        **headers,
    }
    return Request(method, url, headers=given, data=body).prepare()


def ask(line: Line, request: PreparedRequest, timeout: float) -> Answer:
    """The complete answer to one request.

    Args:
        line: An entered one, for this call alone.
        request: What to ask.
        timeout: Seconds each step may take; the line limits their sum.

    Raises:
        OSError, HTTPError: There is none; ``without_answer`` says why.
    """
    with closing(_Adapter(line)) as adapter:
        response = adapter.send(request, stream=True, timeout=timeout)
        with response:
            answer = Answer(response.status_code, response.headers, _body(response))
    # A body that ends with its connection looks complete when the connection is cut.
    if line.is_cut:
        raise TimeoutError(f"no complete answer within {timeout} s")
    return answer


NO_ANSWER = (OSError, HTTPError)


def _body(response: Response) -> bytes:
    """The body, cut off where it is longer than it may be."""
    body = bytearray()
    for piece in response.iter_content(8192):
        body += piece
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body[: MAX_BODY_BYTES + 1])


def without_answer(line: Line, error: BaseException) -> str:
    """The code for a call that ended in an error."""
    if line.is_cut:
        return "timeout"
    code = os_error_code(error)
    if code is None and any(map(_speaks_no_http, causes(error))):
        return "invalid_response"
    return code or "connection_lost"


def _speaks_no_http(error: BaseException) -> bool:
    if isinstance(error, IncompleteRead):
        return False
    return isinstance(error, HTTPException | ContentDecodingError)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks to be left alone for, or None.

    A date counts from the server's own, so that neither clock has to be right.
    """
    value = headers.get("Retry-After", "")
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    until = _http_date(value)
    if until is None:
        return None
    now = _http_date(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
