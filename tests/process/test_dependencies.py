"""A dependency that is frozen, refused or dripping blocks nobody, and is asked once an interval."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trustme

from service.health.schedule import JITTER
from tests.load import probing
from tests.pod import ENDPOINTS, UNHURRIED, Pod, eventually
from tests.servers.faults import Fault, FaultProxy
from tests.servers.postgres import Postgres
from tests.servers.redis import PASSWORD, RedisServer, binary

LIVENESS = "/api/system/health/liveness"
FLEET = "/api/system/health/fleet"
INTERVAL, TIMEOUT, THRESHOLD = 1.0, 1.0, 2
NOTICED = THRESHOLD * (INTERVAL + TIMEOUT)
# Beyond what is promised: what a busy machine may add to each of a few runs.
MARGIN = 10.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@contextmanager
def _behind(
    server: Postgres | RedisServer, fault: Fault
) -> Iterator[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    """A server's URL through a proxy, and what puts the fault between."""
    port = int(server.url.rpartition("/")[0].rpartition(":")[2])
    with FaultProxy(("127.0.0.1", port)) as proxy:

        @contextmanager
        def faulty() -> Iterator[None]:
            proxy.fault = fault
            try:
                yield
            finally:
                proxy.fault = Fault.NONE

        yield server.url.replace(f":{port}/", f":{proxy.address[1]}/"), faulty


