"""The notifier and its webhooks, against a receiver that takes, refuses and misbehaves.

Its clock stands still until a test moves it: a pause between two attempts costs no time here.
"""

import hmac
import ssl
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from service.advice import Runbook
from service.health import Check, CheckState, Lifecycle, Snapshot, Stance, Teller, Told
from service.notifier import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    GRACE,
    KEEP,
    LONGEST_RETRY_AFTER,
    Notifier,
)
from service.webhooks import Source, Webhook, generic, slack
from tests.pod import free_port
from tests.servers import providers as api
from tests.servers.receiver import Message, Receiver, taken
from tests.unit.fakes import Clock, after, until

DATABASE, REDIS = Check("database", critical=True), Check("redis", critical=True)
KEY = b"twenty-four random bytes"
RUNBOOK = Runbook("docs/operations.md")
SOURCE = Source("shop", "test", "blue", "1.0.0", RUNBOOK)
PATIENCE = 30.0


class Rig:
    """A notifier without its thread, and what the monitor would do."""

    def __init__(self, *webhooks: Webhook, interval: float = 0.0) -> None:
        self.clock, self.wall = Clock(), Clock(1.7e9)
        self.counted: Counter[tuple[str, str]] = Counter()
        self.notifier = Notifier(
            webhooks,
            Teller("the-pod", interval),
            self.count,
            clock=self.clock,
            wall=self.wall,
            chance=lambda: 0.5,
        )
        self.told: dict[str, Told | None] = {}

    def count(self, target: str, result: str) -> None:
        self.counted[target, result] += 1

    def tell(self, *states: CheckState) -> None:
        """The monitor publishes, what was told included."""
        self.told.update(self.notifier.told())
        found = {state.check.name: self._published(state) for state in states}
        snapshot = Snapshot(found, lifecycle=Lifecycle.SERVING)
        self.notifier.tell(snapshot, Stance.ALONE)
        self.notifier.round()

    def _published(self, state: CheckState) -> CheckState:
        assert state.run is not None
        run = replace(state.run, finished=self.clock())
        return replace(state, run=run, told=self.told.get(state.check.name))

    def drive(self, condition: Callable[[], Any], what: str, *, hurry: bool = False) -> None:
        """Rounds until a condition holds; in a hurry every pause is over at once."""

        def look() -> bool:
            wait = self.notifier.round()
            if hurry and not any(outbox._started for outbox in self.notifier._outboxes):
                self.clock.advance(min(wait, 1e6))
            return bool(condition())

        until(look, what)

    def sent(self, target: str, number: int) -> Callable[[], bool]:
        return lambda: self.counted[target, "sent"] == number

    def settled(self, number: int) -> Callable[[], bool]:
        return lambda: self.counted.total() == number

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)
        self.notifier.round()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


Make = Callable[..., Rig]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def made(*webhooks: Webhook, **options: float) -> Rig:
            rig = Rig(*webhooks, **options)
            stack.callback(rig.notifier.stop)
            return rig

        yield made


def hook(url: str, **more: Any) -> Webhook:
    given = {"key": KEY, "wall": Clock(1.7e9), "timeout": PATIENCE, **more}
    return Webhook(given.pop("name", "generic"), url, SOURCE, given.pop("render", generic), **given)


def fails(check: Check = DATABASE) -> CheckState:
    return after(check, ".xx")


def works(check: Check = DATABASE) -> CheckState:
    return after(check, ".xx..")


def events(messages: list[Message]) -> list[str]:
    return [message.json["type"] for message in messages]


def test_a_failure_and_its_end(make: Make, receiver: Receiver) -> None:
    rig = make(hook(receiver.url))
    rig.tell(fails())
    rig.drive(rig.settled(1), "the failure is told")
    rig.tell(fails())
    assert (told := rig.told["database"])
    assert told.pod == "the-pod"
    rig.tell(works())
    rig.drive(rig.settled(2), "the end is told")
    assert events(receiver.messages) == ["check.failing", "check.restored"]
    assert rig.counted == {("generic", "sent"): 2}


