"""Who may see internals: section 1.8 of the contract as a table of requests."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.settings import Settings
from service.web.disclosure import Disclosure

TOKEN = "0123456789abcdef"
OTHER = "fedcba9876543210"


def disclosure(
    networks: str = "loopback", proxies: str = "", hosts: str = "", tokens: str = ""
) -> Disclosure:
    """The rules that the variables of the environment stand for."""
    settings = Settings(
        health_trusted_networks=networks,
        health_trusted_proxies=proxies,
        health_trusted_hosts=hosts,
        health_details_token=tokens,
    )
    return Disclosure(
        settings.health_trusted_networks,
        settings.health_trusted_proxies,
        settings.health_trusted_hosts,
        [token.get_secret_value() for token in settings.health_details_token],
    )


def request(peer: str = "127.0.0.1", host: str | None = "localhost:5003", **headers: str) -> Any:
    """What a server makes of a request: ``x_real_ip="..."`` is the header X-Real-IP."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": peer}
    if host is not None:
        environ["HTTP_HOST"] = host
    return environ | {f"HTTP_{name.upper()}": value for name, value in headers.items()}


# -- rule 2: a direct caller


@pytest.mark.parametrize(
    ("networks", "peer", "trusted"),
    [
        pytest.param("loopback", "127.0.0.1", True, id="loopback"),
        pytest.param("loopback", "127.9.8.7", True, id="all of 127.0.0.0/8"),
        pytest.param("loopback", "::1", True, id="IPv6 loopback"),
        pytest.param("loopback", "::ffff:127.0.0.1", True, id="mapped loopback"),
        pytest.param("loopback", "::ffff:10.0.0.1", False, id="mapped, elsewhere"),
        pytest.param("loopback", "::2", False, id="not loopback"),
        pytest.param("loopback", "10.0.0.1", False, id="the pod network"),
        pytest.param("loopback", "203.0.113.5", False, id="the internet"),
        pytest.param("private", "10.0.0.1", True, id="10/8"),
        pytest.param("private", "172.16.0.1", True, id="172.16/12"),
        pytest.param("private", "172.32.0.1", False, id="beyond it"),
        pytest.param("private", "192.168.255.255", True, id="192.168/16"),
        pytest.param("private", "169.254.1.1", True, id="link-local"),
        pytest.param("private", "fd00::1", True, id="fc00::/7"),
        pytest.param("private", "fe80::1", True, id="fe80::/10"),
        pytest.param("private", "fe80::1%eth0", True, id="with a zone"),
        pytest.param("private", "2001:db8::1", False, id="a public IPv6 address"),
        pytest.param("private", "127.0.0.1", False, id="loopback is not private"),
        pytest.param("private,loopback", "127.0.0.1", True, id="both"),
        pytest.param("10.1.0.0/16", "10.1.2.3", True, id="a CIDR"),
        pytest.param("10.1.0.0/16", "::ffff:10.1.2.3", True, id="a CIDR, mapped"),
        pytest.param("10.1.0.0/16", "10.2.0.1", False, id="beside it"),
        pytest.param("2001:db8::/32", "2001:db8::7", True, id="an IPv6 CIDR"),
        pytest.param("none", "127.0.0.1", False, id="nobody"),
        pytest.param("0.0.0.0/0", "", False, id="a peer without an address"),
        pytest.param("0.0.0.0/0", "localhost", False, id="a peer that is a name"),
        pytest.param("0.0.0.0/0", "127.0.0.1:80", False, id="with a port"),
        pytest.param("0.0.0.0/0", "127.0.0.01", False, id="malformed"),
        pytest.param("0.0.0.0/0", "2130706433", False, id="a number"),
    ],
)
def test_where_a_direct_caller_sits(networks: str, peer: str, *, trusted: bool) -> None:
    assert disclosure(networks).trusts(request(peer)) is trusted


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        pytest.param("localhost", True, id="localhost"),
        pytest.param("LocalHost:5003", True, id="in any case, with a port"),
        pytest.param("127.0.0.1", True, id="an address"),
        pytest.param("127.0.0.1:5003", True, id="with a port"),
        pytest.param("10.4.5.6:5004", True, id="the pod's address"),
        pytest.param("[::1]", True, id="an IPv6 address"),
        pytest.param("[::1]:5003", True, id="IPv6 with a port"),
        pytest.param("mingus.internal:5003", True, id="a trusted name"),
        pytest.param("MINGUS.internal", True, id="in any case"),
        pytest.param("mingus.internal.evil.example", False, id="a longer name"),
        pytest.param("app.example.com", False, id="the public name: a proxy without headers"),
        pytest.param("localhost.example.com", False, id="only begins like it"),
        pytest.param("127.0.0.1.example.com", False, id="a name that looks like an address"),
        pytest.param("", False, id="empty"),
        pytest.param(None, False, id="none"),
        pytest.param("::1", False, id="IPv6 without brackets"),
        pytest.param("[::1", False, id="an open bracket"),
        pytest.param("[::1]evil.example", False, id="an address and a name"),
        pytest.param("[localhost]", False, id="a name in brackets"),
        pytest.param(" localhost", False, id="a blank"),
        pytest.param("localhost,app.example.com", False, id="two"),
    ],
)
def test_what_a_direct_caller_calls_us(host: str | None, *, trusted: bool) -> None:
    assert disclosure(hosts="mingus.internal").trusts(request(host=host)) is trusted


