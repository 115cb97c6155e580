"""The loop that runs probes: due -> probe -> observe -> publish -> wait.

One thread of the health worker. Each check has a thread of its own to run its probe in, so
checks run in parallel and one slow check delays no other. The deadline is kept here, outside
the thing that waits: a run that passes it ends as ``timeout`` at once, its probe is closed
(which wakes most stuck calls), and its thread is given up. A thread that never comes back, as
in a name server's silence, is never joined; a check may have ``MAX_LOST`` of those, and
while it has, its runs end as ``timeout`` without a new thread.
"""

import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from service.health import (
    Check,
    CheckFailed,
    CheckState,
    Event,
    FleetView,
    Phase,
    Probe,
    Result,
    Role,
    Run,
    Scope,
    Snapshot,
    Stance,
    Standing,
    Status,
    TaskState,
    Told,
)
from service.health.events import pod_turned, turned
from service.health.history import History
from service.health.schedule import first_start, next_alone, next_start
from service.health.snapshot import Encoder, decode
from service.probes.errors import mask
from service.scoreboard import BODY_BYTES, Scoreboard
from service.settings import CHECKS

log = structlog.get_logger(__name__)

TICK = 1.0
MAX_LOST = 2
MAX_DETAILS = 4096
REPEAT_LOG = 60.0
# So long beyond its time limit a pod that has just started waits for the result of another.
FIRST_PATIENCE = 3.0


class Recorder(Protocol):
    """Where finished runs are counted."""

    def run_finished(self, check: Check, run: Run, before: Status, after: Status) -> None:
        """A run of a check ended and took its published status from one to another."""


class Fleet(Protocol):
    """The other pods, as far as they matter here. Nothing in it waits.

    Attributes:
        interval: Seconds from one look at what they share to the next.
    """

    interval: float

    def shares(self, check: Check) -> bool:
        """Whether one pod runs a check for all."""

    def stance(self) -> Stance:
        """Who runs those checks at this moment."""

    def results(self) -> Mapping[str, CheckState]:
        """What the holder has found; a new mapping whenever that is something else."""

    def view(self) -> FleetView | None:
        """The fleet as it was last seen."""

    def tell(self, snapshot: Snapshot) -> None:
        """Says what is published here."""

    def start(self) -> None:
        """Begins to take part."""

    def stop(self) -> None:
        """Leaves. May be called more than once."""


class NoFleet:
    """There is no way to hear of others: what one pod would do for all, each does for itself."""

    interval = 10.0

    def shares(self, check: Check) -> bool:
        """What could be shared if there were a way."""
        return check.scope is Scope.FLEET

    def stance(self) -> Stance:
        """Alone."""
        return Stance.ALONE

    def results(self) -> Mapping[str, CheckState]:
        """Nothing."""
        return {}

    def view(self) -> FleetView | None:
        """Nobody."""
        return None

    def tell(self, snapshot: Snapshot) -> None:
        """Nobody listens."""

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""


class Startup(Protocol):
    """Work that is done once, in threads of its own. The monitor publishes how far it is."""

    def states(self) -> Mapping[str, TaskState]:
        """How far each task has come, in the order of the tasks; a new mapping for each step."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begins; ``changed`` is called whenever ``states`` has changed."""

    def retire(self) -> None:
        """Ends it where it is, and does not wait. May be called more than once."""

    def stop(self) -> None:
        """Ends it, and waits for a moment until that is noted. May be called more than once."""


