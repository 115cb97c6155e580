"""The command line: ``mingus-health``, the same as ``python -m service``."""

import importlib
import os
import signal
import sys

from service.cli.commands import parser
from service.cli.output import NO_POD, NoAnswer, answer
from service.scoreboard import ScoreboardError
from service.settings import SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


if __name__ == "__main__":
    sys.exit(main())
