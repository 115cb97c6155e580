"""The monitor, driven by hand: clocks stand still until a test moves them."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.health import (
    Check,
    CheckFailed,
    CheckState,
    Lifecycle,
    Phase,
    Probe,
    Result,
    Role,
    Run,
    Snapshot,
    Stance,
    Status,
    TaskState,
    Thresholds,
    Told,
)
from service.health.snapshot import decode, encode
from service.monitor import MAX_LOST, TICK, Lane, Monitor, Notices
from service.scoreboard import Scoreboard
from tests.unit.fakes import HEALTHY, LETTERS, RESULTS, UNHEALTHY, Clock, Startup, until

DATABASE = Check("database", interval=5.0, timeout=2.0, failing_interval=1.0)
REDIS = Check("redis", interval=5.0, timeout=1.0, failing_interval=1.0)
MANY = Thresholds(failure=5, success=5)


class Recorder:
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, Run]] = []
        self.steps: list[str] = []

    def run_finished(self, check: Check, run: Run, before: Status, after: Status) -> None:
        self.runs.append((check.name, run))
        self.steps.append(LETTERS[before] + LETTERS[after])


class Scripted:
    """A probe that finds one thing after another, the last for ever."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.calls = 0

    def __call__(self) -> Result:
        letter = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        return RESULTS[letter]


class Stuck:
    """A probe that waits until it is released, or until it is closed if that wakes it."""

    def __init__(self, *, wakes: bool = False) -> None:
        self.wakes = wakes
        self.released = threading.Event()
        self.calls = 0
        self.returned = 0
        self.closed = 0

    def __call__(self) -> Result:
        self.calls += 1
        assert self.released.wait(600)
        self.returned += 1
        return HEALTHY

    def close(self) -> None:
        self.closed += 1
        if self.wakes:
            self.released.set()


class Rig:
    """A monitor with everything it touches."""

    def __init__(
        self,
        probes: Mapping[Check, Probe | None],
        board: Scoreboard | None = None,
        epoch: int = 1,
        chance: Callable[[], float] = lambda: 0.5,
        notices: Notices | None = None,
    ) -> None:
        self.clock, self.wall = Clock(), Clock(1.7e9)
        self.board = board or Scoreboard.create(None, slots=4, clock=self.clock.nanoseconds)
        self.board.expected = 1
        self.recorder = Recorder()
        self.probes = probes
        self.startup = Startup()
        self.elder_threads = set(threading.enumerate())
        self.monitor = Monitor(
            probes,
            self.board,
            epoch,
            self.recorder,
            self.startup,
            notices=notices,
            clock=self.clock,
            wall=self.wall,
            chance=chance,
        )

    def tick(self, seconds: float = 0.0) -> float:
        """Lets time pass, and then the monitor do what is due."""
        self.clock.advance(seconds)
        self.wall.advance(seconds)
        return self.monitor.tick()

    def finish(self, runs: int = 1) -> None:
        """Ticks, at one moment, until so many more runs have ended."""
        wanted = len(self.recorder.runs) + runs

        def ended() -> bool:
            self.tick()
            return len(self.recorder.runs) >= wanted

        until(ended, "the end of a run")

    def round(self, runs: int = 1) -> None:
        """Lets time pass until something is due, and lets that many runs end."""
        self.tick(max(self.monitor._due[name] for name in self.monitor._due) - self.clock())
        self.finish(runs)

    def play(self, rounds: int) -> str:
        """The status after each of some rounds, of the only check there is."""
        letters = []
        for _ in range(rounds):
            self.round()
            (state,) = self.published.states.values()
            letters.append(LETTERS[state.status])
        return "".join(letters)

    def overrun(self) -> None:
        """The only check begins a run and passes its time limit."""
        (check,) = self.probes
        self.tick(self.monitor._due[check.name] - self.clock())
        self.tick(check.timeout)

    @property
    def published(self) -> Snapshot:
        newest = self.board.newest()
        assert newest is not None
        return decode(newest.body)

    def found(self, name: str) -> list[tuple[str | None, float]]:
        """Code and duration of each run of a check."""
        return [
            (run.result.code, round(run.duration, 6))
            for check, run in self.recorder.runs
            if check == name
        ]

    def threads(self) -> list[threading.Thread]:
        """The threads of this monitor's probes."""
        mine = {f"probe-{check.name}" for check in self.probes}
        since = set(threading.enumerate()) - self.elder_threads
        return [thread for thread in since if thread.name in mine]

    def lanes(self) -> list[Lane]:
        """The threads this monitor still knows."""
        runners = self.monitor._runners.values()
        lanes = (lane for runner in runners for lane in (runner._lane, *runner._lost))
        return [lane for lane in lanes if lane is not None and lane.lives]

    def end(self) -> None:
        for probe in self.probes.values():
            if isinstance(probe, Stuck):
                probe.released.set()
        self.monitor.stop()
        for lane in self.lanes():
            lane.give_up()


Make = Callable[..., Rig]


