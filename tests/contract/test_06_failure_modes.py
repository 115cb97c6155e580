"""Invariants 3, 4, 6 and 7: everything a dependency can do, and what the pod says of it.

Each mode is brought about while the pod runs: the line is cut, the password changed, the
provider told to misbehave. The code must be the documented one, and every body of both
listeners must keep the contract, its set of keys, and its secrets.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest

from scripts.health_contract import parse_exposition
from tests.contract.audit import PREFIX, Audit, agreement, becomes, checks, comes_to, services
from tests.contract.conftest import LEDGER, ROLE, ROLE_PASSWORD, Estate, Launch, served
from tests.pod import Answer, Pod, eventually
from tests.servers import providers as provider
from tests.servers.faults import Fault
from tests.servers.providers import KEYS, RESEND, STRIPE, SUPABASE, TWILIO, Behaviour
from tests.servers.redis import PASSWORD as REDIS_PASSWORD

WELL = ("healthy", None)


def unhealthy(code: str) -> tuple[str, str]:
    return ("unhealthy", code)


def verdicts(pod: Pod) -> dict[str, int]:
    """The HTTP statuses that follow from the critical checks and from the providers."""
    paths = ("/health", "/health/database", "/health/redis", "/health/external", "/health/detailed")
    return {path: pod.get(path).status for path in paths}


def test_with_everything_well_every_check_is_healthy(estate: Estate) -> None:
    estate.say(**dict.fromkeys(("database", "redis", *KEYS), WELL))
    estate.audit()


# -- the network fails, everywhere at once

NETWORK = {
    Fault.REFUSE: "connection_refused",
    Fault.FREEZE: "timeout",
    Fault.RESET: "connection_lost",
    Fault.BLACK_HOLE: "timeout",
    Fault.MUTE: "timeout",  # of who keeps the connection; who closes it leaves it unanswered
    Fault.DRIP: "timeout",
}


@pytest.mark.parametrize("fault", NETWORK, ids=lambda fault: fault.name.lower())
def test_the_network_fails(estate: Estate, fault: Fault) -> None:
    with agreement(estate.pod) as seen:
        estate.cut(fault)
        codes = dict.fromkeys(("database", "redis", *KEYS), NETWORK[fault])
        if fault is Fault.MUTE:
            codes |= dict.fromkeys(KEYS, "connection_lost")
        estate.say(**{name: unhealthy(code) for name, code in codes.items()})
        estate.audit()
        assert verdicts(estate.pod) == dict.fromkeys(verdicts(estate.pod), 503)
        for name, service in services(estate.pod).items():
            if name in ("database", "redis", *KEYS):
                assert service["response_time_ms"] is None
        estate.heal()
    assert {503} <= {statuses[0] for statuses in seen} <= {200, 503}
    assert estate.pod.status(f"{PREFIX}/startup") == 200


@pytest.mark.parametrize("name", ["database", "redis", "providers"])
def test_one_line_fails_and_the_others_stay_well(estate: Estate, name: str) -> None:
    hit = KEYS if name == "providers" else (name,)
    with agreement(estate.pod):
        estate.lines[name].fault = Fault.REFUSE
        estate.say(**dict.fromkeys(hit, unhealthy("connection_refused")))
        estate.audit()
        others = {"database", "redis", *KEYS} - set(hit)
        becomes(lambda: ill(estate.pod, others), {}, "what else is wrong")
        ready = 200 if name == "providers" else 503
        for path in ("/health", "/health/detailed", f"{PREFIX}/", f"{PREFIX}/readiness"):
            becomes(lambda path=path: estate.pod.status(path), ready, path)
        endpoint = "external" if name == "providers" else name
        assert estate.pod.status(f"/health/{endpoint}") == 503
        assert estate.pod.status(f"{PREFIX}/{endpoint}") == 503


def ill(pod: Pod, names: set[str]) -> dict[str, tuple[str, str | None]]:
    """Those of some checks that are neither healthy nor a warning."""
    found = checks(pod)
    return {name: found[name] for name in names if found[name][0] not in ("healthy", "warning")}


# -- the database refuses


@contextmanager
def wrong_database_password(estate: Estate) -> Iterator[None]:
    estate.postgres.execute(f"ALTER ROLE {ROLE} PASSWORD 'another'")
    yield
    estate.postgres.execute(f"ALTER ROLE {ROLE} PASSWORD '{ROLE_PASSWORD}'")


@contextmanager
def unknown_database(estate: Estate) -> Iterator[None]:

    def renamed() -> bool:
        disconnect(estate)
        try:
            estate.postgres.execute(f"ALTER DATABASE {LEDGER} RENAME TO elsewhere")
        except psycopg.errors.ObjectInUse:
            return False  # the pod was faster, and has connected again
        return True

    eventually(renamed, "nobody is in the database")
    yield
    estate.postgres.execute(f"ALTER DATABASE elsewhere RENAME TO {LEDGER}")


@contextmanager
def no_connection_left(estate: Estate) -> Iterator[None]:
    estate.postgres.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
    yield
    estate.postgres.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


@contextmanager
def no_right_to_connect(estate: Estate) -> Iterator[None]:
    estate.postgres.execute(f"REVOKE CONNECT ON DATABASE {LEDGER} FROM PUBLIC, {ROLE}")
    estate.postgres.execute(f"ALTER DATABASE {LEDGER} OWNER TO postgres")
    yield
    estate.postgres.execute(f"ALTER DATABASE {LEDGER} OWNER TO {ROLE}")
    estate.postgres.execute(f"GRANT CONNECT ON DATABASE {LEDGER} TO PUBLIC, {ROLE}")


DATABASE = {
    "authentication_failed": wrong_database_password,
    "database_not_found": unknown_database,
    "too_many_connections": no_connection_left,
    "permission_denied": no_right_to_connect,
}


@pytest.mark.parametrize("code", DATABASE)
def test_the_database_refuses(estate: Estate, code: str) -> None:
    with agreement(estate.pod), ExitStack() as stack:
        disconnect(estate)
        stack.enter_context(DATABASE[code](estate))
        becomes(
            lambda: disconnect(estate) or checks(estate.pod)["database"],
            unhealthy(code),
            "the database check",
        )
        estate.audit()
        becomes(
            lambda: estate.pod.get("/health/database").json["connection"]["error"],
            code,
            "the code of the connection",
        )
        assert verdicts(estate.pod)["/health"] == 503


def disconnect(estate: Estate) -> None:
    """Ends the sessions in the ledger: a kept connection would not notice."""
    estate.postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
    )


def test_the_table_count_is_locked_away(estate: Estate) -> None:
    """The server answers SELECT 1 and nothing more."""
    lock = "BEGIN; LOCK TABLE pg_catalog.pg_namespace IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)"
    with locking(estate, lock):
        comes_to(estate.pod, "database", "unhealthy", "timeout")
        becomes(
            lambda: parts(estate.pod.get("/health/database"), "connection", "responsiveness"),
            ["healthy", "unhealthy"],
            "connection and responsiveness",
        )
        estate.audit()


def parts(answer: Answer, *names: str) -> list[str]:
    """The statuses of parts of a check."""
    return [answer.json[name]["status"] for name in names]


@contextmanager
def locking(estate: Estate, sql: str) -> Iterator[None]:
    """A session of the superuser in the ledger is busy with a statement."""
    name = "the-lock"
    url = estate.postgres.socket_url.replace("/postgres?", f"/{LEDGER}?application_name={name}&")
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.pgconn.send_query(sql.encode())
        yield
        estate.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE application_name = '{name}'"
        )


# -- Redis refuses


def redis_modes() -> dict[str, tuple[list[str], list[str]]]:
    """Code: the commands that bring it about, and those that end it."""
    reset_user = ["ACL", "SETUSER", "default", "+@all", "~*"]
    return {
        "authentication_failed": (
            ["CONFIG", "SET", "requirepass", "another"],
            ["CONFIG", "SET", "requirepass", REDIS_PASSWORD],
        ),
        "permission_denied": (["ACL", "SETUSER", "default", "-set"], reset_user),
        "read_only": (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
        "out_of_memory": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    }


@pytest.mark.parametrize("code", redis_modes())
def test_redis_refuses(estate: Estate, code: str) -> None:
    begin, end = redis_modes()[code]
    admin = estate.redis.admin
    with agreement(estate.pod):
        admin.execute_command(*begin)
        try:
            admin.client_kill_filter(_type="normal", skipme=True)
            comes_to(estate.pod, "redis", "unhealthy", code)
            estate.audit()
            assert estate.pod.status("/health") == 503
        finally:
            admin.execute_command(*end)


def test_redis_withholds_info(estate: Estate) -> None:
    """A user who may not look at the server's figures is no fault."""
    admin = estate.redis.admin
    admin.execute_command("ACL", "SETUSER", "default", "-info")
    try:

        def said() -> tuple[str, str, str | None, set[object]]:
            body = estate.pod.get("/health/redis").json
            memory = body["memory_usage"]
            return body["status"], memory["status"], memory["error"], {*memory["info"].values()}

        withheld = ("healthy", "not_configured", "permission_denied", {None})
        becomes(said, withheld, "INFO is withheld")
        estate.audit()
    finally:
        admin.execute_command("ACL", "SETUSER", "default", "+@all", "~*")