def test_what_is_sent(make: Make, receiver: Receiver) -> None:
    rig = make(hook(receiver.url))
    rig.tell(fails())
    rig.drive(rig.settled(1), "the failure is told")
    (message,) = receiver.messages
    assert message.json == {
        "type": "check.failing",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "data": {
            "app": "shop",
            "environment": "test",
            "release": "blue",
            "pod": "the-pod",
            "scope": "pod",
            "check": "database",
            "critical": True,
            "status": "unhealthy",
            "code": "connection_refused",
            "origin": None,
            "ready": False,
            "failing_since": "2023-11-14T22:13:20.000Z",
            "lasted_seconds": None,
            "advice": "is it running, and is it where the URL says?",
            "runbook": "docs/operations.md#mingushealthcheckfailing",
        },
    }
    assert message.headers["content-type"] == "application/json"
    assert message.headers["user-agent"] == "mingus-health/1.0.0"
    assert message.headers["webhook-timestamp"] == "1700000000"
    signed = b".".join([message.id.encode(), b"1700000000", message.body])
    right = b64encode(hmac.digest(KEY, signed, "sha256")).decode()
    assert message.headers["webhook-signature"] == f"v1,{right}"


def test_what_slack_is_sent(make: Make, receiver: Receiver) -> None:
    rig = make(hook(receiver.url, name="slack", render=slack, key=None))
    rig.tell(fails())
    rig.drive(rig.settled(1), "the failure is told")
    rig.tell(works())
    rig.drive(rig.settled(2), "the end is told")
    failing, restored = receiver.messages
    assert failing.json == {
        "text": "[shop test blue] database fails in pod the-pod; `connection_refused`; not ready; "
        "is it running, and is it where the URL says?; "
        "docs/operations.md#mingushealthcheckfailing"
    }
    assert restored.json["text"].startswith("[shop test blue] database is restored in pod the-pod")
    assert not any(name.startswith("webhook-") for name in failing.headers)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(api.status(500), id="500"),
        pytest.param(api.status(503), id="503"),
        pytest.param(api.status(429), id="429"),
        pytest.param(api.hang_up, id="hangs up"),
        pytest.param(api.reset, id="resets"),
        pytest.param(api.cut_short, id="cut short"),
        pytest.param(api.no_http, id="no HTTP"),
    ],
)
def test_what_may_pass_is_tried_again(
    make: Make, receiver: Receiver, behaviour: api.Behaviour
) -> None:
    receiver.script = [behaviour, behaviour]
    rig = make(hook(receiver.url))
    rig.tell(fails())
    rig.drive(rig.settled(1), "it is taken in the end", hurry=True)
    assert rig.counted == {("generic", "sent"): 1}
    assert len(receiver.messages) == 3
    assert len({(message.id, message.body) for message in receiver.messages}) == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(api.hang, id="hangs"),
        pytest.param(api.drip_headers(0.02), id="headers, byte by byte"),
        pytest.param(api.drip_body(0.02), id="body, byte by byte"),
    ],
)
def test_an_attempt_ends(make: Make, receiver: Receiver, behaviour: api.Behaviour) -> None:
    """None of these ever ends by itself."""
    receiver.script = [behaviour]
    rig = make(hook(receiver.url, timeout=3.0))
    rig.tell(fails())
    rig.drive(rig.settled(1), "it is taken in the end", hurry=True)
    assert rig.counted == {("generic", "sent"): 1}
    assert len(receiver.messages) == 2


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        pytest.param(api.status(400), "http_400", id="400"),
        pytest.param(api.status(401), "http_401", id="401"),
        pytest.param(api.status(404), "http_404", id="404"),
        pytest.param(api.status(410), "http_410", id="410"),
        pytest.param(api.status(302, Location="/elsewhere"), "http_302", id="302"),
    ],
)
def test_what_will_not_pass_is_given_up(
    make: Make, receiver: Receiver, behaviour: api.Behaviour, code: str
) -> None:
    receiver.script = [behaviour]
    rig = make(hook(receiver.url))
    with capture_logs() as logs:
        rig.tell(fails())
        rig.drive(rig.settled(1), "it is given up")
    assert rig.counted == {("generic", "failed"): 1}
    (message,) = receiver.messages
    assert logs == [
        {
            "event": "notification given up",
            "log_level": "warning",
            "target": "generic",
            "id": message.id,
            "check": "database",
            "code": code,
            "attempts": 1,
        }
    ]
    rig.tell(fails())
    assert "database" in rig.told, "what is given up is over"


