"""Who may ask what, what is tried again, what is logged: on both versions of nginx."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nginx.backends import Backend, three_backends
from tests.nginx.conftest import STARTUP, three_pods
from tests.pod import ENDPOINTS, Pod, eventually, free_port
from tests.servers.nginx import Nginx

MONITORING, STRANGER, BALANCER = "127.0.0.9", "127.0.0.2", "127.0.0.5"
SITE = {"# 10.20.0.0/16 1;": f"{MONITORING} 1;", "192.0.2.10;": f"{BALANCER};"}

PROBES = (
    "/health",
    *(f"/api/system/health/{name}" for name in ("simple", "readiness", "liveness", "startup")),
    *("/livez", "/readyz", "/startupz"),
)
METRICS = ("/metrics", "/api/system/health/metrics")
DETAILS = [path for path in ENDPOINTS if path not in (*PROBES, *METRICS)]
DETAILS += ["/readyz/database", "/api/system/health/openapi.json", "/status"]


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with three_pods(tmp_path_factory.mktemp("rules"), count=1, HEALTH_DRAIN_SECONDS="0") as (pod,):
        yield pod.wait_for(200, STARTUP)


@pytest.fixture(scope="module")
def nginx(program: Path, pod: Pod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """In front of one pod that stands for three."""
    addresses = 3 * [f"127.0.0.1:{pod.port}"]
    with Nginx(program, tmp_path_factory.mktemp("nginx"), addresses, edits=SITE) as nginx:
        yield nginx


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    with three_backends() as backends:
        yield backends


@pytest.fixture
def before_backends(program: Path, backends: list[Backend], tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(program, tmp_path, [each.address for each in backends], edits=SITE) as nginx:
        yield nginx


def statuses(nginx: Nginx, paths: tuple[str, ...] | list[str], **more: str) -> dict[str, int]:
    """The status of each path, asked so slowly that nobody minds."""
    found = {}
    for path in paths:
        found[path] = eventually(
            lambda: (status := nginx.get(path, **more)[0]) != 429 and status,  # noqa: B023
            f"{path} is not limited",
        )
    return found


# -- who may ask what


def test_everybody_may_probe(nginx: Nginx) -> None:
    for source in (STRANGER, MONITORING):
        paths = [variant for path in PROBES for variant in (path, f"{path}/")]
        assert set(statuses(nginx, paths, source=source).values()) == {200}


def test_details_and_metrics_are_for_trusted_networks(nginx: Nginx) -> None:
    paths = [variant for path in (*DETAILS, *METRICS) for variant in (path, path.rstrip("/"))]
    assert set(statuses(nginx, paths, source=STRANGER).values()) == {403}
    # A busy machine's resources are unhealthy, and that is an answer.
    assert set(statuses(nginx, paths, source=MONITORING).values()) <= {200, 503}


@pytest.mark.parametrize(
    "path",
    [
        "/health/detailed;x",
        "/health%2fdetailed",
        "/%68ealth/detailed",
        "//health/detailed",
        "/health//detailed",
        "/health/./detailed",
        "/x/../health/detailed",
        "/health/detailed/",
        "/health/detailed?x=1",
        "/health/detailed%3fx",
        "/metrics/",
        "/metrics?x",
        "//metrics",
        "http://localhost/metrics",
        "/api/system/health/%6detrics",
    ],
)
def test_no_spelling_gets_around_it(nginx: Nginx, path: str) -> None:
    assert nginx.get(path, source=STRANGER)[0] == 403


@pytest.mark.parametrize("path", ["/healthy", "/Health/detailed", "/metricsx", "/api/system"])
def test_what_only_looks_like_it_is_the_applications(nginx: Nginx, path: str) -> None:
    status, body = nginx.get(path, source=STRANGER)
    assert status == 200
    assert body.strip().isdigit()


@pytest.mark.parametrize(
    ("source", "chain", "status"),
    [
        pytest.param(STRANGER, MONITORING, 403, id="forged by a stranger"),
        pytest.param(STRANGER, f"{MONITORING}, {BALANCER}", 403, id="with a balancer's address"),
        pytest.param(BALANCER, MONITORING, 200, id="a balancer speaks"),
        pytest.param(BALANCER, f"{MONITORING}, {STRANGER}", 403, id="forged before a balancer"),
        pytest.param(BALANCER, f"{STRANGER}, {MONITORING}", 200, id="its right end counts"),
        pytest.param(BALANCER, "nonsense", 403, id="nonsense"),
    ],
)
def test_whose_word_about_an_address_counts(
    nginx: Nginx, source: str, chain: str, status: int
) -> None:
    for path in ("/metrics", "/api/system/health/metrics"):
        assert nginx.get(path, source=source, X_Forwarded_For=chain)[0] == status


def headers(nginx: Nginx, source: str, **sent: str) -> dict[str, str]:
    """What the application is told about the client."""
    told = nginx.get("/headers", source=source, **sent)[1].decode()
    return dict(line.split("=", 1) for line in told.splitlines())


def test_what_the_application_is_told(nginx: Nginx) -> None:
    lies = {
        "X_Forwarded_For": MONITORING,
        "X_Real_IP": MONITORING,
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Port": "1",
        "X_Forwarded_Prefix": "/evil",
        "Forwarded": f"for={MONITORING}",
        "Host": "shop.example",
    }
    told = headers(nginx, STRANGER, **lies)
    assert told["HTTP_X_FORWARDED_FOR"] == told["HTTP_X_REAL_IP"] == STRANGER
    assert told["HTTP_X_FORWARDED_PROTO"] == "http"
    assert told["HTTP_HOST"] == told["HTTP_X_FORWARDED_HOST"] == "shop.example"
    assert not {"HTTP_FORWARDED", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PREFIX"} & set(told)

    told = headers(nginx, BALANCER, X_Forwarded_For="203.0.113.9", X_Forwarded_Proto="https")
    assert told["HTTP_X_FORWARDED_FOR"] == "203.0.113.9"
    assert told["HTTP_X_FORWARDED_PROTO"] == "https"


def test_internals_are_for_those_whom_the_pod_trusts(nginx: Nginx, pod: Pod) -> None:
    """nginx is in HEALTH_TRUSTED_PROXIES, and has not been talked into anything."""
    open_to = {
        source: json.loads(nginx.get("/api/system/health/startup", source=source, **lie)[1])
        for source in (MONITORING, STRANGER)
        for lie in ({"X_Forwarded_For": MONITORING},)
    }
    assert open_to[STRANGER]["data"]["tasks"] is None
    assert open_to[MONITORING]["data"]["tasks"] is not None
    assert pod.get("/api/system/health/startup").data["tasks"] is None


# -- how often


def test_details_are_limited_and_nothing_else(nginx: Nginx) -> None:
    def hammered(path: str, source: str = MONITORING) -> Counter[int]:
        return Counter(nginx.get(path, source=source)[0] for _ in range(60))

    # Earlier tests may have used the allowance up: it takes a tenth of a second to have some again.
    limited: Counter[int] = Counter()

    def both() -> bool:
        limited.update(hammered("/health/detailed"))
        return {200, 429} <= set(limited)

    eventually(both, "some are answered and some are refused")
    assert set(limited) == {200, 429}, limited
    for path in ("/health", "/api/system/health/readiness", "/metrics", "/", "/nginx-health"):
        assert set(hammered(path)) == {200}
    # A limit of one address: nobody else's, and a stranger's 403 stays one.
    assert set(hammered("/health/detailed", STRANGER)) == {403}
    assert nginx.get("/health/detailed", source="127.0.0.1")[0] == 200


# -- errors


def test_the_pods_own_errors_arrive(nginx: Nginx) -> None:
    for method in ("POST", "DELETE", "OPTIONS"):
        status, body = nginx.get("/health", method=method)
        assert (status, json.loads(body)["error"]) == (405, "method_not_allowed")
    status, body = nginx.get("/health/nothing", source=MONITORING)
    assert (status, json.loads(body)["error"]) == (404, "not_found")
    assert nginx.get("/health", method="HEAD") == (200, b"")


def test_nginx_is_alive_without_any_pod(program: Path, tmp_path: Path) -> None:
    nowhere = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    with Nginx(program, tmp_path, nowhere, edits=SITE) as nginx:
        assert nginx.get("/nginx-health") == (200, b"ok\n")
        assert {nginx.get(path)[0] for path in ("/", "/health", "/metrics")} == {502}
        assert nginx.get("/nginx-health", source=STRANGER) == (200, b"ok\n")


# -- what is tried again


def attempts(nginx: Nginx, path: str) -> list[str]:
    """The statuses of the attempts at the newest logged request for a path."""
    logged = eventually(
        lambda: [line for line in nginx.accesses if line["uri"] == path], "it is logged"
    )
    return str(logged[-1]["upstream_status"]).split(", ")


def test_a_503_is_asked_of_every_pod_only_by_probes(
    before_backends: Nginx, backends: list[Backend]
) -> None:
    nginx = before_backends
    for backend in backends:
        backend.status = 503
    for path, tried in (
        ("/health", 3),
        ("/api/system/health/readiness", 3),
        ("/health/database", 1),
        ("/metrics", 1),
        ("/", 1),
    ):
        status, body = nginx.get(path, source=MONITORING)
        assert status == 503
        assert body.decode() in {backend.address for backend in backends}, "the pod's own body"
        assert attempts(nginx, path) == tried * ["503"], path

    backends[0].status = 200
    for _ in range(20):
        assert nginx.get("/health")[0] == 200


def test_nothing_empties_the_group(before_backends: Nginx, backends: list[Backend]) -> None:
    """Failures of all pods at once are over when they are over, not a ban later."""
    nginx = before_backends
    for status, path in ((0, "/"), (503, "/health")):
        for backend in backends:
            backend.status = status
        for _ in range(20):
            assert nginx.get(path)[0] == (status or 502)
        for backend in backends:
            backend.status = 200
        assert {nginx.get("/")[0] for _ in range(20)} == {200}
    assert "no live upstreams" not in nginx.errors


def test_what_a_pod_may_have_done_is_not_done_again(
    before_backends: Nginx, backends: list[Backend]
) -> None:
    nginx = before_backends
    for backend in backends:
        backend.status = 0  # it has read the request, and dies
    assert nginx.get("/pay", method="POST")[0] == 502
    assert sum(backend.asked["/pay"] for backend in backends) == 1
    assert nginx.get("/look")[0] == 502
    assert sum(backend.asked["/look"] for backend in backends) == 3


def test_what_no_pod_has_got_is_sent_to_another(
    program: Path, backends: list[Backend], tmp_path: Path
) -> None:
    addresses = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", backends[0].address]
    with Nginx(program, tmp_path, addresses) as nginx:
        for _ in range(20):
            assert nginx.get("/pay", method="POST")[0] == 200
    assert backends[0].asked["/pay"] == 20


# -- what is logged


def test_only_probes_that_went_well_are_not_logged(
    before_backends: Nginx, backends: list[Backend]
) -> None:
    nginx = before_backends
    for path in ("/nginx-health", *PROBES, *(f"{path}/" for path in PROBES)):
        assert nginx.get(path)[0] == 200
    nginx.get("/?order=1", User_Agent='quotes " and \\ and \t tabs')
    nginx.get("/metrics", source=STRANGER)
    for backend in backends:
        backend.status = 503
    nginx.get("/health")
    # In no order: every process of nginx writes when it likes.
    eventually(lambda: len(nginx.accesses) == 3, "three requests are logged")
    logged = {(line["method"], line["uri"], line["status"]): line for line in nginx.accesses}
    order, metrics, probe = (
        ("GET", "/?order=1", 200),
        ("GET", "/metrics", 403),
        ("GET", "/health", 503),
    )
    assert logged.keys() == {order, metrics, probe}
    assert logged[order]["agent"] == 'quotes " and \\ and \t tabs'
    assert (logged[metrics]["client"], logged[metrics]["upstream"]) == (STRANGER, "")
    assert logged[probe]["upstream_status"] == "503, 503, 503"
    assert all(isinstance(line["seconds"], float) for line in nginx.accesses)