@pytest.fixture
def make() -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(probes: Mapping[Check, Any], **more: Any) -> Rig:
        rigs.append(Rig(probes, **more))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.end()
    until(lambda: not any(rig.lanes() for rig in rigs), "the end of the probes' threads")


def web_worker(board: Scoreboard, number: int = 0, phase: Phase = Phase.READY) -> None:
    slot = board.slot(number)
    slot.assign(Role.WEB, generation=0, threads=4)
    slot.enter(phase)


# -- when


def test_the_first_run_has_an_offset_of_its_own(make: Make) -> None:
    offsets = iter([0.0, 0.25])
    probes = {DATABASE: Scripted("."), REDIS: Scripted(".")}
    rig = make(probes, chance=lambda: next(offsets, 0.5))
    assert rig.tick() == 0.25
    assert rig.monitor._runners["database"].started == 1000.0
    assert rig.monitor._runners["redis"].started is None
    rig.tick(0.25)
    assert rig.monitor._runners["redis"].started == 1000.25


@pytest.mark.parametrize(
    ("chance", "script", "wait"),
    [
        pytest.param(0.5, ".", 5.0, id="the interval"),
        pytest.param(0.0, ".", 4.5, id="a tenth earlier"),
        pytest.param(0.75, ".", 5.25, id="or later"),
        pytest.param(0.5, "x", 1.0, id="failing"),
        pytest.param(0.0, "x", 0.9, id="failing, a tenth earlier"),
    ],
)
def test_the_next_run(make: Make, chance: float, script: str, wait: float) -> None:
    rig = make({DATABASE: Scripted(script)}, chance=lambda: chance)
    rig.round()
    ended = rig.clock()
    begun = []
    while not begun:
        rig.tick(0.05)
        runner = rig.monitor._runners["database"]
        begun = [runner.started] if runner.started is not None else []
    assert begun[0] - ended == pytest.approx(wait, abs=0.051)
    rig.finish()


def test_a_tick_says_when_the_next_is_due(make: Make) -> None:
    rig = make({DATABASE: Stuck()})
    assert rig.tick() == 0.5, "the first run"
    assert rig.tick(0.5) == 0.5, "the next publication"
    assert rig.tick(0.5) == TICK
    assert rig.tick(1.25) == 0.25, "the deadline"
    assert rig.tick(0.25) == 1.0, "the next publication, and the next run"


def test_a_late_tick_never_waits_a_negative_time(make: Make) -> None:
    rig = make({DATABASE: Stuck(), REDIS: Scripted(".")})
    for late in (0.0, 100.0, 100.0, 0.0):
        assert rig.tick(late) >= 0.0


def test_a_service_is_left_alone_when_it_asks(make: Make) -> None:
    busy = Result.failed("rate_limited", retry_after=8.0)
    rig = make({DATABASE: lambda: busy})
    rig.round()
    assert rig.monitor._due["database"] == rig.clock() + 8.0


def test_a_wait_asked_for_is_bounded(make: Make) -> None:
    busy = Result.failed("rate_limited", retry_after=86400.0)
    rig = make({DATABASE: lambda: busy})
    rig.round()
    assert rig.monitor._due["database"] == rig.clock() + 10.0


def test_what_is_not_configured_is_not_run(make: Make) -> None:
    absent = Check("redis", unconfigured="not_configured")
    rig = make({DATABASE: Scripted("."), absent: None})
    rig.round()
    for _ in range(100):
        rig.tick(1.0)
    rig.finish(0)
    state = rig.published.states["redis"]
    assert (state.status, state.code, state.run) == (Status.NOT_CONFIGURED, "not_configured", None)
    assert {name for name, _ in rig.recorder.runs} == {"database"}


# -- what a run finds


def fails_knowingly() -> None:
    raise CheckFailed("authentication_failed", "the password of carol")


def times_out() -> None:
    raise TimeoutError("no answer")


def breaks() -> None:
    raise LookupError("carol")


@pytest.mark.parametrize(
    ("probe", "status", "code"),
    [
        pytest.param(lambda: None, "healthy", None, id="nothing to say"),
        pytest.param(lambda: HEALTHY, "healthy", None, id="healthy"),
        pytest.param(lambda: UNHEALTHY, "unhealthy", "connection_refused", id="unhealthy"),
        pytest.param(fails_knowingly, "unhealthy", "authentication_failed", id="a known reason"),
        pytest.param(times_out, "unhealthy", "timeout", id="a time limit of its own"),
        pytest.param(breaks, "unhealthy", "check_failed", id="something unforeseen"),
    ],
)
def test_what_a_probe_says(make: Make, probe: Probe, status: str, code: str | None) -> None:
    rig = make({DATABASE: probe})
    rig.round()
    state = rig.published.states["database"]
    assert (state.status.word, state.code) == (status, code)
    assert rig.found("database") == [(code, 0.0)]


def invents_a_code() -> None:
    raise CheckFailed("no_such_code", "from an application's own check")


