"""One pod's part in the fleet, driven by hand against a real server."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from service import coordinator
from service.coordination.client import connect
from service.coordination.fleet import MAX_RESULT_BYTES
from service.coordination.lease import keyspace
from service.coordinator import (
    JITTER,
    MAX_MEMBERS_BYTES,
    RETRY_FIRST,
    RETRY_LAST,
    Coordinator,
    Member,
    _members,
)
from service.health import (
    Check,
    CheckState,
    ProgressLimits,
    Result,
    Run,
    Scope,
    Snapshot,
    Stance,
    Status,
    Told,
)
from service.scoreboard import Scoreboard
from tests.servers.redis import PASSWORD, RedisServer, binary
from tests.unit.fakes import Clock, after

INTERVAL = 10.0
KEEP = 3 * INTERVAL
PATIENCE = 60.0  # no test needs a call that takes too long
KEYS = keyspace("mingus:health:", "shop", "test")
STRIPE = Check("stripe_api", interval=60.0, timeout=5.0, failing_interval=15.0, scope=Scope.FLEET)
DATABASE = Check("database", critical=True)

Make = Callable[..., "Rig"]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as running:
        yield running


class Rig:
    """A coordinator without its thread."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        floor: float | None = None,
        chance: float = 0.5,
        interval: float = INTERVAL,
        checks: Iterable[Check] = (DATABASE, STRIPE),
    ) -> None:
        self.clock = clock
        self.board = Scoreboard.create(None, slots=2, clock=clock.nanoseconds)
        self.coordinator = Coordinator(
            partial(connect, url, timeout=PATIENCE),
            self.board,
            checks,
            Member(KEYS, {"release": "blue"}, ProgressLimits(), interval, floor),
            clock=clock,
            wall=Clock(1.7e9),
            chance=lambda: chance,
        )

    def sync(self) -> float:
        """Seconds until the next round, after one that was due."""
        return self.coordinator.round(self.clock()) - self.clock()

    def tell(self, *states: CheckState) -> None:
        self.coordinator.tell(Snapshot({state.check.name: state for state in states}))

    @property
    def stance(self) -> Stance:
        return self.coordinator.stance()


@pytest.fixture
def make(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(coordinator, "LIMIT_SECONDS", PATIENCE)
    with ExitStack() as stack:
        clock = Clock()

        def made(url: str = server.url, **options: Any) -> Rig:
            rig = Rig(url, clock, **options)
            stack.callback(_close, rig)
            return rig

        yield made


def _close(rig: Rig) -> None:
    connected = rig.coordinator._calls._connected
    if connected is not None:
        connected.lane.give_up()
        connected.client.close()


def ran(history: str, clock: Clock) -> CheckState:
    state = after(STRIPE, history)
    assert state.run is not None
    return replace(state, run=replace(state.run, finished=clock()))


def test_the_pace(make: Make) -> None:
    one, two = make(), make()
    assert one.stance is Stance.FOLLOWER, "until a first word, or the lack of one"
    assert one.sync() == pytest.approx(INTERVAL / 2)
    assert two.sync() == pytest.approx(INTERVAL)
    assert (one.stance, two.stance) == (Stance.HOLDER, Stance.FOLLOWER)
    two.tell(CheckState.initial(STRIPE))
    assert two.sync() == pytest.approx(1.0), "while a first result is missing"


def test_a_pod_in_which_everything_fails_can_be_read(make: Make) -> None:
    checks = [Check(f"check_{number:02}_{'x' * 54}") for number in range(60)]
    rig = make(checks=checks)
    rig.tell(*(after(check, "xx") for check in checks))
    rig.sync()
    view = rig.coordinator.view()
    assert view is not None
    (pod,) = json.loads(view.members)["pods"]
    assert pod["failing"] == [check.name for check in checks[:20]]


def test_results_go_from_the_holder_to_the_others(make: Make, server: RedisServer) -> None:
    one, two = make(), make()
    one.sync()
    two.sync()
    one.clock.advance(1.0)
    one.tell(ran("ww", one.clock))
    assert one.coordinator.round(float("inf")) == float("inf"), "published without a sync"
    two.sync()
    adopted = two.coordinator.results()["stripe_api"]
    assert adopted.status is Status.WARNING
    assert adopted.run is not None
    assert adopted.run.finished == pytest.approx(one.clock(), abs=20.0)
    same = two.coordinator.results()
    two.sync()
    assert two.coordinator.results() is same
    version = server.admin.get(f"{KEYS}result:version")
    one.tell(ran("ww", one.clock))
    one.sync()
    assert server.admin.get(f"{KEYS}result:version") == version, "the same run is no news"


def test_what_was_told_goes_to_the_others_with_the_result(make: Make) -> None:
    one, two = make(), make()
    one.sync()
    two.sync()
    one.clock.advance(1.0)
    state = ran("xx", one.clock)
    one.tell(state)
    one.coordinator.round(float("inf"))
    told = Told(1, "connection_refused", 1.7e9, 1.7e9, one.board.pod_id, alone=False)
    one.tell(replace(state, told=told))
    assert one.coordinator._news(), "it is news, though the run is not"
    one.coordinator.round(float("inf"))
    assert not one.coordinator._news()
    two.sync()
    adopted = two.coordinator.results()["stripe_api"]
    assert adopted.told == told
    assert adopted.run is not None
    assert adopted.since is not None
    assert state.since is not None
    assert adopted.since - adopted.run.finished == pytest.approx(state.since - one.clock())


def partners(sizes: list[int], clock: Clock) -> list[CheckState]:
    """Shared checks of the application's own, with details of so many characters."""

    def ran_now(number: int, size: int) -> CheckState:
        state = replace(after(STRIPE, 25 * "."), check=replace(STRIPE, name=f"partner_{number}"))
        return state.observe(Run(Result(details={"note": "x" * size}), clock(), 1.7e9, 0.1))

    return [ran_now(*each) for each in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "adopted", "complete"),
    [
        pytest.param([300] * 20, 20, range(20), id="all of it fits"),
        pytest.param([300, 3500] * 8, 16, range(0, 16, 2), id="the largest details stay here"),
        pytest.param([0] * 60, 30, [], id="and of very many checks the last"),
    ],
)
def test_what_is_too_large_for_the_others_is_left_out_and_said_once(
    make: Make, server: RedisServer, sizes: list[int], adopted: int, complete: Iterable[int]
) -> None:
    checks = [state.check for state in partners(sizes, Clock())]
    one, two = make(checks=checks), make(checks=checks)
    one.sync()
    with capture_logs() as logs:
        for _ in range(3):
            one.clock.advance(1.0)
            one.tell(*partners(sizes, one.clock))
            one.coordinator.round(float("inf"))
    assert server.admin.strlen(f"{KEYS}result") <= MAX_RESULT_BYTES
    two.sync()
    found, names = two.coordinator.results(), [check.name for check in checks]
    whole = {name for name in found if found[name].run.result.details}  # type: ignore[union-attr]
    assert list(found) == names[: len(found)]
    assert len(found) >= adopted
    assert whole >= {names[number] for number in complete}
    assert [line["checks"] for line in logs] == [sorted({*names} - whole)] * (whole < {*names})


