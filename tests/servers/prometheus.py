"""A real Prometheus for tests, and promtool: the Debian package ``prometheus`` has both.

The server dies with the test process, and its port is its own for as long as the object lives.
"""

import json
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families

from service import embedded
from tests.pod import eventually


def binary(name: str) -> str:
    """The program ``prometheus`` or ``promtool``.

    Raises:
        FileNotFoundError: It is not installed; the message says how to get it.
    """
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"the tests need {name}: apt-get install prometheus")
    return found


def promtool(*arguments: str | Path, given: str | None = None) -> str:
    """What promtool says.

    Raises:
        AssertionError: It is not content; the message is what it says.
    """
    done = subprocess.run(
        [binary("promtool"), *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Attributes:
        labels: Its labels, the name as ``__name__``.
        samples: Its samples in order, each with its time in Unix seconds.
    """

    labels: dict[str, str]
    samples: list[tuple[float, float]]

    @property
    def value(self) -> float:
        """The newest sample."""
        return self.samples[-1][1]

    def __getitem__(self, label: str) -> str:
        return self.labels.get(label, "")


class Prometheus:
    """One server.

    Args:
        config: Its configuration.
        files: Files beside it, such as rules, by name.
    """

    def __init__(self, config: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
        self._program = binary("prometheus")
        self._home = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._output = self._home / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved = socket.socket()  # bound, so that nobody else is given the port
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        (self._home / "prometheus.yml").write_text(json.dumps(config))
        for name, text in (files or {}).items():
            (self._home / name).write_text(text)

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
        """Starts the server and waits until it answers."""
        command = [
            self._program,
            f"--config.file={self._home / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._home / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        with self._output.open("ab") as output:
            self._process = embedded.spawn(command, output, signal.SIGKILL)
        eventually(self._ready, "Prometheus is ready")

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(self.log)
        try:
            return self._get("/-/ready")[0] == 200
        except (OSError, HTTPException):
            return False

    def close(self) -> None:
        """Stops the server and removes its files; idempotent."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None
        self._reserved.close()
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it has written: warnings and worse."""
        return self._output.read_text(errors="replace")

    # -- asking it

    def query(self, expression: str) -> list[Series]:
        """The answer to an instant query; a range selector gives the samples as scraped.

        Raises:
            ValueError: It is no query; the message is Prometheus' own.
        """
        found = self._api("query", query=expression)["result"]
        return [
            Series(
                each["metric"],
                [(at, float(value)) for at, value in each.get("values") or [each["value"]]],
            )
            for each in found
        ]

    def value(self, expression: str) -> float | None:
        """The only value of an instant query, or None where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression} has {len(found)} series"
        return found[0].value if found else None

    def firing(self) -> set[tuple[str, str]]:
        """Name and instance of each alert that fires."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in self._api("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def targets(self) -> list[dict[str, Any]]:
        """The active targets, with what went wrong last."""
        found: list[dict[str, Any]] = self._api("targets", state="active")["activeTargets"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """The rules, with what went wrong at their last evaluation."""
        return [rule for group in self._api("rules")["groups"] for rule in group["rules"]]

    def own(self) -> dict[str, float]:
        """What the server says of itself: the sum over the series of each sample name."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self._get("/metrics")[1].decode()):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def _api(self, what: str, **parameters: str) -> Any:
        status, body = self._get(f"/api/v1/{what}?{urlencode(parameters)}")
        answer = json.loads(body)
        if status != 200:
            raise ValueError(answer["error"])
        return answer["data"]

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()
