"""The four providers, each against a server that behaves and misbehaves like theirs."""

import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.health import Result, Status
from service.probes.http import MAX_BODY_BYTES
from service.probes.providers import (
    PROVIDERS,
    RESEND,
    STRIPE,
    SUPABASE,
    TWILIO,
    Credentials,
    Provider,
    ProviderProbe,
)
from tests.servers import providers as api

PATIENCE = 30.0
UNTIL_DRIPPED_DRY = 0.5


@pytest.fixture
def server() -> Iterator[api.ProviderServer]:
    with api.ProviderServer() as running:
        yield running


def credentials(provider: Provider, key: str = "") -> Credentials:
    account = api.TWILIO_SID if provider is TWILIO else ""
    return Credentials(key or api.KEYS[provider.name], account)


def probe(provider: Provider, base: str, **options: Any) -> ProviderProbe:
    given = {"timeout": PATIENCE, "slow_ms": 1e6, "version": "1.0.0", **options}
    return ProviderProbe(provider, base, given.pop("who", credentials(provider)), **given)


def word(result: Result) -> str:
    return result.code or result.status.word


every_provider = pytest.mark.parametrize(
    "provider", [pytest.param(row, id=name) for name, row in PROVIDERS.items()]
)
# None of these ever ends by itself: only a deadline that holds lets the probe return.
every_stall = pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(api.hang, id="hang"),
        pytest.param(api.drip_headers(0.02), id="headers, byte by byte"),
        pytest.param(api.drip_body(0.02), id="body, byte by byte"),
    ],
)


@every_provider
def test_healthy(server: api.ProviderServer, provider: Provider) -> None:
    result = probe(provider, server.base(provider.name))()
    assert (result.status, result.code) == (Status.HEALTHY, None), result.reason
    assert result.details == {"response_code": 200}
    assert result.response_time is not None
    assert result.response_time > 0
    assert server.requests == {provider.name: 1}


@every_provider
def test_wrong_key(server: api.ProviderServer, provider: Provider) -> None:
    who = credentials(provider, key="wrong-key-of-ours")
    asked = probe(provider, server.base(provider.name), who=who)
    result = asked()
    # Stripe cannot be told a wrong key from a restricted one by 403; it says 401.
    assert word(result) == "authentication_failed"
    assert result.details["response_code"] in (401, 403)
    assert "wrong-key-of-ours" not in result.reason


@every_provider
@pytest.mark.parametrize(
    ("behaviour", "expected", "response_code"),
    [
        pytest.param(api.status(401), "authentication_failed", 401, id="401"),
        pytest.param(api.status(404), "http_404", 404, id="404"),
        pytest.param(api.status(429), "rate_limited", 429, id="429"),
        pytest.param(api.status(500), "http_500", 500, id="500"),
        pytest.param(api.status(204), "http_204", 204, id="204"),
        pytest.param(api.status(700), "http_700", 700, id="no such status"),
        pytest.param(api.redirect, "http_302", 302, id="302 without end"),
        pytest.param(api.html, "invalid_response", 200, id="HTML"),
        pytest.param(api.json_of([]), "invalid_response", 200, id="wrong shape"),
        pytest.param(api.json_of(None), "invalid_response", 200, id="null"),
        pytest.param(api.raw(b"[" * 60_000), "invalid_response", 200, id="deep JSON"),
        pytest.param(api.raw(b"\xff\xfe{"), "invalid_response", 200, id="no text"),
        pytest.param(api.raw(b""), "invalid_response", 200, id="nothing"),
        pytest.param(api.endless_body, "invalid_response", 200, id="endless"),
        pytest.param(api.chunked, "healthy", 200, id="chunked"),
        pytest.param(api.no_http, "invalid_response", None, id="no HTTP"),
        pytest.param(api.cut_short, "connection_lost", None, id="cut short"),
        pytest.param(api.reset, "connection_lost", None, id="reset"),
        pytest.param(api.hang_up, "connection_lost", None, id="hung up"),
    ],
)
def test_answers(
    server: api.ProviderServer,
    provider: Provider,
    behaviour: api.Behaviour,
    expected: str,
    response_code: int | None,
) -> None:
    server.behave(provider.name, behaviour)
    result = probe(provider, server.base(provider.name))()
    assert word(result) == expected, result.reason
    assert result.details == {"response_code": response_code}
    assert (result.response_time is None) == (response_code is None)
    assert server.requests[provider.name] == 1, "neither a retry nor a redirect"