FORWARDING = [
    "forwarded",
    "via",
    "x_real_ip",
    "x_forwarded_for",
    "x_forwarded_proto",
    "x_forwarded_host",
    "x_forwarded_anything",
    "x_envoy_external_address",
    "x_envoy_internal",
]


@pytest.mark.parametrize("header", FORWARDING)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
def test_a_forwarded_request_is_not_direct(header: str, value: str) -> None:
    assert not disclosure("0.0.0.0/0").trusts(request(**{header: value}))


@pytest.mark.parametrize(
    "header", ["x_request_id", "user_agent", "x_forward", "accept", "x_envoyx"]
)
def test_other_headers_say_nothing(header: str) -> None:
    assert disclosure().trusts(request(**{header: "10.0.0.1"}))


# -- rule 3: somebody a proxy speaks for


@pytest.mark.parametrize(
    ("proxies", "networks", "peer", "chain", "trusted"),
    [
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "127.0.0.1", True, id="as declared"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "203.0.113.5", False, id="from afar"),
        pytest.param("", "loopback", "127.0.0.1", "127.0.0.1", False, id="forged by the caller"),
        pytest.param("10.0.0.0/8", "loopback", "127.0.0.1", "127.0.0.1", False, id="no proxy"),
        pytest.param(
            "10.0.0.0/8", "loopback", "10.0.0.1", "127.0.0.1, 203.0.113.5", False, id="forged"
        ),
        pytest.param(
            "10.0.0.0/8",
            "192.0.2.0/24",
            "10.0.0.1",
            "203.0.113.5, 192.0.2.9, 10.0.0.3, 10.0.0.2",
            True,
            id="through three proxies",
        ),
        pytest.param(
            "10.0.0.0/8",
            "192.0.2.0/24",
            "10.0.0.1",
            "192.0.2.9, 203.0.113.5, 10.0.0.2",
            False,
            id="the right-most that is no proxy decides",
        ),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "10.0.0.2", False, id="only proxies"),
        pytest.param(
            "10.0.0.0/8", "private", "10.0.0.1", "10.0.0.2, 10.0.0.3", False, id="trusted ones too"
        ),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "", False, id="an empty chain"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", " , ", False, id="a chain of nothing"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "127.0.0.1,", False, id="a comma"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "localhost", False, id="a name"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "unknown", False, id="unknown"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "127.0.0.1:80", False, id="a port"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", '"127.0.0.1"', False, id="quoted"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "127.0.0.1 10.0.0.2", False, id="blank"),
        pytest.param(
            "10.0.0.0/8", "loopback", "10.0.0.1", "127.0.0.1, nonsense, 10.0.0.2", False, id="gap"
        ),
        pytest.param(
            "10.0.0.0/8", "loopback", "10.0.0.1", "nonsense, 127.0.0.1", False, id="malformed"
        ),
        pytest.param(
            "10.0.0.0/8", "loopback", "10.0.0.1", "\t127.0.0.1 ", True, id="blanks around"
        ),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "::1", True, id="IPv6"),
        pytest.param("10.0.0.0/8", "loopback", "10.0.0.1", "[::1]", False, id="IPv6 in brackets"),
        pytest.param(
            "10.0.0.0/8", "loopback", "::ffff:10.0.0.1", "::ffff:127.0.0.1", True, id="mapped"
        ),
        pytest.param("2001:db8::/32", "fd00::/8", "2001:db8::1", "fd00::7", True, id="all IPv6"),
        pytest.param("unix", "loopback", "", "127.0.0.1", True, id="a declared Unix socket"),
        pytest.param("unix", "loopback", "", "203.0.113.5", False, id="and a caller from afar"),
        pytest.param("10.0.0.0/8", "loopback", "", "127.0.0.1", False, id="an undeclared one"),
        pytest.param("unix", "loopback", "127.0.0.1", "127.0.0.1", False, id="another peer"),
        pytest.param(
            "unix, 10.0.0.0/8", "loopback", "", "127.0.0.1, 10.0.0.2", True, id="both in a chain"
        ),
    ],
)
def test_whom_a_proxy_speaks_for(
    proxies: str, networks: str, peer: str, chain: str, *, trusted: bool
) -> None:
    rules = disclosure(networks, proxies)
    assert rules.trusts(request(peer, x_forwarded_for=chain)) is trusted


