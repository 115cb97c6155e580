"""What the manifests' own settings do to real pods, in simulated time. See cluster.py."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.health import Kind
from tests.kubelet import Kubelet, Outcome, ProbeSpec
from tests.kubernetes.cluster import Cluster, keeps_running, traffic
from tests.kubernetes.manifests import BASE
from tests.load import occupying
from tests.pod import Pod, eventually
from tests.servers.faults import Fault, FaultProxy
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

MINUTE = 60.0
BUSY = 1.5  # real seconds a busy machine may be late with anything
APPLICATION = {"APP_MODULE": "tests.process.apps:app"}

MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@pytest.fixture
def make_cluster(tmp_path: Path, redis: RedisServer) -> Iterator[MakeCluster]:
    with ExitStack() as stack:

        def make(speed: float, database: str = "", **settings: str) -> Cluster:
            cluster = Cluster(tmp_path, BASE, speed, **settings)
            database = database or f"sqlite:///{tmp_path / 'shop.sqlite3'}"
            cluster.secret(DATABASE_URL=database, REDIS_URL=redis.url)
            return stack.enter_context(cluster)

        yield make


def probe(cluster: Cluster, kind: Kind) -> ProbeSpec:
    (found,) = (each for each in cluster.spec.probes if each.kind is kind)
    return found


def asked(pod: Kubelet, kind: Kind) -> list[Outcome]:
    return [each.seen.outcome for each in pod.asked if each.kind is kind]


def answered_in_time(cluster: Cluster, pod: Kubelet) -> None:
    """No answer of a pod that has started took more than half of what its probe allows."""
    for kind in (Kind.LIVENESS, Kind.READINESS):
        slowest = max((each.seen.seconds for each in pod.asked if each.kind is kind), default=0.0)
        print(f"{pod.name}: {len(asked(pod, kind)):4} {kind.value:9} slowest {slowest:.3f} s")
        assert slowest < probe(cluster, kind).timeout / 2, kind


def test_an_outage_of_the_database_restarts_nobody(make_cluster: MakeCluster) -> None:
    with Postgres() as postgres, FaultProxy(("127.0.0.1", postgres.port)) as line:
        url = postgres.create_database("shop").replace(f":{postgres.port}", f":{line.address[1]}")
        cluster = make_cluster(speed=25, database=url)
        clock = cluster.clock
        before = cluster.pod()
        cluster.eventually_ready(before)

        line.fault = Fault.REFUSE
        begun = clock.now()
        cluster.wait(lambda: not before.ready, "the pod is not ready", before)
        # 12 s until the check says so, two probes, and what a busy machine needs.
        late = 12 + 2 * probe(cluster, Kind.READINESS).period + 2 * BUSY * clock.speed
        assert clock.now() - begun < late
        during = cluster.pod()  # it comes up while there is nothing to connect to
        cluster.pass_time(begun + 10 * MINUTE - clock.now())
        assert not before.ready
        assert not during.ready
        assert cluster.endpoints.routable() == []

        line.fault = Fault.NONE
        begun = clock.now()
        cluster.eventually_ready(before, during)
        print(f"ready again after {clock.now() - begun:.0f} s")
        for pod in (before, during):
            assert keeps_running(pod), pod.story()
            assert set(asked(pod, Kind.LIVENESS)) == {Outcome.SUCCESS}
            assert len(asked(pod, Kind.LIVENESS)) > 2 * MINUTE / 10
            answered_in_time(cluster, pod)


@contextmanager
def stuck(pod: Pod) -> Iterator[None]:
    """Requests that never end, until every thread of every worker is busy with one.

    A worker that stands still for a moment leaves them to its sibling, however many there are.
    """
    with ExitStack() as stack:

        def all_busy() -> bool:
            if all(worker.all_busy_since for worker in pod.workers()):
                return True
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", pod.port)))
            sock.sendall(b"POST /stuck HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            return False

        eventually(all_busy, "every thread of every worker is busy")
        yield


def test_a_stuck_pod_is_restarted(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(speed=15, **APPLICATION)
    liveness, clock = probe(cluster, Kind.LIVENESS), cluster.clock
    pod = cluster.pod()
    cluster.eventually_ready(pod)
    service = cluster.pods[pod.name]
    with stuck(service):
        begun = clock.now()
        cluster.wait(lambda: pod.restarts == 1, "a restart", pod)
    noticed = begun + 60  # HEALTH_LIVENESS_STALL_SECONDS
    bound = liveness.failure * liveness.period + liveness.timeout + BUSY * clock.speed
    assert noticed - 1 <= pod.since("failed") <= noticed + bound, pod.story()
    assert asked(pod, Kind.LIVENESS).count(Outcome.FAILURE) == liveness.failure
    # Its requests do not end, so it has to be killed, and at once after its time.
    assert liveness.grace is not None
    lasted = pod.since("ended") - pod.since("SIGTERM")
    assert lasted <= liveness.grace + BUSY * clock.speed, pod.story()
    cluster.eventually_ready(pod)
    assert service.get("/").status == 200
    assert pod.restarts == 1
    print(pod.story())


def test_a_slow_start_is_not_killed_and_an_endless_one_is(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = make_cluster(speed=20, APP_MODULE="tests.kubernetes.apps:app", WEB_CONCURRENCY="1")
    slow = cluster.pod(MAY_START=str(tmp_path / "slow"))
    endless = cluster.pod(MAY_START=str(tmp_path / "endless"))
    cluster.wait(lambda: slow.events, "its container runs", slow)
    # Long, and with some real seconds left for a busy machine to do the rest.
    cluster.pass_time(slow.since("started") + 245 - cluster.clock.now())
    assert not slow.ready
    assert asked(slow, Kind.LIVENESS) == asked(slow, Kind.READINESS) == []
    (tmp_path / "slow").touch()
    cluster.eventually_ready(slow)
    assert keeps_running(slow), slow.story()
    assert slow.since("startup passed") - slow.since("started") > 240

    cluster.wait(lambda: endless.restarts == 1, "the endless start is given up", endless)
    startup = probe(cluster, Kind.STARTUP)
    # Counted, because a busy machine cannot ask fifteen times a second.
    given_up = endless.since("failed")
    first = [each.seen.outcome for each in endless.asked if each.at < given_up]
    assert first == [Outcome.FAILURE] * startup.failure
    lasted = endless.since("failed") - endless.since("started")
    assert lasted >= (startup.failure - 1) * startup.period
    (tmp_path / "endless").touch()
    cluster.eventually_ready(endless)
    assert keeps_running(slow), slow.story()


def test_a_rollout_under_load_loses_nothing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(speed=5, **APPLICATION)
    old = [cluster.pod(), cluster.pod()]
    cluster.eventually_ready(*old)
    cluster.wait(lambda: len(cluster.endpoints.routable()) == 2, "the routers know", *old)
    requests = [("GET", "/"), ("POST", "/")] * 4 + [("GET", "/slow?seconds=0.7")]
    with traffic(cluster, requests) as seen:
        eventually(lambda: sum(seen.values()) > 50, "some traffic")
        new = cluster.rollout(old)
        settled = sum(seen.values())
        eventually(lambda: sum(seen.values()) > settled + 50, "some traffic more")
    print(dict(seen))
    stories = "\n".join(pod.story() for pod in (*old, *new))
    assert set(seen) == {"GET 200", "POST 200"}, f"{seen}\n{stories}"
    for pod in old:
        # They left by themselves, within their time, and said so before they went.
        what = [event.what for event in pod.events]
        assert "SIGKILL" not in what, pod.story()
        assert what.index("deleted") < what.index("unready"), pod.story()
        # By one answer: of a late second one, which makes the kubelet say so too, it may be gone.
        said = [
            each.seen.status
            for each in pod.asked
            if each.kind is Kind.READINESS and pod.since("SIGTERM") < each.at < pod.since("ended")
        ]
        assert 503 in said, f"{said}\n{pod.story()}"
        assert pod.events[what.index("ended")].detail == "exit status 0"
        assert pod.since("ended") - pod.since("SIGTERM") <= cluster.spec.grace
    for pod in new:
        assert keeps_running(pod), pod.story()


def test_a_saturated_pod_is_not_restarted(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(speed=15, **APPLICATION)
    pod = cluster.pod()
    cluster.eventually_ready(pod)
    service = cluster.pods[pod.name]
    # Every thread is busy with 8 s of work, and four more requests wait for it.
    with occupying(service, "/slow?seconds=0.5", 80):
        eventually(
            lambda: sum(worker.in_flight for worker in service.workers()) >= 16,
            "every thread is busy",
        )
        liveness = probe(cluster, Kind.LIVENESS)
        cluster.pass_time(60 + liveness.period * liveness.failure + liveness.timeout)
        # At one moment some are between two requests.
        eventually(
            lambda: sum(worker.in_flight for worker in service.workers()) >= 16,
            "every thread is still busy",
        )
        assert pod.ready
    assert keeps_running(pod), pod.story()
    assert set(asked(pod, Kind.LIVENESS)) == {Outcome.SUCCESS}
    assert "unready" not in [event.what for event in pod.events], pod.story()
    answered_in_time(cluster, pod)
