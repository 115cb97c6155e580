"""Every variable the service knows: declared, parsed and checked once, documented by a test.

This is the only module that reads the environment. An empty value counts as unset, in a list
the word ``none`` is the empty list, and a secret ``NAME`` may also come from the file that
``NAME_FILE`` names. A value that cannot be used ends the start with exit status 78
(EX_CONFIG) and one line that names the variable and never its value.
"""

import os
import re
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticUseDefault
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

EX_CONFIG = 78
MIN_TOKEN_LENGTH = 16
MIN_REMOTE_INTERVAL = 15.0
# Of a key that signs webhooks; see standardwebhooks.com.
KEY_BYTES = range(24, 65)

PROVIDERS = ("supabase_api", "stripe_api", "email_service_resend", "sms_service_twilio")
CHECKS = ("database", "redis", *PROVIDERS, "system_resources", "application")

Network = IPv4Network | IPv6Network

_NETWORK_WORDS = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    ),
}


class SettingsError(Exception):
    """A setting cannot be used; the message is the one line to print."""


def _wrong(message: str) -> PydanticCustomError:
    # A custom error's text is ours alone: pydantic's own may quote what was given.
    return PydanticCustomError("setting", message)


def _words(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = tuple(word.strip() for word in value.split(",") if word.strip())
    return () if words == ("none",) else words


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _not_of_a_service(value: Any) -> Any:
    """A port, but for what Kubernetes sets for a Service that happens to be called the same."""
    if isinstance(value, str) and value.startswith("tcp://"):
        raise PydanticUseDefault
    return value


def _module_and_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(\))?", value):
        raise _wrong("must be a module and a name in it, such as myshop.wsgi:app")
    return value


def _readiness_policy(value: str) -> str:
    if not re.fullmatch(r"strict|floor:([1-9][0-9]?)", value):
        raise _wrong("must be strict, or floor: and a percentage from 1 to 99, such as floor:50")
    return value


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[!-~]+", value) or "#" in value:
        raise _wrong("must be an http or https URL, without a fragment")
    return value