# -- the providers misbehave


def all_say(status: str, code: str | None) -> dict[str, tuple[str, str | None]]:
    return dict.fromkeys(KEYS, (status, code))


PROVIDERS: dict[str, tuple[Behaviour, dict[str, tuple[str, str | None]]]] = {
    "401": (provider.status(401), all_say("unhealthy", "authentication_failed")),
    "403": (
        provider.status(403),
        {**all_say("unhealthy", "authentication_failed"), STRIPE: WELL},
    ),
    "404": (provider.status(404), all_say("unhealthy", "http_404")),
    "429": (provider.status(429), all_say("warning", "rate_limited")),
    "429 with Retry-After": (
        provider.status(429, Retry_After="1"),
        all_say("warning", "rate_limited"),
    ),
    "500": (provider.status(500), all_say("unhealthy", "http_500")),
    "503": (provider.status(503), all_say("unhealthy", "http_503")),
    "204": (provider.raw(b""), all_say("unhealthy", "invalid_response")),
    "302 to an endless body": (provider.redirect, all_say("unhealthy", "http_302")),
    "HTML": (provider.html, all_say("unhealthy", "invalid_response")),
    "other JSON": (provider.json_of([]), all_say("unhealthy", "invalid_response")),
    "endless body": (provider.endless_body, all_say("unhealthy", "invalid_response")),
    "dripping body": (provider.drip_body(0.1), all_say("unhealthy", "timeout")),
    "dripping headers": (provider.drip_headers(0.1), all_say("unhealthy", "timeout")),
    "no answer": (provider.hang, all_say("unhealthy", "timeout")),
    "slow": (provider.slow(0.5), all_say("warning", "slow_response")),
    "cut short": (provider.cut_short, all_say("unhealthy", "connection_lost")),
    "reset in the middle": (provider.reset, all_say("unhealthy", "connection_lost")),
    "closed without a word": (provider.hang_up, all_say("unhealthy", "connection_lost")),
    "not HTTP": (provider.no_http, all_say("unhealthy", "invalid_response")),
    "restricted key": (
        provider.restricted_key,
        {
            STRIPE: WELL,
            RESEND: WELL,
            SUPABASE: unhealthy("authentication_failed"),
            TWILIO: unhealthy("authentication_failed"),
        },
    ),
    "chunks": (provider.chunked, all_say("healthy", None)),
}


