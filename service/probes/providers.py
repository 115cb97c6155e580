"""The four providers: one authenticated read of each, one table, one code path.

What differs between them is a row of ``PROVIDERS``: what to ask for, how to log in, which
JSON is expected, and which refusal only says that a key is restricted. From the deadline to
the code, everything else is the same for all.

The deadline counts for a run as a whole. Requests limits each read but not their sum, so a
server that sends a byte a second could hold a run for hours; a timer cuts its connection
from outside instead (``Line``), be it in the dial, the TLS handshake, the headers or the
body. Only the name lookup cannot be cut: the monitor abandons a thread that hangs in one.
"""

import json
import re
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead
from ipaddress import ip_address
from time import monotonic
from typing import Any, Self
from urllib.parse import quote, urlsplit

from requests import PreparedRequest, Request, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import ContentDecodingError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError

from service.health import Result, is_code
from service.probes.errors import causes, mask, os_error_code

MAX_BODY_BYTES = 64 * 1024
EXCERPT_CHARACTERS = 200

# What getaddrinfo returns for each address of a name.
Address = tuple[Any, Any, int, str, Any]
Resolve = Callable[[str, int], list[Address]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a provider knows us by.

    Attributes:
        key: The secret: API key or auth token.
        account: The account it belongs to, where the provider asks for one.
    """

    key: str = field(repr=False)
    account: str = ""


@dataclass(frozen=True, slots=True)
class Provider:
    """What is special about one provider.

    Attributes:
        name: Name of its check.
        path: What to ask for; ``{account}`` stands for the account.
        login: The headers that say who we are.
        judge: The code for the JSON of a 200; None when it is as documented.
        restricted: Whether a refusal, status and JSON, means a valid key that may do less.
        any_success: Whether every 2xx will do, whatever it contains.
    """

    name: str
    path: str
    login: Callable[[Credentials], Mapping[str, str]]
    judge: Callable[[object], str | None]
    restricted: Callable[[int, object], bool] = lambda _status, _document: False
    any_success: bool = False

    def at(self, path: str) -> "Provider":
        """The same provider asked for something else, whose content nobody can judge."""
        path = "/" + path.lstrip("/")
        return self if path == self.path else replace(self, path=path, any_success=True)

    def path_of(self, credentials: Credentials) -> str:
        """What to ask for on behalf of an account."""
        return self.path.replace("{account}", quote(credentials.account, safe=""))

    def verdict(self, status: int, document: object) -> str | None:
        """The code for a complete answer; None when it is healthy."""
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limited"
        if self.restricted(status, document):
            return None
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return "authentication_failed"
        if self.any_success and status in range(200, 300):
            return None
        if status == HTTPStatus.OK:
            return self.judge(document)
        code = f"http_{status}"
        return code if is_code(code) else "invalid_response"


def _member(document: object, name: str) -> object:
    return document.get(name) if isinstance(document, dict) else None


def _expect(holds: Callable[[object], bool]) -> Callable[[object], str | None]:
    return lambda document: None if holds(document) else "invalid_response"


def _account_state(document: object) -> str | None:
    state = _member(document, "status")
    if state in ("suspended", "closed"):
        return "account_inactive"
    return None if state == "active" else "invalid_response"


def _bearer(credentials: Credentials) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {credentials.key}"}


def _basic(credentials: Credentials) -> Mapping[str, str]:
    pair = f"{credentials.account}:{credentials.key}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


# The new keys of Supabase are not JWTs: in an Authorization header they are refused.
SUPABASE = Provider(
    "supabase_api",
    "/auth/v1/health",
    login=lambda credentials: {"apikey": credentials.key},
    judge=_expect(lambda document: isinstance(document, dict)),
)
STRIPE = Provider(
    "stripe_api",
    "/v1/balance",
    login=_bearer,
    judge=_expect(lambda document: _member(document, "object") == "balance"),
    restricted=lambda status, _: status == HTTPStatus.FORBIDDEN,
)
RESEND = Provider(
    "email_service_resend",
    "/domains?limit=1",
    login=_bearer,
    judge=_expect(lambda document: isinstance(_member(document, "data"), list)),
    restricted=lambda status, document: (
        status == HTTPStatus.UNAUTHORIZED and _member(document, "name") == "restricted_api_key"
    ),
)
TWILIO = Provider(
    "sms_service_twilio",
    "/2010-04-01/Accounts/{account}.json",
    login=_basic,
    judge=_account_state,
)
PROVIDERS = {row.name: row for row in (SUPABASE, STRIPE, RESEND, TWILIO)}


def _lookup(host: str, port: int) -> list[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Line:
    """The connection of one run, which any thread may cut.

    It is cut by shutting down a duplicate of the socket. That ends the connection for
    whoever reads it, also during a TLS handshake, which takes the original out of reach;
    and no other file can have got the number of a descriptor that is still held here.
    """

    def __init__(self, timeout: float, resolve: Resolve = _lookup) -> None:
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
    """Requests' transport over a line; one for each run.

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
class _Answer:
    """A complete answer; of a body that is too long only the beginning."""

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
        return self.body.decode(errors="replace")


class ProviderProbe:
    """Asks one provider whether our calls would work. For one thread, ``close`` apart.

    Args:
        provider: The row of the table.
        base: Base URL of its API, such as ``https://api.stripe.com``.
        credentials: What it knows us by.
        timeout: Seconds a run may take, from the dial to the end of the body.
        slow_ms: Milliseconds beyond which a good answer is ``slow_response``.
        version: Version of the application, for the ``User-Agent``.
        allow_insecure: Whether credentials may go over plain http to any host.
        resolve: Addresses for a host and a port, in the form of ``getaddrinfo``.
    """

    def __init__(
        self,
        provider: Provider,
        base: str,
        credentials: Credentials,
        *,
        timeout: float = 5.0,
        slow_ms: float = 3000.0,
        version: str = "",
        allow_insecure: bool = False,
        resolve: Resolve = _lookup,
    ) -> None:
        self._provider = provider
        self._timeout = timeout
        self._slow_ms = slow_ms
        self._resolve = resolve
        self._line: Line | None = None
        self._secrets: tuple[str, ...] = (credentials.key, credentials.account)
        self._fault = ""
        try:
            _check_base(base, allow_insecure=allow_insecure)
            _check_credentials(credentials)
            login = provider.login(credentials)
            self._secrets += tuple(login.values())
            self._request = _prepared(
                base.rstrip("/") + provider.path_of(credentials), login, version
            )
        except ValueError as error:
            self._fault = str(error)

    def __call__(self) -> Result:
        """One read. Never raises for what the network or the provider does."""
        if self._fault:
            return self._failed("configuration_invalid", self._fault)
        started = monotonic()
        self._line = line = Line(self._timeout, self._resolve)
        try:
            with line:
                answer = self._ask(line)
        except (OSError, HTTPError) as error:
            code = "timeout" if line.is_cut else _code_without_answer(error)
            return self._failed(code, f"{type(error).__name__}: {error}")
        return self._judged(answer, monotonic() - started)

    def close(self) -> None:
        """Cut the connection of the run that is going on. From any thread, idempotent."""
        if self._line is not None:
            self._line.cut()

    def _ask(self, line: Line) -> _Answer:
        with closing(_Adapter(line)) as adapter:
            response = adapter.send(self._request, stream=True, timeout=self._timeout)
            with response:
                answer = _Answer(response.status_code, response.headers, _body(response))
        # A body that ends with its connection looks complete when the connection is cut.
        if line.is_cut:
            raise TimeoutError(f"no complete answer within {self._timeout} s")
        return answer

    def _judged(self, answer: _Answer, elapsed: float) -> Result:
        code = self._provider.verdict(answer.status, answer.document)
        if code is None and elapsed * 1000 > self._slow_ms:
            code = "slow_response"
        measured: dict[str, Any] = {
            "response_time": elapsed,
            "details": {"response_code": answer.status},
        }
        if code is None:
            return Result(**measured)
        if code == "rate_limited":
            measured["retry_after"] = _retry_after(answer.headers)
        told = f"HTTP {answer.status} after {elapsed:.3f} s"
        # What a 200 says of the account is nobody's business, the log's neither.
        if answer.status != HTTPStatus.OK:
            told += f": {self._masked(answer.excerpt)[:EXCERPT_CHARACTERS]}"
        return self._failed(code, told, **measured)

    def _failed(self, code: str, reason: str, **measured: Any) -> Result:
        measured.setdefault("details", {"response_code": None})
        return Result.failed(code, self._masked(reason), **measured)

    def _masked(self, text: str) -> str:
        return mask(text, *self._secrets)


def _prepared(url: str, login: Mapping[str, str], version: str) -> PreparedRequest:
    """The request of every run.

    Raises:
        ValueError: There can be no such request.
    """
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": f"mingus-health/{version.encode('ascii', 'replace').decode()}",
        **login,
    }
    return Request("GET", url, headers=headers).prepare()


