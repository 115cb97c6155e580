"""What the kubelet does with a container and a pod: restarts, ends, and who is told."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.health import Kind
from tests.kubelet import Clock, Endpoints, Kubelet, PodSpec, ProbeSpec
from tests.pod import eventually

SPEED = 20.0
READY = ProbeSpec(Kind.READINESS, path="/ready", period=1, failure=2, timeout=5)
ALIVE = ProbeSpec(Kind.LIVENESS, path="/live", period=1, failure=3, timeout=5, grace=7)
STARTED = ProbeSpec(Kind.STARTUP, path="/start", period=1, failure=500, timeout=5)


class Server:
    """Answers its probes with the status the test wants."""

    def __init__(self) -> None:
        self.says = {"/ready": 200, "/live": 200, "/start": 200}
        says = self.says

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(says[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


class Fake:
    """A container that obeys at once, or only to SIGKILL."""

    def __init__(self, port: int, *, obeys: bool = True) -> None:
        self._port = port
        self._obeys = obeys
        self._ended: int | None = None

    def address(self, _port: int) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def ended(self) -> int | None:
        return self._ended

    def terminate(self) -> None:
        if self._obeys:
            self._ended = 0

    def kill(self) -> None:
        if self._ended is None:
            self._ended = -9

    def crash(self) -> None:
        self._ended = 1


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock(SPEED)


@pytest.fixture
def make_pod(server: Server, clock: Clock) -> Iterator[Callable[..., Kubelet]]:
    numbers = itertools.count(1)
    with ExitStack() as stack:

        def make(
            *probes: ProbeSpec, obeys: bool = True, pre_stop: float = 0.0, grace: int = 30
        ) -> Kubelet:
            spec = PodSpec(probes, grace=grace, pre_stop=pre_stop)
            port = server.http.server_address[1]
            pod = Kubelet(f"pod{next(numbers)}", spec, lambda: Fake(port, obeys=obeys), clock)
            return stack.enter_context(pod)

        yield make


def noted(pod: Kubelet) -> list[str]:
    return [event.what for event in pod.events]


def nth(pod: Kubelet, what: str, number: int) -> float:
    return [event.at for event in pod.events if event.what == what][number]


def test_a_container_that_ends_is_started_again_and_each_time_later(
    make_pod: Callable[..., Kubelet],
) -> None:
    pod = make_pod()
    for restarts in range(4):
        eventually(lambda count=restarts: noted(pod).count("started") == count + 1, "it runs again")
        pod._handle.crash()
    eventually(lambda: noted(pod).count("ended") == 4, "it has ended")
    waited = [nth(pod, "started", n + 1) - nth(pod, "ended", n) for n in range(3)]
    assert waited[1] >= 10
    assert waited[2] >= 20
    announced = [event.detail for event in pod.events if event.what == "restarting"]
    assert announced[:3] == ["in 0 s", "in 10 s", "in 20 s"]


def test_it_is_asked_for_life_only_once_it_has_started(
    server: Server, make_pod: Callable[..., Kubelet]
) -> None:
    server.says["/start"] = server.says["/live"] = 503
    pod = make_pod(STARTED, ALIVE, READY)
    eventually(lambda: len(pod.asked) > 10, "startup is asked")
    assert {each.kind for each in pod.asked} == {Kind.STARTUP}
    assert not pod.ready
    server.says["/start"] = server.says["/live"] = 200
    eventually(lambda: pod.ready, "ready")
    assert noted(pod) == ["started", "startup passed", "ready"]


def test_what_does_not_live_is_killed_in_the_probe_s_own_time(
    server: Server, make_pod: Callable[..., Kubelet]
) -> None:
    pod = make_pod(ALIVE, READY, obeys=False)
    eventually(lambda: pod.ready, "ready")
    server.says["/live"] = 503
    eventually(lambda: "failed" in noted(pod), "it has failed")
    server.says["/live"] = 200  # of the next container, which is asked at once
    eventually(lambda: pod.restarts == 1, "restarted")
    begun = noted(pod).index("failed")
    assert noted(pod)[begun : begun + 5] == ["failed", "SIGTERM", "SIGKILL", "ended", "unready"]
    assert pod.events[begun + 1].detail == "grace 7 s"
    assert pod.since("SIGKILL") - pod.since("SIGTERM") >= 7
    eventually(lambda: pod.ready, "ready again")
    assert pod.restarts == 1


def test_a_deleted_pod_is_asked_to_the_end_and_never_started_again(
    server: Server, make_pod: Callable[..., Kubelet]
) -> None:
    pod = make_pod(ALIVE, READY, obeys=False, pre_stop=10)
    eventually(lambda: pod.ready, "ready")
    server.says["/live"] = server.says["/ready"] = 503
    pod.delete()
    eventually(lambda: pod.gone, "gone")
    assert "failed" not in noted(pod), "a pod that leaves need not live"
    assert pod.since("unready") < pod.since("ended")
    assert pod.since("SIGTERM") - pod.since("deleted") >= 10
    # The hook's time is part of the grace period.
    assert 30 <= pod.since("SIGKILL") - pod.since("deleted") < 60
    assert noted(pod)[-1] == "gone"
    assert pod.restarts == 0


def test_routers_learn_late_who_is_ready(make_pod: Callable[..., Kubelet], clock: Clock) -> None:
    endpoints = Endpoints(clock, 20)
    first, second = make_pod(READY, obeys=False), make_pod(READY, obeys=False)
    endpoints.add(first)
    endpoints.add(second)
    eventually(lambda: first.ready and second.ready, "ready")
    eventually(lambda: endpoints.routable() == [first, second], "both are known")
    assert clock.now() - max(first.since("ready"), second.since("ready")) >= 20

    first.delete()
    eventually(lambda: endpoints.routable() == [second], "one is left")
    assert clock.now() - first.since("deleted") >= 20


def test_who_leaves_is_better_than_nobody(make_pod: Callable[..., Kubelet], clock: Clock) -> None:
    endpoints = Endpoints(clock, 1)
    pod = make_pod(READY, obeys=False, grace=120)
    endpoints.add(pod)
    eventually(endpoints.routable, "it is known")
    deleted_at = clock.now()
    pod.delete()
    eventually(lambda: clock.now() > deleted_at + 5, "everybody knows")
    assert not pod.conditions(clock.now()).ready
    assert endpoints.routable() == [pod]
    eventually(lambda: endpoints.routable() == [], "until it is gone")
    assert pod.since("SIGKILL") - deleted_at >= 120