class NoTasks:
    """There is nothing to do before the pod serves."""

    def states(self) -> Mapping[str, TaskState]:
        """None."""
        return {}

    def start(self, changed: Callable[[], None]) -> None:
        """Nothing to do."""

    def retire(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""


class Notices(Protocol):
    """Those outside who hear of what turns. Nothing in it waits."""

    def told(self) -> Mapping[str, Told | None]:
        """What to publish as told, where that has changed since this was last asked, by check.

        It is in the next snapshot that ``tell`` gets.
        """

    def tell(self, snapshot: Snapshot, stance: Stance) -> None:
        """Says what is published, and whether this pod speaks for the fleet."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begins; ``changed`` is called whenever something was told."""

    def stop(self) -> None:
        """Ends it. May be called more than once."""


class NoNotices:
    """Nobody outside wants to hear."""

    def told(self) -> Mapping[str, Told | None]:
        """Nothing."""
        return {}

    def tell(self, snapshot: Snapshot, stance: Stance) -> None:
        """Nobody listens."""

    def start(self, changed: Callable[[], None]) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""


class Lane:
    """A thread that runs one probe, again and again, until it is given up."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=f"probe-{name}", daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], None]) -> None:
        """Has a job done in the lane's thread."""
        self._jobs.put(job)

    def give_up(self) -> None:
        """Lets the thread end as soon as its job lets it."""
        self._jobs.put(None)

    @property
    def lives(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class Runner:
    """Runs the probe of one check, one run at a time. Owned by the monitor's thread.

    Args:
        check: Its definition.
        probe: What to call.
        clock: Monotonic seconds.
        wall: Unix seconds.
        woken: Set when a run has finished.
    """

    def __init__(
        self,
        check: Check,
        probe: Probe,
        clock: Callable[[], float],
        wall: Callable[[], float],
        woken: threading.Event,
    ) -> None:
        self.check = check
        self._probe = probe
        self._clock = clock
        self._wall = wall
        self._woken = woken
        self._lane: Lane | None = None
        self._lost: list[Lane] = []
        self._found: list[tuple[Result, float]] = []
        self.started: float | None = None

    @property
    def deadline(self) -> float:
        """When the current run is over at the latest; never, while none is."""
        return float("inf") if self.started is None else self.started + self.check.timeout

    def start(self) -> None:
        """Begins a run."""
        self.started = self._clock()
        # A list of its own: what a given-up run finds in the end goes nowhere.
        found = self._found = []
        self._lost = [lane for lane in self._lost if lane.lives]
        if self._lane is None and len(self._lost) < MAX_LOST:
            self._lane = Lane(self.check.name)
        if self._lane is not None:
            self._lane.run(lambda: self._call(found))

    def _call(self, found: list[tuple[Result, float]]) -> None:
        """Runs in the lane's thread."""
        try:
            result = _result(self._probe())
        except CheckFailed as failure:
            result = failure.result
        except TimeoutError as error:
            result = Result.failed("timeout", mask(repr(error)))
        except Exception as error:  # noqa: BLE001 - the one rim: a probe may raise what it likes
            result = Result.failed("check_failed", mask(repr(error)))
        found.append((result, self._clock()))
        self._woken.set()

    def poll(self) -> Run | None:
        """The run, if it is over."""
        if self.started is None:
            return None
        result, finished = self._found.pop() if self._found else (None, self._clock())
        if result is None and finished < self.deadline:
            return None
        if result is None:
            self._give_up()
        if result is None or finished > self.deadline:
            result = Result.failed("timeout", "the time limit passed")
        run = Run(result, finished, self._wall(), finished - self.started)
        self.started = None
        return run

    def _give_up(self) -> None:
        if self._lane is not None:
            self._lane.give_up()
            self._lost.append(self._lane)
            self._lane = None
            self.close()

    def close(self) -> None:
        """Drops what the probe holds, which wakes it if it is stuck."""
        close = getattr(self._probe, "close", None)
        if close is not None:
            try:
                close()
            except Exception:  # the probe's own affair, like whatever it raises
                log.exception("probe close failed", check=self.check.name)


class Monitor:
    """Checks everything on its own clock and publishes. See the module.

    Args:
        probes: Every check in the documented order, with its probe; None where there is
            nothing to probe.
        scoreboard: Where to publish, and where the workers are.
        epoch: Rank of this monitor among the pod's.
        recorder: Where finished runs are counted.
        startup: What is done once, before the pod serves.
        fleet: The other pods.
        notices: Who hears of what turns.
        clock: Monotonic seconds.
        wall: Unix seconds.
        chance: Random numbers in [0, 1).
    """

    def __init__(  # noqa: PLR0913 - its collaborators, and the three it takes from the world
        self,
        probes: Mapping[Check, Probe | None],
        scoreboard: Scoreboard,
        epoch: int,
        recorder: Recorder,
        startup: Startup,
        *,
        fleet: Fleet | None = None,
        notices: Notices | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251 - for display
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._scoreboard = scoreboard
        self._fleet: Fleet = fleet or NoFleet()
        self._notices: Notices = notices or NoNotices()
        self._encode = Encoder()
        self._epoch = epoch
        self._recorder = recorder
        self.startup = startup
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="monitor", daemon=True)
        self._runners = {
            check.name: Runner(check, probe, clock, wall, self._woken)
            for check, probe in probes.items()
            if probe is not None
        }
        now = clock()
        self._states = _resumed(probes, scoreboard)
        self._adopted: Mapping[str, CheckState] = {}
        self._due = {name: self._first_due(name, now) for name in self._runners}
        self._due_alone = {name: self._next_alone(name) for name in self._runners}
        self._published = float("-inf")
        self._cut = False
        self._tasks = startup.states()
        self._logged: dict[str, tuple[tuple[Status, str | None], float]] = {}
        self._standing: tuple[Standing, float] | None = None
        self.ticked = now

    def _first_due(self, name: str, now: float) -> float:
        """When a check runs first here: as its predecessor would have, if it had one."""
        state = self._states[name]
        if state.run is None:
            return first_start(now, self._chance())
        return next_start(state, self._chance())

    def _next_alone(self, name: str) -> float:
        """When a check of the fleet's that has run runs here, if nothing comes from there."""
        state = self._states[name]
        if state.run is None:
            return float("inf")
        return next_alone(state, self._chance(), self._fleet.interval)

    # -- the thread

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()
        self._fleet.start()
        self._notices.start(self._woken.set)
        self.startup.start(self._woken.set)

    def stop(self) -> None:
        """Ends the loop; a run under way is given up. May be called more than once."""
        self._stopping.set()
        self._woken.set()
        self.retire()
        self._fleet.stop()
        self.startup.stop()
        for runner in self._runners.values():
            runner.close()

    def retire(self) -> None:
        """A successor goes on with what is not done yet, or nobody is to begin it any more."""
        self.startup.retire()
        self._notices.stop()

    def stalled(self, limit: float) -> bool:
        """Whether the loop has done nothing for so many seconds, or has died."""
        if self._stopping.is_set():
            return False
        return not self._thread.is_alive() or self._clock() - self.ticked > limit

    def _loop(self) -> None:
        try:
            while not self._stopping.is_set():
                wait = self.tick()
                self._woken.wait(wait)
                self._woken.clear()
        except Exception:
            # Whoever supervises sees the dead thread and replaces the process.
            log.exception("monitor died")
            raise

    # -- one round

    def tick(self) -> float:
        """Does everything that is due now, and returns the seconds until there is more."""
        changed = [name for name, runner in self._runners.items() if self._collect(name, runner)]
        changed += self._adopt()
        changed += self._note()
        for runner in self._runners.values():
            if runner.started is None and self._clock() >= self._start_of(runner.check):
                runner.start()
        now = self.ticked = self._clock()
        known, self._tasks = self._tasks, self.startup.states()
        self._latch(now)
        if changed or self._tasks != known or now - self._published >= TICK:
            self._publish(now)
        deadlines = [min(self._next(runner)) for runner in self._runners.values()]
        return max(0.0, min([self._published + TICK, *deadlines]) - now)

    def _next(self, runner: Runner) -> Iterable[float]:
        yield runner.deadline
        yield self._start_of(runner.check) if runner.started is None else float("inf")

    def _start_of(self, check: Check) -> float:
        """When a check runs next in this pod, as things stand."""
        due = self._due[check.name]
        if not self._fleet.shares(check):
            return due
        stance = self._fleet.stance()
        if stance is Stance.HOLDER:
            return due
        if self._states[check.name].run is None:
            return due if stance is Stance.ALONE else due + check.timeout + FIRST_PATIENCE
        return self._due_alone[check.name]

    def _adopt(self) -> list[str]:
        """Takes in what another pod has found for all; the names of those checks."""
        results = self._fleet.results()
        if results is self._adopted:
            return []
        self._adopted = results
        names = [name for name in results if name in self._runners]
        return [name for name in names if self._adopted_one(name, results[name])]

    def _adopted_one(self, name: str, theirs: CheckState) -> bool:
        """The whole state is taken over, so that every pod says the same of it."""
        mine, check = self._states[name], self._runners[name].check
        pod = self._scoreboard.pod_id
        if theirs.run is None or not self._fleet.shares(check):
            return False
        # The same run again brings what was told of it since.
        if mine.run is not None and mine.run.finished_at == theirs.run.finished_at:
            known = mine.told == theirs.told
        else:
            known = mine.run is not None and mine.run.finished >= theirs.run.finished
        if known:
            return False
        self._states[name] = replace(
            theirs,
            check=check,
            told=mine.told if mine.told and mine.told.owed_by(pod) else theirs.told,
            passed_once=mine.passed_once or theirs.passed_once,
            failed_runs=mine.failed_runs,
        )
        self._schedule(name)
        self._report(mine.at(theirs.run.finished), self._states[name], theirs.run)
        return True

    def _note(self) -> list[str]:
        """Keeps what was told outside; the names of those checks."""
        told = self._notices.told()
        for name, news in told.items():
            self._states[name] = replace(self._states[name], told=news)
        return list(told)

    def _schedule(self, name: str) -> None:
        self._due[name] = next_start(self._states[name], self._chance())
        self._due_alone[name] = self._next_alone(name)

    def _collect(self, name: str, runner: Runner) -> bool:
        """Takes in a run that is over; whether there was one."""
        run = runner.poll()
        if run is None:
            return False
        before = self._states[name].at(run.finished)
        check = runner.check
        if self._fleet.shares(check) and self._fleet.stance() is not Stance.HOLDER:
            check = replace(check, scope=Scope.POD)
        state = self._states[name] = replace(self._states[name], check=check).observe(run)
        self._schedule(name)
        self._recorder.run_finished(state.check, run, before.status, state.status)
        self._report(before, state, run)
        return True

    def _latch(self, now: float) -> None:
        """The pod starts to serve once nothing keeps it from that, and never stops to."""
        board = self._scoreboard
        if board.serving_at is not None or not self._everything().may_serve():
            return
        ready = [
            worker
            for worker in board.workers()
            if worker.role is Role.WEB and worker.phase is Phase.READY
        ]
        if len(ready) >= board.expected:
            board.serve(self._wall())
            log.info("pod serving", seconds=round(now - board.booted, 3))

    def _everything(self) -> Snapshot:
        return Snapshot(dict(self._states), tasks=self._tasks, fleet=self._fleet.view())

    def _publish(self, now: float) -> None:
        snapshot = self._everything()
        self._scoreboard.publish(self._epoch, self._body(snapshot))
        self._published = now
        self._fleet.tell(snapshot)
        board = self._scoreboard
        if board.newest_epoch > self._epoch:
            return  # a successor publishes, and tells
        snapshot = replace(snapshot, lifecycle=board.lifecycle, serving_at=board.serving_at)
        self._report_pod(snapshot.at(now), now)
        self._notices.tell(snapshot, self._fleet.stance())

    def _body(self, snapshot: Snapshot) -> bytes:
        """A snapshot as bytes: if need be, the verdicts without what explains them."""
        body = self._encode(snapshot)
        before, self._cut = self._cut, len(body) > BODY_BYTES
        if not self._cut:
            return body
        if not before:
            log.warning("details and history of checks left out", bytes=len(body))
        return self._encode(replace(snapshot, states=_bare(snapshot.states)))

    def _report_pod(self, snapshot: Snapshot, now: float) -> None:
        """One log line when the pod gets into traffic or out of it, with the reason."""
        before, since = self._standing or (Standing.of(snapshot), now)
        event = pod_turned(before, snapshot, self._wall(), now - since)
        if event is None:
            self._standing = before, since
            return
        after = Standing(event.after)
        self._standing = after, now
        said = {Standing.READY: "pod ready", Standing.MAINTENANCE: "pod in maintenance"}
        if after is Standing.NOT_READY:
            log.warning("pod not ready", codes=event.codes, **_lasted(event))
        elif after in said and before is not Standing.STARTING:
            log.info(said[after], **_lasted(event))
        # That it serves, or drains, is said by who sees to it.

    def _report(self, before: CheckState, state: CheckState, run: Run) -> None:
        """One log line for each change, and one a minute while something is wrong."""
        name, now = state.check.name, run.finished
        news, usual = (state.status, state.code), (Status.HEALTHY, None)
        said, since = self._logged.get(name, (usual, float("-inf")))
        if news == said and (news == usual or now - since < REPEAT_LOG):
            return
        self._logged[name] = news, now
        view = self._fleet.view()
        event = turned(before, state, view and view.at(now))
        write = log.info if state.status is Status.HEALTHY else log.warning
        write(
            "check status",
            check=name,
            status=state.status.word,
            code=state.code,
            reason=run.result.reason,
            duration_ms=round(run.duration * 1000, 2),
            **_lasted(event),
        )


def _bare(states: Mapping[str, CheckState]) -> dict[str, CheckState]:
    """States with what decides, and without details and history of the application's own checks.

    Of the documented checks the details are few, and have a documented place in the answers.
    """
    return {
        name: state if name in CHECKS else replace(state.bare(), history=History())
        for name, state in states.items()
    }


def _lasted(event: Event | None) -> dict[str, Any]:
    """What the line of a change says of what was before."""
    if event is None or event.lasted is None:
        return {}
    return {"previous": event.before, "previous_seconds": round(event.lasted, 2)}


def _result(found: object) -> Result:
    """What a probe returned, as a result.

    Raises:
        TypeError, ValueError: It returned something else, or what cannot be published.
    """
    if found is None:
        return Result()
    if not isinstance(found, Result):
        raise TypeError(f"a check returns None or a Result, not {type(found).__name__}")
    if len(json.dumps(found.details, allow_nan=False)) > MAX_DETAILS:
        raise ValueError(f"a check's details have at most {MAX_DETAILS} characters as JSON")
    return found


def _resumed(probes: Mapping[Check, Probe | None], scoreboard: Scoreboard) -> dict[str, CheckState]:
    """Where each check stands, as the predecessor of this monitor published it."""
    newest = scoreboard.newest()
    try:
        known = decode(newest.body).states if newest else {}
    except (ValueError, KeyError, TypeError):
        known = {}  # of another version: start over

    def resume(check: Check) -> CheckState:
        state = known.get(check.name)
        if state is None or check.unconfigured or state.check.unconfigured:
            return CheckState.initial(check)
        scope = state.check.scope if check.scope is Scope.FLEET else check.scope
        return replace(state, check=replace(check, scope=scope))

    return {check.name: resume(check) for check in probes}