def _tokens(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if any(len(token.get_secret_value()) < MIN_TOKEN_LENGTH for token in value):
        raise _wrong(f"each token must have at least {MIN_TOKEN_LENGTH} characters")
    return value


def _networks(texts: Iterable[str], words: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError:
        raise _wrong(
            f"must be a comma-separated list of CIDRs, without host bits, and of {words}"
        ) from None


def _trusted_networks(value: Any) -> tuple[Network, ...]:
    texts = [text for word in _words(value) for text in _NETWORK_WORDS.get(word, (word,))]
    return _networks(texts, "the words loopback and private")


def _trusted_proxies(value: Any) -> tuple[Network | Literal["unix"], ...]:
    words = _words(value)
    networks = _networks((word for word in words if word != "unix"), "the word unix")
    return (*networks, "unix") if "unix" in words else networks


def _known_checks(value: tuple[str, ...]) -> tuple[str, ...]:
    if not set(value) <= set(CHECKS):
        raise _wrong(f"must be a comma-separated list of {', '.join(CHECKS)}")
    return value


def _not_refused(value: tuple[str, ...]) -> tuple[str, ...]:
    refused = {*PROVIDERS, "system_resources", "application"} & set(value)
    if refused:
        raise _wrong(
            f"{min(refused)} cannot decide about the pod; "
            "allowed are database, redis and checks the application registers"
        )
    return value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
DecidingChecks = Annotated[Words, AfterValidator(_not_refused)]
Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_not_of_a_service)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Interval = Annotated[float, Field(ge=0.1, le=86400, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Reference = Annotated[str, AfterValidator(_module_and_name)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_trusted_networks)]
Proxies = Annotated[
    tuple[Network | Literal["unix"], ...], NoDecode, BeforeValidator(_trusted_proxies)
]


def _var(default: Any, description: str, *, alias: str = "", name: str = "") -> Any:
    """A setting: its default, what it means, and the older name it may also go by."""
    names = AliasChoices(name, alias) if alias else None
    return Field(default=default, description=description, validation_alias=names)


class Settings(BaseSettings):
    """What the environment says, checked. Field names are the variables in lower case.

    Raises:
        SettingsError: From ``load``; building it directly raises pydantic's ValidationError.
    """

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    # -- Service
    bind_host: str = _var("0.0.0.0", "address of both listeners")  # noqa: S104 - a pod's listener
    port: Port = _var(5003, "web listener")
    health_port: Port = _var(5004, "health listener, which request traffic cannot starve")
    web_concurrency: Count = _var(4, "web workers")
    threads: Count = _var(4, "threads of each web worker (`gthread`)")
    worker_class: Literal["gthread", "sync"] = _var("gthread", "class of the web workers")
    app_module: Reference | None = _var(None, "another WSGI application to serve")
    health_checks: Reference | None = _var(
        None, "function that returns the application's own checks"
    )
    startup_tasks: Reference | None = _var(
        None, "function that returns the work to be done before the pod serves"
    )
    startup_tasks_without_redis: Literal["wait", "proceed"] = _var(
        "wait",
        "once-per-release tasks while the configured Redis is down: `wait` for it, or `proceed`, "
        "as the database alone admits one of several pods",
    )
    run_dir: Path | None = _var(
        None, "directory of the pod's disposable files; chosen by user and port if unset"
    )
    prometheus_multiproc_dir: Path | None = _var(
        None, "directory of the metric files; `metrics` inside `RUN_DIR` if unset"
    )
    app_name: str = _var("MINGUS", "name shown to callers")
    app_version: str = _var("1.0.0", "version shown to callers")
    app_release: Annotated[str, Field(max_length=200)] | None = _var(
        None, "name of the release, such as a git commit; what is done once per release needs it"
    )
    app_env: str = _var("production", "name of the environment", name="app_env", alias="flask_env")
    flask_debug: bool = _var(default=False, description="shown to trusted callers as `debug_mode`")
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
    ] = _var("INFO", "least severe log lines that are written")

    # -- Database
    database_url: SecretStr | None = _var(None, "any SQLAlchemy URL")
    db_pool_size: Count = _var(10, "connections each worker's pool keeps")
    db_max_overflow: Annotated[int, Field(ge=0)] = _var(
        20, "connections each worker's pool may open beyond them"
    )
    db_pool_utilization_threshold: Annotated[float, Field(gt=0, le=1)] = _var(
        0.8, "share of a pool in use from which it is `pool_saturated`"
    )
    db_response_warning_ms: Milliseconds = _var(
        1000,
        "connection test slower than this is `slow_response`",
        name="db_response_warning_ms",
        alias="db_connection_timeout_threshold_ms",
    )
    health_expected_migration: str | None = _var(
        None, "revision the schema should be at, read from `alembic_version`"
    )

    # -- Redis
    redis_url: SecretStr | None = _var(
        None,
        "`redis://`, `rediss://` or `unix://`, or `redis+sentinel://one:26379,two:26379/master/0`; "
        "wins over the family below",
    )
    redis_host: str | None = _var(None, "name or address of the Redis server")
    redis_port: Port = _var(6379, "port of that server")
    redis_db: Annotated[int, Field(ge=0)] = _var(0, "number of the database on that server")
    redis_username: str | None = _var(None, "user to log in as; the server's default user if unset")
    redis_password: SecretStr | None = _var(None, "password to log in with")
    redis_memory_warning_percent: Percent = _var(
        90,
        "use of `maxmemory` above which it is `memory_high`",
        name="redis_memory_warning_percent",
        alias="redis_memory_threshold_percent",
    )
    redis_memory_critical_percent: Percent = _var(
        95, "use of `maxmemory` above which it is `memory_critical`"
    )
    redis_fragmentation_warning_ratio: Annotated[float, Field(gt=0)] = _var(
        1.5, "resident by used memory, above which it is `fragmentation_high`"
    )
    redis_fragmentation_min_bytes: Annotated[int, Field(ge=0)] = _var(
        104857600, "use below which fragmentation does not count"
    )
    redis_response_warning_ms: Milliseconds = _var(
        500,
        "PING slower than this is `slow_response`",
        name="redis_response_warning_ms",
        alias="redis_connection_timeout_threshold_ms",
    )
    redis_embedded: Literal["auto", "off"] = _var(
        "auto",
        "`auto`: used when neither `REDIS_URL` nor `REDIS_HOST` is set and a server is "
        "installed; `off`",
    )
    health_redis_key_prefix: str = _var("mingus:health:", "begins every key the service writes")

    # -- Providers
    supabase_url: str | None = _var(None, "base URL of the Supabase project")
    supabase_anon_key: SecretStr | None = _var(
        None,
        "key of that project, sent as `apikey`",
        name="supabase_anon_key",
        alias="supabase_key",
    )
    supabase_health_path: str = _var("/auth/v1/health", "path asked for at that URL")
    stripe_secret_key: SecretStr | None = _var(None, "secret key; a restricted one will do")
    stripe_api_base: str = _var("https://api.stripe.com", "base URL of Stripe's API")
    resend_api_key: SecretStr | None = _var(None, "API key; one that may only send will do")
    resend_api_base: str = _var("https://api.resend.com", "base URL of Resend's API")
    twilio_account_sid: str | None = _var(None, "account to ask about, and the user to log in as")
    twilio_auth_token: SecretStr | None = _var(None, "auth token of that account")
    twilio_api_base: str = _var("https://api.twilio.com", "base URL of Twilio's API")
    external_response_warning_ms: Milliseconds = _var(
        3000,
        "provider slower than this is `slow_response`",
        name="external_response_warning_ms",
        alias="external_api_timeout_threshold_ms",
    )
    health_allow_insecure_providers: bool = _var(
        default=False,
        description="send credentials and webhooks over plain `http` to other hosts than loopback",
    )

    # -- Resources
    cpu_warning_percent: Percent = _var(
        80,
        "use from which on it is `cpu_high`",
        name="cpu_warning_percent",
        alias="cpu_usage_threshold_percent",
    )
    cpu_critical_percent: Percent = _var(95, "use from which on it is `cpu_critical`")
    memory_warning_percent: Percent = _var(
        80,
        "use from which on it is `memory_high`",
        name="memory_warning_percent",
        alias="memory_usage_threshold_percent",
    )
    memory_critical_percent: Percent = _var(95, "use from which on it is `memory_critical`")
    disk_warning_percent: Percent = _var(
        80,
        "use from which on it is `disk_high`",
        name="disk_warning_percent",
        alias="disk_usage_threshold_percent",
    )
    disk_critical_percent: Percent = _var(95, "use from which on it is `disk_critical`")
    health_disk_path: Path = _var(Path("/"), "path whose file system is watched")

    # -- Schedule and verdicts
    health_database_interval_seconds: Interval = _var(
        5, "from the end of a run to the start of the next"
    )
    health_database_timeout_seconds: Seconds = _var(2, "time a run may take; beyond it `timeout`")
    health_redis_interval_seconds: Interval = _var(
        5, "from the end of a run to the start of the next"
    )
    health_redis_timeout_seconds: Seconds = _var(1, "time a run may take; beyond it `timeout`")
    health_external_interval_seconds: Interval = _var(
        60,
        "from the end of a run to the start of the next; at least 15 where a provider "
        "is not on loopback",
    )
    health_external_timeout_seconds: Seconds = _var(
        5, "time a run of a provider may take; beyond it `timeout`"
    )
    health_resources_interval_seconds: Interval = _var(
        5, "from the end of a run to the start of the next"
    )
    health_failure_threshold: Count = _var(2, "unhealthy runs in a row before a check fails")
    health_success_threshold: Count = _var(2, "other runs in a row before it has recovered")
    health_critical_checks: DecidingChecks = _var(
        ("database", "redis"), "checks without which the pod is not ready"
    )
    health_startup_checks: DecidingChecks | None = _var(
        None, "checks without which the pod has not started; the critical ones if unset"
    )
    health_require_configured: Annotated[Words, AfterValidator(_known_checks)] = _var(
        (), "checks without whose settings the service refuses to start"
    )
    health_fleet_interval_seconds: Annotated[float, Field(ge=2, le=3600)] = _var(
        10, "from one sync of this pod with the others, through the configured Redis, to the next"
    )
    readiness_policy: Annotated[str, AfterValidator(_readiness_policy)] = _var(
        "strict",
        "`strict`; or `floor:` and a percentage: when one check fails in more of the pods than "
        "that, they stay ready with it",
    )
    health_drain_seconds: Annotated[float, Field(ge=0, le=3600)] = _var(
        10, "time between SIGTERM and the graceful stop; may be 0"
    )
    health_liveness_stall_seconds: Seconds = _var(
        60, "time without progress after which a worker is stuck"
    )
    health_boot_seconds: Seconds = _var(60, "time a worker may take to boot, before it is replaced")

    # -- Events
    health_runbook_url: Annotated[str, AfterValidator(_http_url)] | None = _var(
        None,
        "where docs/operations.md is published: begins the links of messages, commands and the "
        "status page",
    )
    health_webhook_url: SecretStr | None = _var(
        None, "where failures and recoveries are told by POST, signed; `https`"
    )
    health_webhook_secret: SecretStr | None = _var(
        None,
        "signs what is sent there: `whsec_` and 24 to 64 random bytes in base64",
    )
    health_slack_webhook_url: SecretStr | None = _var(
        None, "incoming webhook of Slack, or of what understands its `text`; `https`"
    )
    health_webhook_min_interval_seconds: Annotated[float, Field(ge=0, le=86400)] = _var(
        60, "time from one message about a check to the next at least; what passes is not told"
    )

    # -- Disclosure
    health_trusted_networks: Networks = _var(
        "loopback", "CIDRs and the words `loopback` and `private`"
    )
    health_trusted_proxies: Proxies = _var((), "CIDRs, and the word `unix` for a Unix-socket peer")
    health_trusted_hosts: Words = _var((), "names a direct caller may use for the service")
    health_details_token: Annotated[
        tuple[SecretStr, ...], NoDecode, BeforeValidator(_words), AfterValidator(_tokens)
    ] = _var((), "comma-separated bearer tokens, each of at least 16 characters")

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """The environment is bytes; what is not UTF-8 could not be shown in any answer."""
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise _wrong("must be UTF-8") from None
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """What must hold between settings."""
        for part in ("cpu", "memory", "disk", "redis_memory"):
            if getattr(self, f"{part}_warning_percent") > getattr(self, f"{part}_critical_percent"):
                low, high = f"{part}_WARNING_PERCENT", f"{part}_CRITICAL_PERCENT"
                raise _wrong(f"{low.upper()} must not be above {high.upper()}")
        if self.port == self.health_port:
            raise _wrong("HEALTH_PORT must differ from PORT")
        self._check_names()
        self._check_provider_interval()
        self._check_webhooks()
        missing = [name for name in self.health_require_configured if not self.configured(name)]
        if missing:
            raise _wrong(
                f"HEALTH_REQUIRE_CONFIGURED names {missing[0]}, which is not configured: "
                f"set {CONFIGURED_BY[missing[0]]}"
            )
        return self

    def _check_names(self) -> None:
        if self.health_checks is not None:
            return  # the application's own names are known only once they are registered
        for variable in ("health_critical_checks", "health_startup_checks"):
            unknown = set(getattr(self, variable) or ()) - set(CHECKS)
            if unknown:
                raise _wrong(
                    f"{variable.upper()} names an unknown check; known are database and redis, "
                    "and those of HEALTH_CHECKS, which is not set"
                )

    def _check_provider_interval(self) -> None:
        remote = [
            name
            for name in PROVIDERS
            if self.configured(name) and not is_loopback(self.provider_base(name))
        ]
        if remote and self.health_external_interval_seconds < MIN_REMOTE_INTERVAL:
            raise _wrong(
                "HEALTH_EXTERNAL_INTERVAL_SECONDS must be at least 15: the calls count against "
                f"the account's rate limit ({remote[0]})"
            )

    def _check_webhooks(self) -> None:
        for variable in ("health_webhook_url", "health_slack_webhook_url"):
            url = getattr(self, variable)
            if url is not None:
                _check_receiver(variable, url, insecure=self.health_allow_insecure_providers)
        if self.health_webhook_url is not None and self.health_webhook_secret is None:
            raise _wrong("HEALTH_WEBHOOK_URL needs HEALTH_WEBHOOK_SECRET, which is not set")
        if self.webhook_key is not None and len(self.webhook_key) not in KEY_BYTES:
            raise _wrong(
                "HEALTH_WEBHOOK_SECRET must be whsec_ and 24 to 64 bytes in base64, as from "
                "openssl rand -base64 32"
            )

    @property
    def webhook_key(self) -> bytes | None:
        """The bytes that sign the generic webhook; none where they cannot be read."""
        if self.health_webhook_secret is None:
            return None
        try:
            text = self.health_webhook_secret.get_secret_value().removeprefix("whsec_")
            return b64decode(text, validate=True)
        except ValueError:
            return b""

    def provider_base(self, name: str) -> str:
        """Base URL of a provider, by the name of its check."""
        return {
            "supabase_api": self.supabase_url or "",
            "stripe_api": self.stripe_api_base,
            "email_service_resend": self.resend_api_base,
            "sms_service_twilio": self.twilio_api_base,
        }[name]

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every value that must not be shown, and the passwords inside URLs."""
        values = [value for _, value in self if isinstance(value, SecretStr)]
        texts = [value.get_secret_value() for value in (*values, *self.health_details_token)]
        passwords = [password for text in texts if (password := _password(text))]
        return (*texts, *passwords)

    def given(self, name: str) -> tuple[bool, ...]:
        """Which of the settings a check needs are there, by the name of the check."""
        needs: dict[str, tuple[Any, ...]] = {
            "database": (self.database_url,),
            "redis": (self.redis_url or self.redis_host,),
            "supabase_api": (self.supabase_url, self.supabase_anon_key),
            "stripe_api": (self.stripe_secret_key,),
            "email_service_resend": (self.resend_api_key,),
            "sms_service_twilio": (self.twilio_account_sid, self.twilio_auth_token),
        }
        return tuple(value is not None for value in needs.get(name, (True,)))

    def configured(self, name: str) -> bool:
        """Whether a check has all the settings it needs."""
        return all(self.given(name))

    @property
    def startup_checks(self) -> tuple[str, ...]:
        """Checks without which the pod has not started."""
        if self.health_startup_checks is None:
            return self.health_critical_checks
        return self.health_startup_checks

    @property
    def readiness_floor(self) -> float | None:
        """Percent of the pods that may go unready for one check; None when there is no limit."""
        return None if self.readiness_policy == "strict" else float(self.readiness_policy[6:])

    @property
    def directory(self) -> Path:
        """The pod's run directory: one for each user and port unless it is set."""
        if self.run_dir is not None:
            return self.run_dir
        return Path(tempfile.gettempdir()) / f"mingus-health-{os.getuid()}-{self.port}"

    @property
    def metrics_directory(self) -> Path:
        """Where the metric files are."""
        return self.prometheus_multiproc_dir or self.directory / "metrics"

    @property
    def runbook(self) -> str:
        """Where the runbook is read."""
        return self.health_runbook_url or "docs/operations.md"

    @property
    def redis_address(self) -> str | None:
        """URL of the configured Redis server, or None."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        if self.redis_host is None:
            return None
        user = quote(self.redis_username or "", safe="")
        secret = self.redis_password
        word = quote(secret.get_secret_value(), safe="") if secret else ""
        login = f"{user}:{word}@" if user or word else ""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{login}{host}:{self.redis_port}/{self.redis_db}"


def _check_receiver(variable: str, url: SecretStr, *, insecure: bool) -> None:
    """Refuses a URL that messages must not be sent to."""
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")  # an empty label, or one that is too long
        _ = parts.port  # no number, or too high
    except ValueError:
        parts, host = urlsplit(""), b""
    odd = not re.fullmatch(r"[!-~]+", text) or "\\" in text or "@" in parts.netloc
    if odd or not host or parts.scheme not in ("http", "https") or parts.fragment:
        raise _wrong(f"{variable.upper()} must look like https://host/path")
    if parts.scheme == "http" and not (insecure or is_loopback(text)):
        raise _wrong(
            f"{variable.upper()} must be https, but for loopback addresses; "
            "HEALTH_ALLOW_INSECURE_PROVIDERS allows any"
        )


CONFIGURED_BY = {
    "database": "DATABASE_URL",
    "redis": "REDIS_URL or REDIS_HOST",
    "supabase_api": "SUPABASE_URL and SUPABASE_ANON_KEY",
    "stripe_api": "STRIPE_SECRET_KEY",
    "email_service_resend": "RESEND_API_KEY",
    "sms_service_twilio": "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN",
}


def variables(field: str) -> list[str]:
    """The variables a field is read from, the preferred name first."""
    alias = Settings.model_fields[field].validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [field]
    return [str(name).upper() for name in names]


def is_secret(field: str) -> bool:
    """Whether a field holds a secret, and so may be given as a file."""
    return "SecretStr" in str(Settings.model_fields[field].annotation)


def _password(url: str) -> str | None:
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:  # no URL
        return None


def is_loopback(url: str) -> bool:
    """Whether a URL points to this very machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_network(host).is_loopback
    except ValueError:  # no address, or no URL at all
        return False


def load() -> Settings:
    """The settings as the environment gives them.

    Raises:
        SettingsError: A value cannot be used.
    """
    try:
        return Settings(**_from_files())
    except ValidationError as error:
        raise SettingsError("; ".join(_line(entry) for entry in error.errors())) from None


def load_or_exit() -> Settings:
    """The settings; or exit status 78 and one line on standard error."""
    try:
        return load()
    except SettingsError as error:
        sys.stderr.write(f"mingus-health: {error}\n")
        raise SystemExit(EX_CONFIG) from None


def _from_files() -> dict[str, Any]:
    """The secrets that are given as files, by the preferred name of their variable."""
    named = [
        (name, path)
        for field in Settings.model_fields
        if is_secret(field)
        for name in variables(field)
        if (path := os.environ.get(f"{name}_FILE"))
    ]
    contents = {name.lower(): _content(name, Path(path)) for name, path in named}
    return {name: content for name, content in contents.items() if content}


def _content(name: str, path: Path) -> str:
    if os.environ.get(name):
        raise SettingsError(f"{name} and {name}_FILE are both set: remove one")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SettingsError(f"{name}_FILE: cannot be read: {why}") from None


def _line(entry: Any) -> str:
    where = "".join(str(part) for part in entry["loc"][:1])
    return f"{where.upper()}: {entry['msg']}" if where else str(entry["msg"])


def activated() -> bool:
    """Whether systemd has opened the listeners for this process."""
    return os.environ.get("LISTEN_PID") == str(os.getpid())


def sources() -> dict[str, str]:
    """The variable that each field was read from; a field that has its default is not there.

    Raises:
        SettingsError: A file cannot be read.
    """
    files = {name.upper(): f"{name.upper()}_FILE" for name in _from_files()}
    given = {
        name.upper(): name
        for name, value in os.environ.items()
        if value and not value.startswith("tcp://")  # see _not_of_a_service
    }
    found = {**given, **files}
    return {
        field: found[names[0]]
        for field in Settings.model_fields
        if (names := [name for name in variables(field) if name in found])
    }


def wants_colour() -> bool:
    """Whether colours are welcome on a terminal; see https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def dumb_terminal() -> bool:
    """Whether the terminal, if it is one, can print lines and nothing else."""
    return os.environ.get("TERM", "dumb") in ("", "dumb")


def environment() -> dict[str, str]:
    """The environment of a process that only imports the application.

    What it counts meanwhile must not be added to the pod's metrics.
    """
    return {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
