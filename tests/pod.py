"""A pod for the tests: the real service under the real gunicorn, on ports of its own."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

import psutil

from service import scoreboard
from service.health import Role, WorkerSlot
from service.scoreboard import Scoreboard, process_start

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0

ENDPOINTS = (
    "/health",
    "/health/standard",
    "/health/metrics",
    "/health/detailed",
    "/health/database",
    "/health/redis",
    "/health/external",
    "/metrics",
    "/api/system/health/",
    "/api/system/health/simple",
    "/api/system/health/detailed",
    "/api/system/health/readiness",
    "/api/system/health/liveness",
    "/api/system/health/startup",
    "/api/system/health/database",
    "/api/system/health/redis",
    "/api/system/health/external",
    "/api/system/health/resources",
    "/api/system/health/application",
    "/api/system/health/metrics",
)

# Short intervals, so that what the documents promise in seconds is seen in tenths of one.
QUICK = {
    "HEALTH_DATABASE_INTERVAL_SECONDS": "1",
    "HEALTH_DATABASE_TIMEOUT_SECONDS": "1",
    "HEALTH_REDIS_INTERVAL_SECONDS": "1",
    "HEALTH_REDIS_TIMEOUT_SECONDS": "1",
    "HEALTH_RESOURCES_INTERVAL_SECONDS": "1",
    "HEALTH_DRAIN_SECONDS": "0",
}

# For checks that have to be healthy all the time: a process that stands still for some seconds, on
# a busy machine, is neither slow nor late, and no result expires meanwhile.
UNHURRIED = {
    "HEALTH_DATABASE_TIMEOUT_SECONDS": "15",
    "HEALTH_REDIS_TIMEOUT_SECONDS": "15",
    "DB_RESPONSE_WARNING_MS": "15000",
    "REDIS_RESPONSE_WARNING_MS": "15000",
}


_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port from the system that stays reserved for this process.

    Bound and never listening, it keeps others away; a server that reuses addresses may listen.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _reserved.append(sock)
    return int(sock.getsockname()[1])


def eventually(look: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """What ``look`` gives as soon as it is true; the test fails when it never is."""
    end = time.monotonic() + patience
    never = threading.Event()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}; last seen: {found!r}")
        never.wait(0.02)


@dataclass(frozen=True)
class Answer:
    """What the service said."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.json["data"]


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Processes that stand still, all of them from the first line of the block on.

    What watches over them may have killed some by the end of it: a master that is thawed, too,
    finds that its workers have not been heard of for long.
    """
    processes = [psutil.Process(pid) for pid in pids]
    try:
        for process in processes:
            process.suspend()
        eventually(lambda: all(map(_stands_still, processes)), "they stand still")
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _stands_still(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    return True


def die_with_parent() -> None:
    """In the child: a test run that is killed leaves no pod behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Pod:
    """One running service.

    Args:
        directory: For everything the pod writes.
        settings: Variables of its environment, besides ports and directories.
        options: Command line options for gunicorn.
    """

    def __init__(self, directory: Path, *options: str, **settings: str) -> None:
        self.directory = directory
        self.port, self.health_port = free_port(), free_port()
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
            "BIND_HOST": "127.0.0.1",
            "PORT": str(self.port),
            "HEALTH_PORT": str(self.health_port),
            "RUN_DIR": str(directory / "run"),
            "WEB_CONCURRENCY": "2",
            **QUICK,
            **settings,
        }
        self._options = options
        self.python = sys.executable
        self.prefix: list[str] = []
        self._log = directory / "pod.log"
        self.process: subprocess.Popen[bytes] | None = None

    # -- life

    def launch(self) -> Self:
        """Starts the service without waiting for anything."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, self.python, "-m", "service", "serve", "--", *self._options],
                env=self.environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing else runs in between
            )
        return self

    def start(self) -> Self:
        """Starts the service and waits until it serves."""
        self.launch()
        return self.wait_for(200, "/api/system/health/startup")

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, patience: float = 5.0) -> int:
        """Stops it for good, whatever it is doing; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait(10)

    @property
    def pid(self) -> int:
        """Process id of the master that was started first."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # -- its state

    @property
    def board(self) -> Scoreboard:
        return scoreboard.find(self.directory / "run")

    def workers(self, role: Role = Role.WEB) -> list[WorkerSlot]:
        """The living workers of a role."""
        return [
            worker
            for worker in self.board.workers()
            if worker.role is role and process_start(worker.pid) == worker.process_start != 0
        ]

    @property
    def health_worker(self) -> int:
        """Process id of the newest health worker."""
        newest = eventually(lambda: self.workers(Role.HEALTH), "a health worker")
        return max(newest, key=lambda worker: worker.process_start).pid

    # -- asking it

    def get(
        self,
        path: str,
        *,
        health: bool = False,
        method: str = "GET",
        timeout: float = 30.0,
        body: bytes | None = None,
        **headers: str,
    ) -> Answer:
        """One question over a connection of its own."""
        port = self.health_port if health else self.port
        connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
        begun = time.monotonic()
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers={"Connection": "close", **given})
            with connection.getresponse() as response:
                content = response.read()
                return Answer(
                    response.status,
                    {name.lower(): value for name, value in response.getheaders()},
                    content,
                    time.monotonic() - begun,
                )
        finally:
            connection.close()

    def status(self, path: str, **more: Any) -> int | None:
        """The HTTP status of a path; None when there is no answer."""
        try:
            return self.get(path, **more).status
        except (OSError, HTTPException):
            return None

    def wait_for(self, status: int, path: str, **more: Any) -> Self:
        """Waits until a path has a status, on both listeners; shows the log if it never has."""

        def both() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the pod ended with {self.process.poll()}:\n{self.log}")
            return all(self.status(path, health=health, **more) == status for health in (0, 1))

        try:
            eventually(both, f"{status} from {path}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-8000:]}") from None
        return self

    def everywhere(self, path: str, **more: Any) -> Iterator[Answer]:
        """The answers of both listeners."""
        for health in (False, True):
            yield self.get(path, health=health, **more)
