"""Every variable of section 8 of the contract: its default, its names, what it refuses."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from service.settings import (
    CHECKS,
    EX_CONFIG,
    PROVIDERS,
    Settings,
    SettingsError,
    is_secret,
    load,
    load_or_exit,
    variables,
)

ROOT = Path(__file__).parents[2]
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
PRIVATE = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)

# Variable, its default, and the older name it may go by.
TABLE: list[tuple[str, Any, str | None]] = [
    ("BIND_HOST", "0.0.0.0", None),
    ("PORT", 5003, None),
    ("HEALTH_PORT", 5004, None),
    ("WEB_CONCURRENCY", 4, None),
    ("THREADS", 4, None),
    ("APP_MODULE", None, None),
    ("RUN_DIR", None, None),
    ("APP_NAME", "MINGUS", None),
    ("APP_VERSION", "1.0.0", None),
    ("APP_ENV", "production", "FLASK_ENV"),
    ("FLASK_DEBUG", False, None),
    ("LOG_LEVEL", "INFO", None),
    ("DATABASE_URL", None, None),
    ("DB_POOL_SIZE", 10, None),
    ("DB_MAX_OVERFLOW", 20, None),
    ("DB_POOL_UTILIZATION_THRESHOLD", 0.8, None),
    ("DB_RESPONSE_WARNING_MS", 1000, "DB_CONNECTION_TIMEOUT_THRESHOLD_MS"),
    ("HEALTH_EXPECTED_MIGRATION", None, None),
    ("REDIS_URL", None, None),
    ("REDIS_HOST", None, None),
    ("REDIS_PORT", 6379, None),
    ("REDIS_DB", 0, None),
    ("REDIS_USERNAME", None, None),
    ("REDIS_PASSWORD", None, None),
    ("REDIS_MEMORY_WARNING_PERCENT", 90, "REDIS_MEMORY_THRESHOLD_PERCENT"),
    ("REDIS_MEMORY_CRITICAL_PERCENT", 95, None),
    ("REDIS_FRAGMENTATION_WARNING_RATIO", 1.5, None),
    ("REDIS_FRAGMENTATION_MIN_BYTES", 104857600, None),
    ("REDIS_RESPONSE_WARNING_MS", 500, "REDIS_CONNECTION_TIMEOUT_THRESHOLD_MS"),
    ("REDIS_EMBEDDED", "auto", None),
    ("HEALTH_REDIS_KEY_PREFIX", "mingus:health:", None),
    ("SUPABASE_URL", None, None),
    ("SUPABASE_ANON_KEY", None, "SUPABASE_KEY"),
    ("SUPABASE_HEALTH_PATH", "/auth/v1/health", None),
    ("STRIPE_SECRET_KEY", None, None),
    ("STRIPE_API_BASE", "https://api.stripe.com", None),
    ("RESEND_API_KEY", None, None),
    ("RESEND_API_BASE", "https://api.resend.com", None),
    ("TWILIO_ACCOUNT_SID", None, None),
    ("TWILIO_AUTH_TOKEN", None, None),
    ("TWILIO_API_BASE", "https://api.twilio.com", None),
    ("EXTERNAL_RESPONSE_WARNING_MS", 3000, "EXTERNAL_API_TIMEOUT_THRESHOLD_MS"),
    ("HEALTH_ALLOW_INSECURE_PROVIDERS", False, None),
    ("CPU_WARNING_PERCENT", 80, "CPU_USAGE_THRESHOLD_PERCENT"),
    ("CPU_CRITICAL_PERCENT", 95, None),
    ("MEMORY_WARNING_PERCENT", 80, "MEMORY_USAGE_THRESHOLD_PERCENT"),
    ("MEMORY_CRITICAL_PERCENT", 95, None),
    ("DISK_WARNING_PERCENT", 80, "DISK_USAGE_THRESHOLD_PERCENT"),
    ("DISK_CRITICAL_PERCENT", 95, None),
    ("HEALTH_DISK_PATH", Path("/"), None),
    ("HEALTH_DATABASE_INTERVAL_SECONDS", 5, None),
    ("HEALTH_DATABASE_TIMEOUT_SECONDS", 2, None),
    ("HEALTH_REDIS_INTERVAL_SECONDS", 5, None),
    ("HEALTH_REDIS_TIMEOUT_SECONDS", 1, None),
    ("HEALTH_EXTERNAL_INTERVAL_SECONDS", 60, None),
    ("HEALTH_EXTERNAL_TIMEOUT_SECONDS", 5, None),
    ("HEALTH_RESOURCES_INTERVAL_SECONDS", 5, None),
    ("HEALTH_FAILURE_THRESHOLD", 2, None),
    ("HEALTH_SUCCESS_THRESHOLD", 2, None),
    ("HEALTH_CRITICAL_CHECKS", ("database", "redis"), None),
    ("HEALTH_STARTUP_CHECKS", None, None),
    ("HEALTH_REQUIRE_CONFIGURED", (), None),
    ("HEALTH_DRAIN_SECONDS", 10, None),
    ("HEALTH_LIVENESS_STALL_SECONDS", 60, None),
    ("HEALTH_BOOT_SECONDS", 60, None),
    ("HEALTH_RUNBOOK_URL", None, None),
    ("HEALTH_WEBHOOK_URL", None, None),
    ("HEALTH_WEBHOOK_SECRET", None, None),
    ("HEALTH_SLACK_WEBHOOK_URL", None, None),
    ("HEALTH_WEBHOOK_MIN_INTERVAL_SECONDS", 60, None),
    ("HEALTH_TRUSTED_NETWORKS", LOOPBACK, None),
    ("HEALTH_TRUSTED_PROXIES", (), None),
    ("HEALTH_TRUSTED_HOSTS", (), None),
    ("HEALTH_DETAILS_TOKEN", (), None),
]
SECRETS = {
    "DATABASE_URL",
    "REDIS_URL",
    "REDIS_PASSWORD",
    "SUPABASE_ANON_KEY",
    "STRIPE_SECRET_KEY",
    "RESEND_API_KEY",
    "TWILIO_AUTH_TOKEN",
    "HEALTH_DETAILS_TOKEN",
    "HEALTH_WEBHOOK_URL",
    "HEALTH_WEBHOOK_SECRET",
    "HEALTH_SLACK_WEBHOOK_URL",
}
TOKEN = "0123456789abcdef"
WEBHOOK_SECRET = f"whsec_{b64encode(bytes(range(24))).decode()}"

Environment = pytest.MonkeyPatch


def secret(name: str, word: str) -> str:
    """A value that the setting takes, with a word in it where there can be one."""
    if name == "HEALTH_WEBHOOK_SECRET":
        return WEBHOOK_SECRET
    return f"https://hooks.example.com/{word}" if name.endswith("WEBHOOK_URL") else word


@pytest.fixture(autouse=True)
def env() -> Iterator[Environment]:
    """An environment in which none of our variables is set."""
    with pytest.MonkeyPatch.context() as patch:
        for field in Settings.model_fields:
            for name in variables(field):
                for each in (name, f"{name}_FILE"):
                    patch.delenv(each, raising=False)
        yield patch


def given(env: Environment, **variables: str) -> Settings:
    for name, value in variables.items():
        env.setenv(name, value)
    return load()


def refusal(env: Environment, **variables: str) -> str:
    with pytest.raises(SettingsError) as error:
        given(env, **variables)
    return str(error.value)


# -- defaults and names


@pytest.mark.parametrize(("name", "default"), [(name, default) for name, default, _ in TABLE])
def test_the_default(name: str, default: object) -> None:
    assert getattr(load(), name.lower()) == default


ADDED = {
    "WORKER_CLASS",
    "HEALTH_CHECKS",
    "PROMETHEUS_MULTIPROC_DIR",
    "APP_RELEASE",
    "HEALTH_FLEET_INTERVAL_SECONDS",
    "READINESS_POLICY",
    "STARTUP_TASKS",
    "STARTUP_TASKS_WITHOUT_REDIS",
}


def test_there_are_no_undocumented_variables() -> None:
    known = {name for field in Settings.model_fields for name in variables(field)}
    assert known - ADDED == {
        name for variable, _, alias in TABLE for name in (variable, alias) if name
    }


@pytest.mark.parametrize("name", [name for name, *_ in TABLE])
def test_empty_is_unset(env: Environment, name: str) -> None:
    env.setenv(name, "")
    assert load() == Settings.model_validate({})


def another(name: str, default: object) -> str:
    """A value that a variable may have and has not by default."""
    if isinstance(default, int | float):
        return str(int(default) + 1)
    return {"APP_ENV": "staging", "SUPABASE_ANON_KEY": "key"}[name]


ALIASES = [(name, default, alias) for name, default, alias in TABLE if alias]


@pytest.mark.parametrize(("name", "default", "alias"), ALIASES)
def test_an_alias_is_another_name(env: Environment, name: str, default: object, alias: str) -> None:
    env.setenv(alias, another(name, default))
    value = getattr(load(), name.lower())
    assert value != default
    env.delenv(alias)
    env.setenv(name, another(name, default))
    assert getattr(load(), name.lower()) == value


@pytest.mark.parametrize(("name", "default", "alias"), ALIASES)
def test_the_documented_name_wins(env: Environment, name: str, default: object, alias: str) -> None:
    env.setenv(name, another(name, default))
    value = getattr(load(), name.lower())
    env.setenv(alias, "50" if isinstance(default, int | float) else "older")
    assert getattr(load(), name.lower()) == value


def test_an_empty_name_does_not_hide_its_alias(env: Environment) -> None:
    assert given(env, APP_ENV="", FLASK_ENV="staging").app_env == "staging"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("1", True), ("True", True), ("false", False), ("0", False), ("", False)],
)
def test_switches(env: Environment, value: str, *, expected: bool) -> None:
    assert given(env, FLASK_DEBUG=value).flask_debug is expected


def test_what_is_nobodys_variable_is_ignored(env: Environment) -> None:
    assert given(env, HEALTH_SOMETHING_ELSE="x", DATABASE="y") == Settings.model_validate({})


# -- lists


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HEALTH_CRITICAL_CHECKS", "redis", ("redis",)),
        ("HEALTH_CRITICAL_CHECKS", " redis , database ,", ("redis", "database")),
        ("HEALTH_CRITICAL_CHECKS", "none", ()),
        ("HEALTH_CRITICAL_CHECKS", "", ("database", "redis")),
        ("HEALTH_STARTUP_CHECKS", "database", ("database",)),
        ("HEALTH_STARTUP_CHECKS", "none", ()),
        ("HEALTH_STARTUP_CHECKS", "", None),
        ("HEALTH_REQUIRE_CONFIGURED", "none", ()),
        ("HEALTH_TRUSTED_HOSTS", "health.example, mingus", ("health.example", "mingus")),
        ("HEALTH_TRUSTED_HOSTS", "none", ()),
        ("HEALTH_TRUSTED_NETWORKS", "none", ()),
        ("HEALTH_TRUSTED_NETWORKS", "loopback", LOOPBACK),
        ("HEALTH_TRUSTED_NETWORKS", "private", PRIVATE),
        ("HEALTH_TRUSTED_NETWORKS", "loopback,private", (*LOOPBACK, *PRIVATE)),
        ("HEALTH_TRUSTED_NETWORKS", "10.1.0.0/16", (ip_network("10.1.0.0/16"),)),
        ("HEALTH_TRUSTED_NETWORKS", "192.0.2.7", (ip_network("192.0.2.7/32"),)),
        (
            "HEALTH_TRUSTED_NETWORKS",
            "loopback, 2001:db8::/32",
            (*LOOPBACK, ip_network("2001:db8::/32")),
        ),
        ("HEALTH_TRUSTED_PROXIES", "none", ()),
        ("HEALTH_TRUSTED_PROXIES", "unix", ("unix",)),
        ("HEALTH_TRUSTED_PROXIES", "unix, 10.0.0.0/8", (ip_network("10.0.0.0/8"), "unix")),
        ("HEALTH_DETAILS_TOKEN", "none", ()),
    ],
)
def test_lists(env: Environment, name: str, value: str, expected: object) -> None:
    assert getattr(given(env, **{name: value}), name.lower()) == expected


def test_startup_checks_are_the_critical_ones_unless_set(env: Environment) -> None:
    assert load().startup_checks == ("database", "redis")
    assert given(env, HEALTH_CRITICAL_CHECKS="redis").startup_checks == ("redis",)
    assert given(env, HEALTH_STARTUP_CHECKS="none").startup_checks == ()


def test_tokens(env: Environment) -> None:
    tokens = given(env, HEALTH_DETAILS_TOKEN=f"{TOKEN}, {TOKEN[::-1]}").health_details_token
    assert [token.get_secret_value() for token in tokens] == [TOKEN, TOKEN[::-1]]


# -- secrets and files


def test_what_is_secret() -> None:
    assert {field.upper() for field in Settings.model_fields if is_secret(field)} == SECRETS


def test_no_secret_is_in_a_print_of_the_settings(env: Environment) -> None:
    secrets = {name: secret(name, f"pa55word-of-{name.lower()}") for name in SECRETS}
    env.setenv("SUPABASE_URL", "https://x.supabase.co")
    shown = repr(given(env, **secrets))
    assert "pa55word" not in shown
    assert WEBHOOK_SECRET not in shown


@pytest.mark.parametrize("name", sorted(SECRETS | {"SUPABASE_KEY"}))
def test_a_secret_may_be_in_a_file(env: Environment, tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    given_value = secret(name, f"{TOKEN}-{name}")
    path.write_text(f"{given_value}\n", encoding="utf-8")
    env.setenv(f"{name}_FILE", str(path))
    if name == "HEALTH_WEBHOOK_URL":
        env.setenv("HEALTH_WEBHOOK_SECRET", WEBHOOK_SECRET)
    field = {"SUPABASE_KEY": "supabase_anon_key"}.get(name, name.lower())
    value = getattr(load(), field)
    (found,) = value if isinstance(value, tuple) else (value,)
    assert isinstance(found, SecretStr)
    assert found.get_secret_value() == given_value


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_file_beside_a_value_is_refused(env: Environment, tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text(TOKEN, encoding="utf-8")
    line = refusal(env, **{name: "pa55word-in-the-environment", f"{name}_FILE": str(path)})
    assert line == f"{name} and {name}_FILE are both set: remove one"


def test_a_file_beside_an_empty_value_is_fine(env: Environment, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("sqlite://", encoding="utf-8")
    url = given(env, DATABASE_URL="", DATABASE_URL_FILE=str(path)).database_url
    assert url is not None
    assert url.get_secret_value() == "sqlite://"


@pytest.mark.parametrize("content", ["", "\n", "  \n\n"], ids=repr)
def test_an_empty_file_is_an_empty_value(env: Environment, tmp_path: Path, content: str) -> None:
    path = tmp_path / "secret"
    path.write_text(content, encoding="utf-8")
    settings = given(env, DATABASE_URL_FILE=str(path), HEALTH_DETAILS_TOKEN_FILE=str(path))
    assert settings.database_url is None
    assert not settings.configured("database")
    assert settings.health_details_token == ()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        pytest.param(lambda _: None, "No such file or directory", id="missing"),
        pytest.param(Path.mkdir, "Is a directory", id="a directory"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8 text", id="binary"),
    ],
)
def test_a_file_that_cannot_be_read(env: Environment, tmp_path: Path, make: Any, why: str) -> None:
    path = tmp_path / "pa55word"
    make(path)
    line = refusal(env, DATABASE_URL_FILE=str(path))
    assert line == f"DATABASE_URL_FILE: cannot be read: {why}"


def test_only_secrets_are_read_from_files(env: Environment, tmp_path: Path) -> None:
    path = tmp_path / "port"
    path.write_text("6000", encoding="utf-8")
    assert given(env, PORT_FILE=str(path)).port == 5003


# -- refusals


BOUNDS = [
    *((name, value) for name in ("PORT", "HEALTH_PORT", "REDIS_PORT") for value in ("0", "65536")),
    *((name, "0") for name in ("WEB_CONCURRENCY", "THREADS", "DB_POOL_SIZE")),
    ("DB_MAX_OVERFLOW", "-1"),
    ("DB_POOL_UTILIZATION_THRESHOLD", "0"),
    ("DB_POOL_UTILIZATION_THRESHOLD", "1.01"),
    ("DB_POOL_UTILIZATION_THRESHOLD", "nan"),
    ("REDIS_DB", "-1"),
    ("REDIS_FRAGMENTATION_WARNING_RATIO", "0"),
    ("REDIS_FRAGMENTATION_MIN_BYTES", "-1"),
    *(
        (name, value)
        for name in (
            "DB_RESPONSE_WARNING_MS",
            "REDIS_RESPONSE_WARNING_MS",
            "EXTERNAL_RESPONSE_WARNING_MS",
        )
        for value in ("0", "-5", "nan", "inf")
    ),
    *(
        (f"{part}_{level}_PERCENT", value)
        for part in ("CPU", "MEMORY", "DISK", "REDIS_MEMORY")
        for level in ("WARNING", "CRITICAL")
        for value in ("-1", "101", "nan")
    ),
    *(
        (f"HEALTH_{check}_INTERVAL_SECONDS", value)
        for check in ("DATABASE", "REDIS", "EXTERNAL", "RESOURCES")
        for value in ("0", "0.09", "-1", "nan", "inf")
    ),
    *(
        (f"HEALTH_{check}_TIMEOUT_SECONDS", value)
        for check in ("DATABASE", "REDIS", "EXTERNAL")
        for value in ("0", "-1", "nan", "inf")
    ),
    *(
        (f"HEALTH_{what}_THRESHOLD", value)
        for what in ("FAILURE", "SUCCESS")
        for value in ("0", "-1", "1.5")
    ),
    *(("HEALTH_DRAIN_SECONDS", value) for value in ("-1", "nan", "inf")),
    *(("HEALTH_LIVENESS_STALL_SECONDS", value) for value in ("0", "nan", "inf")),
    *(("HEALTH_BOOT_SECONDS", value) for value in ("0", "nan", "inf")),
]
NUMBERS = [name for name, default, _ in TABLE if type(default) in (int, float)]
WORDS = [
    ("LOG_LEVEL", "verbose"),
    ("REDIS_EMBEDDED", "on"),
    ("FLASK_DEBUG", "perhaps"),
    ("HEALTH_ALLOW_INSECURE_PROVIDERS", "perhaps"),
    ("APP_MODULE", "not a module"),
    ("HEALTH_CRITICAL_CHECKS", "databank"),
    ("HEALTH_CRITICAL_CHECKS", "database,queue"),
    ("HEALTH_CRITICAL_CHECKS", "stripe_api"),
    ("HEALTH_CRITICAL_CHECKS", "system_resources"),
    ("HEALTH_STARTUP_CHECKS", "system_resources"),
    ("HEALTH_STARTUP_CHECKS", "sms_service_twilio"),
    ("HEALTH_STARTUP_CHECKS", "databank"),
    ("HEALTH_REQUIRE_CONFIGURED", "databank"),
    ("HEALTH_REQUIRE_CONFIGURED", "database"),
    ("HEALTH_TRUSTED_NETWORKS", "10.0.0.1/8"),
    ("HEALTH_TRUSTED_NETWORKS", "everybody"),
    ("HEALTH_TRUSTED_NETWORKS", "unix"),
    ("HEALTH_TRUSTED_PROXIES", "private"),
    ("HEALTH_TRUSTED_PROXIES", "10.0.0.0/33"),
    ("HEALTH_DETAILS_TOKEN", "fifteen-letters"),
    ("HEALTH_DETAILS_TOKEN", f"{TOKEN},short"),
    *((name, os.fsdecode(b"caf\xe9")) for name in ("APP_NAME", "APP_VERSION", "DATABASE_URL")),
]
REFUSED = [*BOUNDS, *((name, "many") for name in NUMBERS), *WORDS]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_that_cannot_be_used_is_refused_by_name(
    env: Environment, name: str, value: str
) -> None:
    line = refusal(env, **{name: value})
    assert name in line
    assert "\n" not in line
    assert len(line) < 200


# A number may be one of the documented bounds, which the line says.
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value in REFUSED if len(value) > 4]
)
def test_the_value_is_never_in_the_line(env: Environment, name: str, value: str) -> None:
    line = refusal(env, **{name: value})
    assert not any(word in line for word in value.split(",") if word not in CHECKS)


@pytest.mark.parametrize(("name", "default", "alias"), ALIASES)
def test_a_refused_alias_is_named(env: Environment, name: str, default: object, alias: str) -> None:
    if isinstance(default, int | float):
        line = refusal(env, **{alias: "many"})
        assert alias in line or name in line


def test_several_refusals_are_one_line(env: Environment) -> None:
    line = refusal(env, PORT="many", HEALTH_FAILURE_THRESHOLD="0", LOG_LEVEL="loud")
    assert "\n" not in line
    for name in ("PORT", "HEALTH_FAILURE_THRESHOLD", "LOG_LEVEL"):
        assert name in line


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        pytest.param(
            {"CPU_WARNING_PERCENT": "96"},
            ["CPU_WARNING_PERCENT", "CPU_CRITICAL_PERCENT"],
            id="a warning above the default critical",
        ),
        pytest.param(
            {"REDIS_MEMORY_CRITICAL_PERCENT": "50"},
            ["REDIS_MEMORY_WARNING_PERCENT", "REDIS_MEMORY_CRITICAL_PERCENT"],
            id="a critical below the default warning",
        ),
        pytest.param(
            {"DISK_USAGE_THRESHOLD_PERCENT": "70", "DISK_CRITICAL_PERCENT": "60"},
            ["DISK_WARNING_PERCENT", "DISK_CRITICAL_PERCENT"],
            id="by an alias",
        ),
        pytest.param({"PORT": "5004"}, ["PORT", "HEALTH_PORT"], id="one port for two"),
    ],
)
def test_settings_that_disagree(
    env: Environment, variables: dict[str, str], named: list[str]
) -> None:
    line = refusal(env, **variables)
    assert all(name in line for name in named)
    assert not any(value in line for value in variables.values())


@pytest.mark.parametrize("part", ["CPU", "MEMORY", "DISK", "REDIS_MEMORY"])
def test_thresholds_may_be_equal(env: Environment, part: str) -> None:
    given(env, **{f"{part}_WARNING_PERCENT": "90", f"{part}_CRITICAL_PERCENT": "90"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEALTH_DRAIN_SECONDS", "0"),
        ("HEALTH_DATABASE_INTERVAL_SECONDS", "0.1"),
        ("HEALTH_REDIS_INTERVAL_SECONDS", "0.1"),
        ("HEALTH_RESOURCES_INTERVAL_SECONDS", "0.1"),
        ("HEALTH_EXTERNAL_INTERVAL_SECONDS", "0.1"),
        ("HEALTH_DATABASE_TIMEOUT_SECONDS", "0.01"),
        ("DB_MAX_OVERFLOW", "0"),
        ("DB_POOL_UTILIZATION_THRESHOLD", "1"),
        ("CPU_CRITICAL_PERCENT", "100"),
        ("CPU_WARNING_PERCENT", "0"),
        ("HEALTH_FAILURE_THRESHOLD", "1"),
        ("APP_MODULE", "shop.wsgi:app"),
        ("APP_MODULE", "shop:create_app()"),
    ],
)
def test_what_is_just_possible(env: Environment, name: str, value: str) -> None:
    given(env, **{name: value})


# -- what is configured


PROVIDER_SETTINGS = {
    "supabase_api": {"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_ANON_KEY": "key"},
    "stripe_api": {"STRIPE_SECRET_KEY": "key"},
    "email_service_resend": {"RESEND_API_KEY": "key"},
    "sms_service_twilio": {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token"},
}
COMPLETE = {
    "database": {"DATABASE_URL": "sqlite://"},
    "redis": {"REDIS_HOST": "localhost"},
    **PROVIDER_SETTINGS,
}


def test_without_settings_only_what_needs_none_is_configured() -> None:
    settings = load()
    configured = {name for name in CHECKS if settings.configured(name)}
    assert configured == {"system_resources", "application"}


@pytest.mark.parametrize(("name", "variables"), COMPLETE.items())
def test_a_check_is_configured_by_all_its_settings(
    env: Environment, name: str, variables: dict[str, str]
) -> None:
    for variable, value in variables.items():
        assert not load().configured(name)
        env.setenv(variable, value)
    assert given(env, HEALTH_REQUIRE_CONFIGURED=name).configured(name)


@pytest.mark.parametrize(("name", "variables"), COMPLETE.items())
def test_a_check_that_must_be_configured(
    env: Environment, name: str, variables: dict[str, str]
) -> None:
    line = refusal(env, HEALTH_REQUIRE_CONFIGURED=f"application,{name}")
    assert "HEALTH_REQUIRE_CONFIGURED" in line
    assert any(variable in line for variable in variables), "and what to set"


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"REDIS_HOST": "db"}, "redis://db:6379/0", id="a host"),
        pytest.param(
            {"REDIS_HOST": "db", "REDIS_PORT": "7000", "REDIS_DB": "3"},
            "redis://db:7000/3",
            id="a host and more",
        ),
        pytest.param(
            {"REDIS_HOST": "db", "REDIS_PASSWORD": "p@ss/word"},
            "redis://:p%40ss%2Fword@db:6379/0",
            id="a password",
        ),
        pytest.param(
            {"REDIS_HOST": "db", "REDIS_USERNAME": "u:x", "REDIS_PASSWORD": "p"},
            "redis://u%3Ax:p@db:6379/0",
            id="a user",
        ),
        pytest.param({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0", id="an address"),
        pytest.param(
            {"REDIS_URL": "rediss://a:1/2", "REDIS_HOST": "db", "REDIS_PASSWORD": "p"},
            "rediss://a:1/2",
            id="a URL wins",
        ),
        pytest.param({"REDIS_PASSWORD": "p", "REDIS_PORT": "1"}, None, id="no host"),
    ],
)
def test_where_redis_is(env: Environment, variables: dict[str, str], address: str | None) -> None:
    assert given(env, **variables).redis_address == address


# -- how often providers may be asked


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_remote_provider_is_not_asked_too_often(env: Environment, name: str) -> None:
    given(env, **PROVIDER_SETTINGS[name], HEALTH_EXTERNAL_INTERVAL_SECONDS="15")
    line = refusal(env, HEALTH_EXTERNAL_INTERVAL_SECONDS="14.9")
    assert "HEALTH_EXTERNAL_INTERVAL_SECONDS" in line
    assert "14.9" not in line


@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://LOCALHOST",
        "https://127.9.9.9/path",
        "http://[::1]:9000",
    ],
)
def test_a_local_stand_in_may_be_asked_often(env: Environment, base: str) -> None:
    given(
        env,
        STRIPE_SECRET_KEY="key",
        STRIPE_API_BASE=base,
        SUPABASE_URL=base,
        SUPABASE_ANON_KEY="key",
        HEALTH_EXTERNAL_INTERVAL_SECONDS="0.1",
    )


@pytest.mark.parametrize(
    "base",
    [
        "http://localhost.example.com",
        "http://10.0.0.1",
        "https://api.stripe.com",
        "http://user@127.0.0.1@example.com",
        "http://128.0.0.1",
        "127.0.0.1:9000",
        "nonsense",
    ],
)
def test_what_only_looks_local_is_remote(env: Environment, base: str) -> None:
    line = refusal(
        env,
        STRIPE_SECRET_KEY="key",
        STRIPE_API_BASE=base,
        HEALTH_EXTERNAL_INTERVAL_SECONDS="1",
    )
    assert "HEALTH_EXTERNAL_INTERVAL_SECONDS" in line
    assert base not in line


@pytest.mark.parametrize("base", ["http://[::1", "http://[pa55word]/", "https://[v1.x]:y"])
def test_a_url_that_cannot_be_read_is_named_and_not_shown(env: Environment, base: str) -> None:
    """Whether it is refused here or found ``configuration_invalid`` by the probe."""
    line = "SUPABASE_URL"
    try:
        given(env, SUPABASE_URL=base, SUPABASE_ANON_KEY="key")
    except SettingsError as error:
        line = str(error)
    assert "SUPABASE_URL" in line
    assert base not in line
    assert "pa55word" not in line


def test_one_remote_provider_is_enough(env: Environment) -> None:
    line = refusal(
        env,
        STRIPE_SECRET_KEY="key",
        STRIPE_API_BASE="http://localhost",
        RESEND_API_KEY="key",
        HEALTH_EXTERNAL_INTERVAL_SECONDS="1",
    )
    assert "email_service_resend" in line


# -- the exit status


def start(**variables: str) -> "subprocess.CompletedProcess[str]":
    """A service that is to start with these variables, and may end before it has."""
    program = "from service.settings import load_or_exit; load_or_exit()"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        pytest.param(
            {"HEALTH_DETAILS_TOKEN": "pa55word"},
            "HEALTH_DETAILS_TOKEN: each token must have at least 16 characters",
            id="a short token",
        ),
        pytest.param(
            {"DATABASE_URL": "x", "DATABASE_URL_FILE": "/nowhere"},
            "DATABASE_URL and DATABASE_URL_FILE are both set: remove one",
            id="both",
        ),
    ],
)
def test_a_service_that_cannot_start_says_so_in_one_line(
    variables: dict[str, str], line: str
) -> None:
    started = start(**variables)
    assert started.returncode == EX_CONFIG == 78
    assert started.stderr == f"mingus-health: {line}\n"
    assert started.stdout == ""


def test_a_service_without_any_variable_starts() -> None:
    started = start()
    assert (started.returncode, started.stderr) == (0, "")


@pytest.mark.parametrize(("name", "value"), [("PORT", "many"), ("HEALTH_BOOT_SECONDS", "0")])
def test_every_refusal_has_the_same_exit_status(
    env: Environment, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    env.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        load_or_exit()
    assert end.value.code == EX_CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mingus-health: {name}: ")


@pytest.mark.parametrize(
    ("given", "floor"), [("strict", None), ("floor:1", 1.0), ("floor:50", 50.0), ("floor:99", 99.0)]
)
def test_the_readiness_floor(env: Environment, given: str, floor: float | None) -> None:
    env.setenv("READINESS_POLICY", given)
    assert load().readiness_floor == floor


@pytest.mark.parametrize("given", ["floor", "floor:0", "floor:100", "floor:5.5", "lenient", "50"])
def test_a_policy_nobody_knows(env: Environment, given: str) -> None:
    env.setenv("READINESS_POLICY", given)
    with pytest.raises(SettingsError, match="READINESS_POLICY: must be strict, or floor:"):
        load()


def test_where_the_runbook_is(env: Environment) -> None:
    assert load().runbook == "docs/operations.md"
    env.setenv("HEALTH_RUNBOOK_URL", "https://wiki.test/health")
    assert load().runbook == "https://wiki.test/health"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "wiki", "https://", "https://x/#y", "//x"])
def test_a_runbook_that_no_link_may_lead_to(env: Environment, url: str) -> None:
    env.setenv("HEALTH_RUNBOOK_URL", url)
    with pytest.raises(SettingsError, match="HEALTH_RUNBOOK_URL: must be an http or https URL"):
        load()


# -- webhooks


def test_a_webhook_secret_is_bytes_in_base64(env: Environment) -> None:
    assert given(env).webhook_key is None
    for text in (WEBHOOK_SECRET, WEBHOOK_SECRET.removeprefix("whsec_")):
        assert given(env, HEALTH_WEBHOOK_SECRET=text).webhook_key == bytes(range(24))


@pytest.mark.parametrize(
    "text",
    [
        "whsec_",
        "whsec_not base64",
        b64encode(bytes(23)).decode(),
        b64encode(bytes(65)).decode(),
        "a passphrase of at least 24 characters",
    ],
)
def test_a_webhook_secret_that_is_no_key_is_refused(env: Environment, text: str) -> None:
    line = refusal(env, HEALTH_WEBHOOK_SECRET=text)
    assert line.startswith("HEALTH_WEBHOOK_SECRET must be whsec_ and 24 to 64 bytes in base64")
    assert text.removeprefix("whsec_") == "" or text not in line


def test_a_generic_webhook_is_signed(env: Environment) -> None:
    line = refusal(env, HEALTH_WEBHOOK_URL="https://hooks.example.com/pa55word")
    assert line == "HEALTH_WEBHOOK_URL needs HEALTH_WEBHOOK_SECRET, which is not set"


RECEIVERS = ("HEALTH_WEBHOOK_URL", "HEALTH_SLACK_WEBHOOK_URL")


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.com/pa55word", "must be https"),
        ("http://10.0.0.1/pa55word", "must be https"),
        ("http://127.0.0.1.example.com/pa55word", "must be https"),
        ("ftp://hooks.example.com/pa55word", "must look like https://host/path"),
        ("https://", "must look like https://host/path"),
        ("pa55word", "must look like https://host/path"),
        ("https://user:pa55word@example.com", "must look like https://host/path"),
        ("https://example.com:port/pa55word", "must look like https://host/path"),
        ("https://example.com/pa55 word", "must look like https://host/path"),
        ("https://example.com/pa55word#fragment", "must look like https://host/path"),
        ("https://[pa55word", "must look like https://host/path"),
        ("https://a..b/pa55word", "must look like https://host/path"),
    ],
)
def test_where_messages_are_not_sent(env: Environment, name: str, url: str, why: str) -> None:
    line = refusal(env, **{"HEALTH_WEBHOOK_SECRET": WEBHOOK_SECRET, name: url})
    assert line.startswith(f"{name} {why}")
    assert "pa55" not in line


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.com/services/T0/B0/abc",
        "https://hooks.example.com:8443/a?token=b@c",
        "http://127.0.0.1:9000/hook",
        "http://[::1]:9000",
        "http://localhost",
    ],
)
def test_where_messages_are_sent(env: Environment, name: str, url: str) -> None:
    given(env, **{"HEALTH_WEBHOOK_SECRET": WEBHOOK_SECRET, name: url})


@pytest.mark.parametrize("name", RECEIVERS)
def test_plain_http_can_be_allowed(env: Environment, name: str) -> None:
    given(
        env,
        HEALTH_ALLOW_INSECURE_PROVIDERS="true",
        HEALTH_WEBHOOK_SECRET=WEBHOOK_SECRET,
        **{name: "http://receiver.monitoring:8080"},
    )
