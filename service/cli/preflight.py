"""``preflight``: whether a worker could import what it will have to import."""

import argparse
import os
import signal
from typing import Any

from service import checks, settings, startup
from service.cli.output import answer
from service.settings import EX_CONFIG, SettingsError


def run(options: argparse.Namespace) -> int:
    """Imports what a worker would import, within the time a worker may take to boot."""
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
        return answer(f"{error}{more}", EX_CONFIG)
    if options.approve:
        from service.hooks import APPROVED

        os.kill(options.approve, APPROVED)
    return 0


def _too_slow(_sig: int, _frame: Any) -> None:
    raise SettingsError("the import takes longer than HEALTH_BOOT_SECONDS")
