"""The commands as tests run them: in processes of their own, with a pod's environment."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.pod import ROOT, Pod

Done = subprocess.CompletedProcess[str]


def command_line_of(*arguments: str) -> list[str]:
    """What starts a command."""
    return [sys.executable, "-m", "service", *arguments]


def run(pod: Pod, *arguments: str, **environ: str) -> Done:
    """A command that ends, and leaves no traceback."""
    done = subprocess.run(
        command_line_of(*arguments),
        env={**pod.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def document(pod: Pod, *arguments: str, status: int = 0, **environ: str) -> Any:
    """The one document a command prints."""
    done = run(pod, *arguments, "--json", **environ)
    assert done.returncode == status, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def refused(done: Done, *words: str, status: int = 2) -> None:
    """It ends with a status and one line on standard error, and says nothing else."""
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mingus-health: ")
    for word in words:
        assert word in done.stderr


@contextmanager
def started(pod: Pod, *arguments: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on until the end of the block."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    with subprocess.Popen(
        command_line_of(*arguments), env=pod.environ, cwd=ROOT, **given
    ) as process:
        try:
            yield process
        finally:
            process.kill()
