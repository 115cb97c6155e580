"""From an exception of any client library to a code, and from its text to a loggable reason.

Client libraries wrap the error of the operating system in their own, each in another
way: as cause, as context, as argument or as ``reason``. The error that says what happened
is in there somewhere, so it is looked for in all four places.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import quote

# The order matters: an SSLError and a gaierror are OSErrors with numbers of their own.
_CLASSES: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLEOFError, "connection_lost"),
    (ssl.SSLZeroReturnError, "connection_lost"),
    (ssl.SSLError, "tls_error"),
    (socket.gaierror, "dns_failure"),
    (TimeoutError, "timeout"),
    (ConnectionRefusedError, "connection_refused"),
    (ConnectionError, "connection_lost"),
)
_UNREACHABLE = frozenset(
    {
        errno.EADDRNOTAVAIL,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
# Redis quotes a command it does not know, and cuts it: of a long password there is a piece.
_QUOTED = re.compile(r"(with args beginning with:).*", re.DOTALL)


def causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception and everything it wraps, nearest first, each once."""
    seen: set[int] = set()
    waiting: list[object] = [exc]
    while waiting:
        error = waiting.pop(0)
        if not isinstance(error, BaseException) or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        inside = (*error.args, getattr(error, "reason", None))
        waiting[:0] = [*inside, error.__cause__, error.__context__]


def os_error_code(exc: BaseException) -> str | None:
    """The code of the first error of the network in an exception, or None without any."""
    return next(filter(None, map(_code, causes(exc))), None)


def _code(error: BaseException) -> str | None:
    for kind, code in _CLASSES:
        if isinstance(error, kind):
            return code
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return "network_unreachable"
    return None


def mask(text: str, *secrets: str | None) -> str:
    """The text with ``***`` for every secret and for the user-info part of every URL.

    A secret is also found as it looks inside a URL or a ``repr``. What Redis quotes of a command
    is masked as a whole.
    """
    text = _QUOTED.sub(r"\1 ***", text)
    text = re.sub(r"\S+", _without_user_info, text)
    spellings = {
        spelling
        for secret in secrets
        if secret
        for spelling in (secret, quote(secret, safe=""), repr(secret)[1:-1])
    }
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, "***")
    return text


def _without_user_info(word: re.Match[str]) -> str:
    # Up to the last @: a password may hold a slash, a quote or another @.
    scheme, separator, rest = word[0].partition("://")
    _, at, address = rest.rpartition("@")
    return f"{scheme}{separator}***@{address}" if at else word[0]
