"""Which checks there are: what the settings make of the documented ones, and the registered."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from service.checks import MAX_CHECKS, definitions, imported, limits, registered
from service.health import Check, Probe, ProgressLimits, Result, Thresholds
from service.settings import CHECKS, PROVIDERS, Settings, SettingsError


def settings(**fields: Any) -> Settings:
    """Settings as if nothing but these were in the environment."""
    return Settings.model_construct(**fields)


def named(given: Settings, *, redis: bool = False) -> dict[str, Check]:
    return {check.name: check for check in definitions(given, redis=redis)}


# -- the documented checks


def test_what_decides_by_default() -> None:
    checks = named(settings())
    assert [name for name, check in checks.items() if check.critical] == ["database", "redis"]
    assert [name for name, check in checks.items() if check.startup] == ["database", "redis"]
    assert {check.thresholds for check in checks.values()} == {Thresholds(2, 2)}


def test_what_decides_is_a_setting() -> None:
    given = settings(
        health_critical_checks=("redis",),
        health_startup_checks=(),
        health_failure_threshold=5,
        health_success_threshold=1,
    )
    checks = named(given)
    assert [name for name, check in checks.items() if check.critical] == ["redis"]
    assert not any(check.startup for check in checks.values())
    assert {check.thresholds for check in checks.values()} == {Thresholds(5, 1)}


def test_startup_follows_the_critical_checks() -> None:
    checks = named(settings(health_critical_checks=("database",)))
    assert [name for name, check in checks.items() if check.startup] == ["database"]


def test_the_schedule_is_a_setting() -> None:
    checks = named(
        settings(
            health_database_interval_seconds=0.5,
            health_database_timeout_seconds=3.0,
            health_external_interval_seconds=20.0,
            health_external_timeout_seconds=4.0,
            health_resources_interval_seconds=30.0,
        )
    )
    database, stripe = checks["database"], checks["stripe_api"]
    assert (database.interval, database.timeout, database.failing_interval) == (0.5, 3.0, 0.5)
    assert (stripe.interval, stripe.timeout, stripe.failing_interval) == (20.0, 4.0, 15.0)
    assert checks["system_resources"].interval == 30.0


def test_failing_never_means_asking_less_often() -> None:
    often = named(settings(health_external_interval_seconds=0.1))
    assert often["stripe_api"].failing_interval == 0.1


def test_without_settings_there_is_little_to_check() -> None:
    codes = {name: check.unconfigured for name, check in named(settings()).items()}
    assert codes == {
        **dict.fromkeys(("database", "redis", *PROVIDERS), "not_configured"),
        "system_resources": None,
        "application": None,
    }


@pytest.mark.parametrize(
    ("fields", "name", "code"),
    [
        pytest.param({"supabase_url": "https://x"}, "supabase_api", "incomplete", id="a URL"),
        pytest.param({"supabase_anon_key": "k"}, "supabase_api", "incomplete", id="a key"),
        pytest.param({"twilio_account_sid": "AC"}, "sms_service_twilio", "incomplete", id="a SID"),
        pytest.param(
            {"twilio_account_sid": "AC", "twilio_auth_token": "t"},
            "sms_service_twilio",
            None,
            id="both",
        ),
        pytest.param({"database_url": "sqlite://"}, "database", None, id="a database"),
        pytest.param({"redis_host": "localhost"}, "redis", None, id="a host"),
    ],
)
def test_a_part_of_the_settings_is_not_enough(
    fields: dict[str, Any], name: str, code: str | None
) -> None:
    expected = "configuration_incomplete" if code else None
    assert named(settings(**fields))[name].unconfigured == expected


def test_an_embedded_redis_is_a_redis() -> None:
    assert named(settings(), redis=True)["redis"].unconfigured is None


def test_how_long_a_worker_may_stand_still() -> None:
    given = settings(health_boot_seconds=20.0, health_liveness_stall_seconds=30.0)
    assert limits(given) == ProgressLimits(boot=20.0, stall=30.0)


# -- an application's own checks, named as HEALTH_CHECKS names them


def well() -> Result:
    return Result()


def two_checks() -> Mapping[Check, Probe]:
    return {Check("queue", interval=1.0, critical=True): well, Check("mail"): well}


def no_checks() -> Mapping[Check, Probe]:
    return {}


def a_list() -> Any:
    return [Check("queue")]


def names_for_checks() -> Any:
    return {"queue": well}


def a_check_without_a_probe() -> Any:
    return {Check("queue"): None}


def a_documented_name() -> Mapping[Check, Probe]:
    return {Check("redis"): well}


def a_name_twice() -> Mapping[Check, Probe]:
    return {Check("queue"): well, Check("queue", interval=9.0): well}


def a_key_of_the_documents() -> Mapping[Check, Probe]:
    return {Check("external_services"): well}


def too_many() -> Mapping[Check, Probe]:
    return {Check(f"queue_{number}"): well for number in range(MAX_CHECKS + 1)}


def own(function: Callable[[], Any], **fields: Any) -> Settings:
    return settings(health_checks=f"{__name__}:{function.__name__}", **fields)


def test_registered_checks_are_judged_by_the_settings() -> None:
    given = own(two_checks, health_critical_checks=("database", "mail"), health_failure_threshold=7)
    queue, mail = registered(given)
    assert (queue.name, queue.interval, queue.critical) == ("queue", 1.0, False)
    assert (mail.name, mail.critical, mail.startup) == ("mail", True, True)
    assert queue.thresholds == Thresholds(7, 2)
    assert set(registered(given).values()) == {well}


def test_no_checks_need_be_registered() -> None:
    assert registered(settings()) == registered(own(no_checks)) == {}


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(a_list, id="a list"),
        pytest.param(names_for_checks, id="names for checks"),
        pytest.param(a_check_without_a_probe, id="a check without a probe"),
        pytest.param(a_documented_name, id="a documented name"),
        pytest.param(a_name_twice, id="a name twice"),
        pytest.param(a_key_of_the_documents, id="a key of the documents"),
        pytest.param(too_many, id="too many"),
    ],
)
def test_what_cannot_be_registered(function: Callable[[], Any]) -> None:
    with pytest.raises(SettingsError, match=r"^HEALTH_CHECKS: ") as error:
        registered(own(function))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variable", ["health_critical_checks", "health_startup_checks"])
def test_an_unknown_name_is_refused_and_not_shown(variable: str) -> None:
    with pytest.raises(SettingsError) as error:
        registered(own(two_checks, **{variable: ("mail", "pa55word")}))
    line = str(error.value)
    assert line.startswith(f"{variable.upper()}: ")
    assert "pa55word" not in line


@pytest.mark.parametrize(
    "reference",
    [
        "tests.unit.no_such_module:checks",
        "tests.unit.fakes:no_such_name",
        "tests.unit.fakes:PATIENCE",
    ],
)
def test_what_cannot_be_imported_ends_the_start_in_one_line(reference: str) -> None:
    with pytest.raises(SettingsError, match=r"^HEALTH_CHECKS: ") as error:
        imported(reference, "HEALTH_CHECKS")
    assert "\n" not in str(error.value)


def test_the_names_are_the_documented_ones() -> None:
    assert tuple(named(settings())) == CHECKS
