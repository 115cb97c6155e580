"""``preflight``: whether a worker could import what it will have to import."""

import argparse
import ctypes
import os
import signal
import sys
import threading
import time

from service import checks, settings, startup
from service.cli.output import answer
from service.settings import EX_CONFIG, Settings, SettingsError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK = 0.05


def run(options: argparse.Namespace) -> int:
    """Has a child import what a worker would import, within the time a worker may take to boot.

    An import can swallow what is raised into it, wait where no Python runs, and end its process:
    only another process can be relied on to end it, and to say so.
    """
    given = settings.load()
    _end_with(options.approve or os.getppid())
    parent, child = os.getpid(), os.fork()
    if not child:
        _end_with(parent)
        status = _import(given, options)
        sys.stdout.flush()
        os._exit(status)  # a thread that the application has started may never end
    ended = _wait(child, given.health_boot_seconds)
    if ended is None:
        return _refuse("the import takes longer than HEALTH_BOOT_SECONDS", options)
    if ended not in (0, EX_CONFIG):
        how = f"signal {-ended}" if ended < 0 else f"exit status {ended}"
        return _refuse(f"the import ends its process: {how}", options)
    if options.approve and not ended:
        from service.hooks import APPROVED

        os.kill(options.approve, APPROVED)
    return ended


def _end_with(parent: int) -> None:
    """Has the kernel end this process with its parent, or ends it when that is gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(EX_CONFIG)


def _import(given: Settings, options: argparse.Namespace) -> int:
    """The child."""
    try:
        if given.app_module is not None and not options.only_checks:
            checks.imported(given.app_module, "APP_MODULE")
        checks.registered(given)
        startup.registered(given)
    except SettingsError as error:
        return _refuse(str(error), options)
    return 0


def _wait(child: int, seconds: float) -> int | None:
    """Its exit status, negative that of a signal; None when it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(LOOK)
    os.kill(child, signal.SIGKILL)
    return None


def _refuse(why: str, options: argparse.Namespace) -> int:
    more = "; the reload is refused and the old workers go on" if options.approve else ""
    return answer(f"{why}{more}", EX_CONFIG)
