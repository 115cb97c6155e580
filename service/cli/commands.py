"""Every command: its options, its exit statuses and its examples, declared once.

The help, the completions of shells and the manual page are made from here. A command names the
module of ``service.cli`` that runs it, which is imported only then.
"""

import argparse
import threading
from collections.abc import Iterable, Mapping

from service.cli.output import NO_POD
from service.health import Kind
from service.settings import EX_CONFIG

NAME = "mingus-health"
SHELLS = ("bash", "zsh", "fish")

NO_ANSWER = {NO_POD: "there is nobody to ask, or the usage is wrong"}
UNUSABLE = {EX_CONFIG: "a setting cannot be used"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Serve the health of a pod, look at it, and take it in and out of traffic.",
        epilog=f"{NAME} COMMAND --help has examples, and what each exit status means.",
    )
    commands = _Commands(parser)
    _serving(commands)
    _asking(commands)
    _looking(commands)
    _operating(commands)
    completion = commands.add(
        "completion",
        "print the completions for a shell",
        {0: "printed"},
        ["bash", "fish > ~/.config/fish/completions/mingus-health.fish"],
        with_json=False,
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(parser=parser)
    return parser


class _Commands:
    """Adds commands to a parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        says: str,
        exits: Mapping[int, str],
        examples: Iterable[str],
        *,
        run_by: str | None = None,
        with_json: bool = True,
    ) -> argparse.ArgumentParser:
        """Adds a command.

        Args:
            name: Its name.
            says: What it does.
            exits: What each exit status means.
            examples: Of command lines, what follows the name.
            run_by: Module and function that run it, if not ``run`` of the module of its name.
            with_json: Whether it has a document to print.
        """
        command: argparse.ArgumentParser = self._parsers.add_parser(
            name,
            help=says,
            description=says,
            epilog=_epilog(exits, [f"{NAME} {name} {rest}".rstrip() for rest in examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if with_json:
            command.add_argument(
                "--json", action="store_true", help="print one JSON document in a line"
            )
        module, _, function = (run_by or f"{name}.run").partition(".")
        unusable = EX_CONFIG if EX_CONFIG in exits else NO_POD
        command.set_defaults(module=module, function=function, unusable=unusable)
        return command


def _epilog(exits: Mapping[int, str], examples: Iterable[str]) -> str:
    statuses = [f"  {status:<3} {meaning}" for status, meaning in exits.items()]
    return "\n".join(["exit status:", *statuses, "", "examples:", *(f"  {e}" for e in examples)])


def _serving(commands: _Commands) -> None:
    """The service itself."""
    serve = commands.add(
        "serve",
        "start the service: become gunicorn, once it is clear that it can start",
        {0: "stopped", 1: "a port is taken"} | UNUSABLE,
        ["", "-- --max-requests 1000"],
        with_json=False,
    )
    serve.add_argument("gunicorn", nargs="*", metavar="-- GUNICORN OPTIONS", help="passed on")
    preflight = commands.add(
        "preflight",
        "see whether a worker could import the application",
        {0: "it could"} | UNUSABLE,
        ["", "--only-checks"],
        with_json=False,
    )
    preflight.add_argument(
        "--only-checks", action="store_true", help="and startup tasks: leave APP_MODULE alone"
    )
    preflight.add_argument("--approve", type=int, metavar="PID", help=argparse.SUPPRESS)


def _asking(commands: _Commands) -> None:
    """Those that scripts ask."""
    check = commands.add(
        "check",
        "answer a probe from the pod's shared state, saying nothing; for exec probes",
        {0: "yes", 1: "no"} | NO_ANSWER,
        ["", "--kind liveness", "--json"],
    )
    check.add_argument(
        "--kind",
        choices=[kind.value for kind in Kind],
        default="readiness",
        help="the question; readiness unless said otherwise",
    )
    wait = commands.add(
        "wait",
        "wait until the pod is ready, telling what it waits for; for deploy scripts",
        {0: "ready", 1: "time is up"} | NO_ANSWER,
        ["", "--timeout 300"],
    )
    _limit(wait, 60, "how long at most")
    probe = commands.add(
        "probe",
        "ask an address as the kubelet would",
        {0: "success", 1: "failure"} | {NO_POD: "nothing can be said, or the usage is wrong"},
        ["http://localhost:5004/readyz", "--timeout 3 http://10.0.0.11:5004/livez"],
    )
    probe.add_argument("url", metavar="URL", help="what an httpGet probe would ask")
    _limit(probe, 1, "for the whole answer")


def _looking(commands: _Commands) -> None:
    """Those for people who look at a pod."""
    status = commands.add(
        "status",
        "show verdicts and checks on one screen",
        {0: "ready", 1: "not ready"} | NO_ANSWER,
        ["", "--url http://10.0.0.11:5004"],
    )
    watch = commands.add(
        "watch",
        "show the same live, with the workers, until q or Ctrl-C",
        {0: "interrupted"} | NO_ANSWER,
        ["", "--interval 5 --url https://shop.example.com"],
    )
    watch.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="from one look to the next; 1 unless said otherwise",
    )
    commands.add(
        "workers",
        "show what each worker process is doing",
        {0: "progress", 1: "none"} | NO_ANSWER,
        ["", "--json"],
    )
    fleet = commands.add(
        "fleet",
        "show every pod of the fleet, who holds which lease, and what fails elsewhere",
        {0: "fresh, or alone", 1: "stale"} | NO_ANSWER,
        ["", "--json", "--url http://10.0.0.11:5004"],
    )
    for command in (status, watch, fleet):
        command.add_argument(
            "--url",
            metavar="URL",
            help="ask the pod at this address over HTTP, with the token of HEALTH_DETAILS_TOKEN",
        )
        _limit(command, 5, "for the answers of a URL")
    explain = commands.add(
        "explain",
        "show what a check asks, what it found, and what to do",
        {0: "it passes", 1: "it fails"} | NO_ANSWER,
        ["database", "redis --json"],
    )
    explain.add_argument("check", metavar="CHECK", help="name of a check, such as database")
    commands.add(
        "settings",
        "show every setting and where it comes from, secrets masked",
        {0: "shown", NO_POD: "a setting cannot be used, or the usage is wrong"},
        ["", "--json"],
    )


def _operating(commands: _Commands) -> None:
    """Those that take a pod in and out of traffic."""
    drain = commands.add(
        "drain",
        "take the pod out of traffic; it goes on serving",
        {0: "drained", 1: "some are in flight"} | NO_ANSWER | UNUSABLE,
        ["", "--wait 30"],
        run_by="flags.drain",
    )
    drain.add_argument(
        "--wait",
        type=_seconds,
        nargs="?",
        const=30.0,
        metavar="SECONDS",
        help="until no request is in flight, 30 seconds at most unless said otherwise",
    )
    commands.add(
        "undrain",
        "put a drained pod back into traffic",
        {0: "done", 1: "it is stopping"} | NO_ANSWER | UNUSABLE,
        [""],
        run_by="flags.undrain",
    )
    maintenance = commands.add(
        "maintenance",
        "begin or end maintenance",
        {0: "done"} | NO_ANSWER | UNUSABLE,
        ["on", "off"],
        run_by="flags.maintenance",
    )
    maintenance.add_argument("switch", choices=["on", "off"], help="begin, or end")


def _limit(command: argparse.ArgumentParser, default: float, says: str) -> None:
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=float(default),
        metavar="SECONDS",
        help=f"{says}; {default:g} unless said otherwise",
    )


def _seconds(text: str) -> float:
    """A number of seconds that can be waited for."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return seconds
