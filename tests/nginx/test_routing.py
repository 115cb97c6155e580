"""Where nginx learns that a pod leaves, no POST fails: by name, and by asking."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.nginx.clients import APPLICATION, Tally, asking
from tests.nginx.conftest import STARTUP, all_workers, three_pods
from tests.nginx.dns import NameServer
from tests.pod import Pod, eventually, free_port, frozen
from tests.servers.nginx import Nginx

READINESS = "/api/system/health/readiness"
GETS = [question for question in APPLICATION if question[0] == "GET"]
HOSTS = ("127.0.0.11", "127.0.0.12", "127.0.0.13")


@contextmanager
def traffic(nginx: Nginx, questions: Sequence[tuple[str, str]] = APPLICATION) -> Iterator[Tally]:
    """Nothing but successful answers. From the application: no probe helps nginx."""
    with asking(nginx.port, questions) as tally:
        more(tally)
        yield tally
        more(tally)
    print(f"{nginx.version}\n{tally}")
    assert not tally.failed("GET"), f"{tally}\n{nginx.errors[-4000:]}"
    assert not tally.failed("POST"), f"{tally}\n{nginx.errors[-4000:]}"


def more(tally: Tally) -> None:
    before = tally.total()
    eventually(lambda: tally.total() > before + 60, "more requests")


def status(host: str, port: int, path: str) -> int | None:
    """What a pod answers at an address of its own."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        with connection.getresponse() as response:
            return response.status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def used(nginx: Nginx, pod: str) -> None:
    """Waits until a pod is sent requests."""
    before = nginx.answers_of(pod)
    eventually(lambda: nginx.answers_of(pod) > before + 5, f"{pod} is in use")


def ended(pod: Pod) -> int:
    assert pod.process is not None
    return pod.process.wait(60)


def test_pods_behind_a_headless_service(newest: Path, tmp_path: Path) -> None:
    """The name stands for the ready pods, as in Kubernetes."""
    with three_pods(tmp_path, HOSTS, HEALTH_DRAIN_SECONDS="4") as pods, NameServer(HOSTS) as names:
        port = pods[0].port
        for host in HOSTS:
            eventually(lambda: status(host, port, STARTUP) == 200, f"{host} serves")  # noqa: B023
        edits = {
            "resolver kube-dns.kube-system.svc.cluster.local valid=5s": (
                f"resolver {names.address} valid=1s"
            ),
            "mingus-health-pods.mingus.svc.cluster.local:5003": f"pods.test:{port}",
        }
        with Nginx(newest, tmp_path / "nginx", (), main="kubernetes.conf", edits=edits) as nginx:
            eventually(lambda: nginx.get("/")[0] == 200, "the name is known")
            before = nginx.errors  # of the time when it was not
            with traffic(nginx):
                for host, pod in ((HOSTS[0], pods[0]), (HOSTS[2], pods[2])):
                    os.kill(pod.pid, signal.SIGTERM)
                    eventually(lambda: status(host, port, READINESS) == 503, "drains")  # noqa: B023
                    names.addresses.remove(host)
                    assert ended(pod) == 0
                    pod.launch()
                    eventually(lambda: status(host, port, READINESS) == 200, "ready")  # noqa: B023
                    names.addresses.append(host)
                    used(nginx, f"{host}:{port}")
            assert "no live upstreams" not in nginx.errors.removeprefix(before)


@pytest.fixture(scope="module")
def checked(
    newest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Pod], Nginx, int]]:
    """Three pods behind an nginx that asks them; and the port on which it says who is in."""
    directory, port = tmp_path_factory.mktemp("checked"), free_port()
    with three_pods(directory, HEALTH_DRAIN_SECONDS="4") as pods:
        for pod in pods:
            pod.wait_for(200, STARTUP)
        addresses = [f"127.0.0.1:{pod.port}" for pod in pods]
        edits = {
            "listen 127.0.0.1:8081;": f"listen 127.0.0.1:{port};",
            "js_fetch_timeout 1s;": "js_fetch_timeout 400ms;",
            "interval=2s": "interval=500ms",
        }
        with Nginx(
            newest, directory / "nginx", addresses, main="active-checks.conf", edits=edits
        ) as nginx:
            yield pods, nginx, port


def sides(port: int) -> list[str]:
    """Which pods are in and which are out, in their order."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    with connection.getresponse() as response:
        told: dict[str, str] = json.loads(response.read())
    connection.close()
    return list(told.values())


def test_a_pod_that_drains_is_out_before_it_is_gone(
    checked: tuple[list[Pod], Nginx, int],
) -> None:
    pods, nginx, port = checked
    with traffic(nginx):
        for pod in (pods[0], pods[2]):
            os.kill(pod.pid, signal.SIGTERM)
            eventually(lambda: "out" in sides(port), "it is out")
            assert ended(pod) == 0
            pod.start()
            eventually(lambda: "out" not in sides(port), "it is in")
            used(nginx, f"127.0.0.1:{pod.port}")


def test_a_frozen_pod_is_out_until_it_thaws(checked: tuple[list[Pod], Nginx, int]) -> None:
    pods, nginx, port = checked
    workers = all_workers(pods[1])
    with traffic(nginx, GETS) as tally:
        with frozen(workers):
            eventually(lambda: sides(port) == ["in", "out", "in"], "it is out")
            more(tally)
        eventually(lambda: sides(port) == ["in", "in", "in"], "it is in")


def test_all_out_is_all_in(checked: tuple[list[Pod], Nginx, int]) -> None:
    pods, nginx, port = checked
    with traffic(nginx) as tally:
        for pod in pods:
            pod.board.drain()
        eventually(lambda: sides(port) == ["out", "out", "out"], "all are out")
        more(tally)
        for pod in pods:
            pod.board.drain(on=False)
        eventually(lambda: sides(port) == ["in", "in", "in"], "all are in")