def says_stale() -> None:
    raise CheckFailed("stale")


@pytest.mark.parametrize(
    "probe",
    [
        pytest.param(lambda: True, id="returns a bool"),
        pytest.param(lambda: "fine", id="returns a text"),
        pytest.param(invents_a_code, id="fails with a code of its own"),
        pytest.param(says_stale, id="fails with a code that is no result"),
        pytest.param(lambda: Result(details={"at": object()}), id="measures what is no JSON"),
    ],
)
def test_a_probe_that_breaks_the_rules_fails_alone(make: Make, probe: Any) -> None:
    """An application's own check: the others must not suffer from it."""
    rig = make({Check("own"): probe, DATABASE: Scripted(".")})
    rig.tick(0.5)
    runners = rig.monitor._runners.values()
    until(lambda: all(each._found or not each._lane.lives for each in runners), "both runs")
    rig.tick()
    rig.tick(DATABASE.timeout)
    states = rig.published.states
    assert (states["own"].status, states["own"].code) == (Status.UNHEALTHY, "check_failed")
    assert states["database"].status is Status.HEALTHY


def test_a_run_is_recorded_as_it_was(make: Make) -> None:
    slow = Stuck()
    rig = make({DATABASE: slow})
    rig.tick(0.5)
    rig.tick(1.25)
    slow.released.set()
    rig.finish()
    (name, run) = rig.recorder.runs[0]
    assert (name, run.duration, run.finished, run.finished_at) == (
        "database",
        1.25,
        1001.75,
        1.7e9 + 1.75,
    )


def test_every_run_is_counted_with_what_it_did_to_the_status(make: Make) -> None:
    rig = make({DATABASE: Scripted(".xx..")})
    assert rig.play(5) == "HWUUH"
    assert rig.recorder.steps == ["?H", "HW", "WU", "UU", "UH"]


def test_the_first_run_after_an_expiry_comes_from_unknown(make: Make) -> None:
    rig = make({DATABASE: Scripted(".x")})
    rig.round()
    rig.clock.advance(DATABASE.expiry + 1)
    rig.tick()
    rig.finish()
    assert rig.recorder.steps == ["?H", "?U"]


# -- damping, end to end


@pytest.mark.parametrize(
    ("failure", "success", "script", "expected"),
    [
        pytest.param(2, 2, ".x.xx...", "HWHWUUHH", id="two of a kind"),
        pytest.param(3, 1, ".xx.xxx.", "HWWHWWUH", id="a blip is forgiven"),
        pytest.param(1, 1, ".x.x", "HUHU", id="at once"),
        pytest.param(2, 2, "x.", "UU", id="the first result counts"),
    ],
)
def test_histories(make: Make, failure: int, success: int, script: str, expected: str) -> None:
    check = replace(DATABASE, thresholds=Thresholds(failure, success))
    assert make({check: Scripted(script)}).play(len(script)) == expected


def test_a_check_that_fails_is_run_more_often(make: Make) -> None:
    rig = make({DATABASE: Scripted(".xx...")})
    moments = []
    for _ in range(6):
        rig.round()
        moments.append(rig.clock())
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits == [5.0, 1.0, 1.0, 1.0, 5.0]


# -- time limits


def test_a_run_that_passes_its_limit_ends_there(make: Make) -> None:
    stuck = Stuck()
    rig = make({DATABASE: stuck})
    rig.tick(0.5)
    until(lambda: stuck.calls, "the run")
    rig.tick(1.999)
    assert rig.found("database") == []
    assert stuck.closed == 0
    rig.tick(0.001)
    assert rig.found("database") == [("timeout", 2.0)]
    assert stuck.closed == 1
    state = rig.published.states["database"]
    assert (state.status, state.code) == (Status.UNHEALTHY, "timeout")


def test_closing_the_probe_wakes_it_and_the_next_run_is_a_new_one(make: Make) -> None:
    stuck = Stuck(wakes=True)
    rig = make({DATABASE: stuck})
    rig.tick(0.5)
    rig.tick(2.0)
    until(lambda: stuck.returned == 1, "the woken call")
    rig.round()
    assert rig.found("database") == [("timeout", 2.0), (None, 0.0)]


def test_a_probe_that_cannot_be_closed_is_left(make: Make) -> None:
    class Broken(Stuck):
        def close(self) -> None:
            super().close()
            raise OSError("already closed")

    broken = Broken()
    rig = make({DATABASE: broken, REDIS: Scripted(".")})
    with capture_logs() as logs:
        rig.tick(0.5)
        rig.finish()
        rig.tick(2.0)
    assert rig.found("database") == [("timeout", 2.0)]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "probe close failed"
    ]


def test_an_answer_after_the_limit_is_too_late(make: Make) -> None:
    """The monitor was not there at the deadline, and the answer was."""
    stuck = Stuck()
    rig = make({DATABASE: stuck})
    rig.tick(0.5)
    until(lambda: stuck.calls, "the run")
    rig.clock.advance(3.0)
    stuck.released.set()
    until(lambda: rig.monitor._runners["database"]._found, "the late answer")
    rig.finish()
    assert rig.found("database")[0][0] == "timeout"


