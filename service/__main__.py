"""The command line: ``mingus-health``, the same as ``python -m service``."""

import argparse
import importlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import structlog

from service import settings
from service.health import Kind
from service.scoreboard import Scoreboard, ScoreboardError, find, living
from service.settings import EX_CONFIG, Settings, SettingsError

NO_POD = 2
BIND_ATTEMPTS = 3


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="mingus-health", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="start the service")
    serve.add_argument("gunicorn", nargs="*", metavar="-- GUNICORN OPTIONS", help="passed on")
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="answer a probe from the pod's shared state")
    check.add_argument("--kind", choices=[kind.value for kind in Kind], default="readiness")
    check.set_defaults(run=_check)
    drain = commands.add_parser("drain", help="take the pod out of traffic; it goes on serving")
    drain.add_argument(
        "--wait",
        type=float,
        nargs="?",
        const=30.0,
        metavar="SECONDS",
        help="until no request is in flight, 30 seconds at most unless said otherwise",
    )
    drain.set_defaults(run=_drain)
    undrain = commands.add_parser("undrain", help="put a drained pod back into traffic")
    undrain.set_defaults(run=_undrain)
    maintenance = commands.add_parser("maintenance", help="begin or end maintenance")
    maintenance.add_argument("switch", choices=["on", "off"])
    maintenance.set_defaults(run=_maintenance)
    preflight = commands.add_parser("preflight", help="see whether the application can be imported")
    preflight.add_argument(
        "--only-checks", action="store_true", help="and startup tasks: leave APP_MODULE alone"
    )
    preflight.add_argument("--approve", type=int, metavar="PID", help=argparse.SUPPRESS)
    preflight.set_defaults(run=_preflight)
    _declare_looking(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except SettingsError as error:
        return _say(str(error), getattr(options, "unusable", EX_CONFIG))
    except ScoreboardError as error:
        return _say(str(error), NO_POD)
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _declare_looking(commands: Any) -> None:
    """The commands that only look, each a module of ``service.cli``."""
    json = argparse.ArgumentParser(add_help=False)
    json.add_argument("--json", action="store_true", help="print one JSON document in a line")

    def declare(name: str, help_: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=help_, parents=[json])
        command.set_defaults(run=_later(name), unusable=NO_POD)
        return command

    declare("status", "show verdicts and checks on one screen")
    watch = declare("watch", "show the same again and again, until interrupted")
    watch.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="1")
    declare("workers", "show what each worker process is doing")
    declare("settings", "show every setting and where it comes from, secrets masked")
    wait = declare("wait", "wait until the pod is ready")
    wait.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="60")
    probe = declare("probe", "ask an address as the kubelet would")
    probe.add_argument("url", metavar="URL")
    probe.add_argument("--timeout", type=_seconds, default=1.0, metavar="SECONDS", help="1")


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    """A command that is imported when it is run: an exec probe must not pay for it."""

    def run(options: argparse.Namespace) -> int:
        return int(importlib.import_module(f"service.cli.{name}").run(options))

    return run


def _seconds(text: str) -> float:
    """A number of seconds that can be waited for."""
    seconds = float(text)
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ValueError
    return seconds


def _say(line: str, status: int) -> int:
    """One line, on standard error where something is wrong."""
    if status:
        sys.stderr.write(f"mingus-health: {line}\n")
    else:
        sys.stdout.write(f"{line}\n")
    return status


# -- serve


def _serve(options: argparse.Namespace) -> int:
    """Becomes gunicorn, once it is clear that it can start."""
    given = settings.load()
    if given.health_checks or given.startup_tasks:
        command = [sys.executable, "-m", "service", "preflight", "--only-checks"]
        status = subprocess.run(command, env=settings.environment(), check=False).returncode  # noqa: S603
        if status:
            return status
    for variable in () if settings.activated() else ("port", "health_port"):
        why = _cannot_bind(given.bind_host, getattr(given, variable))
        if why:
            return _say(f"{variable.upper()} {getattr(given, variable)}: {why}", 1)
    _say_where(given)
    # The script, not `-m gunicorn`: USR2 starts again what was started, by its first argument.
    gunicorn = Path(sysconfig.get_path("scripts")) / "gunicorn"
    command = [sys.executable, str(gunicorn), "--config", str(_configuration())]
    return _become([*command, *options.gunicorn])


