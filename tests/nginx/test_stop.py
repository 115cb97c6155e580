"""SIGTERM under load, as a client of the pod itself sees it: nothing that was sent is lost."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse

import pytest

from tests.nginx.conftest import all_workers
from tests.pod import Answer, Pod, eventually

READINESS = "/api/system/health/readiness"
DRAIN = 3.0
GRACE = DRAIN + 30.0 + 7.0  # gunicorn's graceful_timeout, and what Kubernetes adds to both


def held(pod: Pod, workers: set[int]) -> list[HTTPConnection]:
    """Kept connections, so many that every worker has one at least."""
    found: set[int] = set()
    connections = []

    def one_more() -> bool:
        connection = HTTPConnection("127.0.0.1", pod.port, timeout=60)
        connection.request("GET", "/")
        with connection.getresponse() as response:
            found.add(int(response.read()))
        connections.append(connection)
        return found == workers

    eventually(one_more, "every worker has one")
    return connections


def opened(pod: Pod, count: int) -> list[HTTPConnection]:
    """Connections nothing has been asked on."""
    connections = [HTTPConnection("127.0.0.1", pod.port, timeout=60) for _ in range(count)]
    for connection in connections:
        connection.connect()
    return connections


def answers(futures: list[Future[Answer]]) -> list[int]:
    return [future.result(90).status for future in futures]


@pytest.mark.parametrize("worker_class", ["gthread", "sync"])
def test_everything_sent_is_answered(make_pod: Callable[..., Pod], worker_class: str) -> None:
    pod = make_pod(
        APP_MODULE="tests.nginx.app:app",
        WORKER_CLASS=worker_class,
        WEB_CONCURRENCY="2",
        THREADS="4",
        HEALTH_DRAIN_SECONDS=str(DRAIN),
    ).start()
    workers = set(all_workers(pod))  # or one of class sync would take the long requests in turn
    kept = held(pod, workers) if worker_class == "gthread" else []
    with ThreadPoolExecutor(64) as clients:

        def ask(path: str, times: int) -> list[Future[Answer]]:
            return [clients.submit(pod.get, path, timeout=90) for _ in range(times)]

        # In flight when the listeners are closed, after the drain.
        long = ask("/?seconds=4", 4 if worker_class == "gthread" else 2)
        eventually(lambda: in_flight(pod) == len(long), "they are being served")
        # A sync worker keeps no connection; it may find one in its queue that says nothing yet.
        kept = kept or opened(pod, 4)
        # More than there are threads to serve them.
        queued = ask("/?seconds=0.2", 16)
        os.kill(pod.pid, signal.SIGTERM)
        eventually(lambda: pod.board.draining, "it drains")
        late = ask("/?seconds=0.2", 4)
        probes = ask(READINESS, 10)
        for connection in kept:
            connection.request("GET", READINESS)
        # Not after the answers: with the last of them the listener may be gone.
        assert pod.status(READINESS, health=True) == 503
        for connection in kept:
            with connection.getresponse() as response:
                assert (response.status, response.getheader("Connection")) == (503, "close")
            connection.close()
        assert set(answers(probes)) == {503}
        assert set(answers(long)) == {200}
        assert set(answers(queued)) == {200}
        assert set(answers(late)) == {200}
    assert pod.process is not None
    assert pod.process.wait(GRACE) == 0


def in_flight(pod: Pod) -> int:
    return sum(worker.in_flight for worker in pod.workers())


def test_clients_that_do_not_close_stop_nobody(make_pod: Callable[..., Pod]) -> None:
    """More of them than a loop that waits 2 s for each could get through in the time they have."""
    pod = make_pod(
        APP_MODULE="tests.nginx.app:app", WEB_CONCURRENCY="1", HEALTH_DRAIN_SECONDS="60"
    ).start()
    pod.board.drain(on=True)
    pod.wait_for(503, READINESS)
    clients = [HTTPConnection("127.0.0.1", pod.port, timeout=60) for _ in range(100)]

    def ask(client: HTTPConnection) -> HTTPResponse:
        client.request("GET", "/")
        return client.getresponse()  # not read to its end, so the connection stays open

    with ThreadPoolExecutor(len(clients)) as pool, ExitStack() as stack:
        for answer in pool.map(ask, clients):
            stack.callback(answer.close)
            assert (answer.status, answer.getheader("Connection")) == (200, "close")
