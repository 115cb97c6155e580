"""What is measured: a reference under plain gunicorn, a pod of ours, and where each lives.

Every environment is made once below .bench/, from a file of pinned versions with hashes: ``pod``
from requirements/base.txt, as the service is installed, for the pod and for the references;
one from each file of requirements/peers for a peer.
"""

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from bench.client import Load, ask, balanced, connect, press, press_anew, request
from bench.processes import children, cores, cpu_seconds
from tests.pod import Pod, eventually, free_port

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench"
PEERS = ROOT / "requirements" / "peers"

WORKERS = 2
THREADS = 4
CLIENTS = 16
# As gunicorn.conf.py sets them for a pod.
SETTINGS = ("--keep-alive", "75", "--timeout", "30", "--no-control-socket")


class NotInstalledError(Exception):
    """An environment could not be made; the message says why, in one line."""


@cache
def environment(name: str) -> Path:
    """The Python of an environment, made if need be.

    Raises:
        NotInstalledError: It cannot be made here.
    """
    pinned = PEERS / f"{name}.txt" if name != "pod" else ROOT / "requirements" / "base.txt"
    home, mark = CACHE / name, CACHE / name / "made-from"
    version = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()
    python = home / "bin" / "python"
    if mark.exists() and mark.read_text() == version:
        return python
    print(f"bench: installing {name}", flush=True)
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [
            *(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--require-hashes", "-r", str(pinned)),
        ],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise NotInstalledError(lines[0][:120] if lines else f"pip ended {done.returncode}")
    mark.write_text(version)
    return python


def server_core() -> int | None:
    """The core of the servers; None where there is only one."""
    return cores()[-1] if len(cores()) > 1 else None


@contextmanager
def client_core() -> Iterator[None]:
    """Keeps this process off the servers' core for a while."""
    before = os.sched_getaffinity(0)
    if server_core() is not None:
        os.sched_setaffinity(0, before - {server_core()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned() -> list[str]:
    """Begins a command that is to run on the servers' core."""
    core = server_core()
    if core is None:
        return []
    program = (
        "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
        "os.execvp(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", program, str(core)]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass
class Turn:
    """What one turn of load cost.

    Attributes:
        rate: Requests per second.
        cpu: Processor seconds of the web workers for each request.
    """

    rate: float
    cpu: float


class Server:
    """A WSGI application under plain gunicorn, with the settings a pod has.

    Args:
        target: Module and name of the application.
        worker_class: ``gthread`` or ``sync``.
        python: Of the environment it runs in.
        environ: More variables.
        options: More options of gunicorn's.
    """

    def __init__(
        self,
        target: str,
        worker_class: str = "gthread",
        *options: str,
        python: Path | None = None,
        **environ: str,
    ) -> None:
        self.port = free_port()
        self.worker_class = worker_class
        self._command = [
            *pinned(),
            str(python or environment("pod")),
            *("-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}"),
            *("--workers", str(WORKERS), "--worker-class", worker_class),
            *("--threads", str(THREADS if worker_class == "gthread" else 1)),
            *("--worker-tmp-dir", "/dev/shm", *SETTINGS, *options, target),
        ]
        self._environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self._command,
            env=self._environ,
            cwd=CACHE,  # in ROOT gunicorn would take the pod's configuration
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing else runs in between
        )
        try:
            eventually(self._listens, f"a server that listens: {self._command[-1]}")
        except AssertionError:
            self.__exit__()
            raise
        return self

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            self._log.seek(0)
            raise AssertionError(self._log.read().decode(errors="replace")[-2000:])
        with suppress(OSError):
            connect(self.port).close()
            return len(self.workers) == WORKERS
        return False

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._log.close()

    def get(self, path: str) -> bytes:
        """One question over a connection of its own."""
        sock = connect(self.port)
        with sock:
            return ask(sock, request(path))

    @property
    def workers(self) -> list[int]:
        """Process ids of its workers."""
        return children(self.process.pid)


class ServicePod(Pod):
    """A pod as it is installed: no development tools in its environment."""

    def __init__(self, *options: str, pin: bool = False, **settings: str) -> None:
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        defaults = {"WEB_CONCURRENCY": str(WORKERS), "THREADS": str(THREADS)}
        super().__init__(Path(self._home.name), *options, **{**defaults, **settings})
        self.python = str(environment("pod"))
        self.prefix = pinned() if pin else []
        self.worker_class = settings.get("WORKER_CLASS", "gthread")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._home.cleanup()

    @property
    def web_pids(self) -> list[int]:
        """Process ids of its web workers."""
        return [worker.pid for worker in self.workers()]


class Loaded:
    """One path of a running server under load, turn by turn.

    Args:
        server: A Server or a ServicePod.
        path: What is asked.
        slice: Seconds of one turn.
    """

    def __init__(self, server: Server | ServicePod, path: str, seconds: float) -> None:
        self._port = server.port
        self._pids = server.web_pids if isinstance(server, ServicePod) else server.workers
        self._seconds = seconds
        self._path = path
        self._keeps = server.worker_class != "sync"
        self._connections: list[Any] = []
        if self._keeps:
            payload = request(path)
            self._connections = balanced(self._port, self._pids, CLIENTS // WORKERS, payload)
        self._press(0.2)  # warm

    def _press(self, seconds: float) -> Load:
        if self._keeps:
            return press(self._connections, request(self._path), seconds)
        payload = request(self._path, close=True)
        return press_anew(self._port, payload, CLIENTS, seconds)

    def __call__(self) -> Turn:
        """One turn."""
        before = cpu_seconds(self._pids)
        load = self._press(self._seconds)
        return Turn(load.rate, (cpu_seconds(self._pids) - before) / load.requests)

    def close(self) -> None:
        """Gives its connections back."""
        for sock in self._connections:
            sock.close()


def pause(seconds: float) -> None:
    """Lets what was started come to rest."""
    time.sleep(seconds)