@contextmanager
def _frozen(
    server: Postgres | RedisServer,
) -> Iterator[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    yield server.url, server.frozen


@pytest.mark.parametrize("name", ["database", "redis"])
@pytest.mark.parametrize("how", ["frozen", "refused", "dripping", "black hole"])
def test_a_faulty_dependency_blocks_nobody(
    make_pod: Callable[..., Pod], postgres: Postgres, redis: RedisServer, name: str, how: str
) -> None:
    server = postgres if name == "database" else redis
    faults = {"refused": Fault.REFUSE, "dripping": Fault.DRIP, "black hole": Fault.BLACK_HOLE}
    with _frozen(server) if how == "frozen" else _behind(server, faults[how]) as (url, faulty):
        urls = {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url}
        pod = make_pod(**{**urls, f"{name.upper()}_URL": url}).start()
        pod.wait_for(200, "/health")
        workers = {worker.pid for worker in pod.workers()} | {pod.health_worker}
        with faulty():
            begun = time.monotonic()

            def fails() -> bool:
                answer = pod.get(f"/health/{name}")
                codes = ("timeout", "connection_refused", "connection_lost")
                return answer.status == 503 and answer.json["error"] in codes

            eventually(fails, "it is seen to fail", NOTICED + MARGIN)
            noticed = time.monotonic() - begun
            with probing(pod, (*ENDPOINTS, "/"), clients=4, rate=100, keep=True) as seen:
                enough = seen.total + 200
                eventually(lambda: seen.total > enough, "some answers")
            times = sorted(answer.seconds for _, answer in seen.answers)
            assert pod.get(LIVENESS).status == pod.get(LIVENESS, health=True).status == 200
        median, p99 = (times[len(times) * percent // 100] * 1000 for percent in (50, 99))
        print(
            f"{name} {how}: seen after {noticed:.2f} s of {NOTICED:.1f} s; "
            f"answers: median {median:.1f} ms, p99 {p99:.1f} ms"
        )
        assert not seen.other_than("200", "503", "404"), str(seen)
        begun = time.monotonic()
        eventually(
            lambda: all(answer.status == 200 for answer in pod.everywhere("/health")),
            "it is seen to work",
            NOTICED + MARGIN,
        )
        print(f"{name} works: seen after {time.monotonic() - begun:.2f} s")
        assert {worker.pid for worker in pod.workers()} | {pod.health_worker} == workers


def test_liveness_does_not_care_what_is_remote(
    make_pod: Callable[..., Pod], postgres: Postgres, redis: RedisServer
) -> None:
    pod = make_pod(
        DATABASE_URL=postgres.url,
        REDIS_URL=redis.url,
        STRIPE_SECRET_KEY="sk_test_0000000000000000",
        STRIPE_API_BASE="http://127.0.0.1:9",
        HEALTH_EXTERNAL_INTERVAL_SECONDS="0.5",
        HEALTH_LIVENESS_STALL_SECONDS="8",  # not so few that a busy machine makes a worker stuck
    ).start()
    with postgres.frozen(), redis.frozen():
        pod.wait_for(503, "/health")
        end = time.monotonic() + 10  # longer than it takes until a stuck worker is seen to be one
        while time.monotonic() < end:
            for answer in pod.everywhere(LIVENESS):
                assert answer.status == 200
    pod.wait_for(200, "/health")


def test_probes_do_not_become_queries(make_pod: Callable[..., Pod], postgres: Postgres) -> None:
    url = postgres.create_database("counted")
    pod = make_pod(
        DATABASE_URL=url,
        WEB_CONCURRENCY="4",
        HEALTH_DATABASE_INTERVAL_SECONDS="1",
        # And every check passes on a machine that has no CPU left.
        HEALTH_RESOURCES_INTERVAL_SECONDS="10",
        HEALTH_FAILURE_THRESHOLD="1000",
        **UNHURRIED,
    ).start()
    pod.wait_for(200, "/health")

    def selects() -> int:
        return sum(sql == "SELECT 1" for sql in postgres.statements("mingus-health"))

    with probing(pod, ENDPOINTS, rate=200) as seen:
        first = selects()
        begun = eventually(lambda: selects() > first and time.monotonic(), "a check")
        start, asked = selects(), seen.total
        # As long as it takes until so many checks and so many probes have been.
        eventually(lambda: selects() >= start + 8 and seen.total >= asked + 800, "more checks")
        checks, probes = selects() - start, seen.total - asked
        seconds = time.monotonic() - begun
    print(
        f"{checks / seconds:.2f} checks a second under {probes / seconds:.0f} probes a second; "
        "the interval alone gives 1.0"
    )
    assert not seen.other_than("200"), str(seen)
    # An interval lies between two checks; and however busy the machine, they go on.
    assert seconds / 8 < checks <= seconds / (INTERVAL * (1 - JITTER)) + 1


def test_redis_by_tls(make_pod: Callable[..., Pod]) -> None:
    """The check and the fleet, with a password and a certificate of the company's own."""
    with RedisServer(binary("redis"), tls=True, password=PASSWORD) as server:
        pods = [make_pod(REDIS_URL=server.url, HEALTH_FLEET_INTERVAL_SECONDS="2") for _ in range(2)]
        for pod in pods:
            pod.launch()
        for pod in pods:
            pod.wait_for(200, "/health")
            eventually(lambda pod=pod: pod.get("/health/redis").json["status"] == "healthy", "well")
        names = {pod.board.pod_id for pod in pods}
        for pod in pods:
            eventually(
                lambda pod=pod: {row["pod"] for row in pod.get(FLEET).data["pods"]} == names,
                "it sees both",
            )
            eventually(lambda pod=pod: pod.get(FLEET).data["leases"]["checks"] in names, "a holder")
        assert "rediss://" in server.url
        server.stop()
        for pod in pods:
            pod.wait_for(503, "/health")
            eventually(
                lambda pod=pod: pod.get("/health/redis").json["error"] == "connection_refused",
                "the reason",
            )
        server.start()
        for pod in pods:
            pod.wait_for(200, "/health")
            eventually(lambda pod=pod: pod.get(FLEET).data["fresh"], "the fleet is back")


def test_a_certificate_of_a_stranger(make_pod: Callable[..., Pod]) -> None:
    with (
        RedisServer(binary("redis"), tls=True) as server,
        trustme.CA().cert_pem.tempfile() as stranger,
    ):
        pod = make_pod(
            REDIS_URL=server.url.replace(str(server.ca), stranger), HEALTH_STARTUP_CHECKS="none"
        ).start()
        pod.wait_for(503, "/health/redis")
        eventually(lambda: pod.get("/health/redis").json["error"] == "tls_error", "the reason")
        assert pod.get(LIVENESS).status == 200


@pytest.fixture
def silent_name_server() -> Iterator[list[str]]:
    """What to put before a command so that every name lookup in it hangs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.53", 53))
        hang = 'echo nameserver 127.0.0.53 >$0 && mount --bind $0 /etc/resolv.conf && exec "$@"'
        with tempfile.NamedTemporaryFile() as file:
            unshare = ["unshare", "--user", "--map-root-user", "--mount"]
            yield [*unshare, "sh", "-c", hang, file.name]


@pytest.mark.skipif(
    os.geteuid() != 0 and "CI" not in os.environ, reason="only root may listen on port 53"
)
def test_a_name_server_that_hangs(
    make_pod: Callable[..., Pod], silent_name_server: list[str]
) -> None:
    pod = make_pod(
        DATABASE_URL="postgresql://somebody@db.nowhere.test/shop",
        REDIS_URL="redis://redis.nowhere.test",
        STRIPE_SECRET_KEY="sk_test_0000000000000000",
        HEALTH_REDIS_INTERVAL_SECONDS="0.2",
        HEALTH_REDIS_TIMEOUT_SECONDS="0.2",
        HEALTH_DATABASE_TIMEOUT_SECONDS="0.2",
        HEALTH_EXTERNAL_TIMEOUT_SECONDS="1",
        HEALTH_STARTUP_CHECKS="none",
    )
    pod.prefix = silent_name_server
    pod.start()

    def runs() -> int:
        numbers = pod.get("/health/metrics").json["metrics"]["health_check_failures_total"]
        return min(numbers["database"], numbers["redis"])

    eventually(lambda: runs() >= 20, "twenty runs of each")
    for name in ("database", "redis"):
        eventually(
            lambda name=name: pod.get(f"/health/{name}").json["error"] == "timeout", "the reason"
        )
    for answer in pod.everywhere(LIVENESS):
        assert answer.status == 200
    # Two lost threads a check at most, besides the few that the worker always has.
    assert len(list(Path(f"/proc/{pod.health_worker}/task").iterdir())) < 25
