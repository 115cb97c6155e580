"""gunicorn's response with less work for each answer; what is sent is the same, byte by byte.

Head and body go out together where the body's length is known and its first piece is small: a
second send costs more than all of our own code. ``Date`` is written once a second. Headers that
the front has ready as bytes are not checked again.
"""

import time
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi

from service.web.front import Prepared

# Beyond it copying the body costs more than sending twice.
LARGEST = 64 * 1024


class Response(wsgi.Response):
    """A response of a web worker."""

    _prepared = b""

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """Takes status and headers from the application."""
        if type(headers) is not Prepared or exc_info is not None or self.status is not None:
            return super().start_response(status, headers, exc_info)
        self.status, self.status_code = status, int(status[:3])
        self.headers, self._prepared = headers, headers.lines
        self.response_length = headers.length
        self._omits_body = self.req.method == "HEAD"
        return self.write

    def write(self, arg: Any) -> None:
        """Sends a piece of the body, before the first one the head."""
        joinable = (
            not self.headers_sent
            and type(arg) is bytes
            and self.response_length is not None
            and 0 < len(arg) <= min(self.response_length, LARGEST)
            and not self._omits_body
            and not self.upgrade
        )
        if not joinable:
            super().write(arg)
            return
        self.sock.sendall(self._head() + arg)
        self.headers_sent = True
        self.sent += len(arg)

    def _head(self) -> bytes:
        """What ``send_headers`` sends."""
        major, minor = self.req.version
        connection = "close" if self.should_close() else "keep-alive"
        first = f"HTTP/{major}.{minor} {self.status}\r\n{_dated(self.version)}{connection}\r\n"
        if self._prepared:
            return first.encode("latin-1") + self._prepared
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        return f"{first}{lines}\r\n".encode("latin-1")


def _dated(version: str) -> str:
    """The lines between the first and the application's, of this second."""
    global _second, _lines  # noqa: PLW0603 - of the process, like the clock they are of
    second = int(time.time())  # noqa: TID251 - the Date of an answer
    if second != _second:
        _lines = f"Server: {version}\r\nDate: {util.http_date(second)}\r\nConnection: "
        _second = second
    return _lines


_second, _lines = -1, ""


def install() -> None:
    """Makes it the response of this process."""
    setattr(wsgi, "Response", Response)  # noqa: B010 - to mypy a class is no variable
