"""From exceptions, however wrapped, to codes; from texts to texts without secrets."""

import errno
import socket
import ssl

import pytest

from service.probes.errors import causes, mask, os_error_code


class LibraryError(Exception):
    """What a client library makes of an error."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(), "connection_refused"),
        (OSError(errno.ECONNREFUSED, "refused"), "connection_refused"),
        (ConnectionResetError(), "connection_lost"),
        (BrokenPipeError(), "connection_lost"),
        (ConnectionAbortedError(), "connection_lost"),
        (TimeoutError(), "timeout"),
        (OSError(errno.ETIMEDOUT, "timed out"), "timeout"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "dns_failure"),
        (OSError(errno.EHOSTUNREACH, "no route"), "network_unreachable"),
        (OSError(errno.ENETUNREACH, "no network"), "network_unreachable"),
        (ssl.SSLError(1, "handshake"), "tls_error"),
        (ssl.SSLCertVerificationError(1, "self-signed"), "tls_error"),
        (ssl.SSLEOFError(8, "end of file"), "connection_lost"),
        (OSError(errno.ENOSPC, "full"), None),
        (LibraryError("who knows"), None),
    ],
    ids=repr,
)
def test_codes(error: Exception, code: str | None) -> None:
    assert os_error_code(error) == code
    assert os_error_code(LibraryError("it failed", error)) == code


def _wrapped_as_cause() -> Exception:
    error = LibraryError("outside")
    error.__cause__ = ConnectionResetError()
    return error


def _wrapped_as_hidden_context() -> Exception:
    error = LibraryError("outside")
    error.__context__ = ConnectionResetError()
    error.__suppress_context__ = True
    return error


def _wrapped_as_reason() -> Exception:
    error = LibraryError("outside")
    error.reason = LibraryError(ConnectionResetError())  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "wrapped", [_wrapped_as_cause(), _wrapped_as_hidden_context(), _wrapped_as_reason()]
)
def test_wherever_it_is_wrapped(wrapped: Exception) -> None:
    assert os_error_code(wrapped) == "connection_lost"


def test_the_nearest_counts() -> None:
    nearest = TimeoutError()
    nearest.__context__ = ConnectionRefusedError()
    assert os_error_code(LibraryError(nearest)) == "timeout"


def test_a_circle_ends() -> None:
    one, other = LibraryError("one"), LibraryError("other")
    one.__cause__, other.__cause__ = other, one
    assert list(causes(one)) == [one, other]


@pytest.mark.parametrize(
    ("text", "secrets", "masked"),
    [
        ("nothing in here", ("s3cret",), "nothing in here"),
        ("the key is s3cret!", ("s3cret",), "the key is ***!"),
        ("nothing to hide", ("", None), "nothing to hide"),
        ("long-long and long", ("long", "long-long"), "*** and ***"),
        ("GET /x?key=a%2Fb%20c", ("a/b c",), "GET /x?key=***"),
        ("header 'a\\nb'", ("a\nb",), "header '***'"),
        ("see redis://u:p@host:1/0 now", (), "see redis://***@host:1/0 now"),
        ("redis://:p@ss/w'rd@host/0", (), "redis://***@host/0"),
        ("two http://a:b@c and http://d:e@f", (), "two http://***@c and http://***@f"),
        (
            "unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 's3cr",
            ("s3cret",),
            "unknown command 'HELLO', with args beginning with: ***",
        ),
        ("mail ann@example.com", (), "mail ann@example.com"),
        ("https://example.com/ and ann@b", (), "https://example.com/ and ann@b"),
    ],
)
def test_mask(text: str, secrets: tuple[str | None, ...], masked: str) -> None:
    assert mask(text, *secrets) == masked
