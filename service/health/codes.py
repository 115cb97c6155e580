"""The fixed vocabulary of reasons: the only explanation that leaves the process.

A code says what failed. Why it failed is for the log.
"""

import re

from service.health.status import Status

# Declared in the order of severity of the result a code leads to.
CODES: dict[str, Status] = {
    **dict.fromkeys(("not_configured", "configuration_incomplete"), Status.NOT_CONFIGURED),
    **dict.fromkeys(
        (
            "rate_limited",
            "slow_response",
            "pool_saturated",
            "pool_exhausted",
            "connections_invalidated",
            "memory_high",
            "cpu_high",
            "disk_high",
            "fragmentation_high",
            "migrations_pending",
            "workers_missing",
        ),
        Status.WARNING,
    ),
    **dict.fromkeys(("not_attempted", "not_yet_checked", "stale"), Status.UNKNOWN),
    **dict.fromkeys(
        (
            "connection_refused",
            "connection_lost",
            "network_unreachable",
            "dns_failure",
            "timeout",
            "tls_error",
            "authentication_failed",
            "permission_denied",
            "database_not_found",
            "database_locked",
            "too_many_connections",
            "starting_up",
            "read_only",
            "out_of_memory",
            "cluster_down",
            "query_failed",
            "value_mismatch",
            "invalid_response",
            "account_inactive",
            "memory_critical",
            "cpu_critical",
            "disk_critical",
            "workers_stalled",
            "configuration_invalid",
            "driver_missing",
            "check_failed",
            "task_failed",
        ),
        Status.UNHEALTHY,
    ),
}

_HTTP = re.compile(r"http_[1-9][0-9]{2}")


def status_of(code: str) -> Status:
    """The result a code leads to by itself.

    Raises:
        KeyError: The word is not in the vocabulary.
    """
    return Status.UNHEALTHY if _HTTP.fullmatch(code) else CODES[code]


def is_code(word: str) -> bool:
    """Whether a word belongs to the vocabulary."""
    return word in CODES or _HTTP.fullmatch(word) is not None
