"""The twins of the probes: the status of the probe in every state, and the words of Kubernetes."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from service.health import Lifecycle, Pod, TaskState
from service.web.answers import Answers
from service.web.endpoints import ENDPOINTS, PREFIX, TWINS
from service.web.payload import Payload
from service.web.twins import Question
from tests.contract.audit import BOTH, HEALTH, Audit
from tests.contract.conftest import Launch, launching
from tests.pod import Pod as RunningPod
from tests.pod import eventually
from tests.servers.redis import RedisServer, binary
from tests.unit import pods

PAYLOAD = Payload("MINGUS", "1.0.0", "production", debug=False)
OF = {"livez": "liveness", "readyz": "readiness", "startupz": "startup"}
BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
OPTIONAL = replace(pods.check("stock"), critical=True, startup=True)
STATES: dict[str, Pod] = {
    "healthy": pods.pod(),
    "starting": pods.blank(),
    "starting, checks passed": pods.pod(Lifecycle.STARTING),
    "starting, a task holds it up": pods.pod(Lifecycle.STARTING, tasks={"migrate": TaskState()}),
    "database down": pods.pod(database=pods.REFUSED),
    "a provider down": pods.pod(stripe_api=pods.answered(0.1, 500, "http_500")),
    "draining": pods.pod(Lifecycle.DRAINING),
    "maintenance": pods.pod(Lifecycle.MAINTENANCE),
    "monitor dead": pods.pod(later=3600.0),
    "no worker": pods.pod(alive=False),
    "nothing configured": pods.nowhere(),
    "own critical check": pods.pod(states={"stock": pods.CheckState.initial(OPTIONAL)}),
}
EACH_STATE = pytest.mark.parametrize("pod", STATES.values(), ids=STATES)
EACH_TWIN = pytest.mark.parametrize("twin", OF)


def text(pod: Pod, twin: str, only: str | None = None, *exclude: str, verbose: bool = False) -> str:
    answer = Question(twin, only, exclude, verbose).as_text(PAYLOAD, pod, trusted=False)
    assert isinstance(answer.body, str)
    return answer.body


# -- what is said


@EACH_STATE
@EACH_TWIN
def test_a_twin_passes_exactly_when_its_probe_does(pod: Pod, twin: str) -> None:
    probe = BY_PATH[f"{PREFIX}/{OF[twin]}"].render(PAYLOAD, pod, trusted=False)
    plain = Question(twin).as_text(PAYLOAD, pod, trusted=False)
    verbose = Question(twin, verbose=True).as_text(PAYLOAD, pod, trusted=False)
    document = Question(twin).as_document(PAYLOAD, pod, trusted=False)
    assert {each.passes for each in (plain, verbose, document)} == {probe.passes}
    assert (plain.body == "ok") == probe.passes
    assert document.body["passed"] == probe.passes


def test_the_lines_of_kubernetes() -> None:
    assert text(pods.pod(), "readyz", verbose=True) == (
        "[+]pod-serving ok\n[+]database ok\n[+]redis ok\nreadyz check passed\n"
    )
    assert text(pods.pod(database=pods.REFUSED), "readyz") == (
        "[+]pod-serving ok\n"
        "[-]database failed: connection_refused\n"
        "[+]redis ok\n"
        "readyz check failed\n"
    )
    assert text(pods.pod(Lifecycle.DRAINING), "readyz").startswith(
        "[-]pod-serving failed: draining"
    )
    assert text(pods.pod(alive=False), "livez") == (
        "[-]worker-progress failed: workers_stalled\nlivez check failed\n"
    )


def test_an_excluded_check_does_not_count_in_this_answer() -> None:
    down = pods.pod(database=pods.REFUSED)
    assert text(down, "readyz", None, "database") == "ok"
    assert text(down, "readyz", None, "database", verbose=True) == (
        "[+]pod-serving ok\n[+]database excluded: ok\n[+]redis ok\nreadyz check passed\n"
    )
    both = pods.pod(database=pods.REFUSED, redis=pods.REDIS_GIVEN_UP)
    assert text(both, "readyz", None, "database", "database").endswith("readyz check failed\n")
    # Nothing that is left out makes a pod started that has never been.
    starting = text(pods.blank(), "startupz", None, "database", "redis")
    assert starting.startswith("[-]pod-started failed: starting\n")


def test_an_unknown_name_is_warned_of_and_changes_nothing() -> None:
    warning = "warn: some health checks cannot be excluded: no matches for"
    assert text(pods.pod(), "readyz", None, "data_base", "stripe_api", "data_base") == (
        "[+]pod-serving ok\n[+]database ok\n[+]redis ok\n"
        f'{warning} "data_base", "stripe_api"\nreadyz check passed\n'
    )
    down = pods.pod(database=pods.REFUSED)
    assert text(down, "readyz", None, "data_base").splitlines()[-2:] == [
        f'{warning} "data_base"',
        "readyz check failed",
    ]
    hostile = text(pods.pod(), "livez", None, 'x"\r\nSet-Cookie: a\x00\u2028<b>')
    assert hostile.splitlines()[1:] == [
        f'{warning} "x\\"\\r\\nSet-Cookie: a\\u0000\\u2028<b>"',
        "livez check passed",
    ]


def test_one_check_alone() -> None:
    down = pods.pod(database=pods.REFUSED)
    assert text(down, "readyz", "redis") == "ok"
    assert text(down, "readyz", "redis", verbose=True) == "[+]redis ok\nreadyz check passed\n"
    assert text(down, "readyz", "database") == (
        "[-]database failed: connection_refused\nreadyz check failed\n"
    )
    assert not Question("readyz", "stripe_api").parts(down)  # it has no part in readiness


def test_startup_is_latched_check_by_check() -> None:
    document = Question("startupz").as_document(
        PAYLOAD, pods.pod(database=pods.REFUSED), trusted=False
    )
    assert document.passes
    assert document.body["checks"]["database"] == {"passed": True, "reason": "connection_refused"}


def test_as_json() -> None:
    question = Question("readyz", exclude=("redis", "nobody"))
    answer = question.as_document(PAYLOAD, pods.pod(database=pods.REFUSED), trusted=False)
    assert answer.body == {
        "passed": False,
        "timestamp": "2025-01-27T10:30:00.000Z",
        "checks": {
            "pod-serving": {"passed": True, "reason": None},
            "database": {"passed": False, "reason": "connection_refused"},
            "redis": {"passed": True, "reason": None},
        },
        "excluded": ["redis"],
        "unknown": ["nobody"],
    }


# -- a running pod


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    with launching(tmp_path_factory) as launching_pods:
        yield launching_pods


def agree(pod: RunningPod, **wanted: int) -> None:
    """Waits until the probes have these statuses; then the twins have them, in every form."""
    for twin, status in wanted.items():
        for health in BOTH:
            probe = f"{PREFIX}/{OF[twin]}"
            eventually(
                lambda probe=probe, health=health, status=status: (
                    pod.status(probe, health=health) == status
                ),
                f"{status} from {probe}",
            )
            for asked in ("", "/", "?verbose", "/?exclude=", "?verbose=false&exclude=nobody"):
                assert pod.status(f"/{twin}{asked}", health=health) == status, (twin, asked)
            answer = pod.get(f"/{twin}", health=health, Accept="application/json")
            assert (answer.status, answer.json["passed"]) == (status, status == 200)


def test_a_pod_from_its_first_moment_to_its_drain(launch: Launch) -> None:
    with RedisServer(binary("valkey")) as redis:
        redis.stop()
        pod = launch(REDIS_URL=redis.url, HEALTH_DRAIN_SECONDS="30")
        eventually(lambda: pod.status("/livez", health=HEALTH), "an answer")
        agree(pod, livez=200, readyz=503, startupz=503)
        refused = "[-]redis failed: connection_refused\n"
        eventually(lambda: refused in pod.get("/startupz").body.decode(), refused)
        redis.start()
        agree(pod, startupz=200, readyz=200, livez=200)
        redis.stop()
        agree(pod, readyz=503, startupz=200, livez=200)
        for health in BOTH:
            assert pod.status("/readyz/redis", health=health) == 503
            assert pod.status("/readyz/pod-serving", health=health) == 200
            assert pod.status("/readyz?exclude=redis", health=health) == 200
            assert pod.status("/readyz?exclude=redis&exclude=database", health=health) == 200
            assert pod.status("/readyz?exclude=redis,database", health=health) == 503
        redis.start()
        agree(pod, readyz=200)
    os.kill(pod.pid, signal.SIGTERM)
    agree(pod, readyz=503, startupz=200, livez=200)
    assert pod.get("/readyz").body.startswith(b"[-]pod-serving failed: draining\n")


def test_headers_methods_and_spellings(pod: RunningPod) -> None:
    for path in ("/livez", "/readyz", "/startupz", "/readyz/database", "/livez/worker-progress"):
        for health in BOTH:
            for spelling in (path, f"{path}/", f"{path}?verbose", f"{path}/?verbose"):
                get = pod.get(spelling, health=health)
                head = pod.get(spelling, health=health, method="HEAD")
                assert get.headers["content-type"] == "text/plain; charset=utf-8"
                assert get.headers["vary"] == "Accept"
                assert get.headers["cache-control"] == "no-store"
                assert get.headers["x-content-type-options"] == "nosniff"
                assert int(get.headers["content-length"]) == len(get.body) > 0
                assert (head.status, head.body) == (get.status, b"")
                without_date = [{**each.headers, "date": ""} for each in (get, head)]
                assert without_date[0] == without_date[1]
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                answer = pod.get(path, health=health, method=method, body=b"{}")
                assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
                assert answer.json["error"] == "method_not_allowed"


UNKNOWN = ("/readyz/nobody", "/readyz/stripe_api", "/readyz/database/more", "/readyz//", "/Readyz")


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_check_that_is_none_of_the_twins_is_not_found(pod: RunningPod, path: str) -> None:
    for health in BOTH:
        for query in ("", "?verbose", "?exclude=nobody"):
            answer = pod.get(f"{path}{query}", health=health)
            assert (answer.status, answer.json["error"]) == (404, "not_found")


ACCEPTED = {
    "": "text/plain; charset=utf-8",
    "*/*": "text/plain; charset=utf-8",
    "text/html": "text/plain; charset=utf-8",
    "application/*": "text/plain; charset=utf-8",
    "application/json": "application/json",
    "Application/JSON": "application/json",
    "application/json, text/plain, */*": "application/json",
    "application/json;q=0.5, text/plain": "text/plain; charset=utf-8",
    "application/json;q=0": "text/plain; charset=utf-8",
    "application/json;q=0.5, text/html": "application/json",
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_text_unless_json_is_asked_for(pod: RunningPod, accept: str) -> None:
    for health in BOTH:
        for path in ("/readyz", "/readyz?verbose", "/readyz/redis"):
            answer = pod.get(path, health=health, Accept=accept)
            assert answer.headers["content-type"] == ACCEPTED[accept]


def test_twins_are_counted_by_their_routes(pod: RunningPod) -> None:
    asked = ("/readyz", "/readyz?verbose", "/readyz/redis", "/readyz/nobody")
    for path in asked:
        pod.get(path)
    wanted = ('endpoint="/readyz"', 'endpoint="/readyz/<check>"')
    eventually(
        lambda: all(each in pod.get("/metrics").body.decode() for each in wanted), f"{wanted}"
    )
    assert "nobody" not in pod.get("/metrics").body.decode()


def test_a_twin_gives_nothing_away(pod: RunningPod) -> None:
    audit = Audit(pod)
    for health in BOTH:
        for path in ("/livez?verbose", "/readyz?verbose", "/startupz?verbose"):
            assert audit.given_away(pod.get(path, health=health).body.decode()) == []


# -- another application


def test_the_twins_are_ours_beside_another_application(launch: Launch) -> None:
    pod = launch(APP_MODULE="examples.plain:app", REDIS_EMBEDDED="off")
    pod.wait_for(200, f"{PREFIX}/startup")
    for path in ("/livez", "/readyz/", "/startupz?verbose", "/readyz/database"):
        for health in BOTH:
            assert pod.get(path, health=health).headers["cache-control"] == "no-store"
    assert pod.get("/readyz/nobody").status == 404
    assert pod.get(f"{PREFIX}/openapi.json").json["openapi"].startswith("3.1")
    for theirs in ("/readyzz", "/livez2", "/healthz", "/Readyz"):
        assert pod.get(theirs).body == f"hello from {theirs}\n".encode()
        assert pod.get(theirs, health=HEALTH).status == 404


# -- the state cannot be read


class Blind:
    """A reader that fails."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self.wall = lambda: pods.NOW

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("cannot be read")

    def nothing(self) -> Pod:
        return self._pod


@EACH_TWIN
def test_a_twin_of_nothing_has_the_status_of_its_probe(twin: str) -> None:
    nothing = replace(pods.blank(), readable=False)
    answers = Answers(Blind(nothing), PAYLOAD)
    probe, _ = answers.answer(BY_PATH[f"{PREFIX}/{OF[twin]}"], trusted=False)
    (endpoint,) = (each for each in TWINS if each.path == f"/{twin}")
    plain, _ = answers.answer(endpoint, trusted=False)
    asked, body = answers.asked(endpoint, Question(twin).as_document)
    assert plain == asked == probe
    assert json.loads(body)["passed"] == probe.startswith("200")
