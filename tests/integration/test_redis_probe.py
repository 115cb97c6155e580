"""What the probe says of real servers, well and ill."""

import itertools
import socketserver
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from time import monotonic
from typing import Any

import pytest
import trustme
from redis import ResponseError

from service.coordination.client import connect
from service.health import Result, Status
from service.probes.redis import Limits, RedisProbe
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import PASSWORD, SERVERS, RedisServer, binary, wait_until

NEVER = 60.0  # seconds; no run on a healthy server takes so long
LIMIT = 0.3
BOUNDED = 20.0
UNHURRIED = Limits(slow_ms=1e6)

INFO_KEYS = {
    "used_memory_human",
    "used_memory_peak_human",
    "used_memory_rss_human",
    "used_memory_lua_human",
    "mem_fragmentation_ratio",
    "memory_usage_percent",
    "total_connections_received",
    "total_commands_processed",
    "keyspace_hits",
    "keyspace_misses",
    "uptime_in_seconds",
    "connected_clients",
}


@contextmanager
def probing(url: str, timeout: float = NEVER, **options: Any) -> Iterator[RedisProbe]:
    probe = RedisProbe(
        lambda: connect(url, timeout=timeout),
        key="mingus:test:selftest",
        timeout=timeout,
        **{"limits": UNHURRIED, **options},
    )
    try:
        yield probe
    finally:
        probe.close()


def probed(url: str, **options: Any) -> Result:
    """The result of one run."""
    with probing(url, **options) as probe:
        return probe()


def story(result: Result) -> list[str | None]:
    """The three parts, each by its code or its status."""
    return [
        result.details[part]["error"] or result.details[part]["status"]
        for part in ("connectivity", "cache_operations", "memory_usage")
    ]


def assert_complete(result: Result) -> None:
    details = result.details
    assert set(details) == {"connectivity", "cache_operations", "memory_usage", "server"}
    assert set(details["connectivity"]) == {
        "status", "error", "response_time_ms", "host", "port", "db",
    }  # fmt: skip
    assert set(details["cache_operations"]) == {"status", "error", "response_time_ms"}
    assert set(details["memory_usage"]) == {"status", "error", "info"}
    assert set(details["memory_usage"]["info"]) == INFO_KEYS
    assert set(details["server"]) == {
        "redis_version", "used_memory_bytes", "connected_clients", "total_commands_processed",
    }  # fmt: skip


@pytest.fixture(scope="module", params=SERVERS)
def program(request: pytest.FixtureRequest) -> Any:
    return binary(request.param)


@pytest.fixture
def server(program: Any) -> Iterator[RedisServer]:
    with RedisServer(program, password=PASSWORD) as running:
        yield running


def test_a_small_fragmented_server_is_healthy(server: RedisServer) -> None:
    result = probed(server.url_for("", PASSWORD, db=2))
    assert (result.status, result.code, result.reason) == (Status.HEALTHY, None, "")
    assert story(result) == ["healthy"] * 3
    assert_complete(result)
    details = result.details
    connectivity, info = details["connectivity"], details["memory_usage"]["info"]
    assert (connectivity["host"], connectivity["port"], connectivity["db"]) == (
        "127.0.0.1",
        server.port,
        2,
    )
    assert result.response_time is not None
    assert connectivity["response_time_ms"] == round(1000 * result.response_time, 2)
    assert details["cache_operations"]["response_time_ms"] > 0
    assert info.pop("memory_usage_percent") is None
    assert None not in info.values()
    assert info["mem_fragmentation_ratio"] > 1.5
    assert info["used_memory_human"].endswith("M")
    assert None not in details["server"].values()


def test_a_unix_socket_has_no_port(program: Any) -> None:
    with RedisServer(program, unix=True) as server:
        connectivity = probed(server.url).details["connectivity"]
    assert (connectivity["host"], connectivity["port"], connectivity["db"]) == ("unix", None, 0)


def test_the_self_test_leaves_nothing_behind(server: RedisServer) -> None:
    probed(server.url)
    assert server.admin.dbsize() == 0


def test_the_connection_is_kept_between_runs_that_pass(server: RedisServer) -> None:
    with probing(server.url) as probe:
        runs = [probe() for _ in range(3)]
    seen = {run.details["memory_usage"]["info"]["total_connections_received"] for run in runs}
    assert len(seen) == 1


