"""What a web worker sends is what gunicorn would, with fewer sends."""

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import InvalidHeader, InvalidHeaderName

from service import response
from service.web.front import Prepared

PLAIN = [("Content-Type", "text/plain")]


def sized(size: int, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [*PLAIN, *more, ("Content-Length", str(size))]


class Wire:
    """A socket that keeps what is sent, send by send."""

    def __init__(self) -> None:
        self.sends: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sends.append(bytes(data))


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "http_date", lambda _=None: "Mon, 27 Jan 2025 10:30:00 GMT")
    monkeypatch.setattr(response, "_second", -1)


def sent(
    kind: type[wsgi.Response],
    headers: list[tuple[str, str]],
    body: list[bytes],
    *,
    status: str = "200 OK",
    method: str = "GET",
    version: tuple[int, int] = (1, 1),
    close: bool = False,
) -> list[bytes]:
    wire = Wire()
    request: Any = SimpleNamespace(method=method, version=version, should_close=lambda: close)
    answer = kind(request, wire, SimpleNamespace(protocol="http", sendfile=None, is_ssl=False))
    write = answer.start_response(status, headers)
    for piece in body:
        write(piece)
    answer.close()
    return wire.sends


CASES = [
    pytest.param(sized(2), [b"ok"], {}, id="one piece"),
    pytest.param(sized(4), [b"ok", b"ok"], {}, id="two pieces"),
    pytest.param(sized(2), [b"", b"ok"], {}, id="an empty piece first"),
    pytest.param(sized(0), [b""], {}, id="nothing"),
    pytest.param(sized(2), [b"longer"], {}, id="more than was said"),
    pytest.param(PLAIN, [b"ok", b"ok"], {}, id="of unknown length"),
    pytest.param(PLAIN, [b"ok"], {"version": (1, 0)}, id="of unknown length, HTTP/1.0"),
    pytest.param(sized(2), [b"ok"], {"version": (1, 0)}, id="HTTP/1.0"),
    pytest.param(sized(2), [b"ok"], {"close": True}, id="the last of its connection"),
    pytest.param(sized(2), [b"ok"], {"method": "HEAD"}, id="HEAD"),
    pytest.param(sized(2), [], {"method": "HEAD"}, id="HEAD without a body"),
    pytest.param(sized(2), [b"ok"], {"status": "503 Service Unavailable"}, id="503"),
    pytest.param(PLAIN, [], {"status": "204 No Content"}, id="204"),
    pytest.param(PLAIN, [], {"status": "304 Not Modified"}, id="304"),
    pytest.param(sized(2, ("X-Name", "caf\xe9")), [b"ok"], {}, id="Latin 1"),
    pytest.param(sized(2, ("Connection", "close")), [b"ok"], {}, id="a header of the hop"),
    pytest.param(sized(100_000), [b"x" * 100_000], {}, id="large"),
    pytest.param(Prepared(2), [b"ok"], {}, id="prepared"),
    pytest.param(Prepared(2), [], {"method": "HEAD"}, id="prepared, HEAD"),
    pytest.param(Prepared(2), [b"ok"], {"close": True}, id="prepared, the last"),
]


@pytest.mark.parametrize(("headers", "body", "more"), CASES)
def test_the_same_bytes(headers: Any, body: list[bytes], more: dict[str, Any]) -> None:
    ours = sent(response.Response, headers, body, **more)
    theirs = sent(wsgi.Response, list(headers), body, **more)
    assert b"".join(ours) == b"".join(theirs)


@pytest.mark.parametrize("headers", [sized(2), Prepared(2)], ids=["any", "prepared"])
def test_a_small_answer_is_one_send(headers: Any) -> None:
    assert len(sent(response.Response, headers, [b"ok"])) == 1
    assert len(sent(wsgi.Response, list(headers), [b"ok"])) == 2


def test_a_large_piece_is_not_copied() -> None:
    big = b"x" * (response.LARGEST + 1)
    assert sent(response.Response, sized(len(big)), [big])[1] == big


@pytest.mark.parametrize("headers", [[("Na me", "x")], [("Name", "a\r\nb")], [("Name", 1)]])
def test_what_gunicorn_refuses_is_refused(headers: Any) -> None:
    for kind in (response.Response, wsgi.Response):
        with pytest.raises((TypeError, ValueError, InvalidHeader, InvalidHeaderName)):
            sent(kind, headers, [b"ok"])


def test_a_second_start_is_refused_unless_it_is_an_error() -> None:
    wire = Wire()
    request: Any = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    answer = response.Response(request, wire, SimpleNamespace(protocol="http"))
    answer.start_response("200 OK", Prepared(2))
    with pytest.raises(AssertionError):
        answer.start_response("200 OK", Prepared(2))


def test_the_date_is_of_this_second(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = iter(["first", "second"])
    monkeypatch.setattr(util, "http_date", lambda _: next(dates))
    monkeypatch.setattr(response.time, "time", lambda: 100.9)
    assert b"Date: first\r\n" in sent(response.Response, sized(2), [b"ok"])[0]
    assert b"Date: first\r\n" in sent(response.Response, sized(2), [b"ok"])[0]
    monkeypatch.setattr(response.time, "time", lambda: 101.0)
    assert b"Date: second\r\n" in sent(response.Response, sized(2), [b"ok"])[0]


def test_prepared_headers_are_ordinary_ones() -> None:
    assert dict(Prepared(7))["Content-Length"] == "7"
    sent_lines = Prepared(7).lines.decode().split("\r\n")
    assert sent_lines == [*(f"{name}: {value}" for name, value in Prepared(7)), "", ""]