def test_an_answer_within_the_limit_that_is_seen_late_counts(make: Make) -> None:
    stuck = Stuck()
    rig = make({DATABASE: stuck})
    rig.tick(0.5)
    until(lambda: stuck.calls, "the run")
    rig.clock.advance(1.5)
    stuck.released.set()
    until(lambda: rig.monitor._runners["database"]._found, "the answer")
    rig.clock.advance(100.0)
    rig.finish()
    assert rig.found("database") == [(None, 1.5)]


def test_one_slow_check_delays_no_other(make: Make) -> None:
    stuck = Stuck()
    slow = replace(DATABASE, timeout=60.0)
    rig = make({slow: stuck, REDIS: Scripted(".")})
    rig.tick(0.5)
    rig.finish()
    for count in range(2, 8):
        rig.tick(5.0)
        rig.finish()
        assert len(rig.found("redis")) == count
    until(lambda: stuck.calls, "the run")
    assert stuck.calls == 1
    assert rig.found("database") == []


def test_a_check_never_overlaps_itself(make: Make) -> None:
    inside = 0
    highest = 0
    gate = threading.Semaphore(0)

    def probe() -> None:
        nonlocal inside, highest
        inside += 1
        highest = max(highest, inside)
        gate.acquire()
        inside -= 1

    rig = make({replace(DATABASE, interval=0.5, timeout=100.0): probe})
    rig.tick(0.5)
    for _ in range(50):
        until(lambda: inside == 1, "the run")
        rig.tick(0.9)
        assert len(rig.threads()) == 1
        gate.release()
        rig.finish()
        rig.tick(0.5)
    gate.release()
    rig.finish()
    assert highest == 1
    assert {code for code, _ in rig.found("database")} == {None}


def test_a_thousand_runs_that_never_return_cost_two_threads(make: Make) -> None:
    stuck = Stuck()
    rig = make({DATABASE: stuck})
    for _ in range(1000):
        rig.overrun()
    assert len(rig.found("database")) == 1000
    assert set(rig.found("database")) == {("timeout", 2.0)}
    assert len(rig.threads()) == MAX_LOST == 2
    until(lambda: stuck.calls == 2, "the two calls there were threads for")


def test_a_check_recovers_when_its_lost_threads_come_back(make: Make) -> None:
    stuck = Stuck()
    rig = make({DATABASE: stuck})
    for _ in range(5):
        rig.overrun()
    stuck.released.set()
    until(lambda: not rig.threads(), "the end of the lost threads")
    assert rig.play(2) == "UH"
    assert rig.found("database")[5:] == [(None, 0.0)] * 2


def test_what_a_lost_run_finds_in_the_end_goes_nowhere(make: Make) -> None:
    """While there is no thread for a new run, an old one may come back at any time."""
    stuck = Stuck()
    rig = make({DATABASE: stuck})
    for _ in range(MAX_LOST):
        rig.overrun()
    rig.tick(rig.monitor._due["database"] - rig.clock())
    until(lambda: stuck.calls == MAX_LOST, "the two calls")
    stuck.released.set()
    until(lambda: not rig.threads(), "the end of the lost threads")
    rig.tick(1.0)
    rig.tick(1.0)
    assert rig.found("database") == [("timeout", 2.0)] * 3


def test_a_lost_thread_disturbs_no_later_run(make: Make) -> None:
    """The first run never returns, the second answers."""
    calls = 0
    lost = threading.Event()

    def probe() -> Result:
        nonlocal calls
        calls += 1
        if calls == 1:
            assert lost.wait(600)
            return UNHEALTHY
        return HEALTHY

    rig = make({DATABASE: probe})
    rig.overrun()
    until(lambda: calls, "the run that is lost")
    rig.round()
    lost.set()
    until(lambda: len(rig.threads()) == 1, "the end of the lost thread")
    rig.round()
    assert [code for code, _ in rig.found("database")] == ["timeout", None, None]


# -- publication


def test_it_publishes_at_every_tick(make: Make) -> None:
    rig = make({DATABASE: Stuck()})
    ranks = []
    for _ in range(5):
        rig.tick(TICK)
        ranks.append(rig.board.rank)
    assert len(set(ranks)) == 5


def test_it_publishes_no_more_than_that(make: Make) -> None:
    rig = make({DATABASE: Stuck()})
    rig.tick()
    before = rig.board.rank
    for _ in range(9):
        rig.tick(0.1)
    assert rig.board.rank == before
    rig.tick(0.1)
    assert rig.board.rank > before


def test_it_publishes_a_finished_run_at_once(make: Make) -> None:
    rig = make({DATABASE: Scripted(".x")})
    rig.tick()
    rig.tick(0.5)
    rig.finish()
    assert rig.published.states["database"].status is Status.HEALTHY
    before = rig.board.rank
    rig.round()
    assert rig.board.rank > before
    assert rig.published.states["database"].status is Status.WARNING


