"""The monitor and the other pods: who runs a fleet-scoped check, and what is adopted."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from service.health import (
    Check,
    CheckState,
    FleetView,
    Probe,
    Scope,
    Snapshot,
    Stance,
    Status,
    Told,
)
from service.health.snapshot import decode
from service.monitor import FIRST_PATIENCE, Monitor
from service.scoreboard import Scoreboard
from tests.unit.fakes import LETTERS, Clock, Startup, after, until
from tests.unit.test_monitor import Recorder, Scripted

STRIPE = Check("stripe_api", interval=60.0, timeout=5.0, failing_interval=15.0, scope=Scope.FLEET)
DATABASE = Check("database", interval=5.0, timeout=2.0)


class Others:
    """The other pods, as a test wants them."""

    interval = 10.0

    def __init__(self, stance: Stance) -> None:
        self.now = stance
        self.found: Mapping[str, CheckState] = {}
        self.seen: FleetView | None = None
        self.told: list[Snapshot] = []

    def shares(self, check: Check) -> bool:
        return check.scope is Scope.FLEET

    def stance(self) -> Stance:
        return self.now

    def results(self) -> Mapping[str, CheckState]:
        return self.found

    def view(self) -> FleetView | None:
        return self.seen

    def tell(self, snapshot: Snapshot) -> None:
        self.told.append(snapshot)

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Rig:
    def __init__(self, others: Others | None, probe: Probe, check: Check = STRIPE) -> None:
        self.clock = Clock()
        self.board = Scoreboard.create(None, slots=4, clock=self.clock.nanoseconds)
        self.recorder = Recorder()
        self.monitor = Monitor(
            {check: probe},
            self.board,
            1,
            self.recorder,
            Startup(),
            fleet=others,
            clock=self.clock,
            wall=Clock(1.7e9),
            chance=lambda: 0.5,
        )

    def tick(self, seconds: float = 0.0) -> float:
        self.clock.advance(seconds)
        return self.monitor.tick()

    def finish(self) -> None:
        wanted = len(self.recorder.runs) + 1

        def ended() -> bool:
            self.tick()
            return len(self.recorder.runs) >= wanted

        until(ended, "the end of a run")

    @property
    def state(self) -> CheckState:
        newest = self.board.newest()
        assert newest is not None
        (state,) = decode(newest.body).states.values()
        return state


def published(history: str, finished: float) -> Mapping[str, CheckState]:
    state = after(STRIPE, history)
    assert state.run is not None
    return {"stripe_api": replace(state, run=replace(state.run, finished=finished))}


def test_the_holder_runs_it_for_all() -> None:
    others, probe = Others(Stance.HOLDER), Scripted(".")
    rig = Rig(others, probe)
    rig.tick(1.0)
    rig.finish()
    assert rig.state.check.scope is Scope.FLEET
    assert others.told[-1].states["stripe_api"].run is not None
    rig.tick(59.9)
    assert probe.calls == 1
    rig.tick(0.1)
    rig.finish()
    assert probe.calls == 2


def test_a_follower_waits_and_adopts() -> None:
    others, probe = Others(Stance.FOLLOWER), Scripted(".")
    rig = Rig(others, probe)
    assert rig.tick(1.0) > 0
    others.found = published(".xx", 1000.5)
    rig.tick(0.5)
    assert LETTERS[rig.state.status] == "U"
    assert rig.state.check.scope is Scope.FLEET
    assert rig.state.run is not None
    assert rig.state.run.finished == 1000.5
    assert rig.state.failed_runs == 0
    assert probe.calls == 0
    assert not rig.recorder.runs


def test_what_is_older_is_not_adopted() -> None:
    others = Others(Stance.HOLDER)
    rig = Rig(others, Scripted("."))
    rig.tick(1.0)
    rig.finish()
    others.found = published("xx", 900.0)
    rig.tick(1.0)
    assert rig.state.status is Status.HEALTHY


def test_without_a_first_result_a_follower_asks_in_the_end() -> None:
    probe = Scripted(".")
    rig = Rig(Others(Stance.FOLLOWER), probe)
    rig.tick(STRIPE.timeout + FIRST_PATIENCE)
    assert probe.calls == 0
    rig.tick(0.5)
    rig.finish()
    assert rig.state.check.scope is Scope.POD


@pytest.mark.parametrize("stance", [Stance.ALONE, Stance.FOLLOWER])
def test_when_nothing_comes_each_asks_for_itself_more_rarely(stance: Stance) -> None:
    others, probe = Others(stance), Scripted(".")
    rig = Rig(others, probe)
    others.found = published("..", 1000.0)
    rig.tick(0.0)
    rig.tick(149.9)
    assert probe.calls == 0
    assert rig.state.status is Status.HEALTHY
    rig.tick(0.2)
    rig.finish()
    assert (rig.state.status, rig.state.check.scope) == (Status.HEALTHY, Scope.POD)


def test_the_scope_alone_changes_no_status() -> None:
    others = Others(Stance.FOLLOWER)
    rig = Rig(others, Scripted("x."))
    others.found = published("..", 1000.0)
    rig.tick(0.0)
    others.now = Stance.ALONE
    rig.tick(150.1)
    rig.finish()
    assert rig.state.status is Status.WARNING, "a first failure is not believed, here neither"


def test_a_new_holder_goes_on_where_the_old_one_was() -> None:
    others, probe = Others(Stance.FOLLOWER), Scripted(".")
    rig = Rig(others, probe)
    others.found = published("..", 1000.0)
    rig.tick(0.0)
    rig.tick(30.0)
    others.now = Stance.HOLDER
    rig.tick(29.9)
    assert probe.calls == 0
    rig.tick(0.2)
    rig.finish()
    assert rig.state.check.scope is Scope.FLEET


def test_other_checks_run_as_ever() -> None:
    others, probe = Others(Stance.FOLLOWER), Scripted(".")
    rig = Rig(others, probe, DATABASE)
    others.found = {"database": after(DATABASE, "xx", step=1000.0)}
    rig.tick(1.0)
    rig.finish()
    assert rig.state.status is Status.HEALTHY
    assert rig.state.check.scope is Scope.POD


def test_without_a_way_to_the_others_each_is_alone() -> None:
    probe = Scripted(".")
    rig = Rig(None, probe)
    rig.tick(1.0)
    rig.finish()
    assert rig.state.check.scope is Scope.POD
    rig.tick(149.0)
    assert probe.calls == 1


def test_the_view_is_published() -> None:
    others = Others(Stance.FOLLOWER)
    others.seen = FleetView(1000.0, 1.7e9, 30.0, 2)
    rig = Rig(others, Scripted("."))
    rig.tick(0.0)
    newest = rig.board.newest()
    assert newest is not None
    assert decode(newest.body).fleet == others.seen


def test_what_says_nothing_is_not_adopted() -> None:
    others = Others(Stance.FOLLOWER)
    rig = Rig(others, Scripted("."))
    others.found = {
        "stripe_api": replace(after(STRIPE, "."), run=None),
        "other": after(STRIPE, "."),
    }
    rig.tick(0.0)
    assert rig.state.run is None


FLEETS = Told(1, "timeout", 900.0, 950.0, "another", alone=False)


def test_what_was_told_comes_with_the_state() -> None:
    others = Others(Stance.FOLLOWER)
    rig = Rig(others, Scripted("."))
    others.found = published(".xx", 1000.5)
    rig.tick(0.5)
    assert rig.state.told is None
    others.found = {"stripe_api": replace(others.found["stripe_api"], told=FLEETS)}
    rig.tick(0.5)
    assert rig.state.told == FLEETS, "with the same run, too"


def test_a_pod_keeps_what_it_has_told_for_itself_until_its_end() -> None:
    others = Others(Stance.FOLLOWER)
    rig = Rig(others, Scripted("."))
    own = replace(FLEETS, pod=rig.board.pod_id, alone=True)
    others.found = {"stripe_api": replace(published("xx", 1000.5)["stripe_api"], told=own)}
    rig.tick(0.5)
    newer = replace(published("..", 1001.5)["stripe_api"], told=FLEETS)
    assert newer.run is not None
    run = replace(newer.run, finished_at=newer.run.finished_at + 1)
    others.found = {"stripe_api": replace(newer, run=run)}
    rig.tick(1.0)
    assert (rig.state.status, rig.state.told) == (Status.HEALTHY, own)


def test_a_change_that_is_adopted_is_logged_with_what_was_before() -> None:
    others = Others(Stance.FOLLOWER)
    rig = Rig(others, Scripted("."))
    with capture_logs() as logs:
        others.found = published("..", 1000.5)
        rig.tick(0.5)
        failing = published(".xx", 1010.5)["stripe_api"]
        assert failing.run is not None
        run = replace(failing.run, finished_at=failing.run.finished_at + 10)
        others.found = {"stripe_api": replace(failing, run=run, since=1010.5)}
        rig.tick(10.0)
    (line,) = [each for each in logs if each["event"] == "check status"]
    assert (line["previous"], line["status"]) == ("healthy", "unhealthy")
