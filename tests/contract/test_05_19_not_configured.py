"""Invariants 5 and 19: what is not configured makes nothing worse, down to nothing at all."""

from collections.abc import Iterator

import pytest

from tests.contract.audit import (
    BOTH,
    PREFIX,
    Audit,
    becomes,
    checks,
    comes_to,
    comes_to_be_entirely_well,
    comes_to_be_well,
)
from tests.contract.conftest import Launch, served
from tests.pod import Pod
from tests.servers.providers import ProviderServer
from tests.servers.redis import RedisServer, binary

ABSENT = ("not_configured", "not_configured")
PROVIDERS = ("supabase_api", "stripe_api", "email_service_resend", "sms_service_twilio")
CHECKS = ("database", "redis", *PROVIDERS)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, dict[str, str]]]:
    """The variables that configure each check."""
    with RedisServer(binary("valkey")) as redis, ProviderServer() as providers:
        given = providers.environment

        def of(*names: str) -> dict[str, str]:
            return {name: given[name] for name in names}

        yield {
            "database": {"DATABASE_URL": "sqlite://"},
            "redis": {"REDIS_URL": redis.url},
            "supabase_api": of("SUPABASE_URL", "SUPABASE_ANON_KEY"),
            "stripe_api": of("STRIPE_SECRET_KEY", "STRIPE_API_BASE"),
            "email_service_resend": of("RESEND_API_KEY", "RESEND_API_BASE"),
            "sms_service_twilio": of("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_API_BASE"),
        }


@pytest.fixture(scope="module")
def bare(launch: Launch) -> Pod:
    """Not a variable set but the ports and the directory."""
    return served(launch(bare=True))


@pytest.fixture(scope="module")
def empty(launch: Launch) -> Pod:
    """Nothing to check but itself."""
    return served(launch(REDIS_EMBEDDED="off"))


def test_a_pod_with_no_variable_set_is_well(bare: Pod) -> None:
    comes_to_be_entirely_well(bare)
    assert checks(bare)["database"] == ABSENT
    comes_to(bare, "redis", "healthy")
    Audit(bare)()


def test_a_pod_with_nothing_to_check_is_well(empty: Pod) -> None:
    comes_to_be_entirely_well(empty)
    found = checks(empty)
    assert {name: found[name] for name in CHECKS} == dict.fromkeys(CHECKS, ABSENT)
    Audit(empty)()


def test_what_the_endpoints_say_of_nothing(empty: Pod) -> None:
    comes_to_be_well(empty)
    for health in BOTH:
        for path in ("/health/database", "/health/redis", "/health/external"):
            assert empty.get(path, health=health).json["status"] == "not_configured"
        summary = empty.get("/health/external", health=health).json["summary"]
        assert summary["not_configured_services"] == summary["total_services"] == 4
        assert empty.get("/health", health=health).json["status"] == "healthy"
        readiness = empty.get(f"{PREFIX}/readiness", health=health).data
        assert readiness["services"] == dict.fromkeys(("database", "redis"), "not_configured")
        detailed = empty.get("/health/detailed", health=health).json
        assert detailed["not_configured_services"] == list(CHECKS)
        assert detailed["critical_services_failing"] is False
        numbers = empty.get("/health/metrics", health=health).json["metrics"]
        assert [numbers["health_check_status"][name] for name in CHECKS] == [None] * 6
        nine = empty.get("/metrics", health=health, Accept="application/json").data
        assert nine["mingus_database_status"] is nine["mingus_redis_status"] is None
        text = empty.get("/metrics", health=health).body.decode()
        assert 'health_check_status{component="database"}' not in text


SOME = {
    "the database alone": ("database",),
    "Redis alone": ("redis",),
    "one provider alone": ("stripe_api",),
    "all but one provider": ("database", "redis", *PROVIDERS[1:]),
}


@pytest.fixture(scope="module")
def some(launch: Launch, servers: dict[str, dict[str, str]]) -> dict[str, Pod]:
    """A pod for each row of ``SOME``, started at the same time."""
    return {
        name: launch(
            REDIS_EMBEDDED="off",
            HEALTH_EXTERNAL_INTERVAL_SECONDS="0.3",
            **{key: value for check in wanted for key, value in servers[check].items()},
        )
        for name, wanted in SOME.items()
    }


@pytest.mark.parametrize("name", SOME)
def test_what_is_configured_counts_and_nothing_else(some: dict[str, Pod], name: str) -> None:
    pod = served(some[name])
    comes_to_be_well(pod)
    wanted = {check: ("healthy", None) if check in SOME[name] else ABSENT for check in CHECKS}

    def said() -> dict[str, tuple[str, str | None]]:
        found = checks(pod)
        return {check: found[check] for check in CHECKS}

    becomes(said, wanted, "what the pod says")
    Audit(pod)()


def test_half_a_configuration_is_none(launch: Launch) -> None:
    halves = {
        "SUPABASE_URL": "https://project.supabase.invalid",
        "TWILIO_ACCOUNT_SID": "AC-of-the-tests",
    }
    pod = served(launch(REDIS_EMBEDDED="off", **halves))
    comes_to_be_well(pod)
    for name in ("supabase_api", "sms_service_twilio"):
        assert checks(pod)[name] == ("not_configured", "configuration_incomplete")
    Audit(pod, secrets=tuple(halves.values()))()
