"""Makes the probe of each check, and who is told of them. Where the settings meet the leaves."""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from service.advice import Runbook
from service.checks import Probes, definitions, limits, registered
from service.coordination.client import connect
from service.health import Check, Probe, Teller
from service.metrics import Instruments
from service.probes import drivers
from service.probes.application import ApplicationProbe
from service.probes.database import DatabaseProbe
from service.probes.redis import Limits, RedisProbe
from service.probes.resources import Levels, ResourcesProbe
from service.scoreboard import Scoreboard, process_start
from service.settings import PROVIDERS, Settings

if TYPE_CHECKING:
    from service.notifier import Notifier
    from service.probes.providers import ProviderProbe

# Of its time limit a probe takes only so much, so that it can say itself what it found until
# then; the monitor's limit is for the probe that cannot.
OWN_SHARE = 0.95


def preload(settings: Settings) -> None:
    """Import what the probes and webhooks of these settings import when they are made or run.

    Args:
        settings: What the environment says.
    """
    if settings.database_url is not None:
        drivers.preload(settings.database_url.get_secret_value())
    checks = definitions(settings, redis=False)
    if any(check.name in PROVIDERS and not check.unconfigured for check in checks):
        from service.probes import providers  # noqa: F401, PLC0415 - see _provider_probe
    if _has_webhooks(settings):
        from service import webhooks  # noqa: F401, PLC0415 - see notifier


def probes(settings: Settings, board: Scoreboard, redis_url: str | None) -> Probes:
    """Every check with its probe, None where there is nothing to probe. Makes no connection.

    Args:
        settings: What the environment says.
        board: The pod's scoreboard.
        redis_url: Of the server to check, if there is one.

    Raises:
        SettingsError: The application's own checks cannot be had.
    """
    checks = {check.name: check for check in definitions(settings, redis=redis_url is not None)}
    database = _database_probe(settings, checks["database"], board)
    makers: dict[str, Callable[[Check], Probe]] = {
        "redis": partial(_redis_probe, settings, board, redis_url or ""),
        "system_resources": partial(_resources_probe, settings),
        "application": partial(_application_probe, settings, board, database),
        **{name: partial(_provider_probe, settings) for name in PROVIDERS},
    }
    found: Probes = {
        check: None if check.unconfigured else makers[name](check)
        for name, check in checks.items()
        if name != "database"
    }
    return {checks["database"]: database, **found, **registered(settings)}


def _database_probe(settings: Settings, check: Check, board: Scoreboard) -> DatabaseProbe | None:
    if settings.database_url is None:
        return None
    return DatabaseProbe(
        settings.database_url.get_secret_value(),
        timeout=OWN_SHARE * check.timeout,
        slow_ms=settings.db_response_warning_ms,
        pool_threshold=settings.db_pool_utilization_threshold,
        pools=board.pools,
        read_revision=settings.health_expected_migration is not None,
    )


def _redis_probe(settings: Settings, board: Scoreboard, url: str, check: Check) -> RedisProbe:
    pid = os.getpid()
    return RedisProbe(
        partial(connect, url, timeout=check.timeout),
        key=f"{settings.health_redis_key_prefix}selftest:{board.pod_id}:{pid}-{process_start(pid)}",
        timeout=OWN_SHARE * check.timeout,
        limits=Limits(
            slow_ms=settings.redis_response_warning_ms,
            memory_warning=settings.redis_memory_warning_percent,
            memory_critical=settings.redis_memory_critical_percent,
            fragmentation_warning=settings.redis_fragmentation_warning_ratio,
            fragmentation_min_bytes=settings.redis_fragmentation_min_bytes,
        ),
    )


def _provider_probe(settings: Settings, check: Check) -> "ProviderProbe":
    # Here, because an HTTP client is only paid for by a pod that has a provider to ask.
    from service.probes.providers import PROVIDERS as PROVIDER_ROWS  # noqa: PLC0415
    from service.probes.providers import Credentials, ProviderProbe  # noqa: PLC0415

    row = PROVIDER_ROWS[check.name]
    if check.name == "supabase_api":
        row = row.at(settings.supabase_health_path)
    secret = {
        "supabase_api": settings.supabase_anon_key,
        "stripe_api": settings.stripe_secret_key,
        "email_service_resend": settings.resend_api_key,
        "sms_service_twilio": settings.twilio_auth_token,
    }[check.name]
    account = settings.twilio_account_sid if check.name == "sms_service_twilio" else None
    return ProviderProbe(
        row,
        settings.provider_base(check.name),
        Credentials(secret.get_secret_value() if secret else "", account or ""),
        timeout=OWN_SHARE * check.timeout,
        slow_ms=settings.external_response_warning_ms,
        version=settings.app_version,
        allow_insecure=settings.health_allow_insecure_providers,
    )


def notifier(settings: Settings, board: Scoreboard, instruments: Instruments) -> "Notifier | None":
    """What tells the webhooks; None where there are none.

    Args:
        settings: What the environment says.
        board: The pod's scoreboard.
        instruments: Where messages are counted.
    """
    if not _has_webhooks(settings):
        return None
    # Here, because an HTTP client is only paid for by a pod that has somebody to tell.
    from service import webhooks  # noqa: PLC0415
    from service.notifier import Notifier  # noqa: PLC0415

    source = webhooks.Source(
        settings.app_name,
        settings.app_env,
        settings.app_release,
        settings.app_version,
        Runbook(settings.runbook),
    )
    targets = [
        webhooks.Webhook(name, url.get_secret_value(), source, render, key)
        for name, url, render, key in (
            ("generic", settings.health_webhook_url, webhooks.generic, settings.webhook_key),
            ("slack", settings.health_slack_webhook_url, webhooks.slack, None),
        )
        if url is not None
    ]
    teller = Teller(board.pod_id, settings.health_webhook_min_interval_seconds)
    instruments.declare_webhooks(target.name for target in targets)
    return Notifier(targets, teller, instruments.notified)


def _has_webhooks(settings: Settings) -> bool:
    urls = settings.health_webhook_url, settings.health_slack_webhook_url
    return any(url is not None for url in urls)


def _resources_probe(settings: Settings, _check: Check) -> ResourcesProbe:
    return ResourcesProbe(
        levels={
            "cpu": Levels(settings.cpu_warning_percent, settings.cpu_critical_percent),
            "memory": Levels(settings.memory_warning_percent, settings.memory_critical_percent),
            "disk": Levels(settings.disk_warning_percent, settings.disk_critical_percent),
        },
        disk_path=settings.health_disk_path,
    )


def _application_probe(
    settings: Settings, board: Scoreboard, database: DatabaseProbe | None, _check: Check
) -> ApplicationProbe:
    return ApplicationProbe(
        workers=board.workers,
        expected=lambda: board.expected,
        vacant_since=lambda: board.vacant_since,
        finished=lambda: board.finished,
        limits=limits(settings),
        master_pid=board.master[0],
        expected_migration=settings.health_expected_migration,
        revision=lambda: database.revision if database else None,
    )