def test_a_receiver_that_is_away_costs_the_message_and_nothing_else(make: Make) -> None:
    rig = make(hook(f"http://127.0.0.1:{free_port()}/secret-of-ours"))
    elder = set(threading.enumerate())
    with capture_logs() as logs:
        rig.tell(fails(), fails(REDIS))
        rig.drive(rig.settled(2), "both are given up", hurry=True)
    assert rig.counted == {("generic", "failed"): 2}
    first, _ = logs
    assert (first["check"], first["code"]) == ("database", "connection_refused")
    assert first["attempts"] == ATTEMPTS
    assert "secret-of-ours" not in str(logs)
    until(lambda: len(set(threading.enumerate()) - elder) <= 1, "the end of all threads but one")
    rig.notifier.stop()
    until(lambda: not set(threading.enumerate()) - elder, "the end of its thread")


def test_what_is_old_is_not_told(make: Make, receiver: Receiver) -> None:
    receiver.script = [api.status(503)]
    rig = make(hook(receiver.url))
    rig.tell(fails())
    rig.drive(lambda: rig.notifier._outboxes[0]._attempts == 1, "a first attempt")
    rig.pass_time(KEEP + 1)
    assert rig.counted == {("generic", "failed"): 1}
    assert len(receiver.messages) == 1


@pytest.mark.parametrize(
    ("asked", "waits"),
    [("7", 7.0), ("0", 0.75), ("86400", LONGEST_RETRY_AFTER), ("nonsense", 0.75)],
)
def test_a_receiver_may_ask_to_be_left_alone(
    make: Make, receiver: Receiver, asked: str, waits: float
) -> None:
    receiver.script = [api.status(429, Retry_After=asked)]
    rig = make(hook(receiver.url))
    rig.tell(fails())
    outbox = rig.notifier._outboxes[0]
    rig.drive(lambda: outbox._attempts == 1, "the refusal")
    rig.pass_time(waits - 0.01)
    assert outbox._started is None
    rig.pass_time(0.02)
    assert outbox._started is not None
    rig.drive(rig.settled(1), "it is taken")


FAILING, RESTORED = "check.failing", "check.restored"
ELSEWHERE = Told(2, "timeout", 1.7e9, 1.7e9, "another-pod", alone=False)


def test_a_target_that_hangs_delays_no_other(make: Make, receiver: Receiver) -> None:
    with Receiver() as stuck:
        stuck.script = [api.hang]
        rig = make(hook(stuck.url), hook(receiver.url, name="other"))
        rig.tell(fails())
        rig.drive(rig.sent("other", 1), "the failure is told")
        rig.tell(fails())
        assert "database" not in rig.told, "as long as one does not know it"
        rig.tell(works())
        rig.drive(rig.sent("other", 2), "and its end")
        rig.tell(after(DATABASE, ".xx..xx"))
        rig.drive(rig.sent("other", 3), "and the next failure")
        assert events(receiver.messages) == [FAILING, RESTORED, FAILING]
        until(lambda: len(stuck.messages) == 1, "the attempt that hangs")
        rig.pass_time(ATTEMPT_SECONDS + GRACE)
        rig.drive(rig.sent("generic", 1), "the one is told, too", hurry=True)
        rig.tell(after(DATABASE, ".xx..xx.."))
        rig.drive(rig.settled(6), "both are told the end")
        assert events(stuck.taken) == [FAILING, RESTORED]
        assert events(receiver.messages) == [FAILING, RESTORED, FAILING, RESTORED]


def test_the_interval_is_that_of_each_target(make: Make, receiver: Receiver) -> None:
    with Receiver() as away:
        away.otherwise = api.status(503)
        rig = make(hook(away.url), hook(receiver.url, name="other"), interval=60.0)
        late, other = rig.notifier._outboxes
        rig.tell(fails())
        rig.drive(lambda: late._attempts == 1 and rig.counted["other", "sent"] == 1, "attempts")
        rig.pass_time(59.0)
        rig.tell(works())
        assert other.due == float("inf"), "too soon"
        rig.pass_time(1.0)
        rig.tell(works())
        rig.drive(rig.sent("other", 2), "the end is told")
        away.otherwise = taken
        rig.drive(rig.sent("generic", 1), "the failure is told late", hurry=True)
        rig.tell(works())
        assert late.due == float("inf"), "too soon for that one"
        rig.pass_time(60.0)
        rig.tell(works())
        rig.drive(rig.sent("generic", 2), "the end is told")
        assert events(away.taken) == events(receiver.taken) == [FAILING, RESTORED]


