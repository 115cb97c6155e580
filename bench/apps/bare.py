"""The reference: a WSGI callable that returns static bytes, as many as /health has."""

from collections.abc import Iterable
from typing import Any

BODY = b'{"status":"healthy","timestamp":"2025-01-27T10:30:00.000Z","version":"1.0.0"}'
HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]


def app(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answers every path alike."""
    start_response("200 OK", HEADERS)
    return [BODY]


def app_with_our_headers(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The same, with the two more headers that a health answer has to have."""
    start_response(
        "200 OK",
        [*HEADERS, ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")],
    )
    return [BODY]