@pytest.mark.parametrize("mode", PROVIDERS)
def test_the_providers_misbehave(whole_estate: Estate, mode: str) -> None:
    # From one failure to the next without healing in between, as it happens.
    behaviour, wanted = PROVIDERS[mode]
    for name in KEYS:
        whole_estate.providers.behave(name, behaviour)
    whole_estate.say(**wanted)
    whole_estate.audit()
    failing = any(status == "unhealthy" for status, _ in wanted.values())
    # No provider is critical: the pod stays what it is.
    expected = {
        **dict.fromkeys(("/health/external", f"{PREFIX}/external"), 503 if failing else 200),
        **dict.fromkeys(("/health", "/health/detailed", f"{PREFIX}/"), 200),
    }
    becomes(
        lambda: {path: whole_estate.pod.status(path) for path in expected},
        expected,
        "the HTTP statuses",
    )


@pytest.mark.parametrize("state", ["suspended", "closed"])
def test_the_account_is_not_active(estate: Estate, state: str) -> None:
    estate.providers.behave(TWILIO, provider.account(state))
    comes_to(estate.pod, TWILIO, "unhealthy", "account_inactive")
    estate.audit()


# -- settings that lead nowhere


@pytest.fixture(scope="module")
def astray(launch: Launch, whole_estate: Estate) -> Pod:
    """Every address is wrong in its own way."""
    return launch(
        HEALTH_STARTUP_CHECKS="none",
        HEALTH_EXTERNAL_INTERVAL_SECONDS="15",
        DATABASE_URL=f"postgresql://{ROLE}:{ROLE_PASSWORD}@ledger.mingus.invalid/{LEDGER}",
        REDIS_URL="redis://cache.mingus.invalid:6379/0",
        SUPABASE_URL="https://project.mingus.invalid",
        SUPABASE_ANON_KEY=KEYS[SUPABASE],
        STRIPE_SECRET_KEY=KEYS[STRIPE],
        STRIPE_API_BASE="http://stripe.mingus.invalid",
        RESEND_API_KEY=KEYS[RESEND],
        RESEND_API_BASE=f"https://127.0.0.1:{whole_estate.providers.port}/{RESEND}",
    )