@pytest.mark.parametrize(
    ("then", "told"),
    [
        pytest.param(fails(), [FAILING], id="the failure, of which one does not know"),
        pytest.param(works(), [RESTORED], id="the end, which one has yet to hear"),
    ],
)
def test_a_successor_repeats_and_withholds_nothing(
    make: Make, receiver: Receiver, then: CheckState, told: list[str]
) -> None:
    with Receiver() as away:
        away.otherwise = api.status(503)
        webhooks = hook(away.url), hook(receiver.url, name="other")
        first = make(*webhooks, interval=60.0)
        first.tell(fails())
        first.drive(first.sent("other", 1), "one is told")
        first.drive(lambda: first.notifier._outboxes[0]._attempts == 1, "and one refuses")
        first.tell(then)
        first.tell(then)  # what was told is published
        first.notifier.stop()
        known = len(receiver.messages)
        away.otherwise = taken
        second = make(*webhooks)
        second.told = first.told
        second.tell(then)
        second.drive(second.settled(2), "both are told")
        assert events(away.taken) == events(receiver.messages[known:]) == told
        if told == [FAILING]:
            assert len({message.id for message in receiver.messages}) == 1


def test_what_another_pod_has_told_is_told(make: Make, receiver: Receiver) -> None:
    rig = make(hook(receiver.url))
    rig.tell(works())
    rig.told["database"] = ELSEWHERE
    rig.tell(fails())
    assert rig.notifier._outboxes[0].due == float("inf")


def test_whom_a_pod_has_told_for_itself_it_tells_the_end(make: Make, receiver: Receiver) -> None:
    """Though another pod speaks for all by then, and one target is yet to hear of it."""
    with Receiver() as away:
        away.otherwise = api.status(503)
        rig = make(hook(away.url), hook(receiver.url, name="other"))
        rig.tell(fails())
        rig.drive(rig.sent("other", 1), "one is told")
        rig.told["database"] = ELSEWHERE
        rig.tell(fails())
        rig.tell(works())
        rig.drive(rig.sent("other", 2), "and told the end")
        assert events(receiver.messages) == [FAILING, RESTORED]


def test_nothing_is_told_twice_while_it_is_under_way(make: Make, receiver: Receiver) -> None:
    release = threading.Event()

    def late(handler: api.Handler) -> None:
        release.wait(PATIENCE)
        handler.reply(api.Answer(204))

    receiver.script = [late]
    rig = make(hook(receiver.url))
    for _ in range(5):
        rig.tell(fails())
    until(lambda: receiver.messages, "the message")
    release.set()
    rig.drive(rig.settled(1), "it is taken")
    for _ in range(5):
        rig.tell(fails())
    assert len(receiver.messages) == 1


def test_it_stops_and_stops_again(receiver: Receiver) -> None:
    receiver.otherwise = api.hang
    elder = set(threading.enumerate())
    rig = Rig(hook(receiver.url))
    changed = threading.Event()
    rig.notifier.start(changed.set)
    rig.notifier.tell(Snapshot({"database": fails()}, lifecycle=Lifecycle.SERVING), Stance.ALONE)
    until(lambda: receiver.messages, "the message")
    rig.notifier.stop()
    rig.notifier.stop()
    names = ("notifier", "probe-notify-generic")
    until(
        lambda: not [t for t in set(threading.enumerate()) - elder if t.name in names],
        "the end of its threads",
    )


def test_what_was_told_wakes_the_monitor(receiver: Receiver) -> None:
    rig = Rig(hook(receiver.url))
    changed = threading.Event()
    rig.notifier.start(changed.set)
    try:
        rig.notifier.tell(
            Snapshot({"database": fails()}, lifecycle=Lifecycle.SERVING), Stance.ALONE
        )
        assert changed.wait(PATIENCE)
        assert rig.notifier.told().keys() == {"database"}
        assert rig.notifier.told() == {}
    finally:
        rig.notifier.stop()


def test_tls_is_verified(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Receiver(tls=context) as server:
        rig = make(hook(server.url))
        with capture_logs() as logs:
            rig.tell(fails())
            rig.drive(rig.settled(1), "it is given up", hurry=True)
        assert logs[0]["code"] == "tls_error"
        assert not server.messages
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(bundle))
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(bundle))
        rig = make(hook(server.url))
        rig.tell(fails())
        rig.drive(rig.settled(1), "it is taken")
        assert events(server.messages) == ["check.failing"]
