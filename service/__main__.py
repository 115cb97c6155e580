"""The command line: ``mingus-health``, the same as ``python -m service``."""

import argparse
import importlib
import os
import signal
import sys
import threading
from typing import Any

from service.cli.output import NO_POD, NoAnswer, answer
from service.health import Kind
from service.scoreboard import ScoreboardError
from service.settings import EX_CONFIG, SettingsError


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


def parser() -> argparse.ArgumentParser:
    """Every command, its options, and the module of ``service.cli`` that runs it."""
    parser = argparse.ArgumentParser(prog="mingus-health", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def declare(
        name: str, says: str, module: str = "", function: str = "run", **more: Any
    ) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=says, **more)
        command.set_defaults(module=module or name, function=function, unusable=EX_CONFIG)
        return command

    serve = declare("serve", "start the service")
    serve.add_argument("gunicorn", nargs="*", metavar="-- GUNICORN OPTIONS", help="passed on")
    drain = declare("drain", "take the pod out of traffic; it goes on serving", "flags", "drain")
    drain.add_argument(
        "--wait",
        type=float,
        nargs="?",
        const=30.0,
        metavar="SECONDS",
        help="until no request is in flight, 30 seconds at most unless said otherwise",
    )
    declare("undrain", "put a drained pod back into traffic", "flags", "undrain")
    maintenance = declare("maintenance", "begin or end maintenance", "flags", "maintenance")
    maintenance.add_argument("switch", choices=["on", "off"])
    preflight = declare("preflight", "see whether the application can be imported")
    preflight.add_argument(
        "--only-checks", action="store_true", help="and startup tasks: leave APP_MODULE alone"
    )
    preflight.add_argument("--approve", type=int, metavar="PID", help=argparse.SUPPRESS)
    completion = declare("completion", "print the completions for a shell")
    completion.add_argument("shell", choices=["bash", "zsh"])
    completion.set_defaults(parser=parser)

    # Those that answer: exit status 0 for yes, 1 for no, 2 for no answer.
    check = declare("check", "answer a probe from the pod's shared state")
    check.add_argument("--kind", choices=[kind.value for kind in Kind], default="readiness")
    check.set_defaults(unusable=NO_POD)
    json = argparse.ArgumentParser(add_help=False)
    json.add_argument("--json", action="store_true", help="print one JSON document in a line")

    def look(name: str, says: str) -> argparse.ArgumentParser:
        command = declare(name, says, parents=[json])
        command.set_defaults(unusable=NO_POD)
        return command

    status = look("status", "show verdicts and checks on one screen")
    watch = look("watch", "show the same live, with the workers, until q or Ctrl-C")
    for command in (status, watch):
        command.add_argument(
            "--url", help="of a pod to ask over HTTP, with the token of HEALTH_DETAILS_TOKEN"
        )
        command.add_argument(
            "--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="for its answers: 5"
        )
    watch.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="1")
    look("workers", "show what each worker process is doing")
    look("fleet", "show every pod of the fleet, who holds which lease, and what fails elsewhere")
    explain = look("explain", "show what a check asks, what it found, and what to do")
    explain.add_argument("check", metavar="CHECK", help="name of a check, such as database")
    look("settings", "show every setting and where it comes from, secrets masked")
    wait = look("wait", "wait until the pod is ready")
    wait.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="60")
    probe = look("probe", "ask an address as the kubelet would")
    probe.add_argument("url", metavar="URL")
    probe.add_argument("--timeout", type=_seconds, default=1.0, metavar="SECONDS", help="1")
    return parser


def _seconds(text: str) -> float:
    """A number of seconds that can be waited for."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
