"""Invariant 22: who sees internals, and that nothing else of an answer depends on it.

The pod of these tests trusts what is trusted by default, loopback, and declares 127.0.0.2 as
its proxy; a caller chooses where it calls from.
"""

import socket
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from scripts.health_contract import METRICS, find, parse_exposition, undisclosed, violations
from tests.contract.audit import BOTH, PATHS, PREFIX, keys_of
from tests.contract.audit import METRICS as METRICS_PATHS
from tests.contract.conftest import PROXY, TOKENS, Launch, Still, served
from tests.pod import Pod, eventually
from tests.servers.faults import FaultProxy

HERE = "127.0.0.1"
NAME = "mingus.example"
GRADED = (
    "/health/detailed",
    "/health/redis",
    "/health/metrics",
    f"{PREFIX}/",
    f"{PREFIX}/detailed",
    f"{PREFIX}/startup",
    f"{PREFIX}/redis",
    f"{PREFIX}/resources",
    f"{PREFIX}/application",
)
# What a control group, or the lack of one, may leave unmeasured.
MOMENTARY = ("timestamp", "uptime_seconds")


@dataclass(frozen=True)
class Caller:
    """How somebody asks.

    Attributes:
        headers: What the request carries.
        peer: The address it comes from.
        host: What it calls the service; the address and port by default.
    """

    headers: dict[str, str] = field(default_factory=dict)
    peer: str = HERE
    host: str | None = None

    def ask(self, pod: Pod, path: str, *, health: bool = False, port: int | None = None) -> Any:
        """Status, headers and body."""
        port = port or (pod.health_port if health else pod.port)
        connection = HTTPConnection(HERE, port, timeout=30, source_address=(self.peer, 0))
        named = {"Host": self.host} if self.host else {}
        with closing(connection):
            connection.request("GET", path, headers={**named, **self.headers})
            with connection.getresponse() as response:
                headers = {name.lower(): value for name, value in response.getheaders()}
                return response.status, headers, response.read()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def forwarded_for(chain: str) -> dict[str, str]:
    return {"X-Forwarded-For": chain}


TRUSTED = {
    "directly": Caller(),
    "directly from elsewhere on this machine": Caller(peer="127.0.0.3"),
    "by localhost": Caller(host="localhost:5003"),
    "by localhost without a port": Caller(host="localhost"),
    "by an address": Caller(host="10.1.2.3:80"),
    "by an address of IPv6": Caller(host="[::1]:5003"),
    "by a declared name": Caller(host="health.internal"),
    "by a declared name with port and capitals": Caller(host="Health.Internal:5003"),
    "with a token": Caller(bearer(TOKENS[0])),
    "with the other token": Caller(bearer(TOKENS[1]), host=NAME),
    "with a token through an undeclared proxy": Caller(
        {**bearer(TOKENS[0]), **forwarded_for("203.0.113.9")}, host=NAME
    ),
    "directly with a wrong token": Caller(bearer("not-one-of-the-two-tokens")),
    "for loopback by a declared proxy": Caller(forwarded_for("127.0.0.1"), PROXY, NAME),
    "for loopback by two declared proxies": Caller(
        forwarded_for(f"127.0.0.1, {PROXY}"), PROXY, NAME
    ),
    "for loopback, whatever came before": Caller(
        forwarded_for("203.0.113.9, 127.0.0.1"), PROXY, NAME
    ),
}
STRANGERS = {
    "by a public name": Caller(host=NAME),
    "by a name that looks like localhost": Caller(host="localhost.mingus.example"),
    "by a name that looks like an address": Caller(host="127.0.0.1.mingus.example"),
    "with a forged X-Forwarded-For": Caller(forwarded_for("127.0.0.1")),
    "with a forged chain": Caller(forwarded_for(f"127.0.0.1, {PROXY}")),
    "with Forwarded": Caller({"Forwarded": "for=127.0.0.1"}),
    "with Via": Caller({"Via": "1.1 cache"}),
    "with X-Real-IP": Caller({"X-Real-IP": "127.0.0.1"}),
    "with X-Forwarded-Proto": Caller({"X-Forwarded-Proto": "https"}),
    "with X-Forwarded-Anything": Caller({"X-Forwarded-Anything": "1"}),
    "with X-Envoy-External-Address": Caller({"X-Envoy-External-Address": "127.0.0.1"}),
    "for a stranger by a declared proxy": Caller(forwarded_for("203.0.113.9"), PROXY),
    "for a stranger who claims loopback": Caller(forwarded_for("127.0.0.1, 203.0.113.9"), PROXY),
    "for proxies only": Caller(forwarded_for(f"{PROXY}, {PROXY}"), PROXY),
    "for nobody": Caller(forwarded_for(""), PROXY),
    "for loopback, malformed before": Caller(forwarded_for("unknown, 127.0.0.1"), PROXY, NAME),
    "for nonsense": Caller(forwarded_for("127.0.0.1, unknown"), PROXY),
    "for an address with a port": Caller(forwarded_for("127.0.0.1:1234"), PROXY),
    "by a declared proxy without a chain": Caller({"Via": "1.1 proxy"}, PROXY),
    "with a wrong token by name": Caller(bearer("not-one-of-the-two-tokens"), host=NAME),
    "with a piece of a token": Caller(bearer(TOKENS[0][:-1]), host=NAME),
    "with both tokens at once": Caller(bearer(",".join(TOKENS)), host=NAME),
    "with no token": Caller(bearer(""), host=NAME),
    "with a token as a password": Caller({"Authorization": f"Basic {TOKENS[0]}"}, host=NAME),
}


