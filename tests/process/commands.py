"""The commands as tests run them: in processes of their own, with a pod's environment.

As a program it runs many of them, each in a fork of one interpreter that has loaded everything,
which costs what one costs. In: a JSON list of command lines; argument: a user to become. Out: a
JSON list of exit status, standard output and standard error.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from service import __main__ as command_line
from service import cli
from tests.pod import ROOT, UNHURRIED, Pod

Done = subprocess.CompletedProcess[str]
Arguments = Sequence[str]

# For a pod that must be as well at the next look as at this one, however busy the machine is.
STEADY = {**UNHURRIED, "HEALTH_RESOURCES_INTERVAL_SECONDS": "3600"}


def command_line_of(*arguments: str) -> list[str]:
    """What starts a command."""
    return [sys.executable, "-m", "service", *arguments]


def run(pod: Pod, *arguments: str, **environ: str) -> Done:
    """A command that ends, and leaves no traceback."""
    done = _run(pod, command_line_of(*arguments), **environ)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_each(
    pod: Pod, commands: Sequence[Arguments], *, user: int | None = None, **environ: str
) -> Iterator[tuple[Arguments, Done]]:
    """Each of some commands, as a user."""
    program = [sys.executable, "-m", "tests.process.commands", *([str(user)] if user else [])]
    done = _run(pod, program, json.dumps(commands), **environ)
    assert done.returncode == 0, done.stderr
    for command, (status, out, err) in zip(commands, json.loads(done.stdout), strict=True):
        assert "Traceback" not in err, err
        yield command, Done(command, status, out, err)


def _run(pod: Pod, program: list[str], given: str | None = None, **environ: str) -> Done:
    return subprocess.run(
        program,
        env={**pod.environ, **environ},
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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
    given |= {"pipesize": 1 << 20}  # or it would stand still while the test does something else
    command = command_line_of(*arguments)
    with subprocess.Popen(command, env=pod.environ, cwd=ROOT, **given) as process:
        try:
            yield process
        finally:
            process.kill()


def _in_a_fork(command: list[str], user: str | None) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            if user:
                os.setgroups([])
                os.setgid(int(user))
                os.setuid(int(user))
            sys.exit(command_line.main(command))
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()


def main() -> None:
    # Before the forks, since the interpreter may lie where another user cannot read.
    for module in pkgutil.iter_modules(cli.__path__):
        importlib.import_module(f"service.cli.{module.name}")
    user = sys.argv[1] if sys.argv[1:] else None
    print(json.dumps([_in_a_fork(command, user) for command in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
