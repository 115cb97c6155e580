"""What is told of a check, by whom and when: histories in, notices out."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from service.health import (
    Check,
    CheckState,
    FleetView,
    Lifecycle,
    Notice,
    Scope,
    Snapshot,
    Stance,
    Status,
    Teller,
    Told,
    Trouble,
)
from service.health.notices import behind
from service.health.snapshot import decode, encode
from tests.unit.fakes import RESULTS, after, run

DATABASE = Check("database", critical=True)
DISK = Check("disk")
STRIPE = Check("stripe_api", scope=Scope.FLEET)
ALONE = replace(STRIPE, scope=Scope.POD)  # as a pod runs it that nobody runs it for
LETTERS = {Trouble.NONE: "R", Trouble.FAILING: "F", Trouble.UNREADY: "U"}
START = 1000.0


class Pod:
    """A pod whose checks run once a second, and which tells at once."""

    def __init__(self, check: Check, interval: float = 0.0, name: str = "a") -> None:
        self.state = CheckState.initial(check)
        self.teller = Teller(name, interval)
        self.stance = Stance.ALONE
        self.more: dict[str, Any] = {"lifecycle": Lifecycle.SERVING}
        self.now = START - 1
        self.notices: list[Notice] = []

    def tick(self, letter: str) -> str:
        """A second passes, with a run in it; "_" is one without."""
        self.now += 1
        if letter != "_":
            self.state = self.state.observe(run(RESULTS[letter], finished=self.now, at=self.now))
        return self.look()

    def look(self) -> str:
        """What is told now: a letter, or a blank."""
        snapshot = Snapshot({self.state.check.name: self.state}, **self.more)
        due = list(self.teller.due(snapshot, self.stance, self.now, self.now))
        for notice in due:
            self.state = replace(self.state, told=notice.told(self.now, self.teller.pod))
        self.notices += due
        return "".join(LETTERS[notice.trouble] for notice in due) or " "

    def play(self, history: str) -> str:
        return "".join(map(self.tick, history)).rstrip()


@pytest.mark.parametrize(
    ("interval", "history", "expected"),
    [
        pytest.param(0, ".....", "", id="nothing to say"),
        pytest.param(0, ".x.x.", "", id="what is not confirmed"),
        pytest.param(0, ".ww..", "", id="a warning is no trouble"),
        pytest.param(0, ".xxx..", "  U  R", id="an outage and its end"),
        pytest.param(0, "xx..", "U  R", id="from the first result"),
        pytest.param(0, ".xxww", "  U R", id="with a warning it works again"),
        pytest.param(0, ".xx..xx..", "  U R U R", id="every outage, without an interval"),
        pytest.param(8, ".xx..xx..xx", "  U", id="what comes and goes within it is not told"),
        pytest.param(
            6, ".xx..........", "  U     R", id="an end within it is told when it is over"
        ),
        pytest.param(7, ".xx.......xxxx..", "  U      R", id="nor what comes and goes after that"),
        pytest.param(5, ".xx...xxxxxxxx", "  U", id="back in what was told: nothing to add"),
        pytest.param(4, ".xx....xxxxxxx", "  U   R   U", id="else the newest is told later"),
        pytest.param(
            3, ".xx.x.x.x.x.x.x.x..", "  U" + " " * 15 + "R", id="flapping is one failure"
        ),
    ],
)
def test_histories(interval: float, history: str, expected: str) -> None:
    assert Pod(DATABASE, interval).play(history) == expected


def test_a_check_that_is_not_critical_is_told_too() -> None:
    assert Pod(DISK).play(".xx..") == "  F R"


def test_what_is_unknown_is_no_news() -> None:
    pod = Pod(DATABASE)
    silence = "_" * 30
    assert pod.play(silence) == "", "before the first result"
    assert pod.play(".") == ""
    assert pod.play(silence) == "", "after the last one has expired"
    assert pod.play("x") == "U"
    assert pod.play(silence) == "", "nor does it end a failure"
    assert pod.play(".") == "R"


def test_a_restored_notice_says_what_it_ends() -> None:
    pod = Pod(DATABASE)
    pod.play(".xxx..")
    failing, restored = pod.notices
    assert (failing.since_at, failing.lasted, failing.ready) == (1002.0, None, False)
    assert (restored.since_at, restored.failing_since_at) == (1005.0, 1002.0)
    assert (restored.lasted, restored.ready) == (3.0, True)
    assert failing.code == restored.code == "connection_refused"
    assert (failing.status, restored.status) == (Status.UNHEALTHY, Status.HEALTHY)


def test_every_news_has_a_key_of_its_own() -> None:
    pod = Pod(DATABASE)
    pod.play(".xx..xx..")
    assert len({notice.key for notice in pod.notices}) == 4


def test_who_does_not_know_that_it_was_told_tells_it_under_the_same_key() -> None:
    pod = Pod(DATABASE)
    pod.play(".xx")
    pod.state = replace(pod.state, told=None)
    assert pod.play("x") == "U"
    pod.play("..")
    pod.state = replace(pod.state, told=pod.notices[1].told(pod.now, "a"))
    assert pod.look() == "R"
    failing, again, restored, also = pod.notices
    assert failing.key == again.key
    assert restored.key == also.key


def test_what_was_told_survives_in_the_publication() -> None:
    pod = Pod(DATABASE)
    pod.play(".xx")
    (state,) = decode(encode(Snapshot({"database": pod.state}))).states.values()
    told_now = Told(2, "connection_refused", 1002.0, 1002.0, "a", alone=True)
    assert state.told == pod.state.told == told_now


@pytest.mark.parametrize("at", [-3600.0, 0.0])
def test_a_clock_that_is_set_back_silences_nobody(at: float) -> None:
    told = Told(2, "timeout", START, START + 1, "a", alone=True)
    healthy = replace(after(DATABASE, ".."), told=told)
    snapshot = Snapshot({"database": healthy})
    due = list(Teller("a", 60.0).due(snapshot, Stance.ALONE, START + 2, START + 1 + at))
    assert bool(due) is (at < 0)


# -- several receivers


def known(trouble: Trouble, at: float) -> Told:
    return Told(trouble.value, "timeout", at, at, "a", alone=True)


NONE, FAILING = known(Trouble.NONE, START), known(Trouble.FAILING, START + 1)
UNREADY, LATER = known(Trouble.UNREADY, START + 2), known(Trouble.FAILING, START + 3)


@pytest.mark.parametrize(
    ("receivers", "works", "expected"),
    [
        pytest.param([FAILING, None], False, None, id="one has yet to hear that it fails"),
        pytest.param([None, FAILING], True, FAILING, id="one has yet to hear that it works"),
        pytest.param([FAILING, UNREADY], False, FAILING, id="that it has become worse"),
        pytest.param([FAILING, UNREADY], True, UNREADY, id="the end of the worse"),
        pytest.param([None, NONE], False, NONE, id="of equals the newest"),
        pytest.param([FAILING, LATER], True, LATER, id="and so of two failures"),
        pytest.param([None, None], True, None, id="nobody knows anything"),
    ],
)
def test_who_has_most_to_hear(
    receivers: list[Told | None], *, works: bool, expected: Told | None
) -> None:
    assert behind(receivers, works=works) is expected
    assert behind(reversed(receivers), works=works) is expected


# -- what is planned


@pytest.mark.parametrize("lifecycle", [Lifecycle.MAINTENANCE, Lifecycle.DRAINING])
def test_a_planned_failure_waits_for_the_end_of_the_plan(lifecycle: Lifecycle) -> None:
    pod = Pod(DATABASE)
    pod.more = {"lifecycle": lifecycle}
    assert pod.play(".xxx") == ""
    pod.more = {"lifecycle": Lifecycle.SERVING}
    assert pod.look() == "U"
    pod.more = {"lifecycle": lifecycle}
    assert pod.play("..") == " R", "the end of a failure is told"


def test_a_pod_that_starts_tells_what_keeps_it() -> None:
    pod = Pod(DATABASE)
    pod.more = {"lifecycle": Lifecycle.STARTING}
    assert pod.play("xxx") == "U"


# -- the readiness floor


def test_a_floor_that_goes_is_told() -> None:
    """Too many have lost it for a pod to leave traffic; then the view of the others is lost."""
    pod = Pod(DATABASE)

    def seen(at: float) -> FleetView:
        return FleetView(at, at, expiry=30.0, others=9, elsewhere={"database": 9}, floor=50.0)

    pod.more["fleet"] = seen(START)
    assert pod.play(".xx") == "  F"
    assert pod.notices[-1].ready
    assert pod.notices[-1].origin == "shared"
    pod.more["fleet"] = seen(START - 100.0)
    assert pod.play("x") == "U"
    assert not pod.notices[-1].ready
    first, worse = pod.notices
    assert first.key != worse.key
    assert first.failing_since_at == worse.failing_since_at
    pod.more["fleet"] = seen(pod.now)
    assert pod.play("xx") == "", "what gets better without being well is no news"
    assert pod.play("..") == " R"


@pytest.mark.parametrize(
    ("failing", "seen", "origin"),
    [
        pytest.param(3, 1001.0, "shared", id="that others fail is sure"),
        pytest.param(0, 1001.0, None, id="that they do not is not, at first"),
        pytest.param(0, 1002.0 + DATABASE.expiry, None, id="until all must have noticed"),
        pytest.param(0, 1002.1 + DATABASE.expiry, "local", id="and were seen after that"),
    ],
)
def test_where_a_failure_comes_from(failing: int, seen: float, origin: str | None) -> None:
    pod = Pod(DATABASE)
    pod.more["lifecycle"] = Lifecycle.MAINTENANCE
    pod.play(".xx" + "x" * 30)
    view = FleetView(seen, seen, expiry=60.0, others=3, elsewhere={"database": failing})
    pod.more = {"lifecycle": Lifecycle.SERVING, "fleet": view}
    assert pod.look() == "U"
    assert pod.notices[-1].origin == origin


# -- who tells


def told(pod: str, *, alone: bool, trouble: Trouble = Trouble.FAILING) -> Told:
    return Told(trouble.value, "timeout", START - 60.0, START - 60.0, pod, alone)


FLEETS, OWN = told("b", alone=False), told("a", alone=True)


@pytest.mark.parametrize(
    ("check", "stance", "before", "history", "expected"),
    [
        pytest.param(STRIPE, Stance.HOLDER, None, "xx", "F", id="the holder tells"),
        pytest.param(STRIPE, Stance.FOLLOWER, None, "xx", "", id="a follower does not"),
        pytest.param(STRIPE, Stance.ALONE, None, "xx", "", id="nor who has only heard of it"),
        pytest.param(ALONE, Stance.ALONE, None, "xx", "F", id="without a fleet each for itself"),
        pytest.param(ALONE, Stance.FOLLOWER, None, "xx", "F", id="what it has found itself"),
        pytest.param(ALONE, Stance.ALONE, FLEETS, "xx", "", id="what the fleet was told is told"),
        pytest.param(STRIPE, Stance.HOLDER, FLEETS, "..", "R", id="the end by the next holder"),
        pytest.param(STRIPE, Stance.FOLLOWER, FLEETS, "..", "", id="not by a follower"),
        pytest.param(ALONE, Stance.ALONE, FLEETS, "..", "", id="nor by each who is alone"),
        pytest.param(
            ALONE, Stance.ALONE, told("a", alone=False), "..", "R", id="but by the last holder"
        ),
        pytest.param(
            STRIPE, Stance.FOLLOWER, told("a", alone=False), "..", "", id="while there is no other"
        ),
        pytest.param(STRIPE, Stance.FOLLOWER, OWN, "..", "R", id="a pod ends what it has told"),
        pytest.param(
            STRIPE, Stance.HOLDER, told("b", alone=True), "..", "R", id="the holder, for the dead"
        ),
    ],
)
def test_who_tells(
    check: Check, stance: Stance, before: Told | None, history: str, expected: str
) -> None:
    pod = Pod(check)
    pod.stance = stance
    pod.state = replace(pod.state, told=before)
    assert pod.play(history).strip() == expected


def test_the_end_of_what_a_pod_told_for_itself_is_about_that_pod() -> None:
    pod = Pod(STRIPE)
    pod.stance = Stance.HOLDER
    pod.state = replace(pod.state, told=told("b", alone=True))
    pod.play(".")
    (notice,) = pod.notices
    assert (notice.pod, notice.alone) == ("b", True)


def test_two_who_tell_the_end_of_the_fleets_failure_tell_the_same() -> None:
    """The last holder while the fleet is out of reach, and the next one when it is back."""
    last, following = Pod(ALONE, name="b"), Pod(STRIPE, name="a")
    following.stance = Stance.HOLDER
    keys = set()
    for pod, history in ((last, "..."), (following, "_..")):
        pod.state = replace(pod.state, told=FLEETS)
        pod.play(history)
        keys |= {notice.key for notice in pod.notices}
    assert len(keys) == 1


def all_orders(length: int) -> Iterator[str]:
    for number in range(2**length):
        yield "".join("x" if number >> bit & 1 else "." for bit in range(length))


@pytest.mark.parametrize("interval", [0, 3])
def test_no_history_breaks_the_promises(interval: int) -> None:
    """Failure and end take turns, never too close, and in the end the told is what is."""
    for history in all_orders(10):
        pod = Pod(DATABASE, interval)
        said = pod.play(history + "." * 8)
        letters = said.replace(" ", "")
        assert letters == "UR" * (len(letters) // 2), history
        moments = [at for at, letter in enumerate(said) if letter != " "]
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        assert min(gaps, default=interval) >= interval, history