@pytest.fixture
def pod(still: Still) -> Pod:
    eventually(
        lambda: still.pod.get(f"{PREFIX}/").data["unknown_services"] == [], "every check has run"
    )
    # Process figures need two samples of the one check that cannot be held still.
    eventually(
        lambda: still.pod.get(f"{PREFIX}/detailed").data["process_info"]["cpu_percent"] is not None,
        "the pod has measured itself",
    )
    return still.pod


@pytest.mark.parametrize("who", TRUSTED)
def test_trusted_callers_see_everything(pod: Pod, who: str) -> None:
    for path in GRADED:
        for health in BOTH:
            status, headers, body = TRUSTED[who].ask(pod, path, health=health)
            assert violations(path, status, headers, body, trusted=True) == []
            assert hidden(path, body) <= UNMEASURED


@pytest.mark.parametrize("who", STRANGERS)
def test_strangers_see_no_internals(pod: Pod, who: str) -> None:
    for path in GRADED:
        for health in BOTH:
            status, headers, body = STRANGERS[who].ask(pod, path, health=health)
            assert violations(path, status, headers, body, trusted=False) == []
            assert hidden(path, body)


# A number some machines do not have: a control group without network or disk figures.
UNMEASURED: set[str] = set()


def hidden(path: str, body: bytes) -> set[str]:
    """The keys of class T that are null."""
    from scripts.health_contract import parse_json  # noqa: PLC0415

    endpoint = find(path)
    assert endpoint is not None
    return set(undisclosed(endpoint.body, parse_json(body)))


@pytest.mark.parametrize("path", [path for path in PATHS if path not in METRICS_PATHS])
def test_nothing_else_differs(pod: Pod, path: str) -> None:
    """Same status, headers and keys, and the same value for every key that is not null."""

    def same(stranger: Caller, *, health: bool) -> bool:
        ours = Caller().ask(pod, path, health=health)
        theirs = stranger.ask(pod, path, health=health)
        assert ours[0] == theirs[0]
        assert lasting(ours[1]) == lasting(theirs[1])
        ours, theirs = parsed(ours[2]), parsed(theirs[2])
        assert set(keys_of(ours)) - set(keys_of(theirs)) <= BELOW_TASKS
        return agree(ours, theirs)

    for stranger in STRANGERS.values():
        for health in (False,) if path == "/" else BOTH:
            # The pod may publish between the two questions, but not every time.
            eventually(
                lambda stranger=stranger, health=health: same(stranger, health=health),
                f"{path} is the same for all but its internals",
            )


BELOW_TASKS: set[str] = set()  # no startup task is registered here


def parsed(body: bytes) -> Any:
    from scripts.health_contract import parse_json  # noqa: PLC0415

    return parse_json(body)