@pytest.mark.parametrize(
    ("provider", "behaviour", "expected"),
    [
        pytest.param(SUPABASE, api.status(403), "authentication_failed", id="supabase 403"),
        pytest.param(STRIPE, api.restricted_key, "healthy", id="stripe restricted"),
        pytest.param(STRIPE, api.json_of({"object": "list"}), "invalid_response", id="no balance"),
        pytest.param(RESEND, api.restricted_key, "healthy", id="resend sends only"),
        pytest.param(RESEND, api.status(403), "authentication_failed", id="resend 403"),
        pytest.param(RESEND, api.json_of({"data": {}}), "invalid_response", id="no list"),
        pytest.param(TWILIO, api.status(403), "authentication_failed", id="twilio 403"),
        pytest.param(TWILIO, api.account("suspended"), "account_inactive", id="suspended"),
        pytest.param(TWILIO, api.account("closed"), "account_inactive", id="closed"),
        pytest.param(TWILIO, api.json_of({"status": []}), "invalid_response", id="no status"),
    ],
)
def test_what_only_one_provider_says(
    server: api.ProviderServer, provider: Provider, behaviour: api.Behaviour, expected: str
) -> None:
    server.behave(provider.name, behaviour)
    assert word(probe(provider, server.base(provider.name))()) == expected


@pytest.mark.parametrize(
    ("path", "behaviour", "expected"),
    [
        pytest.param("/rest/v1/todos", api.status(204), "healthy", id="any 2xx"),
        pytest.param("rest/v1/todos", api.html, "healthy", id="whatever it contains"),
        pytest.param("/rest/v1/todos", api.answer_right, "http_404", id="nothing else"),
        pytest.param("/rest/v1/todos", api.status(401), "authentication_failed", id="the key"),
        pytest.param("auth/v1/health", api.html, "invalid_response", id="the default path"),
    ],
)
def test_another_path(
    server: api.ProviderServer, path: str, behaviour: api.Behaviour, expected: str
) -> None:
    server.behave(api.SUPABASE, behaviour)
    assert word(probe(SUPABASE.at(path), server.base(api.SUPABASE))()) == expected


def test_slow_response(server: api.ProviderServer) -> None:
    result = probe(STRIPE, server.base(api.STRIPE), slow_ms=0)()
    assert (result.status, result.code) == (Status.WARNING, "slow_response")
    server.behave(api.STRIPE, api.status(500))
    assert word(probe(STRIPE, server.base(api.STRIPE), slow_ms=0)()) == "http_500"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"Retry_After": "7"}, 7.0, id="seconds"),
        pytest.param({}, None, id="absent"),
        pytest.param({"Retry_After": "soon"}, None, id="a word"),
        pytest.param({"Retry_After": "-7"}, None, id="negative"),
        pytest.param({"Retry_After": "9" * 400}, None, id="for ever"),
        pytest.param({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0, id="a date gone by"),
        pytest.param({"Retry_After": f"Wed, 21 Oct {'9' * 40} 07:28:00 GMT"}, None, id="no year"),
    ],
)
def test_retry_after(
    server: api.ProviderServer, headers: dict[str, str], seconds: float | None
) -> None:
    server.behave(api.RESEND, api.status(429, **headers))
    assert probe(RESEND, server.base(api.RESEND))().retry_after == seconds


def test_retry_after_counts_from_the_date_of_the_provider(server: api.ProviderServer) -> None:
    def ask_for_patience(handler: api.Handler) -> None:
        handler.wfile.write(
            b"HTTP/1.1 429 Slow down\r\nContent-Length: 0\r\n"
            b"Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
            b"Retry-After: Wed, 21 Oct 2015 07:28:42 GMT\r\n\r\n"
        )

    server.behave(api.RESEND, ask_for_patience)
    assert probe(RESEND, server.base(api.RESEND))().retry_after == 42.0


@every_provider
@every_stall
def test_the_deadline_counts_for_the_whole_run(
    server: api.ProviderServer, provider: Provider, behaviour: api.Behaviour
) -> None:
    server.behave(provider.name, behaviour)
    result = probe(provider, server.base(provider.name), timeout=UNTIL_DRIPPED_DRY)()
    assert word(result) == "timeout", result.reason
    assert result.details == {"response_code": None}
    assert result.response_time is None


def test_a_handshake_has_the_same_deadline() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        base = f"https://127.0.0.1:{silent.getsockname()[1]}"
        assert word(probe(STRIPE, base, timeout=UNTIL_DRIPPED_DRY)()) == "timeout"


def _closed_from_outside(asked: ProviderProbe, is_stuck: Callable[[], object]) -> Result:
    """What a run finds that would last for minutes, were it not for ``close``."""
    found: list[Result] = []
    run = threading.Thread(target=lambda: found.append(asked()))
    run.start()
    is_stuck()
    for _ in range(int(PATIENCE / 0.1)):
        asked.close()
        run.join(0.1)
        if not run.is_alive():
            return found[0]
    raise TimeoutError("close() did not end the run")


