"""A stand-in for the APIs of the four providers, on 127.0.0.1.

It answers exactly as the table of provider calls in the contract says: with the documented
JSON to a request whose path, headers and credentials are right, and with the documented
refusal to any other. Each provider can be told to misbehave:

    with ProviderServer() as server:
        server.behave(STRIPE, status(500))
        ... server.base(STRIPE), server.requests[STRIPE] ...

A misbehaviour lasts until the server stops, at which every one of them ends at once.
"""

import json
import socket
import ssl
import struct
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

SUPABASE = "supabase_api"
STRIPE = "stripe_api"
RESEND = "email_service_resend"
TWILIO = "sms_service_twilio"

KEYS = {
    SUPABASE: "sb_publishable_of_the_stand_in",
    STRIPE: "sk_test_of_the_stand_in",
    RESEND: "re_of_the_stand_in",
    TWILIO: "token-of-the-stand-in",
}
TWILIO_SID = "AC-of-the-stand-in"


@dataclass(frozen=True)
class Answer:
    """A whole answer: status, JSON document or other body, further headers."""

    status: int
    document: Any = None
    headers: Mapping[str, str] | None = None


class Handler(BaseHTTPRequestHandler):
    """One request: ``/<provider><path of the provider>``."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        self.close_connection = True
        _, provider, *rest = self.path.split("/", 2)
        self.provider, self.path = provider, "/" + "/".join(rest)
        owner = self.server.owner
        self.answer = RIGHT.get(provider, lambda _: Answer(404))(self)
        with owner.changed:
            owner.requests[provider] += 1
            owner.changed.notify_all()
        owner.behaviours.get(provider, answer_right)(self)

    def reply(self, answer: Answer) -> None:
        body = json.dumps(answer.document).encode()
        self.reply_bytes(answer.status, "application/json", body, answer.headers or {})

    def reply_bytes(
        self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.begin(status, {"Content-Type": kind, "Content-Length": str(len(body))}, headers)
        self.wfile.write(body)

    def begin(self, status: int, *headers: Mapping[str, str] | None) -> None:
        self.send_response(status)
        for some in headers:
            for name, value in (some or {}).items():
                self.send_header(name, value)
        self.end_headers()

    def drip(self, pieces: Iterable[bytes], interval: float) -> None:
        """Sends one piece an interval until the server stops."""
        for piece in pieces:
            if self.server.owner.stopping.wait(interval):
                return
            self.wfile.write(piece)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    # The threads are waited for at the end, so that no test leaves a socket to the next.
    daemon_threads = False
    owner: "ProviderServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up is what these tests are about


# -- the right answer, and the right refusal


def _agent_missing(handler: Handler) -> bool:
    agent = handler.headers.get("User-Agent", "")
    accept = handler.headers.get("Accept")
    return not agent.startswith("mingus-health/") or accept != "application/json"


def _supabase(handler: Handler) -> Answer:
    if _agent_missing(handler) or "Authorization" in handler.headers:
        return Answer(401, {"message": "Forbidden use of secret API key"})
    if handler.headers.get("apikey") != KEYS[SUPABASE]:
        return Answer(401, {"message": "Invalid API key"})
    if handler.path != "/auth/v1/health":
        return Answer(404, {"message": "no Route matched with those values"})
    return Answer(200, {"version": "v2.180.0", "name": "GoTrue", "description": "a user API"})


def _stripe(handler: Handler) -> Answer:
    if _agent_missing(handler):
        return Answer(400, {"error": {"type": "invalid_request_error"}})
    if handler.headers.get("Authorization") != f"Bearer {KEYS[STRIPE]}":
        return Answer(401, {"error": {"type": "invalid_request_error"}})
    if handler.path != "/v1/balance":
        return Answer(404, {"error": {"type": "invalid_request_error"}})
    return Answer(200, {"object": "balance", "available": [], "livemode": False, "pending": []})


def _resend(handler: Handler) -> Answer:
    parts = urlsplit(handler.path)
    authorization = handler.headers.get("Authorization")
    if _agent_missing(handler):
        return Answer(403, {"statusCode": 403, "name": "missing_user_agent"})
    if authorization is None:
        return Answer(401, {"statusCode": 401, "name": "missing_api_key"})
    if authorization != f"Bearer {KEYS[RESEND]}":
        return Answer(403, {"statusCode": 403, "name": "invalid_api_key"})
    if parts.path != "/domains":
        return Answer(404, {"statusCode": 404, "name": "not_found"})
    if parse_qs(parts.query) != {"limit": ["1"]}:
        return Answer(422, {"statusCode": 422, "name": "validation_error"})
    return Answer(200, {"object": "list", "has_more": False, "data": [{"name": "example.com"}]})


def _twilio_account(status: str) -> Mapping[str, Any]:
    # The real resource holds the token, too.
    return {"sid": TWILIO_SID, "status": status, "auth_token": KEYS[TWILIO], "type": "Full"}


def _twilio(handler: Handler) -> Answer:
    pair = b64encode(f"{TWILIO_SID}:{KEYS[TWILIO]}".encode()).decode()
    if _agent_missing(handler):
        return Answer(400, {"code": 20001, "status": 400})
    if handler.headers.get("Authorization") != f"Basic {pair}":
        return Answer(401, {"code": 20003, "message": "Authenticate", "status": 401})
    if handler.path != f"/2010-04-01/Accounts/{TWILIO_SID}.json":
        return Answer(404, {"code": 20404, "status": 404})
    return Answer(200, _twilio_account("active"))


RIGHT: Mapping[str, Callable[[Handler], Answer]] = {
    SUPABASE: _supabase,
    STRIPE: _stripe,
    RESEND: _resend,
    TWILIO: _twilio,
}


# -- behaviours

Behaviour = Callable[[Handler], None]


def answer_right(handler: Handler) -> None:
    """What the table says: the documented answer, or the documented refusal."""
    handler.reply(handler.answer)


def status(code: int, document: Any = None, **headers: str) -> Behaviour:
    """That status; ``Retry_After="7"`` is sent as ``Retry-After: 7``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.reply(Answer(code, document or {}, named))