def test_simultaneous_self_tests_do_not_meet(server: RedisServer) -> None:
    def pod(number: int) -> list[Result]:
        probe = RedisProbe(
            lambda: connect(server.url, timeout=NEVER),
            key=f"selftest:{number}",
            timeout=NEVER,
            limits=UNHURRIED,
        )
        try:
            return [probe() for _ in range(25)]
        finally:
            probe.close()

    with ThreadPoolExecutor(8) as pool:
        results = [result for runs in pool.map(pod, range(8)) for result in runs]
    assert {result.code for result in results} == {None}


@pytest.mark.parametrize(
    ("percent", "policy", "code"),
    [
        (85, "noeviction", None),
        (91, "noeviction", "memory_high"),
        (96, "noeviction", "memory_critical"),
        (96, "volatile-lru", "memory_critical"),
        (96, "allkeys-lru", "memory_high"),
        (91, "allkeys-lru", "memory_high"),
    ],
)
def test_memory(server: RedisServer, percent: float, policy: str, code: str | None) -> None:
    server.fill(percent, policy)
    result = probed(server.url)
    assert result.code == code
    assert result.details["memory_usage"]["error"] == code
    assert result.details["memory_usage"]["info"]["memory_usage_percent"] == pytest.approx(
        percent, abs=0.9
    )
    assert result.details["cache_operations"]["status"] == "healthy"


MB = 1 << 20


@pytest.mark.parametrize(
    ("info", "code"),
    [
        pytest.param({}, None, id="an INFO without memory"),
        pytest.param({"used_memory": 90, "maxmemory": 100}, None, id="at the warning limit"),
        pytest.param({"used_memory": 95, "maxmemory": 100}, "memory_high", id="at the critical"),
        pytest.param({"used_memory": 200, "maxmemory": 0}, None, id="no maxmemory"),
        pytest.param(
            {"used_memory": 100 * MB, "mem_fragmentation_ratio": 1.51},
            "fragmentation_high",
            id="large and fragmented",
        ),
        pytest.param(
            {"used_memory": 100 * MB - 1, "mem_fragmentation_ratio": 9.0}, None, id="too small"
        ),
        pytest.param(
            {"used_memory": 100 * MB, "mem_fragmentation_ratio": 1.5}, None, id="at the ratio"
        ),
        pytest.param(
            {"used_memory": 100 * MB, "maxmemory": 105 * MB, "mem_fragmentation_ratio": 2},
            "memory_critical",
            id="memory comes first",
        ),
        pytest.param({"used_memory": 10, "mem_fragmentation_ratio": "nan"}, None, id="no number"),
    ],
)
def test_memory_limits(info: dict[str, Any], code: str | None) -> None:
    assert Limits().complaint(info) == code


def test_out_of_memory(server: RedisServer) -> None:
    server.fill(110)
    result = probed(server.url)
    assert story(result) == ["healthy", "out_of_memory", "memory_critical"]
    assert (result.status, result.code) == (Status.UNHEALTHY, "out_of_memory")


def test_a_slow_answer_is_a_warning(server: RedisServer) -> None:
    ticks = itertools.count(step=0.6)
    result = probed(server.url, clock=lambda: next(ticks), limits=Limits())
    assert (result.status, result.code) == (Status.WARNING, "slow_response")
    assert story(result) == ["slow_response", "healthy", "healthy"]
    assert result.details["connectivity"]["response_time_ms"] == 600


# --- credentials and permissions ----------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "not-" + PASSWORD], ids=["none", "wrong"])
def test_no_or_the_wrong_password(server: RedisServer, password: str | None) -> None:
    result = probed(server.url_for("", password))
    assert (result.status, result.code) == (Status.UNHEALTHY, "authentication_failed")
    assert story(result) == ["authentication_failed", "not_attempted", "not_attempted"]
    assert_complete(result)
    assert result.response_time is None
    assert PASSWORD not in repr(result)