@pytest.mark.parametrize("header", [name for name in FORWARDING if name != "x_forwarded_for"])
def test_only_one_header_says_whom_a_proxy_speaks_for(header: str) -> None:
    rules = disclosure(proxies="10.0.0.0/8")
    assert not rules.trusts(request("10.0.0.1", **{header: "127.0.0.1"}))
    assert rules.trusts(request("10.0.0.1", x_forwarded_for="127.0.0.1", **{header: "203.0.113.5"}))


def test_the_host_of_a_forwarded_request_does_not_matter() -> None:
    rules = disclosure(proxies="10.0.0.0/8")
    forwarded = request("10.0.0.1", "app.example.com", x_forwarded_for="127.0.0.1")
    assert rules.trusts(forwarded)


@pytest.mark.parametrize("proxies", ["", "unix"])
def test_a_unix_socket_without_a_proxy_is_nobody(proxies: str) -> None:
    """A peer without an address is in no network."""
    assert not disclosure("0.0.0.0/0,::/0", proxies).trusts(request(""))


def test_a_server_that_does_not_say_who_asks() -> None:
    assert not disclosure("0.0.0.0/0,::/0").trusts({"HTTP_HOST": "localhost"})


# -- rule 1: a token


AFAR: dict[str, str] = {"peer": "203.0.113.5", "host": "app.example.com", "x_forwarded_for": "x"}


@pytest.mark.parametrize(
    ("authorization", "trusted"),
    [
        pytest.param(f"Bearer {TOKEN}", True, id="the token"),
        pytest.param(f"Bearer {OTHER}", True, id="the other"),
        pytest.param(f"bearer {TOKEN}", True, id="the scheme in any case"),
        pytest.param(f"Bearer   {TOKEN} ", True, id="blanks around"),
        pytest.param(f"Bearer {TOKEN}x", False, id="more than the token"),
        pytest.param(f"Bearer {TOKEN[:-1]}", False, id="less"),
        pytest.param(f"Bearer {TOKEN.upper()}", False, id="in another case"),
        pytest.param(f"Bearer {TOKEN},{OTHER}", False, id="both at once"),
        pytest.param("Bearer ", False, id="an empty token"),
        pytest.param("Bearer", False, id="no token"),
        pytest.param(TOKEN, False, id="no scheme"),
        pytest.param(f"Basic {TOKEN}", False, id="another scheme"),
        pytest.param("Bearer \xff\xfe\u20ac", False, id="strange characters"),
        pytest.param("", False, id="an empty header"),
    ],
)
def test_tokens(authorization: str, *, trusted: bool) -> None:
    rules = disclosure(tokens=f"{TOKEN},{OTHER}")
    assert rules.trusts(request(**AFAR, authorization=authorization)) is trusted


def test_a_token_in_utf8() -> None:
    """WSGI gives the bytes of a header as Latin-1 characters."""
    token = "p\u00e4ssword-\u20ac-0123456"
    rules = disclosure(tokens=token)
    sent = token.encode().decode("latin-1")
    assert rules.trusts(request(**AFAR, authorization=f"Bearer {sent}"))


@pytest.mark.parametrize("authorization", [f"Bearer {OTHER}", "Bearer", "Basic x", "nonsense"])
def test_a_wrong_token_leaves_the_other_rules(authorization: str) -> None:
    rules = disclosure(proxies="10.0.0.0/8", tokens=TOKEN)
    assert rules.trusts(request(authorization=authorization))
    spoken_for = request("10.0.0.1", x_forwarded_for="127.0.0.1", authorization=authorization)
    assert rules.trusts(spoken_for)
    assert not rules.trusts(request("203.0.113.5", authorization=authorization))


@pytest.mark.parametrize("authorization", ["Bearer ", "Bearer x", f"Bearer {TOKEN}"])
def test_without_tokens_none_is_right(authorization: str) -> None:
    assert not disclosure().trusts(request(**AFAR, authorization=authorization))


# -- whatever comes


texts = st.text(st.characters(max_codepoint=255), max_size=30)


@given(
    peer=texts | st.ip_addresses().map(str),
    host=texts,
    chain=st.none() | texts,
    authorization=texts | texts.map("Bearer {}".format),
)
def test_a_stranger_is_never_trusted_and_nothing_raises(
    peer: str, host: str, chain: str | None, authorization: str
) -> None:
    rules = disclosure("none", "10.0.0.0/8,unix", tokens=TOKEN)
    headers = {} if chain is None else {"x_forwarded_for": chain}
    assert not rules.trusts(request(peer, host, authorization=authorization, **headers))


@given(st.ip_addresses(v=4), st.ip_addresses(v=6))
def test_an_address_is_judged_as_itself_in_ipv6_clothes(four: Any, six: Any) -> None:
    rules = disclosure("private,loopback")
    assert rules.trusts(request(f"::ffff:{four}")) == rules.trusts(request(str(four)))
    assert rules.trusts(request(str(six))) == rules.trusts(request(six.exploded))
