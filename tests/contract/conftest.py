"""The pods the contract is tested on.

A pod takes seconds to start, so the ones nobody changes for good are shared:

    plain    sqlite and the embedded Redis: what `make run` gives
    estate   everything configured, everything behind lines that can be cut
    still    everything configured, every check has run once and does not run again
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.audit import Audit, becomes, checks, comes_to_be_well
from tests.pod import UNHURRIED, Pod
from tests.servers.faults import Fault, FaultProxy
from tests.servers.postgres import PASSWORD as POSTGRES_PASSWORD
from tests.servers.postgres import Postgres
from tests.servers.providers import KEYS, TWILIO_SID, ProviderServer, answer_right
from tests.servers.redis import PASSWORD as REDIS_PASSWORD
from tests.servers.redis import SERVERS, RedisServer, binary

Launch = Callable[..., Pod]

ROLE, ROLE_PASSWORD = "clerk_of_the_tests", "cl3rk-s3cr3t"
LEDGER = "ledger_of_the_tests"


@contextmanager
def launching(factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Makes pods, launched and not waited for, that end with the context.

    A pod may be ``bare`` of all variables but its own, or listen on a ``unix`` socket too.
    """
    pods: list[Pod] = []
    with ExitStack() as stack:
        stack.callback(end, pods)

        def launch(*options: str, bare: bool = False, unix: str = "", **settings: str) -> Pod:
            pod = Pod(factory.mktemp("pod"), *options, **settings)
            if unix:
                places = (f"127.0.0.1:{pod.port}", f"127.0.0.1:{pod.health_port}", f"unix:{unix}")
                pod.environ["GUNICORN_CMD_ARGS"] = " ".join(f"--bind {place}" for place in places)
            if bare:
                kept = {"PATH", "HOME", "PYTHONPATH", "PORT", "HEALTH_PORT", "RUN_DIR", *settings}
                environ = pod.environ.items()
                pod.environ = {
                    name: value
                    for name, value in environ
                    if name in kept or name.startswith("COVERAGE")
                }
            pods.append(pod.launch())
            return pod

        yield launch


def end(pods: list[Pod]) -> None:
    """Ends them all, at the same time where they know how to end."""
    for pod in pods:
        if pod.process is not None and pod.process.poll() is None:
            pod.process.terminate()
    for pod in pods:
        with suppress(subprocess.TimeoutExpired):
            pod.process and pod.process.wait(10)
        pod.stop()


def served(pod: Pod) -> Pod:
    """The pod, as soon as it serves."""
    return pod.wait_for(200, "/api/system/health/startup")


@pytest.fixture(scope="package")
def session_launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    with launching(tmp_path_factory) as launch:
        yield launch


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    with launching(tmp_path_factory) as launch:
        yield launch


# -- servers


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def each_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binary(request.param)) as server:
        yield server


# -- shared pods


# How busy the machine is that runs the tests shows here only if not a moment of it is idle, and
# only from the start on: later it would take a thousand such measurements in a row.
CALM = {
    **UNHURRIED,
    "CPU_WARNING_PERCENT": "100",
    "CPU_CRITICAL_PERCENT": "100",
    "HEALTH_FAILURE_THRESHOLD": "1000",
}


@pytest.fixture(scope="package")
def plain(session_launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """sqlite and the embedded Redis. Tests only look at it."""
    database = tmp_path_factory.mktemp("plain") / "shop.sqlite3"
    return served(session_launch(DATABASE_URL=f"sqlite:///{database}", **CALM))


@dataclass
class Estate:
    """A pod with everything configured, and everything it depends on.

    Attributes:
        pod: The pod.
        audit: Looks at everything it says.
        postgres: Its database server; the pod is ``ROLE`` there and uses ``LEDGER``.
        redis: Its Redis server.
        providers: All four providers.
        lines: What is between the pod and ``database``, ``redis`` and ``providers``.
    """

    pod: Pod
    audit: Audit
    postgres: Postgres
    redis: RedisServer
    providers: ProviderServer
    lines: dict[str, FaultProxy]

    def cut(self, fault: Fault) -> None:
        """The same fault on every line."""
        for line in self.lines.values():
            line.fault = fault

    def heal(self) -> None:
        """Everything works again, and the pod says so."""
        self.cut(Fault.NONE)
        for provider in KEYS:
            self.providers.behave(provider, answer_right)
        comes_to_be_well(self.pod)

    def say(self, **wanted: tuple[str, str | None]) -> None:
        """Waits until the pod says these statuses and codes."""

        def said() -> dict[str, tuple[str, str | None]]:
            found = checks(self.pod)
            return {name: found[name] for name in wanted}

        becomes(said, wanted, "what the pod says")


@pytest.fixture(scope="package")
def whole_estate(session_launch: Launch, postgres: Postgres) -> Iterator[Estate]:
    postgres.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE_PASSWORD}'")
    postgres.execute(f"CREATE DATABASE {LEDGER} OWNER {ROLE}")
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(binary("valkey"), password=REDIS_PASSWORD))
        providers = stack.enter_context(ProviderServer())
        ports = {"database": postgres.port, "redis": redis.port, "providers": providers.port}
        lines = {
            name: stack.enter_context(FaultProxy(("127.0.0.1", port)))
            for name, port in ports.items()
        }
        pod = served(session_launch(**_estate_settings(providers, lines)))
        yield Estate(
            pod, Audit(pod, _estate_secrets(ports, lines)), postgres, redis, providers, lines
        )