@pytest.mark.parametrize(
    ("rules", "expected", "status"),
    [
        pytest.param(
            "-info", ["healthy", "healthy", "permission_denied"], Status.HEALTHY, id="info"
        ),
        pytest.param(
            "-set", ["healthy", "permission_denied", "healthy"], Status.UNHEALTHY, id="set"
        ),
        pytest.param(
            "-ping",
            ["permission_denied", "not_attempted", "not_attempted"],
            Status.UNHEALTHY,
            id="ping",
        ),
        pytest.param(
            "resetkeys", ["healthy", "permission_denied", "healthy"], Status.UNHEALTHY, id="keys"
        ),
    ],
)
def test_an_operation_that_is_not_allowed(
    server: RedisServer, rules: str, expected: list[str], status: Status
) -> None:
    server.admin.execute_command(
        "ACL", "SETUSER", "probe", "on", f">{PASSWORD}", "~*", "+@all", rules
    )
    result = probed(server.url_for("probe", PASSWORD))
    assert story(result) == expected
    assert result.status is status
    assert_complete(result)


def test_info_that_is_not_allowed_leaves_no_figures(server: RedisServer) -> None:
    server.admin.execute_command("ACL", "SETUSER", "p", "on", ">pw", "~*", "+@all", "-info")
    details = probed(server.url_for("p", "pw")).details
    assert details["memory_usage"]["status"] == "not_configured"
    assert set(details["memory_usage"]["info"].values()) == {None}
    assert set(details["server"].values()) == {None}


# --- servers in trouble -------------------------------------------------------------------------


def test_a_replica_is_read_only_until_it_is_promoted(server: RedisServer) -> None:
    with probing(server.url) as probe:
        server.admin.replicaof("127.0.0.1", "1")
        result = probe()
        assert story(result) == ["healthy", "read_only", "healthy"]
        assert (result.status, result.code) == (Status.UNHEALTHY, "read_only")
        server.admin.replicaof("NO", "ONE")
        assert probe().status is Status.HEALTHY


def test_a_replica_without_its_master(server: RedisServer) -> None:
    server.admin.config_set("replica-serve-stale-data", "no")
    server.admin.replicaof("127.0.0.1", "1")
    assert probed(server.url).code == "starting_up"


def test_a_cluster_without_slots(program: Any) -> None:
    with RedisServer(program, cluster_enabled="yes") as server:
        assert story(probed(server.url)) == ["healthy", "cluster_down", "healthy"]


def test_no_connection_left(server: RedisServer) -> None:
    server.admin.config_set("maxclients", 1)
    assert probed(server.url).code == "too_many_connections"


