"""One pod of a fleet in one process: the service as ``create_app`` builds it, asked over pipes.

<path>\\n      ->  one line: the JSON of the answer
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.pod import ROOT, die_with_parent


class Member:
    """A running member."""

    def __init__(self, directory: Path, **settings: str) -> None:
        directory.mkdir()
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.process.fleet_member"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(directory),
                    **{key: os.environ[key] for key in os.environ if key.startswith("COVERAGE")},
                    "RUN_DIR": str(directory / "run"),
                    **settings,
                },
                preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing else runs in between
            )

    def get(self, path: str) -> Any:
        """The JSON of an answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n".encode())
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self.log.read_text()[-4000:])
        return json.loads(line)

    @property
    def fleet(self) -> Any:
        """The member's view of the fleet."""
        return self.get("/api/system/health/fleet")["data"]

    @property
    def name(self) -> str:
        """Its id."""
        return str(self.fleet["this_pod"])

    def freeze(self) -> None:
        psutil.Process(self._process.pid).suspend()

    def thaw(self) -> None:
        psutil.Process(self._process.pid).resume()

    def kill(self) -> None:
        """As by the kernel: nothing is released. May be called more than once."""
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """As by a clean exit. May be called more than once."""
        if self._process.poll() is None:
            self._process.communicate(timeout=60)


def main() -> None:
    from service.app import create_app  # noqa: PLC0415 - only in the member's own process

    # What is logged must not get among the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    client = create_app().test_client()
    for line in sys.stdin:
        answers.write(json.dumps(client.get(line.strip()).get_json()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