def _check_credentials(credentials: Credentials) -> None:
    """Refuses what cannot be put into a header as it is.

    Raises:
        ValueError: The message does not quote them.
    """
    if not re.fullmatch(r"[!-~]+", credentials.key):
        raise ValueError("the key is empty or holds a character that no key has")
    if not re.fullmatch(r"[!-~]*", credentials.account):
        raise ValueError("the account holds a character that no account has")


def _check_base(base: str, *, allow_insecure: bool) -> None:
    """Refuses a base URL that credentials must not be sent to.

    Raises:
        ValueError: It is malformed, holds user-info, or is plain http to another host.
    """
    parts = urlsplit(base)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\\]", base):
        raise ValueError("the base URL must look like https://host")
    if "@" in parts.netloc:
        raise ValueError("the base URL must not hold a user or a password")
    if parts.query or parts.fragment:
        raise ValueError("the base URL must not hold a query or a fragment")
    host.encode("idna")  # a label that is empty or too long is a ValueError
    _ = parts.port  # so is a port that is no number or too high
    if parts.scheme == "http" and not (allow_insecure or _is_loopback(host)):
        raise ValueError("the base URL must be https: credentials are not sent in the clear")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _body(response: Response) -> bytes:
    """The body, cut off where it is longer than it may be."""
    body = bytearray()
    for piece in response.iter_content(8192):
        body += piece
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body[: MAX_BODY_BYTES + 1])


def _code_without_answer(error: BaseException) -> str:
    code = os_error_code(error)
    if code is None and any(map(_speaks_no_http, causes(error))):
        return "invalid_response"
    return code or "connection_lost"


def _speaks_no_http(error: BaseException) -> bool:
    if isinstance(error, IncompleteRead):
        return False
    return isinstance(error, HTTPException | ContentDecodingError)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a provider asks to be left alone for, or None.

    A date counts from the provider's own, so that neither clock has to be right.
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
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