@contextmanager
def scripted(reply: bytes) -> Iterator[str]:
    """A server with one reply to everything but the handshake."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while command := self.request.recv(4096):
                self.request.sendall(b"%1\r\n+proto\r\n:3\r\n" if b"HELLO" in command else reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "starting_up"),
        (b"-NOAUTH Authentication required.\r\n", "authentication_failed"),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", "query_failed"),
        (b"-ERR max number of clients + cluster connections reached\r\n", "too_many_connections"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "invalid_response"),
        (b"$nonsense\r\n", "invalid_response"),
    ],
)
def test_replies(reply: bytes, code: str) -> None:
    with scripted(reply) as url:
        result = probed(url)
    assert (result.status, result.code) == (Status.UNHEALTHY, code)
    assert story(result) == [code, "not_attempted", "not_attempted"]


# --- networks in trouble ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.REFUSE, "connection_refused"),
        (Fault.RESET, "connection_lost"),
        (Fault.FREEZE, "timeout"),
        (Fault.DRIP, "timeout"),
        (Fault.BLACK_HOLE, "timeout"),
        (Fault.MUTE, "timeout"),
    ],
)
def test_faults(server: RedisServer, fault: Fault, code: str) -> None:
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = server.url.replace(str(server.port), str(proxy.address[1]))
        with probing(url, timeout=LIMIT if code == "timeout" else NEVER) as probe:
            proxy.fault = fault
            begun = monotonic()
            results = [probe(), probe()]
            assert monotonic() - begun < BOUNDED
        proxy.fault = Fault.NONE
        assert probed(url).status is Status.HEALTHY
    assert [result.code for result in results] == [code, code]
    for result in results:
        assert_complete(result)
        assert story(result) == [code, "not_attempted", "not_attempted"]
        assert result.reason.startswith("connectivity: ")


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_server_that_freezes_and_thaws(*, unix: bool) -> None:
    with (
        RedisServer(binary("valkey"), unix=unix) as server,
        probing(server.url, timeout=5) as probe,
    ):
        assert probe().status is Status.HEALTHY
        with server.frozen():
            begun = monotonic()
            assert probe().code == "timeout"
            assert monotonic() - begun < BOUNDED
        assert probe().status is Status.HEALTHY


def test_a_server_that_stops_between_two_runs() -> None:
    with RedisServer(binary("valkey"), unix=True) as server, probing(server.url) as probe:
        assert probe().status is Status.HEALTHY
        server.stop()
        assert probe().code == "connection_refused"
        server.start()
        assert probe().status is Status.HEALTHY


def test_a_unix_socket_that_does_not_exist() -> None:
    assert probed("unix:///no/such/socket").code == "connection_refused"


def test_a_name_that_does_not_resolve() -> None:
    assert probed("redis://no-such-host.invalid").code == "dns_failure"


def test_tls() -> None:
    with RedisServer(binary("redis"), tls=True, password=PASSWORD) as server:
        assert probed(server.url).status is Status.HEALTHY
        with trustme.CA().cert_pem.tempfile() as stranger:
            assert probed(server.url.replace(str(server.ca), stranger)).code == "tls_error"
        assert probed(server.url.partition("?")[0]).code == "tls_error"
        assert probed(server.url.replace(str(server.ca), "/no/such/file")).code == "tls_error"
        plain = server.url.replace("rediss://", "redis://")
        assert probed(plain).code == "connection_lost"


def test_unusable_settings() -> None:
    result = probed("redis://:secret/word@host")
    assert (result.status, result.code) == (Status.UNHEALTHY, "configuration_invalid")
    assert_complete(result)
    assert "secret" not in repr(result)


def test_closing_wakes_a_stuck_run_and_the_next_run_works(server: RedisServer) -> None:
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = server.url.replace(str(server.port), str(proxy.address[1]))
        with probing(url) as probe:
            assert probe().status is Status.HEALTHY
            server.admin.config_resetstat()
            proxy.fault = Fault.MUTE
            results: list[Result] = []
            run = Thread(target=lambda: results.append(probe()))
            run.start()
            wait_until(lambda: server.admin.info("commandstats").get("cmdstat_ping"), "it is stuck")
            probe.close()
            run.join(NEVER / 2)
            assert [result.code for result in results] == ["connection_lost"]
            proxy.fault = Fault.NONE
            assert probe().status is Status.HEALTHY


# --- answers that a healthy server hardly gives -------------------------------------------------


class Scripted:
    """A client that remembers what it was given, but for some replies of its own."""

    def __init__(self, **replies: Any) -> None:
        self.replies: dict[str, Any] = {"PING": True, "INFO": {}, **replies}

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        assert seconds > 0
        yield

    def execute_command(self, command: str, *args: Any) -> Any:
        if command == "SET":
            self.replies.setdefault("GET", args[1])
        reply = self.replies.get(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def get_connection_kwargs(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...

    def abort(self) -> None: ...


@pytest.mark.parametrize("value", [b"something else", None])
def test_another_value_read_back(value: bytes | None) -> None:
    result = RedisProbe(lambda: Scripted(GET=value), key="k", timeout=1)()
    assert (result.status, result.code) == (Status.UNHEALTHY, "value_mismatch")
    assert story(result) == ["healthy", "value_mismatch", "healthy"]
    assert repr(value) in result.reason


def test_an_info_that_was_renamed_away_is_not_permitted() -> None:
    error = ResponseError("unknown command 'INFO', with args beginning with: ")
    result = RedisProbe(lambda: Scripted(INFO=error), key="k", timeout=1)()
    assert result.status is Status.HEALTHY
    assert story(result) == ["healthy", "healthy", "permission_denied"]


def test_a_reply_that_quotes_the_password_is_masked() -> None:
    class Knowing(Scripted):
        def get_connection_kwargs(self) -> dict[str, Any]:
            return {"password": PASSWORD}

    error = ResponseError(f"you said {PASSWORD}")
    result = RedisProbe(lambda: Knowing(PING=error), key="k", timeout=1)()
    assert result.reason == "connectivity: ResponseError: you said ***"