def test_before_the_first_result_it_publishes_that_nobody_knows(make: Make) -> None:
    rig = make({DATABASE: Stuck(), REDIS: Stuck()})
    rig.tick()
    assert [state.code for state in rig.published.states.values()] == ["not_yet_checked"] * 2
    assert list(rig.published.states) == ["database", "redis"]


def test_no_reason_is_published(make: Make) -> None:
    rig = make({DATABASE: fails_knowingly})
    rig.round()
    newest = rig.board.newest()
    assert newest is not None
    assert b"carol" not in newest.body


def test_a_step_of_the_wall_clock_changes_no_status(make: Make) -> None:
    rig = make({DATABASE: Scripted(".xx...")})
    steps = iter([0.0, 1e8, -2e8, 86400.0, -1e9, 0.0])
    letters = []
    for step in steps:
        rig.wall.advance(step)
        rig.round()
        state = rig.published.at(rig.clock()).states["database"]
        letters.append(LETTERS[state.status])
    assert "".join(letters) == "HWUUHH"


def test_it_publishes_a_step_of_a_startup_task_at_once(make: Make) -> None:
    rig = make({})
    rig.startup.tasks = {"migrate": TaskState()}
    rig.tick()
    rig.startup.tasks = {"migrate": TaskState().running(1)}
    assert rig.published.tasks == {"migrate": TaskState()}
    rig.tick(0.1)
    assert rig.published.tasks == {"migrate": TaskState().running(1)}


# -- the predecessor


def test_a_successor_goes_on_where_it_ended(make: Make) -> None:
    first = make({DATABASE: Scripted(".x"), REDIS: Scripted("x")})
    first.round(2)
    first.round(2)
    second = make({DATABASE: Scripted("x"), REDIS: Scripted(".")}, board=first.board, epoch=2)
    second.clock.now = first.clock()
    second.tick()
    before, after = first.published.states, second.published.states
    assert after == before
    assert [LETTERS[state.status] for state in after.values()] == ["W", "U"]
    second.round(2)
    assert [LETTERS[state.status] for state in second.published.states.values()] == ["U", "U"]
    assert second.published.states["redis"].failed_runs == 2
    assert second.published.states["database"].failed_runs == 2


def test_a_successor_has_definitions_of_its_own(make: Make) -> None:
    first = make({DATABASE: Scripted("."), REDIS: Scripted(".")})
    first.round(2)
    slower = replace(DATABASE, interval=50.0, critical=True)
    absent = replace(REDIS, unconfigured="not_configured")
    queue = Check("queue")
    second = make({slower: Stuck(), absent: None, queue: Stuck()}, board=first.board, epoch=2)
    second.tick()
    states = second.published.states
    assert list(states) == ["database", "redis", "queue"]
    assert (states["database"].check, states["database"].status) == (slower, Status.HEALTHY)
    assert states["redis"] == CheckState.initial(absent)
    assert states["queue"] == CheckState.initial(queue)


def test_what_was_not_configured_before_is_unknown_now(make: Make) -> None:
    first = make({replace(DATABASE, unconfigured="not_configured"): None})
    first.tick()
    second = make({DATABASE: Stuck()}, board=first.board, epoch=2)
    second.tick()
    assert second.published.states["database"] == CheckState.initial(DATABASE)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"states": [{"check": {}}]}'], ids=repr)
def test_a_publication_of_another_version_is_no_loss(make: Make, body: bytes) -> None:
    board = Scoreboard.create(None, slots=4)
    board.publish(1, body)
    rig = make({DATABASE: Stuck()}, board=board, epoch=2)
    rig.tick()
    assert rig.published.states["database"] == CheckState.initial(DATABASE)


# -- from starting to serving


STARTUP = replace(DATABASE, startup=True, critical=True)


def test_a_pod_serves_once_nothing_keeps_it_from_that(make: Make) -> None:
    rig = make({STARTUP: Scripted(".x")})
    web_worker(rig.board)
    rig.tick()
    assert rig.board.serving_at is None
    with capture_logs() as logs:
        rig.round()
    assert rig.board.serving_at == pytest.approx(rig.wall())
    assert [entry["event"] for entry in logs].count("pod serving") == 1