def lasting(headers: dict[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in headers.items() if name not in ("date", "content-length")
    }


def agree(ours: Any, theirs: Any) -> bool:
    """Whether one body is the other with some values nulled."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(
            key in MOMENTARY or agree(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()
        )
    return theirs is None or ours == theirs


INTERNAL = {name for name, metric in METRICS.items() if metric.internal}


@pytest.mark.parametrize("path", METRICS_PATHS)
def test_internal_series_are_absent_for_strangers(pod: Pod, path: str) -> None:
    for health in BOTH:
        for caller in TRUSTED.values():
            assert names(caller, pod, path, health=health) >= INTERNAL
        for caller in STRANGERS.values():
            assert not names(caller, pod, path, health=health) & INTERNAL


def names(caller: Caller, pod: Pod, path: str, *, health: bool) -> set[str]:
    status, _, body = caller.ask(pod, path, health=health)
    assert status == 200
    return {sample.family for sample in parse_exposition(body.decode()).samples}


def test_a_proxy_that_adds_no_header_does_not_vouch_for_anybody(pod: Pod) -> None:
    """It connects from loopback, and passes on the name its client asked for."""
    for health in BOTH:
        port = pod.health_port if health else pod.port
        with FaultProxy((HERE, port)) as relay:
            through = relay.address[1]
            for path in GRADED:
                status, headers, body = Caller(host=NAME).ask(pod, path, port=through)
                assert violations(path, status, headers, body, trusted=False) == []
            assert not names_through(pod, through) & INTERNAL


def names_through(pod: Pod, port: int) -> set[str]:
    _, _, body = Caller(host=NAME).ask(pod, "/metrics", port=port)
    return {sample.family for sample in parse_exposition(body.decode()).samples}


# -- a peer without an address


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def over(path: Path, **headers: str) -> Any:
    with closing(UnixConnection(path)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", f"{PREFIX}/application", headers=named)
        with connection.getresponse() as response:
            return parsed(response.read())["data"]["environment"]


def test_a_peer_without_an_address_must_be_declared(
    launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("unix")
    paths = {name: home / name for name in ("undeclared", "declared")}
    pods = [
        launch(unix=str(paths["undeclared"]), REDIS_EMBEDDED="off"),
        launch(unix=str(paths["declared"]), REDIS_EMBEDDED="off", HEALTH_TRUSTED_PROXIES="unix"),
    ]
    for pod in pods:
        served(pod)
    for path in paths.values():
        assert over(path) is None
        assert over(path, X_Forwarded_For="203.0.113.9") is None
        assert over(path, Via="1.1 nginx") is None
        assert over(path, X_Forwarded_For="unix:") is None
    assert over(paths["undeclared"], X_Forwarded_For="127.0.0.1") is None
    assert over(paths["declared"], X_Forwarded_For="127.0.0.1") == "production"
    assert over(paths["declared"], X_Forwarded_For="203.0.113.9, 127.0.0.1") == "production"


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        (f"{PREFIX}/readiness", {"ready", "timestamp", "services"}),
        (f"{PREFIX}/liveness", {"alive", "timestamp", "uptime_seconds"}),
        (f"{PREFIX}/simple", {"status", "timestamp", "database", "redis"}),
    ],
)
def test_probes_carry_no_details_for_anybody(pod: Pod, path: str, keys: set[str]) -> None:
    for caller in (Caller(), Caller(bearer(TOKENS[0]))):
        assert parsed(caller.ask(pod, path)[2])["data"].keys() == keys


def test_startup_shows_its_tasks_to_trusted_callers_only(pod: Pod) -> None:
    path = f"{PREFIX}/startup"
    assert parsed(Caller().ask(pod, path)[2])["data"]["tasks"] is not None
    assert parsed(Caller(host=NAME).ask(pod, path)[2])["data"]["tasks"] is None


def test_tokens_are_never_shown(pod: Pod) -> None:
    for path in PATHS:
        for token in TOKENS:
            assert token.encode() not in Caller(bearer(token)).ask(pod, path)[2]
    assert not [token for token in TOKENS if token in pod.log]
