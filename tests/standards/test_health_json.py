"""``application/health+json`` on both families: the same HTTP status, the draft's words."""

from itertools import pairwise
from typing import Any

import pytest

from service.health import Lifecycle
from service.web import health_json
from service.web.endpoints import ENDPOINTS, FLEET, INDEX
from service.web.payload import Payload
from tests.contract.audit import BOTH, PREFIX, WEB, Audit
from tests.pod import Pod
from tests.unit import pods

PAYLOAD = Payload("MINGUS", "1.0.0", "production", debug=False)
BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
WITH_A_VERDICT = [endpoint.path for endpoint in ENDPOINTS if endpoint.about]
MEDIA = health_json.MEDIA_TYPE
BARE = ("/health", *(f"{PREFIX}/{name}" for name in ("simple", "readiness", "liveness", "startup")))


def said(path: str, pod: Any) -> Any:
    return health_json.render(BY_PATH[path].about, PAYLOAD, pod, trusted=False)


@pytest.mark.parametrize(
    ("pod", "word"),
    [
        pytest.param(pods.pod(), "pass", id="healthy"),
        pytest.param(pods.nowhere(), "pass", id="nothing configured"),
        pytest.param(
            pods.pod(database=pods.answered(1.0, 200, "slow_response")), "warn", id="warning"
        ),
        pytest.param(pods.pod(database=pods.REFUSED), "fail", id="unhealthy"),
        pytest.param(pods.blank(), "fail", id="unknown"),
        pytest.param(pods.pod(Lifecycle.DRAINING), "fail", id="draining"),
    ],
)
def test_the_words(pod: Any, word: str) -> None:
    for path in ("/health", f"{PREFIX}/simple", f"{PREFIX}/readiness"):
        answer = said(path, pod)
        assert answer.body == {"status": word, "version": "1.0.0", "serviceId": "MINGUS"}
        assert answer.passes == (word != "fail")


def test_what_the_draft_shows_of_a_failing_pod() -> None:
    checks = said("/health/detailed", pods.failing()).body["checks"]
    assert list(checks) == [
        "database:responseTime",
        "redis:responseTime",
        "supabase_api:responseTime",
        "stripe_api:responseTime",
        "sms_service_twilio:responseTime",
        "cpu:utilization",
        "memory:utilization",
        "disk:utilization",
        "application:uptime",
    ]
    assert checks["database:responseTime"] == [
        {
            "componentType": "datastore",
            "status": "fail",
            "time": "2025-01-27T10:29:58.412Z",
            "output": "connection_refused",
        }
    ]
    assert checks["redis:responseTime"] == [
        {
            "componentType": "datastore",
            "status": "pass",
            "observedValue": 2.1,
            "observedUnit": "ms",
            "time": "2025-01-27T10:29:58.412Z",
        }
    ]
    assert checks["disk:utilization"][0]["output"] == "disk_high"
    assert checks["disk:utilization"][0]["observedValue"] == 83.6
    assert checks["application:uptime"][0]["observedUnit"] == "s"


def test_results_that_have_expired_show_no_numbers() -> None:
    checks = said("/health/detailed", pods.pod(later=3600.0)).body["checks"]
    for name, (entry,) in checks.items():
        assert entry["status"] == "fail"
        assert entry["output"] == "stale"
        assert ("observedValue" in entry) == (name == "application:uptime")


# -- a running pod


@pytest.mark.parametrize("path", WITH_A_VERDICT)
def test_every_endpoint_with_a_verdict_has_it(pod: Pod, path: str) -> None:
    for health in BOTH:
        for spelling in (path, f"{path}/"):
            usual = pod.get(spelling, health=health)
            answer = pod.get(spelling, health=health, Accept=MEDIA)
            again = pod.get(spelling, health=health)
            assert answer.headers["content-type"] == MEDIA
            assert answer.headers["vary"] == "Accept"
            assert answer.headers["cache-control"] == "no-store"
            assert int(answer.headers["content-length"]) == len(answer.body)
            if usual.status == again.status:
                assert answer.status == usual.status
            assert (answer.json["status"] == "fail") == (answer.status == 503)
            assert ("checks" in answer.json) == (path not in BARE)
            assert Audit(pod).given_away(answer.body.decode()) == []
            assert "vary" not in usual.headers
            head = pod.get(spelling, health=health, Accept=MEDIA, method="HEAD")
            assert (head.body, head.headers["content-type"]) == (b"", MEDIA)


ACCEPTED = {
    "*/*": "application/json",
    "application/json": "application/json",
    "application/*": "application/json",
    "text/html": "application/json",
    "application/health+json": MEDIA,
    "Application/Health+JSON": MEDIA,
    "application/health+json, application/json": MEDIA,
    "application/health+json, */*;q=0.1": MEDIA,
    "application/health+json;q=0.5, application/json": "application/json",
    "application/health+json;q=0": "application/json",
    "application/health+json;q=much": "application/json",
    "text/html, application/xhtml+xml, */*": "application/json",
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_json_unless_the_other_form_is_asked_for(pod: Pod, accept: str) -> None:
    for path in ("/health", "/health/standard", f"{PREFIX}/readiness"):
        for health in BOTH:
            answer = pod.get(path, health=health, Accept=accept)
            assert answer.headers["content-type"] == ACCEPTED[accept]


def test_what_has_no_verdict_has_no_other_form(pod: Pod) -> None:
    for path in (INDEX.path, FLEET.path, f"{PREFIX}/openapi.json"):
        answer = pod.get(path, health=WEB, Accept=MEDIA)
        assert answer.headers["content-type"] == "application/json"


def test_checks_say_no_more_than_the_same_endpoint_says_as_json() -> None:
    """Names in the documented order, and only of what the endpoint is about."""
    names = {
        path: {key.partition(":")[0] for key in said(path, pods.pod()).body.get("checks", {})}
        for path in WITH_A_VERDICT
    }
    assert names["/health/database"] == names[f"{PREFIX}/database"] == {"database"}
    assert names[f"{PREFIX}/resources"] == {"cpu", "memory", "disk"}
    assert names["/health/external"] == names[f"{PREFIX}/external"]
    assert len(names["/health/external"]) == 4
    everything = [names[path] for path in ("/health/detailed", "/health/standard", PREFIX)]
    assert all(one == other for one, other in pairwise(everything))
