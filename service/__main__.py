"""The command line: ``mingus-health``, the same as ``python -m service``."""

import importlib
import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path

from service.cli.commands import parser
from service.cli.output import NO_POD, NoAnswer, answer
from service.scoreboard import ScoreboardError
from service.settings import SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    _open_streams()
    options = parser().parse_args(arguments)
    # Only now: an exec probe must not pay for what the other commands need.
    module = importlib.import_module(f"service.cli.{options.module}")
    try:
        status: int = getattr(module, options.function)(options)
        sys.stdout.flush()
    except SettingsError as error:
        return answer(str(error), options.unusable)
    except (NoAnswer, ScoreboardError) as error:
        return answer(str(error), NO_POD)
    except BrokenPipeError:  # whoever read has seen enough
        _discard_output()
        return 0
    except OSError as error:  # such as a full disk, where output goes
        _discard_output()
        return answer(str(error), NO_POD)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _open_streams() -> None:
    """Makes output possible where it is closed, and any text where it takes a few letters only."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
        stream = getattr(sys, name)
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Lets what is still to be written end nowhere, or Python would try it again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
