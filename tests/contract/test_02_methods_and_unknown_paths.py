"""Invariant 2: other methods are 405, unknown paths 404, both in the shape of their family."""

import pytest

from scripts.health_contract import violations
from tests.contract.audit import BOTH, PATHS, PREFIX, WEB
from tests.pod import Pod

METHODS = ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")

FLAT = (
    "/nothing",
    "/health/nothing",
    "/health/detailed/more",
    "/Health",
    "/HEALTH/detailed",
    "//health",
    "//health/detailed",
    "///health",
    f"/{PREFIX}/simple",
    "/health//",
    "/health//detailed",
    "/healthy",
    "/metrics/more",
    "/api",
    "/api/system",
    "/api/system/healthy",
    "/API/system/health",
    "/favicon.ico",
)
ENVELOPED = (
    f"{PREFIX}/nothing",
    f"{PREFIX}//",
    f"{PREFIX}//simple",
    f"{PREFIX}/Readiness",
    f"{PREFIX}/readiness/more",
)


@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_refused(plain: Pod, path: str) -> None:
    bare = path.rstrip("/")
    for spelling in {bare, f"{bare}/"} - {""}:
        for health in (WEB,) if path == "/" else BOTH:
            for method in METHODS:
                answer = plain.get(spelling, health=health, method=method, body=b"{}")
                found = violations(path, answer.status, answer.headers, answer.body, method=method)
                assert found == [], (method, spelling, health)
                assert answer.status == 405


@pytest.mark.parametrize("path", [*FLAT, *ENVELOPED])
def test_unknown_paths_are_404_in_json(plain: Pod, path: str) -> None:
    for health in BOTH:
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            answer = plain.get(path, health=health, method=method, Accept="text/html")
            assert answer.status == 404, (method, health)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "allow" not in answer.headers
            if method == "HEAD":
                assert answer.body == b""
                assert int(answer.headers["content-length"]) > 0
            else:
                assert shape(answer.json) == (ERROR if path in FLAT else ENVELOPE)


def shape(body: dict) -> dict:
    """A body with the time of the answer left out."""
    body.pop("timestamp")
    return body


ERROR = {"error": "not_found", "type": "http_error"}
ENVELOPE = {"success": False, "data": ERROR}