ASTRAY = {
    "database": unhealthy("dns_failure"),
    "redis": unhealthy("dns_failure"),
    SUPABASE: unhealthy("dns_failure"),
    STRIPE: unhealthy("configuration_invalid"),  # plain http: the key is not sent
    RESEND: unhealthy("tls_error"),  # https to a server that does not speak it
    TWILIO: ("not_configured", "not_configured"),
}


def test_names_and_schemes_that_lead_nowhere(astray: Pod) -> None:
    served(astray)
    eventually(lambda: ASTRAY.items() <= checks(astray).items(), f"{ASTRAY}, not {checks(astray)}")
    hidden = (ROLE, ROLE_PASSWORD, LEDGER, "mingus.invalid", *KEYS.values(), "127.0.0.1")
    Audit(astray, secrets=hidden)()
    assert astray.status("/health") == 503
    assert astray.status(f"{PREFIX}/startup") == 200


# -- what the log may know


@pytest.mark.parametrize("pod", ["estate", "astray"])
def test_no_secret_reaches_the_log(whole_estate: Estate, astray: Pod, pod: str) -> None:
    log = (whole_estate.pod if pod == "estate" else astray).log
    assert "authentication_failed" in log or "dns_failure" in log
    for secret in (ROLE_PASSWORD, REDIS_PASSWORD, *KEYS.values()):
        assert secret not in log


def test_no_failed_run_was_an_unforeseen_one(whole_estate: Estate) -> None:
    """`check_failed` would mean that a probe did not know what had happened to it."""
    samples = parse_exposition(whole_estate.pod.get("/metrics").body.decode()).samples
    failures = {
        (sample.labels["component"], sample.labels["error_type"]): sample.value
        for sample in samples
        if sample.name == "health_check_failures_total"
    }
    assert failures["database", "timeout"] > 0
    assert {name: n for (name, code), n in failures.items() if n and code == "check_failed"} == {}
