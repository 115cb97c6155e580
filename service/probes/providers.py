"""The four providers: one authenticated read of each, one table, one code path.

What differs between them is a row of ``PROVIDERS``: what to ask for, how to log in, which
JSON is expected, and which refusal only says that a key is restricted. From the deadline to
the code, everything else is the same for all. The deadline counts for a run as a whole (see
``http``); the monitor abandons a thread that hangs in a name lookup.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from ipaddress import ip_address
from time import monotonic
from typing import Any
from urllib.parse import quote, urlsplit

from service.health import Result, is_code
from service.probes.errors import mask
from service.probes.http import (
    NO_ANSWER,
    Answer,
    Line,
    Resolve,
    ask,
    lookup,
    prepared,
    retry_after,
    without_answer,
)

EXCERPT_CHARACTERS = 200


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
        resolve: Resolve = lookup,
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
            url = base.rstrip("/") + provider.path_of(credentials)
            self._request = prepared("GET", url, login, version)
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
                answer = ask(line, self._request, self._timeout)
        except NO_ANSWER as error:
            code = without_answer(line, error)
            return self._failed(code, f"{type(error).__name__}: {error}")
        return self._judged(answer, monotonic() - started)

    def close(self) -> None:
        """Cut the connection of the run that is going on. From any thread, idempotent."""
        if self._line is not None:
            self._line.cut()

    def _judged(self, answer: Answer, elapsed: float) -> Result:
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
            measured["retry_after"] = retry_after(answer.headers)
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