def _estate_settings(providers: ProviderServer, lines: dict[str, FaultProxy]) -> dict[str, str]:
    host, port = lines["database"].address
    redis_port, provider_port = lines["redis"].address[1], lines["providers"].address[1]
    return {
        "DATABASE_URL": f"postgresql://{ROLE}:{ROLE_PASSWORD}@{host}:{port}/{LEDGER}",
        "REDIS_URL": f"redis://:{quote(REDIS_PASSWORD, safe='')}@{host}:{redis_port}/0",
        **{
            name: value.replace(f":{providers.port}/", f":{provider_port}/")
            for name, value in providers.environment.items()
        },
        "HEALTH_DATABASE_INTERVAL_SECONDS": "0.2",
        "HEALTH_REDIS_INTERVAL_SECONDS": "0.2",
        "HEALTH_EXTERNAL_INTERVAL_SECONDS": "0.2",
        "HEALTH_EXTERNAL_TIMEOUT_SECONDS": "1",
        "EXTERNAL_RESPONSE_WARNING_MS": "400",
    }


def _estate_secrets(ports: dict[str, int], lines: dict[str, FaultProxy]) -> tuple[str, ...]:
    addresses = (*ports.values(), *(line.address[1] for line in lines.values()))
    passwords = (POSTGRES_PASSWORD, ROLE_PASSWORD, REDIS_PASSWORD, quote(REDIS_PASSWORD, safe=""))
    return (
        *passwords,
        *KEYS.values(),
        TWILIO_SID,
        ROLE,
        LEDGER,
        "127.0.0.1",
        "localhost",
        *(f":{port}" for port in addresses),
    )


@pytest.fixture
def estate(whole_estate: Estate) -> Iterator[Estate]:
    """Everything works at the beginning of the test, and again at its end."""
    whole_estate.heal()
    yield whole_estate
    whole_estate.heal()


TOKENS = ("the-first-token-of-two", "the-second-token-of-two")
PROXY = "127.0.0.2"  # every address of 127/8 is this machine


@dataclass
class Still:
    """A pod whose checks have all run once, and do not run again for hours."""

    pod: Pod
    postgres: Postgres
    redis: RedisServer
    providers: ProviderServer
    application_name: str


@pytest.fixture(scope="package")
def still(session_launch: Launch, postgres: Postgres) -> Iterator[Still]:
    name = "the-still-pod"
    with RedisServer(binary("valkey")) as redis, ProviderServer() as providers:
        pod = served(session_launch(**_still_settings(postgres, redis, providers, name)))
        yield Still(pod, postgres, redis, providers, name)


def _still_settings(
    postgres: Postgres, redis: RedisServer, providers: ProviderServer, name: str
) -> dict[str, Any]:
    checked = ("DATABASE", "REDIS", "EXTERNAL", "RESOURCES")
    limited = ("DATABASE", "REDIS", "EXTERNAL")
    slow = ("DB_RESPONSE", "REDIS_RESPONSE", "EXTERNAL_RESPONSE")
    return {
        "DATABASE_URL": f"{postgres.create_database('still')}?application_name={name}",
        "REDIS_URL": redis.url,
        **providers.environment,
        **{f"HEALTH_{check}_INTERVAL_SECONDS": "7200" for check in checked},
        **{f"HEALTH_{check}_TIMEOUT_SECONDS": "30" for check in limited},
        **{f"{answer}_WARNING_MS": "30000" for answer in slow},
        "HEALTH_FLEET_INTERVAL_SECONDS": "3600",
        "HEALTH_DETAILS_TOKEN": ",".join(TOKENS),
        "HEALTH_TRUSTED_PROXIES": f"{PROXY}/32",
        "HEALTH_TRUSTED_HOSTS": "health.internal",
    }