@every_stall
def test_close_wakes_a_stuck_read(server: api.ProviderServer, behaviour: api.Behaviour) -> None:
    server.behave(api.STRIPE, behaviour)
    asked = probe(STRIPE, server.base(api.STRIPE), timeout=600)
    result = _closed_from_outside(asked, lambda: server.wait_for_request(api.STRIPE))
    assert word(result) == "timeout"
    server.behave(api.STRIPE)
    assert word(asked()) == "healthy", "the next run is not affected"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_close_wakes_a_stuck_dial_and_a_stuck_handshake(scheme: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full:
        asked = probe(STRIPE, f"{scheme}://127.0.0.1:{full.getsockname()[1]}", timeout=600)
        with closing(socket.create_connection(full.getsockname())):  # the one that fits in
            assert word(_closed_from_outside(asked, lambda: None)) == "timeout"


def test_close_without_a_run_does_nothing(server: api.ProviderServer) -> None:
    asked = probe(STRIPE, server.base(api.STRIPE))
    asked.close()
    assert word(asked()) == "healthy"
    asked.close()
    assert word(asked()) == "healthy"


def test_an_abandoned_lookup_does_not_disturb_the_next_run(server: api.ProviderServer) -> None:
    answered, entered = threading.Event(), threading.Event()
    good = socket.getaddrinfo("127.0.0.1", server.port, type=socket.SOCK_STREAM)

    def resolve(_host: str, _port: int) -> list[Any]:
        if not entered.is_set():
            entered.set()
            answered.wait(PATIENCE)
        return good

    asked = probe(STRIPE, server.base(api.STRIPE), resolve=resolve)
    abandoned: list[Result] = []
    thread = threading.Thread(target=lambda: abandoned.append(asked()))
    thread.start()
    assert entered.wait(PATIENCE)
    asked.close()
    assert word(asked()) == "healthy"
    answered.set()
    thread.join(PATIENCE)
    assert [word(result) for result in abandoned] == ["timeout"]
    assert server.requests[api.STRIPE] == 1, "the abandoned run asks nothing any more"


def _unused_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        return int(gone.getsockname()[1])


def _no_such_name(*_: object) -> list[Any]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _no_route(*_: object) -> list[Any]:
    # A broadcast address has no route for TCP, on every machine and without a packet.
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("255.255.255.255", 443))]