@pytest.mark.parametrize(
    ("probes", "serves"),
    [
        pytest.param({STARTUP: "."}, True, id="a startup check is healthy"),
        pytest.param({STARTUP: "w"}, True, id="is warned about"),
        pytest.param({STARTUP: "x"}, False, id="is down"),
        pytest.param({STARTUP: "xx."}, False, id="has not recovered"),
        pytest.param({STARTUP: "xx.."}, True, id="has recovered"),
        pytest.param({DATABASE: "x"}, True, id="is down and does not count"),
        pytest.param({DATABASE: "?"}, False, id="another check has no result"),
        pytest.param({DATABASE: "t"}, True, id="but its time limit has passed"),
        pytest.param({STARTUP: "t"}, False, id="a startup check has timed out"),
        pytest.param({replace(STARTUP, unconfigured="not_configured"): ""}, True, id="is absent"),
        pytest.param({}, True, id="there are no checks"),
    ],
)
def test_which_checks_keep_a_pod_from_serving(
    make: Make, probes: dict[Check, str], *, serves: bool
) -> None:
    made = {
        check: None if not script else Stuck() if script in "?t" else Scripted(script)
        for check, script in probes.items()
    }
    rig = make(made)
    web_worker(rig.board)
    for script in probes.values():
        if script == "t":
            rig.overrun()
        elif script and script != "?":
            rig.play(len(script))
    rig.tick(0.5)
    assert (rig.board.serving_at is not None) is serves


@pytest.mark.parametrize(
    ("expected", "workers", "serves"),
    [
        pytest.param(1, "R", True, id="the one there should be"),
        pytest.param(2, "R", False, id="one is missing"),
        pytest.param(2, "RB", False, id="one boots"),
        pytest.param(2, "RRB", True, id="enough have booted"),
        pytest.param(1, "H", False, id="the health worker is no web worker"),
        pytest.param(2, "RH", False, id="nor the second"),
        pytest.param(1, "S", False, id="one that stops is none"),
        pytest.param(1, "", False, id="nobody"),
    ],
)
def test_a_pod_serves_when_its_web_workers_have_booted(
    make: Make, expected: int, workers: str, *, serves: bool
) -> None:
    rig = make({})
    rig.board.expected = expected
    for number, letter in enumerate(workers):
        slot = rig.board.slot(number)
        slot.assign(Role.HEALTH if letter == "H" else Role.WEB, generation=0, threads=1)
        slot.enter({"B": Phase.BOOTING, "S": Phase.STOPPING}.get(letter, Phase.READY))
    rig.tick()
    assert (rig.board.serving_at is not None) is serves


def test_a_pod_serves_when_its_startup_tasks_are_done(make: Make) -> None:
    rig = make({})
    web_worker(rig.board)
    for state in (TaskState(), TaskState().running(1), TaskState().abandoned("task_failed")):
        rig.startup.tasks = {"migrate": state}
        rig.tick()
        assert rig.board.serving_at is None
    rig.startup.tasks = {"migrate": TaskState().succeeded(0.5, 1)}
    rig.tick()
    assert rig.board.serving_at is not None
    assert rig.published.tasks["migrate"].done


def test_serving_is_latched(make: Make) -> None:
    rig = make({STARTUP: Scripted(".x")})
    web_worker(rig.board)
    rig.play(1)
    since = rig.board.serving_at
    assert since is not None
    rig.board.free(0)
    assert rig.play(3) == "WUU"
    assert rig.board.serving_at == since


def test_serving_survives_the_monitor(make: Make) -> None:
    first = make({STARTUP: Scripted(".")})
    web_worker(first.board)
    first.play(1)
    since = first.board.serving_at
    second = make({STARTUP: Scripted("x")}, board=first.board, epoch=2)
    second.tick(1000.0)
    assert second.board.serving_at == since


def test_a_passed_check_is_remembered_over_the_monitor(make: Make) -> None:
    """It passed, the monitor died, it failed: it has passed once since the pod started."""
    first = make({STARTUP: Scripted(".")})
    first.play(1)
    second = make({STARTUP: Scripted("x")}, board=first.board, epoch=2)
    second.clock.now = first.clock()
    assert second.play(3)[-1] == "U"
    assert second.board.serving_at is None
    web_worker(second.board)
    second.tick()
    assert second.board.serving_at is not None


# -- the log


def lines(rig: Rig, rounds: int) -> list[dict[str, Any]]:
    with capture_logs() as logs:
        rig.play(rounds)
    return [entry for entry in logs if entry["event"] == "check status"]


def test_the_log_gets_the_full_reason(make: Make) -> None:
    slow = Stuck()
    rig = make({DATABASE: slow})
    with capture_logs() as logs:
        rig.tick(0.5)
        rig.tick(2.0)
    (line,) = [entry for entry in logs if entry["event"] == "check status"]
    assert line == {
        "event": "check status",
        "log_level": "warning",
        "check": "database",
        "status": "unhealthy",
        "code": "timeout",
        "reason": "the time limit passed",
        "duration_ms": 2000.0,
    }


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(".....", "", id="nothing to say"),
        pytest.param(".x.", "WH", id="a blip"),
        pytest.param(".xxx", "WU", id="once per change of status"),
        pytest.param(".xx...", "WUH", id="there and back"),
        pytest.param(".www", "W", id="a warning, once"),
        pytest.param("xxx", "U", id="from the first result"),
    ],
)
def test_one_line_a_change(make: Make, script: str, expected: str) -> None:
    letters = {status.word: letter for status, letter in LETTERS.items()}
    said = lines(make({DATABASE: Scripted(script)}), len(script))
    seen = "".join(letters[line["status"]] for line in said)
    # That it works from the beginning may be said or not.
    assert seen.removeprefix("H") == expected


