"""The application behind nginx in these tests."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

FOREVER = threading.Event()
JOURNAL = Path(os.environ.get("JOURNAL", "/nonexistent"))


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Takes ``seconds`` for its answer; a POST's body is written to the journal.

    ``/headers`` answers with what it was asked.
    """
    query = parse_qs(environ.get("QUERY_STRING", ""))
    FOREVER.wait(float(query.get("seconds", ["0"])[0]))
    if environ["REQUEST_METHOD"] == "POST":
        order = environ["wsgi.input"].read()
        with JOURNAL.open("ab", buffering=0) as journal:  # appended in one piece
            journal.write(order + b"\n")
    body = f"{os.getpid()}\n"
    if environ["PATH_INFO"] == "/headers":
        body = "".join(
            f"{name}={value}\n" for name, value in environ.items() if name.startswith("HTTP_")
        )
    encoded = body.encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(encoded)))]
    start_response("200 OK", headers)
    return [encoded]
