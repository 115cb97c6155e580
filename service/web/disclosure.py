"""Who may see internals: a decision about a request, never about an answer's verdict.

Trusted is a caller with a token, a direct caller from a trusted network, or one that a
declared proxy speaks for. Whatever is malformed, or comes by a proxy nobody declared, is not.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Literal

from service.settings import Network

# A Host header: an IPv6 address in brackets, or a name or an IPv4 address; with or without port.
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:\[\],]+))(?::[0-9]*)?")

_FORWARDING = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_REAL_IP")
_FORWARDED, _ENVOY = "\nHTTP_X_FORWARDED_", "\nHTTP_X_ENVOY_"  # begin a family of names each


class Disclosure:
    """The rules of one service.

    Args:
        networks: Where trusted callers sit.
        proxies: Whose word about a caller's address counts; ``unix`` for a Unix-socket peer.
        hosts: Names a direct caller may call the service by, besides addresses and localhost.
        tokens: Bearer tokens that make a caller trusted.
    """

    def __init__(
        self,
        networks: Iterable[Network],
        proxies: Iterable[Network | Literal["unix"]],
        hosts: Iterable[str],
        tokens: Iterable[str],
    ) -> None:
        proxies = tuple(proxies)
        self._networks = tuple(networks)
        self._proxies = tuple(proxy for proxy in proxies if proxy != "unix")
        self._unix = "unix" in proxies
        self._hosts = frozenset(host.lower() for host in hosts)
        self._tokens = tuple(token.encode() for token in tokens)
        # A probe comes from the same address every time.
        self._trusts_directly = lru_cache(maxsize=256)(self._judged_directly)

    def trusts(self, environ: Mapping[str, Any]) -> bool:
        """Whether the caller of a WSGI request may see internals."""
        authorization = environ.get("HTTP_AUTHORIZATION")
        if authorization and self._tokens and self._has_token(authorization):
            return True
        peer = environ.get("REMOTE_ADDR", "")
        if _forwarded(environ):
            return self._spoken_for(peer, environ.get("HTTP_X_FORWARDED_FOR", ""))
        return self._trusts_directly(peer, environ.get("HTTP_HOST", ""))

    def _has_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("latin-1", "replace")
        # Every token is compared: the time taken tells nothing about which one is close.
        matches = [hmac.compare_digest(given, known) for known in self._tokens]
        return scheme.lower() == "bearer" and any(matches)

    def _spoken_for(self, peer: str, chain: str) -> bool:
        declared = self._within(peer, self._proxies) if peer else self._unix
        addresses = [address.strip() for address in chain.split(",")]
        if not declared or not all(map(_address, addresses)):
            return False
        for address in reversed(addresses):
            if not self._within(address, self._proxies):
                return self._within(address, self._networks)
        return False

    def _judged_directly(self, peer: str, host: str) -> bool:
        return self._within(peer, self._networks) and self._direct(host)

    def _direct(self, host: str) -> bool:
        """Whether the caller asked for an address: a proxy without headers keeps the name."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        if found["v6"]:
            return _address(found["v6"]) is not None
        name = found["name"].lower()
        return name == "localhost" or name in self._hosts or _address(name) is not None

    def _within(self, text: str, networks: Iterable[Network]) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in networks)


def _forwarded(environ: Mapping[str, Any]) -> bool:
    # One search instead of one for each variable; a name has no line break in it.
    names = "\n".join(["", *environ])
    named = not environ.keys().isdisjoint(_FORWARDING)
    return named or _FORWARDED in names or _ENVOY in names


@lru_cache(maxsize=1024)
def _address(text: str) -> Any:
    """The address a text is, one of IPv4 in IPv6 clothes undressed; None if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