def _become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _configuration() -> Path:
    """gunicorn.conf.py, beside the package in a checkout and inside it when installed."""
    package = Path(__file__).parent
    inside = package / "gunicorn.conf.py"
    return inside if inside.exists() else package.parent / "gunicorn.conf.py"


def _cannot_bind(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(BIND_ATTEMPTS):
            try:
                probe.bind((host, port))
            except OSError as error:
                why = f"cannot listen there: {error.strerror or error}"
            else:
                return None
            threading.Event().wait(1.0)  # a predecessor may be just leaving
    return why


def _say_where(given: Settings) -> None:
    """One log line for each address worth trying."""
    from service.log import configure

    configure(given.log_level)
    log = structlog.get_logger("service")
    web, health = f"http://localhost:{given.port}", f"http://localhost:{given.health_port}"
    log.info("is the pod well?", url=f"{web}/health")
    log.info("everything there is to know", url=f"{web}/api/system/health/detailed")
    log.info("for Prometheus", url=f"{web}/metrics")
    log.info("for probes, never starved by traffic", url=f"{health}/api/system/health/readiness")


# -- check


def _check(options: argparse.Namespace) -> int:
    """Answers from the scoreboard, without HTTP."""
    try:
        given = settings.load()
    except SettingsError as error:
        return _say(str(error), NO_POD)
    return int(not _passes(given, Kind(options.kind)))


def _passes(given: Settings, kind: Kind) -> bool:
    from service.cli.pod import reader

    pod = reader(given).pod()
    verdicts = {
        Kind.LIVENESS: pod.alive,
        Kind.READINESS: pod.snapshot.ready,
        Kind.STARTUP: pod.snapshot.started,
    }
    return verdicts[kind]


# -- drain, undrain, maintenance: flags in the scoreboard, so busy listeners do not matter


def _flag(change: Callable[[Scoreboard], None]) -> Scoreboard:
    """Changes the flags of the pod, of both its masters in an upgrade; the newest's board."""
    directory = settings.load().directory
    newest = find(directory)
    for board in living(directory):
        change(board)
    return newest


def _drain(options: argparse.Namespace) -> int:
    board = _flag(lambda board: board.drain())
    if options.wait is None:
        return _say("draining", 0)
    end = time.monotonic() + options.wait
    while board.in_flight and time.monotonic() < end:
        threading.Event().wait(0.05)
    if board.in_flight:
        return _say(f"draining; {board.in_flight} requests are still in flight", 1)
    return _say("drained", 0)


def _undrain(_options: argparse.Namespace) -> int:
    board = _flag(lambda board: board.drain(on=False))
    if board.stopping:
        return _say("the pod is stopping, which cannot be undone", 1)
    return _say(f"the pod is {board.lifecycle.value}", 0)


def _maintenance(options: argparse.Namespace) -> int:
    board = _flag(lambda board: board.maintain(on=options.switch == "on"))
    return _say(f"the pod is {board.lifecycle.value}", 0)


# -- preflight


def _preflight(options: argparse.Namespace) -> int:
    """Imports what a worker would import, within the time a worker may take to boot."""
    from service import checks, startup

    given = settings.load()
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, given.health_boot_seconds)
    try:
        if given.app_module is not None and not options.only_checks:
            checks.imported(given.app_module, "APP_MODULE")
        checks.registered(given)
        startup.registered(given)
    except SettingsError as error:
        more = "; the reload is refused and the old workers go on" if options.approve else ""
        return _say(f"{error}{more}", EX_CONFIG)
    if options.approve:
        from service.hooks import APPROVED

        os.kill(options.approve, APPROVED)
    return 0


def _too_slow(_sig: int, _frame: Any) -> None:
    raise SettingsError("the import takes longer than HEALTH_BOOT_SECONDS")


if __name__ == "__main__":
    sys.exit(main())
