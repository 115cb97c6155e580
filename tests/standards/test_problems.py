"""RFC 9457 for 404 and 405, for whoever asks."""

import pytest

from tests.contract.audit import BOTH, PREFIX
from tests.pod import Pod

PROBLEM = "application/problem+json"
MISSING = ("/nothing", "/health/nothing", f"{PREFIX}/nothing", "/readyz/nobody", "//health")


@pytest.mark.parametrize("path", MISSING)
def test_a_path_that_is_not_there(pod: Pod, path: str) -> None:
    for health in BOTH:
        for method in ("GET", "HEAD"):
            answer = pod.get(path, health=health, method=method, Accept=PROBLEM)
            assert answer.status == 404
            assert answer.headers["content-type"] == PROBLEM
            assert answer.headers["vary"] == "Accept"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "allow" not in answer.headers
            if method != "HEAD":
                body = answer.json
                assert body.pop("timestamp").endswith("Z")
                assert body == {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "error": "not_found",
                }


@pytest.mark.parametrize("path", ["/health", f"{PREFIX}/readiness", "/metrics", "/livez"])
def test_a_method_that_is_not_allowed(pod: Pod, path: str) -> None:
    for health in BOTH:
        answer = pod.get(path, health=health, method="DELETE", Accept=PROBLEM)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.headers["content-type"] == PROBLEM
        assert (answer.json["title"], answer.json["status"]) == ("Method Not Allowed", 405)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("application/json, application/problem+json", PROBLEM),
        ("application/problem+json;q=0.3, application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/problem+json;q=0", "application/json"),
        ("application/problem+xml", "application/json"),
    ],
)
def test_only_for_whoever_asks(pod: Pod, accept: str, media: str) -> None:
    for health in BOTH:
        answer = pod.get("/health/nothing", health=health, Accept=accept)
        assert answer.headers["content-type"] == media
        assert answer.json["error"] == "not_found"


def test_an_answer_that_is_no_error_stays_what_it_is(pod: Pod) -> None:
    for health in BOTH:
        answer = pod.get("/health", health=health, Accept=PROBLEM)
        assert answer.headers["content-type"] == "application/json"