def test_results_too_large_are_sent_once(make: Make, server: RedisServer) -> None:
    """By a holder of another version, since one of ours publishes none."""
    rig = make()
    rig.sync()
    for name, value in (("", b"x" * (MAX_RESULT_BYTES + 1)), (":version", b"9-9"), (":at", b"1")):
        server.admin.set(f"{KEYS}result{name}", value)
    with capture_logs() as logs:
        rig.sync()
        assert rig.coordinator._version == "9-9", "so a sync does not bring it again"
        rig.sync()
    assert [line["event"] for line in logs] == ["shared results unreadable"]


def test_results_nobody_can_read_are_none(make: Make, server: RedisServer) -> None:
    rig = make()
    for body in (b"no JSON", b"{}", b'{"at": 1, "states": "{}"}', b"[]"):
        server.admin.set(f"{KEYS}result", body)
        server.admin.set(f"{KEYS}result:version", body)
        server.admin.set(f"{KEYS}result:at", 1)
        rig.sync()
        assert rig.coordinator.results() == {}
        assert rig.stance is Stance.HOLDER


def test_a_check_that_turns_is_told_at_once(make: Make) -> None:
    one, two = make(floor=50.0), make(floor=50.0)
    one.sync()
    two.sync()
    due = two.clock() + INTERVAL
    two.clock.advance(1.0)
    two.tell(after(DATABASE, ".xx"))
    assert two.coordinator.round(due) > due, "it has synced, and the next one is further off"
    one.sync()
    view = one.coordinator.view()
    assert view is not None
    assert (view.others, view.elsewhere["database"], view.floor) == (1, 1, 50.0)


def test_without_redis_a_pod_is_alone_in_the_end(make: Make, server: RedisServer) -> None:
    one, two = make(), make()
    one.sync()
    two.sync()
    server.stop()
    waits = [one.sync() for _ in range(8)]
    assert waits[0] == pytest.approx(0.5)
    assert waits == sorted(waits)
    assert max(waits) <= RETRY_LAST
    assert one.stance is Stance.HOLDER, "until the grant ends"
    two.sync()
    assert two.stance is Stance.FOLLOWER
    one.clock.advance(0.9 * 1.5 * INTERVAL)
    assert one.stance is Stance.FOLLOWER
    one.clock.advance(KEEP)
    assert (one.stance, two.stance) == (Stance.ALONE, Stance.ALONE)
    view = one.coordinator.view()
    assert view is not None
    assert not view.at(one.clock()).fresh
    server.start()
    one.sync()
    assert one.stance is Stance.HOLDER