def test_the_line_of_a_change_says_what_was_before_and_for_how_long(make: Make) -> None:
    rig = make({DATABASE: Scripted(".xx..")})
    said = lines(rig, 5)
    found = [(line["previous"], line["previous_seconds"], line["status"]) for line in said]
    assert found == [
        ("healthy", 5.0, "warning"),
        ("warning", 1.0, "unhealthy"),
        ("unhealthy", 2.0, "healthy"),
    ]


def test_how_long_it_was_is_remembered_over_the_monitor(make: Make) -> None:
    first = make({DATABASE: Scripted("x")})
    first.play(2)
    second = make({DATABASE: Scripted(".")}, board=first.board, epoch=2)
    second.clock.now = first.clock()
    last = lines(second, 2)[-1]
    assert (last["status"], last["previous"], last["previous_seconds"]) == (
        "healthy",
        "unhealthy",
        3.0,
    )


CRITICAL = replace(DATABASE, critical=True)


def pod_lines(rig: Rig, act: Callable[[], Any]) -> list[dict[str, Any]]:
    """What is said of the pod when something has happened."""
    with capture_logs() as logs:
        act()
        rig.tick(1.0)
    return [entry for entry in logs if entry["event"].startswith("pod ")]


def test_one_line_when_the_pod_gets_out_of_traffic_and_back(make: Make) -> None:
    rig = make({CRITICAL: Scripted(".xx..")})
    web_worker(rig.board)
    assert [line["event"] for line in pod_lines(rig, lambda: rig.play(1))] == ["pod serving"]
    (line,) = pod_lines(rig, lambda: rig.play(2))
    assert line == {
        "event": "pod not ready",
        "log_level": "warning",
        "codes": {"database": "connection_refused"},
        "previous": "ready",
        "previous_seconds": 6.0,
    }
    (line,) = pod_lines(rig, lambda: rig.play(2))
    assert (line["event"], line["previous"]) == ("pod ready", "not_ready")


def test_a_pod_that_starts_and_is_not_ready_says_both(make: Make) -> None:
    rig = make({CRITICAL: Scripted("x")})
    web_worker(rig.board)
    said = [line["event"] for line in pod_lines(rig, lambda: rig.play(1))]
    assert said == ["pod serving", "pod not ready"]


def test_what_an_operator_does_to_the_pod_is_said_once(make: Make) -> None:
    rig = make({CRITICAL: Scripted(".")})
    web_worker(rig.board)
    rig.play(1)
    board = rig.board
    assert [
        line["event"]
        for act in (
            lambda: board.maintain(on=True),
            lambda: board.maintain(on=False),
            board.drain,  # said by whoever watches over the monitor
            lambda: board.drain(on=False),
            board.stop,
        )
        for line in pod_lines(rig, act)
    ] == ["pod in maintenance", "pod ready", "pod ready"]


def test_another_reason_is_another_line(make: Make) -> None:
    codes = iter(["timeout", "connection_refused", "connection_refused", "timeout"])
    rig = make({DATABASE: lambda: Result.failed(next(codes))})
    assert [line["code"] for line in lines(rig, 4)] == [
        "timeout",
        "connection_refused",
        "timeout",
    ]


def test_what_lasts_is_said_once_a_minute(make: Make) -> None:
    rig = make({DATABASE: Scripted("x")})
    first = rig.clock() + 0.5
    with capture_logs() as logs:
        while rig.clock() < first + 300.0:
            rig.play(1)
    said = [entry for entry in logs if entry["event"] == "check status"]
    assert len(rig.recorder.runs) > 300
    assert len(said) == 6
    assert {entry["status"] for entry in said} == {"unhealthy"}


# -- those outside


class Outside:
    """Remembers what it hears; what it has told is set by a test."""

    def __init__(self) -> None:
        self.heard: list[tuple[Snapshot, Stance]] = []
        self.done: dict[str, Told | None] = {}
        self.stops = 0

    def told(self) -> dict[str, Told | None]:
        done, self.done = self.done, {}
        return done

    def tell(self, snapshot: Snapshot, stance: Stance) -> None:
        self.heard.append((snapshot, stance))

    def start(self, changed: Callable[[], None]) -> None: ...

    def stop(self) -> None:
        self.stops += 1


def test_those_outside_hear_what_is_published(make: Make) -> None:
    outside = Outside()
    rig = make({CRITICAL: Scripted(".")}, notices=outside)
    web_worker(rig.board)
    rig.play(1)
    rig.tick(1.0)
    snapshot, stance = outside.heard[-1]
    assert snapshot.states == rig.published.states
    assert (snapshot.lifecycle, stance) == (Lifecycle.SERVING, Stance.ALONE)
    rig.monitor.retire()
    assert outside.stops == 1