def redirect(handler: Handler) -> None:
    """302 to a place that would answer right, with an endless body."""
    base = handler.server.owner.base(handler.provider)
    handler.begin(302, {"Location": base + handler.path})
    handler.drip(_forever(b"x" * 65536), 0)


def json_of(document: Any) -> Behaviour:
    """200 with some other JSON."""
    return lambda handler: handler.reply(Answer(200, document))


def raw(body: bytes, kind: str = "application/json") -> Behaviour:
    """200 with that body."""
    return lambda handler: handler.reply_bytes(200, kind, body)


def html(handler: Handler) -> None:
    """200 with a page for people, as a captive portal gives it."""
    handler.reply_bytes(200, "text/html", b"<!doctype html><title>Welcome</title>")


def chunked(handler: Handler) -> None:
    """The right answer in chunks of one byte."""
    handler.begin(handler.answer.status, {"Transfer-Encoding": "chunked"})
    for byte in json.dumps(handler.answer.document).encode():
        handler.wfile.write(b"1\r\n%c\r\n" % byte)
    handler.wfile.write(b"0\r\n\r\n")


def restricted_key(handler: Handler) -> None:
    """The refusal of a valid key that may do less: Stripe 403, Resend 401."""
    refusals = {
        401: Answer(401, {"statusCode": 401, "name": "restricted_api_key"}),
        403: Answer(403, {"error": {"code": "permission_error"}}),
    }
    handler.reply(refusals[401 if "limit" in handler.path else 403])


def account(state: str) -> Behaviour:
    """Twilio's account in that state, such as ``suspended``."""
    return json_of(_twilio_account(state))


def endless_body(handler: Handler) -> None:
    """A body without an end, as fast as it can be read."""
    handler.begin(200, {"Content-Type": "application/json"})
    handler.drip(_forever(b" " * 65536), 0)


def drip_body(interval: float = 1.0) -> Behaviour:
    """A body of one byte an interval."""

    def behave(handler: Handler) -> None:
        handler.begin(200, {"Content-Type": "application/json"})
        handler.drip(_forever(b" "), interval)

    return behave


def drip_headers(interval: float = 1.0) -> Behaviour:
    """Headers of one byte an interval."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        handler.drip(_forever(b"x"), interval)

    return behave


def slow(seconds: float) -> Behaviour:
    """The right answer, later."""

    def behave(handler: Handler) -> None:
        handler.server.owner.stopping.wait(seconds)
        answer_right(handler)

    return behave


def hang(handler: Handler) -> None:
    """No answer, and no end either."""
    handler.server.owner.stopping.wait()


def cut_short(handler: Handler) -> None:
    """Less than was announced, then the end of the connection."""
    handler.begin(200, {"Content-Type": "application/json", "Content-Length": "1000"})
    handler.wfile.write(b'{"object": ')


def reset(handler: Handler) -> None:
    """Less than was announced, then a reset."""
    cut_short(handler)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hang_up(handler: Handler) -> None:
    """The end of the connection instead of an answer."""


def no_http(handler: Handler) -> None:
    """Something that is not HTTP."""
    handler.wfile.write(b"220 mail.example.com ESMTP\r\n")


def _forever(piece: bytes) -> Iterable[bytes]:
    while True:
        yield piece


# -- the server


class ProviderServer:
    """The stand-in; a context manager, safe to use from any thread.

    Args:
        tls: Serve https with this, or plain http without.

    Attributes:
        requests: Requests that have come in, by provider.
        behaviours: What a provider does instead of answering right.
        changed: Notified when a request has come in.
        stopping: Set when every behaviour has to end.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.behaviours: dict[str, Behaviour] = {}
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.owner = self
        self._scheme = "https" if tls else "http"
        if tls:  # the handshake is left to the first read, so to the thread of the request
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def base(self, provider: str) -> str:
        """Base URL of a provider's API."""
        return f"{self._scheme}://127.0.0.1:{self.port}/{provider}"

    def behave(self, provider: str, behaviour: Behaviour = answer_right) -> None:
        """From the next request on; without a behaviour, answer right again."""
        self.behaviours[provider] = behaviour

    def wait_for_request(self, provider: str, count: int = 1, timeout: float = 30.0) -> None:
        """Returns when that many requests have come in.

        Raises:
            TimeoutError: They have not, within ``timeout`` seconds.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self.requests[provider] >= count, timeout):
                raise TimeoutError(f"{self.requests[provider]} of {count} requests to {provider}")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the service call this server for all four."""
        return {
            "SUPABASE_URL": self.base(SUPABASE),
            "SUPABASE_ANON_KEY": KEYS[SUPABASE],
            "STRIPE_API_BASE": self.base(STRIPE),
            "STRIPE_SECRET_KEY": KEYS[STRIPE],
            "RESEND_API_BASE": self.base(RESEND),
            "RESEND_API_KEY": KEYS[RESEND],
            "TWILIO_API_BASE": self.base(TWILIO),
            "TWILIO_ACCOUNT_SID": TWILIO_SID,
            "TWILIO_AUTH_TOKEN": KEYS[TWILIO],
        }
