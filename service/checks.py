"""Which checks there are: the eight documented ones and the application's own.

The definitions follow from the settings alone, so every worker knows them. The application's
own are known where they run, in the process that has the monitor.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gunicorn.util import import_app

from service.health import Check, Probe, ProgressLimits, Scope, Thresholds
from service.health.schedule import shareable
from service.probes.errors import mask
from service.settings import CHECKS, PROVIDERS, Settings, SettingsError

Probes = dict[Check, Probe | None]

# Of the application's own: a publication has room for so many, but for details and history.
MAX_CHECKS = 400
# Names that stand for something else where the application's own checks are listed.
RESERVED = {*CHECKS, "external_services", "external_apis", "overall"}

FAILING_INTERVAL = 1.0
FAILING_PROVIDER_INTERVAL = 15.0
# What measures only this machine is quick, or something is very wrong.
LOCAL_TIMEOUT = 1.0
LOCAL_INTERVAL = 5.0


def limits(settings: Settings) -> ProgressLimits:
    """How long a worker may stand still."""
    return ProgressLimits(
        boot=settings.health_boot_seconds, stall=settings.health_liveness_stall_seconds
    )


def definitions(settings: Settings, *, redis: bool) -> list[Check]:
    """The documented checks in their order.

    Args:
        settings: What the environment says.
        redis: Whether there is a Redis, if only an embedded one.
    """
    return [_definition(settings, name, redis=redis) for name in CHECKS]


def _definition(settings: Settings, name: str, *, redis: bool) -> Check:
    interval, timeout, failing = _schedule(settings, name)
    return _judged(
        settings,
        Check(
            name,
            interval,
            timeout,
            min(failing, interval),
            scope=Scope.FLEET if name in PROVIDERS else Scope.POD,
            unconfigured=None if name == "redis" and redis else _unconfigured(settings, name),
        ),
    )


def _judged(settings: Settings, check: Check) -> Check:
    """A check with what the settings say about its verdict, and whether it can be shared."""
    interval = settings.health_fleet_interval_seconds
    return replace(
        check,
        thresholds=Thresholds(settings.health_failure_threshold, settings.health_success_threshold),
        critical=check.name in settings.health_critical_checks,
        startup=check.name in settings.startup_checks,
        scope=check.scope if shareable(check, interval) else Scope.POD,
    )


def _schedule(settings: Settings, name: str) -> tuple[float, float, float]:
    """Interval, time limit and interval while failing, seconds."""
    if name in PROVIDERS:
        return (
            settings.health_external_interval_seconds,
            settings.health_external_timeout_seconds,
            FAILING_PROVIDER_INTERVAL,
        )
    interval, timeout = {
        "database": (
            settings.health_database_interval_seconds,
            settings.health_database_timeout_seconds,
        ),
        "redis": (settings.health_redis_interval_seconds, settings.health_redis_timeout_seconds),
        "system_resources": (settings.health_resources_interval_seconds, LOCAL_TIMEOUT),
        "application": (LOCAL_INTERVAL, LOCAL_TIMEOUT),
    }[name]
    return interval, timeout, FAILING_INTERVAL


def _unconfigured(settings: Settings, name: str) -> str | None:
    given = settings.given(name)
    if all(given):
        return None
    return "configuration_incomplete" if any(given) else "not_configured"


def registered(settings: Settings) -> Probes:
    """The application's own checks, as the function in ``HEALTH_CHECKS`` returns them.

    Raises:
        SettingsError: It cannot be imported, or returns something else, or a check that
            the settings name is not among all that there are.
    """
    own = _call_registration(settings.health_checks) if settings.health_checks else {}
    known = {*CHECKS, *(check.name for check in own)}
    for variable in ("health_critical_checks", "health_startup_checks"):
        unknown = set(getattr(settings, variable) or ()) - known
        if unknown:
            raise SettingsError(
                f"{variable.upper()}: names a check that is neither documented nor registered; "
                f"there are {', '.join(sorted(known))}"
            )
    return {_judged(settings, check): probe for check, probe in own.items()}


def _call_registration(reference: str) -> Mapping[Check, Probe]:
    function = imported(reference, "HEALTH_CHECKS")
    try:
        found = function()
    except Exception as error:
        raise SettingsError(f"HEALTH_CHECKS: {reference} fails: {_cause(error)}") from error
    right = isinstance(found, Mapping) and all(
        isinstance(check, Check) and callable(probe) for check, probe in found.items()
    )
    if not right:
        raise SettingsError(
            f"HEALTH_CHECKS: {reference} must return a mapping of Check to callable"
        )
    if len(found) > MAX_CHECKS:
        raise SettingsError(
            f"HEALTH_CHECKS: {reference} returns {len(found)} checks, {MAX_CHECKS} are the most"
        )
    names = [check.name for check in found]
    taken = sorted(name for name in names if name in RESERVED or names.count(name) > 1)
    if taken:
        raise SettingsError(f"HEALTH_CHECKS: {reference} uses the name {taken[0]} again")
    checks: Mapping[Check, Probe] = found
    return checks


def imported(reference: str, variable: str) -> Any:
    """What ``module:name`` or ``module:factory()`` stands for.

    Raises:
        SettingsError: It cannot be imported; one line with the cause.
    """
    try:
        return import_app(reference)
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"{variable}: {reference} cannot be imported: {_cause(error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """An error in one line."""
    return mask(f"{type(error).__name__}: {error}".strip().splitlines()[-1])