def test_what_they_were_told_is_published_at_once_and_outlives_the_monitor(make: Make) -> None:
    outside = Outside()
    first = make({CRITICAL: Scripted("x")}, notices=outside)
    first.play(1)
    outside.done = {"database": Told(2, "timeout", 1.0, 2.0, "pod", alone=True)}
    first.tick()
    assert first.published.states["database"].told == Told(
        2, "timeout", 1.0, 2.0, "pod", alone=True
    )
    second = make({CRITICAL: Scripted("x")}, board=first.board, epoch=2)
    second.clock.now = first.clock()
    second.play(1)
    assert second.published.states["database"].told is not None


def test_that_somebody_knows_nothing_of_it_is_published_too(make: Make) -> None:
    outside = Outside()
    rig = make({CRITICAL: Scripted("x")}, notices=outside)
    rig.play(1)
    for told in (Told(2, "timeout", 1.0, 2.0, "pod", alone=True), None):
        outside.done = {"database": told}
        rig.tick()
        assert rig.published.states["database"].told == told


def test_a_monitor_with_a_successor_tells_nobody(make: Make) -> None:
    outside = Outside()
    rig = make({CRITICAL: Scripted(".")}, notices=outside)
    rig.tick(1.0)
    heard = len(outside.heard)
    assert heard
    rig.board.publish(2, b"")
    rig.tick(1.0)
    assert len(outside.heard) == heard


# -- the thread


def test_it_starts_and_stops_and_stops_again(make: Make) -> None:
    rig = make({DATABASE: Scripted(".")})
    rig.monitor.start()
    until(lambda: rig.board.rank, "a publication")
    assert not rig.monitor.stalled(10.0)
    rig.monitor.stop()
    rig.monitor.stop()
    rig.monitor._thread.join(60)
    assert not rig.monitor._thread.is_alive()
    assert not rig.monitor.stalled(10.0), "stopped is not stalled"


def test_stopping_wakes_a_probe_that_is_stuck(make: Make) -> None:
    stuck = Stuck(wakes=True)
    rig = make({DATABASE: stuck})
    rig.tick(0.5)
    until(lambda: stuck.calls, "the run")
    rig.monitor.stop()
    until(lambda: stuck.returned, "the end of the call")


def test_a_finished_run_is_taken_in_at_once(make: Make) -> None:
    """The clock stands still: only the end of the run can wake the loop."""
    stuck = Stuck()
    rig = make({DATABASE: stuck}, chance=lambda: 0.0)
    rig.monitor.start()
    until(lambda: stuck.calls, "the run")
    stuck.released.set()
    until(lambda: rig.recorder.runs, "the end of the run")
    rig.monitor.stop()
    rig.monitor._thread.join(60)


def test_a_loop_that_does_nothing_is_stalled(make: Make) -> None:
    rig = make({DATABASE: Scripted(".")})
    assert rig.monitor.stalled(10.0), "it has not been started"
    holds, held = threading.Event(), threading.Event()

    def hold() -> float:
        holds.set()
        assert held.wait(600)
        return 0.5

    rig.monitor._chance = hold
    rig.clock.advance(0.5)
    rig.monitor.start()
    until(holds.is_set, "the end of the first run")
    rig.clock.advance(10.0)
    assert not rig.monitor.stalled(10.0)
    rig.clock.advance(0.001)
    assert rig.monitor.stalled(10.0)
    held.set()
    rig.monitor.stop()
    rig.monitor._thread.join(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_died_is_stalled(make: Make) -> None:
    rig = make({DATABASE: Scripted(".")})

    def broken(*_: Any) -> None:
        raise MemoryError

    rig.recorder.run_finished = broken  # type: ignore[method-assign]
    with capture_logs() as logs:
        rig.clock.advance(1.0)
        rig.monitor.start()
        until(lambda: rig.monitor.stalled(3600.0), "its end")
    assert "monitor died" in [entry["event"] for entry in logs]


def test_a_publication_of_a_monitor_can_be_read_by_a_reader(make: Make) -> None:
    rig = make({DATABASE: Scripted("x"), REDIS: Scripted("w")})
    rig.round(2)
    newest = rig.board.newest()
    assert newest is not None
    assert encode(decode(newest.body)) == newest.body


def test_what_is_too_much_to_publish_is_published_without_details(make: Make) -> None:
    def measures() -> Result:
        return Result(details={"measured": "x" * 4000})

    own = {Check(f"own_{number}"): measures for number in range(130)}
    rig = make({DATABASE: lambda: Result(details={"kept": 1}), **own})
    with capture_logs() as logs:
        rig.round(1 + len(own))
        rig.tick(TICK)
    states = rig.published.states
    assert {state.status for state in states.values()} == {Status.HEALTHY}
    details = {name: dict(state.run.result.details) for name, state in states.items() if state.run}
    assert details.pop("database") == {"kept": 1}
    assert list(details.values()) == [{}] * len(own)
    said = [entry["event"] for entry in logs]
    assert said.count("details and history of checks left out") == 1
