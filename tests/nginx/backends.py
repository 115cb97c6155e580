"""A backend that says what it is told to, and remembers who asked."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Backend:
    """One HTTP server.

    Attributes:
        address: Where it is, as nginx writes it.
        status: What it answers; 0 closes the connection in place of an answer.
        asked: How often each path was asked for.
    """

    def __init__(self) -> None:
        self.status = 200
        self.asked: Counter[str] = Counter()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                backend.asked[self.path] += 1
                if not backend.status:
                    self.close_connection = True
                    return
                body = backend.address.encode()
                self.send_response(backend.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@contextmanager
def three_backends() -> Iterator[list[Backend]]:
    """Three of them, listening."""
    backends = [Backend() for _ in range(3)]
    threads = [threading.Thread(target=each.server.serve_forever) for each in backends]
    for thread in threads:
        thread.start()
    try:
        yield backends
    finally:
        for each in backends:
            each.server.shutdown()
            each.server.server_close()
        for thread in threads:
            thread.join(30)
