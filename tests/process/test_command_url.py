"""Commands that look at a URL: a pod over HTTP, and whatever else may answer there."""

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.cli import fleet, status
from service.cli.output import NoAnswer
from service.cli.remote import LARGEST_BODY, Remote
from service.health import Lifecycle
from service.health import Pod as State
from service.settings import CHECKS, Settings
from service.web.endpoints import PREFIX
from service.web.payload import Payload
from service.web.twins import Question
from tests.kubernetes.servers import StepServer
from tests.pod import Pod, eventually, free_port
from tests.process.commands import STEADY, document, refused, run, started
from tests.servers.redis import RedisServer, binary
from tests.unit.fakes import after
from tests.unit.pods import DISK_HIGH, MEMORY_CRITICAL, REFUSED, blank, failing, pod
from tests.unit.pods import check as defined
from tests.unit.test_fleet_payload import seen

READINESS = "/api/system/health/readiness"
TOKEN = "0123456789abcdef"
PAYLOAD = Payload("MINGUS", "1.0.0", "production", debug=False)
PATIENT = 30.0  # for servers that answer at once


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A pod that trusts a token and no network."""
    given = {"HEALTH_TRUSTED_NETWORKS": "10.0.0.0/8", "HEALTH_DETAILS_TOKEN": TOKEN}
    # Two looks one after the other must see the same, however busy the machine is.
    pod = Pod(tmp_path_factory.mktemp("guarded"), DATABASE_URL="sqlite://", **given, **STEADY)
    with pod.start().wait_for(200, READINESS):
        yield pod


def _url(pod: Pod) -> str:
    return f"http://127.0.0.1:{pod.health_port}"


def _at(url: str) -> tuple[str, ...]:
    return ("--url", url, "--timeout", f"{PATIENT}")


# -- a pod


def test_a_url_shows_what_the_scoreboard_shows(guarded: Pod) -> None:
    here, there = document(guarded, "status"), document(guarded, "status", *_at(_url(guarded)))
    assert here.keys() == there.keys()
    for key in ("lifecycle", "verdicts", "obstacles", "tasks"):
        assert here[key] == there[key]
    for name, check in here["checks"].items():
        shown = there["checks"][name]
        assert shown.keys() == check.keys()
        assert (shown["critical"], shown["error"]) == (check["critical"], check["error"])
    assert (here["url"], there["url"]) == (None, _url(guarded))
    assert list(there["checks"]) == list(CHECKS)
    text = run(guarded, "status", *_at(f"{_url(guarded)}/"))
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.startswith(f"url        {_url(guarded)}\n")
    assert re.search(r"(?m)^database +healthy +- +[\d.]+ s +[\d.]+ ms +needs it$", text.stdout)
    assert "not disclosed" not in text.stdout


def test_what_strangers_do_not_see_is_called_so(guarded: Pod, tmp_path: Path) -> None:
    command = ("status", *_at(_url(guarded)))
    assert document(guarded, *command, HEALTH_DETAILS_TOKEN="")["tasks"] is None
    text = run(guarded, *command, HEALTH_DETAILS_TOKEN="")
    assert re.search(r"(?m)^tasks +not disclosed", text.stdout)
    wrong = run(guarded, *command, HEALTH_DETAILS_TOKEN=TOKEN[::-1])
    assert (wrong.returncode, wrong.stdout.count("not disclosed")) == (0, 1)
    secret = tmp_path / "token"
    secret.write_text(f"{TOKEN}\n")
    given = {"HEALTH_DETAILS_TOKEN": "", "HEALTH_DETAILS_TOKEN_FILE": str(secret)}
    assert document(guarded, *command, **given)["tasks"] == {}


def test_a_pod_that_is_starting_says_why_either_way(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", **STEADY).launch()
    eventually(lambda: pod.status(READINESS, health=True) == 503, "it answers")

    def obstacles(*where: str) -> list[str]:
        found: list[str] = document(pod, "status", *where, status=1)["obstacles"]
        return found

    expected = ["starting", "redis unhealthy (connection_refused)"]
    eventually(lambda: obstacles() == expected, "the scoreboard says so")
    assert obstacles(*_at(_url(pod))) == expected


def test_watch_goes_on_while_nobody_answers(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://").start().wait_for(200, READINESS)
    command = ("watch", "--json", "--interval", "0.1", *_at(_url(pod)))
    with started(pod, *command) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert json.loads(watch.stdout.readline())["workers"] is None
        pod.stop()
        assert watch.stderr.readline().startswith(f"mingus-health: {_url(pod)}: ")
        pod.start()
        eventually(lambda: json.loads(watch.stdout.readline())["uptime_seconds"] < 60, "it is seen")


def test_nobody_is_there(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(HEALTH_DETAILS_TOKEN=TOKEN)
    for command in ("status", "watch", "fleet"):
        done = run(pod, command, "--url", _url(pod))
        refused(done, f"{_url(pod)}: Connection refused")
    done = run(pod, "status", "--url", "http://nowhere.invalid")
    refused(done, "http://nowhere.invalid: ")


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:5004", "ftp://localhost", "http://", "http://[::1", "http://localhost:x"),
        *("http://localhost/?q", "http://localhost/#x", "http://localhost/a b", "http://h/\u00e9"),
        *("http://joe:hidden@localhost", "https://hidden@localhost/shop"),
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(NoAnswer, match="the URL ") as refusal:
        Remote(url, Settings.model_construct(), 1)
    assert "hidden" not in str(refusal.value)


# -- whatever else may answer


class Server(ThreadingHTTPServer):
    """Answers with what it is given.

    Attributes:
        bodies: A body for each path; any other path is 404.
        status: Of those answers.
        tokens: What came as ``Authorization``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: dict[str, bytes] = {}
        self.status = 200
        self.tokens: list[str | None] = []

    def handle_error(self, *_: object) -> None:
        """A client that does not like the certificate has left: nothing to tell."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers["Authorization"])
        body = self.server.bodies.get(self.path)
        self.send_response(404 if body is None else self.server.status)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def _serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with _serving(Server()) as running:
        yield running


def _bodies(prefix: str = "", of: State | None = None) -> dict[str, Any]:
    """What a pod answers, by path."""
    of = of or pod()
    answers = {
        f"{PREFIX}/detailed": PAYLOAD.comprehensive_detailed(of, trusted=True),
        f"{PREFIX}/readiness": PAYLOAD.readiness(of, trusted=True),
        f"{PREFIX}/liveness": PAYLOAD.liveness(of, trusted=True),
        f"{PREFIX}/startup": PAYLOAD.startup(of, trusted=True),
        "/startupz": Question("startupz").as_document(PAYLOAD, of, trusted=True),
    }
    return {f"{prefix}{path}": each.body for path, each in answers.items()}


def _sent(bodies: dict[str, Any]) -> dict[str, bytes]:
    return {path: json.dumps(body).encode() for path, body in bodies.items()}


def _remote(url: str, seconds: float = PATIENT, **given: str) -> Remote:
    return Remote(url, Settings(**given), seconds)


def test_a_pod_below_a_path(server: Server) -> None:
    server.bodies = _sent(_bodies("/shop/pod"))
    found = _remote(f"{server.url}/shop/pod/", health_details_token=TOKEN).document()
    assert found["verdicts"]["readiness"] is True
    assert server.tokens == [f"Bearer {TOKEN}"] * 5


STARTING = Lifecycle.STARTING
ONCE_WELL = {"redis": after(defined("redis", critical=False, startup=True), ".xx")}
NEVER_WELL = {"redis": after(defined("redis", critical=False, startup=True), "xx")}


STATES = {
    "serving": pod(),
    "failing": failing(),
    "no run yet": blank(),
    "maintenance": pod(Lifecycle.MAINTENANCE),
    "starting": pod(STARTING, database=REFUSED),
    "disk high": pod(STARTING, system_resources=DISK_HIGH),
    "memory critical": pod(STARTING, system_resources=MEMORY_CRITICAL),
    "once well": pod(STARTING, states=ONCE_WELL),
    "never well": pod(STARTING, states=NEVER_WELL),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_what_keeps_a_pod_is_the_same_from_afar(server: Server, state: State) -> None:
    server.bodies = _sent(_bodies(of=state))
    assert _remote(server.url).document()["obstacles"] == state.obstacles


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 500, 502])
def test_another_status_is_no_answer_of_a_pod(server: Server, status: int) -> None:
    server.bodies, server.status = _sent(_bodies()), status
    with pytest.raises(NoAnswer, match=f"answers {status} to /api/system/health/detailed"):
        _remote(server.url).document()


def _with(path: list[str], value: Any) -> bytes:
    """The detailed answer with one value changed."""
    body = _bodies()["/api/system/health/detailed"]
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(body).encode()


OTHERS = {
    "empty": b"",
    "HTML": b"<html>",
    "not UTF-8": b"\xff",
    "a list": b"[]",
    "null": b"null",
    "null inside": b'{"data": null}',
    "nothing inside": b'{"data": {}}',
    "deep": b"[" * 100_000,
    "endless": b" " * (LARGEST_BODY + 1),
    "a lifecycle": _with(["data", "lifecycle"], "asleep"),
    "a list of statuses": _with(["data", "overall_status"], ["healthy"]),
    "an object of statuses": _with(["data", "overall_status"], {}),
    "a time out of range": _with(["data", "timestamp"], "9999-12-31T23:59:59-23:59"),
    "no Redis": _with(["data", "services", "redis"], None),
    "no number": _with(["data", "services", "application", "uptime_seconds"], float("nan")),
    "a check of its own": _with(["data", "services", "of_my_own"], {"status": "fine"}),
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_another_answer_is_none_of_a_pod(server: Server, body: bytes) -> None:
    server.bodies = _sent(_bodies()) | {"/api/system/health/detailed": body}
    with pytest.raises(NoAnswer, match="what answers there is not this service"):
        _remote(server.url, health_details_token=TOKEN).document()


def test_nothing_that_was_sent_rules_the_terminal(server: Server) -> None:
    evil = {"status": "unhealthy", "error": "\x1b[2J\nok", "last_check": None}
    server.bodies = _sent(_bodies()) | {
        "/api/system/health/detailed": _with(["data", "services", "\x9b1m\x1b]0;x\x07"], evil)
    }
    shown = status.text(_remote(server.url).document())
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "?[2J?ok" in shown


BEGUN = {"send": "HTTP/1.1 200 OK\r\n"}
DRIP = [{"send": "X-Y: z\r\n"}, {"sleep_s": 0.05}] * 1200


@pytest.mark.parametrize(
    "steps",
    [[{"hold_s": 60}], [BEGUN, *DRIP], [BEGUN, {"hold_s": 60}]],
    ids=["mute", "drip", "half"],
)
def test_nobody_is_waited_for_beyond_the_limit(steps: list[dict[str, Any]]) -> None:
    path = "/api/system/health/detailed"
    with StepServer([], {path: steps}, 1) as server:
        remote = _remote(f"http://127.0.0.1:{server.port}", 0.3)
        for _ in range(2):
            with pytest.raises(NoAnswer, match=r"no whole answer within 0\.3 s"):
                remote.document()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "the answer breaks off"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha", "IncompleteRead"),
        ("\x1b[2Jnonsense\r\n\r\n", "nonsense"),
        ("", "closed connection without response"),
    ],
)
def test_an_answer_that_is_none(answer: str, why: str) -> None:
    path = "/api/system/health/detailed"
    with StepServer([], {path: [{"send": answer}]}, 1) as server:
        remote = _remote(f"http://127.0.0.1:{server.port}")
        with pytest.raises(NoAnswer, match=why):
            remote.document()


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.bodies = _sent(_bodies())
    with _serving(server):
        url = server.url.replace("http:", "https:")
        with pytest.raises(NoAnswer, match="unable to get local issuer certificate"):
            _remote(url, health_details_token=TOKEN).document()
        assert server.tokens == []
        certificate = tmp_path / "authority.pem"
        authority.cert_pem.write_to_path(certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert _remote(url).document()["verdicts"]["liveness"] is True
        with pytest.raises(NoAnswer, match="Hostname mismatch"):
            _remote(url.replace("127.0.0.1", "localhost")).document()


def test_a_server_without_tls(server: Server) -> None:
    with pytest.raises(NoAnswer, match="SSL"):
        _remote(server.url.replace("http:", "https:")).document()


@pytest.mark.parametrize("token", [f"{TOKEN}\n{TOKEN}", f"{TOKEN}\u00e9", f"{TOKEN} {TOKEN}"])
def test_a_token_that_no_header_carries(token: str) -> None:
    with pytest.raises(NoAnswer, match="HEALTH_DETAILS_TOKEN") as refusal:
        _remote("http://localhost", health_details_token=token)
    assert TOKEN not in str(refusal.value)


# -- the fleet

FLEET = "/api/system/health/fleet"


def _fleet_body(*, trusted: bool = True, **changed: Any) -> bytes:
    """What a pod answers that knows two others."""
    body: dict[str, Any] = PAYLOAD.fleet(seen(), trusted=trusted).body
    return json.dumps({**body, "data": {**body["data"], **changed}}).encode()


MEMBER = json.loads(_fleet_body())["data"]["pods"][0]


def test_a_url_shows_the_fleet_that_the_scoreboard_shows(make_pod: Callable[..., Pod]) -> None:
    with RedisServer(binary("valkey")) as redis:
        pod = make_pod(REDIS_URL=redis.url, DATABASE_URL="sqlite://", **STEADY).start()
        where = ("fleet", *_at(_url(pod)))

        def here() -> Any:
            found = json.loads(run(pod, "fleet", "--json").stdout)
            return found if found["fresh"] and found["leases"].get("checks") else None

        mine = eventually(here, "it has the lease")
        theirs = document(pod, *where)
        assert list(theirs) == list(mine)
        for key in ("scope", "fresh", "this_pod", "pods_total", "leases", "checks"):
            assert theirs[key] == mine[key]
        assert theirs["pods"][0].keys() == mine["pods"][0].keys()
        assert (mine["configured"], theirs["configured"]) == (True, None)
        text = run(pod, *where)
        assert (text.returncode, text.stderr) == (0, "")
        assert re.search(rf"(?m)^{pod.board.pod_id[:12]} \(this\) ", text.stdout)
        with redis.frozen():
            eventually(lambda: run(pod, *where).returncode == 1, "the view is stale")


def test_a_pod_elsewhere_that_is_alone(guarded: Pod) -> None:
    text = run(guarded, "fleet", *_at(_url(guarded)))
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.startswith("alone: this pod has no configured Redis")


def test_what_strangers_do_not_see_of_a_fleet(server: Server) -> None:
    server.bodies = {FLEET: _fleet_body(trusted=False)}
    found = _remote(server.url).fleet()
    assert found["pods"] is None
    assert re.search(r"(?m)^pods +not disclosed", fleet.text(found))


@pytest.mark.parametrize(
    "changed",
    [
        *({"scope": "world"}, {"fresh": "perhaps"}, {"last_sync": "yesterday"}, {"pods": {}}),
        *({"leases": []}, {"checks": {"redis": None}}, {"pods_total": [1]}, {"pods": [{}]}),
        {"pods": [{**MEMBER, "age_seconds": float("inf")}]},
    ],
    ids=str,
)
def test_another_fleet_is_none(server: Server, changed: dict[str, Any]) -> None:
    server.bodies = {FLEET: _fleet_body(**changed)}
    with pytest.raises(NoAnswer, match="what answers there is not this service"):
        _remote(server.url).fleet()


def test_nothing_that_a_fleet_sends_rules_the_terminal(server: Server) -> None:
    evil = {**MEMBER, "host": "\x1b[2J\nok", "failing": ["\x9b1m"], "pod": "\x1b]0;x\x07"}
    server.bodies = {FLEET: _fleet_body(pods=[evil], leases={"\x1b[2J": "\x07"})}
    shown = fleet.text(_remote(server.url).fleet())
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "?[2J?ok" in shown
