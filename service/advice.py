"""What the checks ask, and what to do about each code: for people who have to do it.

``explain``, the status page and the webhooks' messages show it, and the table in
docs/operations.md is made from ``ADVICE``: ``python scripts/operations_doc.py``.
"""

from dataclasses import dataclass

from service.health import Lifecycle, Status
from service.settings import PROVIDERS

_PROVIDER = ("external_response_warning_ms",)

# What one run does.
ASKS = {
    "database": "connects and runs SELECT 1, counts the tables, adds up the workers' pools",
    "redis": "PING, then writes a value and reads it back, then INFO for the memory",
    "supabase_api": "an authenticated GET of SUPABASE_HEALTH_PATH",
    "stripe_api": "an authenticated GET of the account's balance",
    "email_service_resend": "an authenticated GET of the account's domains",
    "sms_service_twilio": "an authenticated GET of the account",
    "system_resources": "CPU, memory and disk of the control group, or else of the machine",
    "application": "whether the workers there should be make progress, and the schema's revision",
}

# The settings that decide what a run comes to.
THRESHOLDS = {
    "database": ("db_response_warning_ms", "db_pool_utilization_threshold"),
    "redis": (
        "redis_response_warning_ms",
        "redis_memory_warning_percent",
        "redis_memory_critical_percent",
        "redis_fragmentation_warning_ratio",
        "redis_fragmentation_min_bytes",
    ),
    **dict.fromkeys(PROVIDERS, _PROVIDER),
    "system_resources": tuple(
        f"{part}_{level}_percent"
        for part in ("cpu", "memory", "disk")
        for level in ("warning", "critical")
    ),
    "application": ("health_expected_migration", "health_liveness_stall_seconds"),
}

LOG = "read the `reason` in the log"

# Those a restart or a key may cure come first.
ADVICE: dict[tuple[str, ...], str] = {
    ("connection_refused", "dns_failure", "network_unreachable"): (
        "is it running, and is it where the URL says?"
    ),
    ("connection_lost",): "did it restart, or does something in between cut idle connections?",
    ("timeout",): "is it frozen or overloaded, or does a firewall drop packets?",
    ("tls_error",): "compare the certificate and its names with the URL; has it expired?",
    ("authentication_failed", "permission_denied"): (
        "compare the secret with what the server has; was one rotated without the other?"
    ),
    ("database_not_found",): "create it, or correct the name in `DATABASE_URL`",
    ("database_locked",): "find who holds the lock; SQLite has one writer at a time",
    ("too_many_connections",): (
        "who holds them? `DB_POOL_SIZE` counts once for each worker of each pod"
    ),
    ("starting_up", "read_only"): (
        "a failover: wait, then see whether the URL still names the primary"
    ),
    ("out_of_memory",): "give Redis more `maxmemory`, or an eviction policy",
    ("cluster_down",): "look at `CLUSTER INFO`: slots without a master",
    ("account_inactive",): "settle it with the provider",
    ("rate_limited",): (
        "who else asks with this account? Raise `HEALTH_EXTERNAL_INTERVAL_SECONDS` if it is us"
    ),
    ("slow_response",): "look at the load of what is asked, and at the way to it",
    ("pool_saturated", "pool_exhausted"): (
        "look for connections that are held too long, then raise `DB_POOL_SIZE`"
    ),
    ("connections_invalidated",): "the server closed them: did it restart, or fail over?",
    ("fragmentation_high",): "set `activedefrag yes` in Redis, or restart it when it suits",
    (
        *("memory_high", "memory_critical", "cpu_high", "cpu_critical"),
        *("disk_high", "disk_critical"),
    ): "what grows? Then give it more room, or set the threshold where it means something",
    ("migrations_pending",): "run the migrations, or correct `HEALTH_EXPECTED_MIGRATION`",
    ("workers_missing", "workers_stalled"): (
        "`mingus-health workers` shows who is stuck; what do its requests wait for?"
    ),
    ("configuration_invalid", "configuration_incomplete"): (
        "`mingus-health settings` shows what is there; the log names the variable"
    ),
    ("driver_missing",): "install the client library that the URL's scheme needs",
    ("stale",): "is the health worker gone or frozen? Restart the pod if it does not come back",
    ("not_yet_checked",): "wait for the first run to end",
    ("not_attempted",): "repair the part before it",
    ("not_configured",): "nothing, unless it should be checked: then give its settings",
    ("query_failed", "value_mismatch", "invalid_response", "check_failed", "task_failed"): LOG,
}


def advice(code: str) -> str:
    """What to do about a code."""
    return next((todo for codes, todo in ADVICE.items() if code in codes), LOG)


# The alerts that a pod or a check which is not well comes to, if it stays so.
CRITICAL_FAILING = "MingusHealthCheckFailing"
WORKERS_MISSING = "MingusHealthWorkersMissing"
NOT_READY = {
    Lifecycle.STARTING: "MingusHealthNotStarted",
    Lifecycle.SERVING: "MingusHealthNotReady",
    Lifecycle.DRAINING: "MingusHealthDrainForgotten",
    Lifecycle.MAINTENANCE: "MingusHealthMaintenanceForgotten",
}
FAILING = {
    Status.WARNING: "MingusHealthCheckWarning",
    Status.UNKNOWN: "MingusHealthCheckStale",
    Status.UNHEALTHY: "MingusHealthOptionalCheckFailing",
}


@dataclass(frozen=True, slots=True)
class Runbook:
    """Where it is read; docs/operations.md has a section for each alert.

    Attributes:
        where: What stands before the ``#`` of a section.
    """

    where: str

    def alert(self, name: str) -> str:
        """The section of an alert, as the alert's own link says it."""
        return f"{self.where}#{name.lower()}"

    def pod(self, lifecycle: Lifecycle, *, ready: bool) -> str | None:
        """The section of a pod that is not ready."""
        return None if ready else self.alert(NOT_READY[lifecycle])

    def check(self, status: Status, *, critical: bool) -> str | None:
        """The section of a check that is not well."""
        if status is Status.UNHEALTHY and critical:
            return self.alert(CRITICAL_FAILING)
        alert = FAILING.get(status)
        return alert and self.alert(alert)