@pytest.mark.parametrize(
    ("call", "command"), [("look", "hmget"), ("prune", "zrangebyscore"), ("publish", "set")]
)
def test_what_is_refused_beside_a_sync_costs_no_more_syncs(
    make: Make, server: RedisServer, call: str, command: str
) -> None:
    def acl(*rules: str) -> None:
        server.admin.execute_command("ACL", "SETUSER", "pod", *rules)

    def calls(name: str) -> int:
        return server.admin.info("commandstats")[f"cmdstat_{name}"]["calls"]

    acl("on", ">pw", "~*", "+@all")
    rig = make(server.url_for("pod", "pw"), interval=20 * INTERVAL)  # no lease ends by itself
    due = rig.coordinator.round(rig.clock())
    rig.tell(ran("..", rig.clock))
    server.admin.config_resetstat()
    acl(f"-{command}")
    with capture_logs() as logs:
        while rig.clock() < 1000.0 + 100 * INTERVAL * 20:
            rig.clock.advance(INTERVAL)
            due = rig.coordinator.round(due)
    assert [(line["event"], line["call"]) for line in logs] == [("fleet call failed", call)]
    assert command in logs[0]["reason"]
    assert rig.stance is Stance.HOLDER
    assert 180 <= calls("hset") <= 201, "one a sync, and the holder syncs twice an interval"
    assert calls("evalsha") <= 4 * calls("hset")
    acl(f"+{command}")
    with capture_logs() as logs:
        for _ in range(40):
            rig.clock.advance(INTERVAL)
            due = rig.coordinator.round(due)
    assert [(line["event"], line["call"]) for line in logs] == [("fleet call works", call)]


@pytest.mark.parametrize("password", [PASSWORD, 20 * PASSWORD], ids=["short", "long"])
def test_what_redis_quotes_of_the_password_is_not_logged(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "LIMIT_SECONDS", PATIENCE)
    with RedisServer(binary("redis"), password=password, hello=False) as server:
        rig = Rig(server.url, Clock())
        with capture_logs() as logs:
            rig.sync()
            rig.coordinator._leave()
        _close(rig)
    assert [line["event"] for line in logs] == ["fleet out of reach", "lease not released"]
    assert all("unknown command 'HELLO'" in line["reason"] for line in logs)
    assert PASSWORD not in str(logs)


def test_who_comes_back_when_is_chance(make: Make, server: RedisServer) -> None:
    """From half a second on, up to a time that doubles and ends at a lease and two syncs."""
    server.stop()
    for chance in (0.0, 0.1, 0.5, 0.999):
        rig = make(chance=chance)
        waits = [rig.sync() for _ in range(12)]
        ceilings = [min(3.5 * INTERVAL, RETRY_LAST, RETRY_FIRST * 2**n) for n in range(1, 13)]
        assert waits == pytest.approx([max(RETRY_FIRST, chance * each) for each in ceilings])


def test_a_sync_is_due_when_chance_has_it(make: Make) -> None:
    holder = make(chance=0.5)
    holder.sync()
    early, late = make(chance=0.0), make(chance=1.0)
    assert (early.sync(), late.sync()) == pytest.approx(
        ((1 - JITTER) * INTERVAL, (1 + JITTER) * INTERVAL)
    )


def test_a_pod_that_starts_without_redis_is_alone_at_once(make: Make, server: RedisServer) -> None:
    server.stop()
    rig = make()
    rig.sync()
    assert rig.stance is Stance.ALONE
    assert rig.coordinator.view() is None


def test_a_draining_pod_hands_over(make: Make) -> None:
    one, two = make(), make()
    one.sync()
    one.board.drain()
    one.sync()
    assert one.stance is Stance.FOLLOWER
    two.sync()
    assert two.stance is Stance.HOLDER
    one.board.drain(on=False)
    two.coordinator._leave()
    one.sync()
    assert one.stance is Stance.HOLDER


def test_what_is_shown_of_the_pods_is_bounded() -> None:
    rows = [{"pod": f"{number:032x}", "host": "x" * 255} for number in range(1000)]
    text = _members({"this": "me"}, rows)
    assert len(text) <= MAX_MEMBERS_BYTES
    assert json.loads(text)["pods"] == rows[: len(json.loads(text)["pods"])]
    assert json.loads(text)["this"] == "me"