@pytest.mark.parametrize(
    ("resolve", "expected"),
    [
        pytest.param(_no_such_name, "dns_failure", id="dns"),
        pytest.param(_no_route, "network_unreachable", id="no route"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_way_there(scheme: str, resolve: Callable[..., Any], expected: str) -> None:
    asked = probe(STRIPE, f"{scheme}://api.example", resolve=resolve, allow_insecure=True)
    result = asked()
    assert word(result) == expected, result.reason
    assert result.details == {"response_code": None}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nobody_listens(scheme: str) -> None:
    result = probe(STRIPE, f"{scheme}://127.0.0.1:{_unused_port()}")()
    assert word(result) == "connection_refused", result.reason


def test_the_next_address_is_tried(server: api.ProviderServer) -> None:
    def resolve(_host: str, port: int) -> list[Any]:
        return [
            address
            for candidate in (_unused_port(), port)
            for address in socket.getaddrinfo("127.0.0.1", candidate, type=socket.SOCK_STREAM)
        ]

    assert word(probe(STRIPE, server.base(api.STRIPE), resolve=resolve)()) == "healthy"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[api.ProviderServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with api.ProviderServer(context) as running:
        yield running


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(bundle))


@pytest.mark.usefixtures("trusted")
@every_provider
def test_healthy_over_tls(tls_server: api.ProviderServer, provider: Provider) -> None:
    result = probe(provider, tls_server.base(provider.name))()
    assert word(result) == "healthy", result.reason


@pytest.mark.usefixtures("trusted")
@every_stall
def test_the_deadline_counts_over_tls(
    tls_server: api.ProviderServer, behaviour: api.Behaviour
) -> None:
    tls_server.behave(api.STRIPE, behaviour)
    asked = probe(STRIPE, tls_server.base(api.STRIPE), timeout=UNTIL_DRIPPED_DRY)
    assert word(asked()) == "timeout"


@pytest.mark.usefixtures("trusted")
def test_the_certificate_must_be_for_the_host(tls_server: api.ProviderServer) -> None:
    base = tls_server.base(api.STRIPE).replace("127.0.0.1", "localhost")
    assert word(probe(STRIPE, base)()) == "tls_error"


def test_the_certificate_must_be_trusted(tls_server: api.ProviderServer) -> None:
    assert word(probe(STRIPE, tls_server.base(api.STRIPE))()) == "tls_error"
    assert not tls_server.requests


def test_a_server_without_tls(server: api.ProviderServer) -> None:
    base = server.base(api.STRIPE).replace("http://", "https://")
    assert word(probe(STRIPE, base)()) in ("tls_error", "connection_lost")
    assert not server.requests


@pytest.mark.parametrize(
    ("base", "options"),
    [
        pytest.param("http://api.stripe.com", {}, id="plain http"),
        pytest.param("http://127.0.0.1.example.com", {}, id="no loopback"),
        pytest.param("https://user:pa55word@api.stripe.com", {}, id="user-info"),
        pytest.param("https://:@api.stripe.com", {}, id="empty user-info"),
        pytest.param("api.stripe.com", {}, id="no scheme"),
        pytest.param("ftp://api.stripe.com", {}, id="another scheme"),
        pytest.param("https://", {}, id="no host"),
        pytest.param("", {}, id="empty"),
        pytest.param("https://api.stripe.com:http", {}, id="no port"),
        pytest.param("https://api.stripe.com:70000", {}, id="port too high"),
        pytest.param("https://[::1", {}, id="half an address"),
        pytest.param("https://a..b", {}, id="empty label"),
        pytest.param(f"https://{'a' * 64}.com", {}, id="long label"),
        pytest.param("https://api.stripe.com/?x=1", {}, id="query"),
        pytest.param("https://api.stripe.com/#x", {}, id="fragment"),
        pytest.param("https://api.stripe.com\\@evil.example", {}, id="backslash"),
        pytest.param("https://api stripe.com", {}, id="blank"),
        pytest.param("https://api.stripe.com", {"who": Credentials("")}, id="no key"),
        pytest.param("https://api.stripe.com", {"who": Credentials("k\nHost: x")}, id="newline"),
        pytest.param("https://api.stripe.com", {"who": Credentials("schlüssel")}, id="umlaut"),
        pytest.param("https://api.stripe.com", {"version": "1\r\nHost: x"}, id="version"),
    ],
)
def test_unusable_settings_make_no_request(base: str, options: dict[str, Any]) -> None:
    def resolve(*_: object) -> list[Any]:
        raise AssertionError("a request was made")

    result = probe(STRIPE, base, resolve=resolve, **options)()
    assert word(result) == "configuration_invalid"
    assert result.details == {"response_code": None}
    assert result.reason
    assert "pa55word" not in result.reason
    assert api.KEYS[api.STRIPE] not in result.reason


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_plain_http_to_loopback_is_fine(host: str) -> None:
    def resolve(*_: object) -> list[Any]:
        raise OSError(errno.ENETUNREACH, "as far as it should get")

    assert word(probe(STRIPE, f"http://{host}:1", resolve=resolve)()) == "network_unreachable"


@pytest.mark.parametrize("code", [401, 404, 500])
def test_no_secret_in_the_reason(server: api.ProviderServer, code: int) -> None:
    def parrot(handler: api.Handler) -> None:
        told = [handler.path, *handler.headers.values()] * 20
        handler.reply(api.Answer(code, {"you said": told}))

    for name, provider in PROVIDERS.items():
        server.behave(name, parrot)
        asked = probe(provider, server.base(name))
        result = asked()
        assert "you said" in result.reason
        assert api.KEYS[name] not in result.reason
        assert api.TWILIO_SID not in result.reason
        assert api.KEYS[name] not in repr(credentials(provider))


def test_a_healthy_account_is_not_quoted(server: api.ProviderServer) -> None:
    server.behave(api.TWILIO, api.json_of({"status": "odd", "friendly_name": "Ann"}))
    result = probe(TWILIO, server.base(api.TWILIO))()
    assert word(result) == "invalid_response"
    assert "Ann" not in result.reason


def test_the_size_of_an_answer_has_a_limit(server: api.ProviderServer) -> None:
    balance = b'{"object": "balance"}'
    server.behave(api.STRIPE, api.raw(balance.ljust(MAX_BODY_BYTES)))
    assert word(probe(STRIPE, server.base(api.STRIPE))()) == "healthy"
    server.behave(api.STRIPE, api.raw(balance.ljust(MAX_BODY_BYTES + 1)))
    assert word(probe(STRIPE, server.base(api.STRIPE))()) == "invalid_response"


def test_proxies_and_passwords_of_the_environment_are_ignored(
    server: api.ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{_unused_port()}")
    assert word(probe(STRIPE, server.base(api.STRIPE))()) == "healthy"
