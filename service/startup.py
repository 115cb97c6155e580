"""Startup tasks, one after the other, before the pod serves.

One thread of the health worker, beside the monitor, which publishes how far they have come.
Web workers wait for nothing: they boot meanwhile, and the startup probe tells.

    once="pod"       done here; a successor of this process goes on from what was published
    once="release"   the ledger says whether it is done; if not, the pod that holds the lease
                     ``startup`` attempts it, and the others look again and again

The lease only spares the database a queue of pods. That the effect is committed once is up to
the ledger, so this thread may do what it likes when Redis is away.

Each call that may block runs in a thread of its own, which is left behind at its time limit. Those
that never come back are counted for each task, and for the ledger: a task that hangs takes no
thread from the next one, nor from the ledger, which has to hear that it was given up.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from service.checks import imported
from service.coordination.client import connect
from service.coordination.election import LEASE_SECONDS, Election, InTime
from service.coordination.lease import Lease, Unavailable, keyspace
from service.coordination.ledger import Busy, Cord, Entry, Ledger
from service.health import CheckFailed, Scope, StartupTask, TaskState
from service.health.snapshot import decode
from service.probes.drivers import code_of
from service.probes.errors import mask, os_error_code
from service.scoreboard import Scoreboard, process_start
from service.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

T = TypeVar("T")
Tasks = Mapping[StartupTask, Callable[..., object]]

# Time for what the ledger does besides a task's work.
LEDGER_SECONDS = 10.0
REDIS_SECONDS = 0.5
# How often those who wait look into the ledger: they begin with the one and end with the other.
MIN_POLL = 0.5
MAX_POLL = 5.0
# Threads that have not come back, of one task or of the ledger: beyond it there is no further one.
MAX_LOST = 4
BEAT = 1.0
# Time for a process that ends to note that an attempt was broken off.
PARTING_SECONDS = 5.0
# Whose calls are of no task. No task can have this name.
_LEDGER = "the ledger"

# What a task's own statement may have brought about, and not the database.
_OF_THE_TASK = ("query_failed", "permission_denied")


class Stopped(Exception):  # noqa: N818 - what happened, not what kind of object it is
    """The process ends."""


def registered(settings: Settings) -> Tasks:
    """The application's startup tasks, as the function in ``STARTUP_TASKS`` returns them.

    Raises:
        SettingsError: They cannot be imported, or lack what they need.
    """
    reference = settings.startup_tasks
    if reference is None:
        return {}
    function = imported(reference, "STARTUP_TASKS")
    try:
        found = function()
    except (Exception, SystemExit) as error:
        why = mask(f"{type(error).__name__}: {error}".strip().splitlines()[-1])
        raise SettingsError(f"STARTUP_TASKS: {reference} fails: {why}") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(task, StartupTask) and callable(work) for task, work in found.items()
    ):
        raise SettingsError(
            f"STARTUP_TASKS: {reference} must return a mapping of StartupTask to callable"
        )
    names = [task.name for task in found]
    twice = sorted(name for name in names if names.count(name) > 1)
    if twice:
        raise SettingsError(f"STARTUP_TASKS: {reference} uses the name {twice[0]} again")
    once_per_release = [task.name for task in found if task.once == "release"]
    if once_per_release:
        _check_ledger(settings, once_per_release[0])
    tasks: Tasks = dict(found)
    return tasks


def _check_ledger(settings: Settings, task: str) -> None:
    for variable in ("database_url", "app_release"):
        if getattr(settings, variable) is None:
            raise SettingsError(
                f"{variable.upper()} must be set: the startup task {task} is done once per release"
            )
    try:
        ledger(settings, owner="")
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL: {error} (of the startup task {task})") from None
    try:
        _client(settings)
    except ValueError as error:
        raise SettingsError(f"REDIS_URL: {error} (of the startup task {task})") from None


def ledger(settings: Settings, owner: str) -> Ledger:
    """The ledger of this release.

    Raises:
        ValueError: The database cannot keep one.
    """
    url, release = settings.database_url, settings.app_release
    if url is None or release is None:
        raise ValueError("a ledger needs DATABASE_URL and APP_RELEASE")
    return Ledger(url.get_secret_value(), settings.app_name, release, owner)


def build(settings: Settings, board: Scoreboard) -> "Startup":
    """The startup tasks of this pod. Makes no connection.

    Raises:
        SettingsError: They cannot be had.
    """
    tasks = registered(settings)
    per_release = any(task.once == "release" for task in tasks)
    pid = os.getpid()
    owner = f"{board.pod_id}:{pid}-{process_start(pid)}"
    return Startup(
        tasks,
        ledger(settings, owner) if per_release else None,
        _election(settings, board) if per_release else Election(None),
        _published(board),
        serving=board.serving_at is not None,
        secrets=settings.secrets,
    )


def _election(settings: Settings, board: Scoreboard) -> Election:
    """By the lease of the fleet. A Redis of the pod's own has nothing to say about others."""
    client = _client(settings)
    if client is None:
        log.warning("no Redis for the fleet: each pod asks the ledger itself", scope="pod")
        return Election(None)
    keys = keyspace(settings.health_redis_key_prefix, settings.app_name, settings.app_env)
    lease = Lease(client, keys, "startup", board.pod_id, ttl=LEASE_SECONDS)
    return Election(lease, proceed=settings.startup_tasks_without_redis == "proceed")


def _client(settings: Settings) -> InTime | None:
    """Of the fleet's Redis, if one is configured. Sends nothing.

    Raises:
        ValueError: Its URL cannot be used.
    """
    address = settings.redis_address
    if address is None:
        return None
    return InTime(partial(connect, address, timeout=REDIS_SECONDS), 2 * REDIS_SECONDS)


def _published(board: Scoreboard) -> Mapping[str, TaskState]:
    """How far the predecessor of this process had come."""
    newest = board.newest()
    try:
        return decode(newest.body).tasks if newest else {}
    except (ValueError, KeyError, TypeError):
        return {}  # of another version: start over


class Startup:
    """Runs the startup tasks. See the module.

    Args:
        tasks: What to do, in this order.
        ledger: Of the release; None where no task needs it.
        election: Who attempts what is done once per release.
        known: How far the predecessor of this process had come.
        serving: Whether the pod has served already.
        secrets: What must not get into the log.
        clock: Monotonic seconds.
        chance: Random numbers in [0, 1).
    """

    def __init__(
        self,
        tasks: Tasks,
        ledger: Ledger | None,
        election: Election,
        known: Mapping[str, TaskState],
        *,
        serving: bool = False,
        secrets: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tasks = tasks
        self._ledger = ledger
        self._election = election
        self._clock = clock
        self._chance = chance
        self._secrets = tuple(secrets)
        self._states = {
            task.name: _resumed(task, election.scope, known.get(task.name), serving=serving)
            for task in tasks
        }
        self._changed: Callable[[], None] = lambda: None
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._lost: dict[str, list[threading.Thread]] = {}
        self._thread = threading.Thread(target=self._loop, name="startup", daemon=True)

    def states(self) -> Mapping[str, TaskState]:
        """How far each task has come. Any thread."""
        return self._states

    # -- the thread

    def start(self, changed: Callable[[], None]) -> None:
        """Begins, unless everything is done.

        Args:
            changed: Called whenever ``states`` has changed, from the startup thread.
        """
        self._changed = changed
        if any(not state.done and not state.given_up for state in self._states.values()):
            self._thread.start()

    def retire(self) -> None:
        """Ends an attempt under way, with nothing of it left: it does not count. Does not wait."""
        self._stopping.set()
        self._woken.set()

    def stop(self) -> None:
        """The same, and waits until that has been noted. May be called more than once."""
        self.retire()
        if self._thread.is_alive():
            self._thread.join(PARTING_SECONDS + 2 * REDIS_SECONDS)

    def _loop(self) -> None:
        try:
            self._run()
        except Stopped:
            log.info("startup tasks stopped")
        except Exception:
            # The pod goes on starting, and says which task it waits for.
            log.exception("startup tasks died")
        finally:
            self._election.step_down()

    def _run(self) -> None:
        for task, work in self._tasks.items():
            if self._states[task.name].done or self._states[task.name].given_up:
                continue
            if task.once == "pod":
                self._election.step_down()
                self._once_per_pod(task, work)
            elif self._ledger is not None:
                _Release(self, self._ledger, task, work).settle()
            if self._states[task.name].holds_up:
                break
        for name, state in self._states.items():
            if not state.done and not state.given_up:
                self.show(name, state.waiting("not_attempted"))

    def _once_per_pod(self, task: StartupTask, work: Callable[..., object]) -> None:
        attempt = self._states[task.name].attempt
        while attempt <= task.retries:
            attempt += 1
            before = self._states[task.name]
            self.show(task.name, before.running(attempt))
            begun = self._clock()
            try:
                self.bounded(lambda _cord: work(), task.timeout, task.name)
            except Stopped:
                self.show(task.name, before)
                raise
            except Exception as error:  # noqa: BLE001 - the rim: a task may raise what it likes
                state = self._states[task.name]
                state = state.failed(_code(error), self._clock() - begun, attempt)
                self.show(task.name, state, _reason(error))
                if attempt <= task.retries:
                    self.wait(task.pause(attempt) * self.jitter())
            else:
                state = self._states[task.name]
                self.show(task.name, state.succeeded(self._clock() - begun, attempt))
                return
        state = self._states[task.name]
        self.show(task.name, state.abandoned(state.code or "task_failed"))

    # -- what both kinds of task need

    @property
    def election(self) -> Election:
        """Who attempts what is done once per release."""
        return self._election

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def jitter(self) -> float:
        """A random number in [0.5, 1)."""
        return 0.5 + 0.5 * self._chance()

    def show(self, name: str, state: TaskState, reason: str = "") -> None:
        """Makes known how far a task has come."""
        before = self._states[name]
        if state == before:
            return
        self._states = {**self._states, name: state}
        self._changed()
        news, known = ((each.status, each.code, each.attempt) for each in (state, before))
        if news == known and not reason:
            return
        reason = mask(reason, *self._secrets)
        write = log.warning if reason or state.given_up else log.info
        write(
            "startup task",
            task=name,
            status=state.status.word,
            code=state.code,
            attempt=state.attempt,
            reason=reason,
            duration_ms=None if state.duration is None else round(1000 * state.duration, 2),
        )

    def wait(self, seconds: float) -> None:
        """Waits.

        Raises:
            Stopped: The process ends.
        """
        if self._stopping.wait(seconds):
            raise Stopped

    def bounded(
        self, call: Callable[[Cord], T], seconds: float, whose: str, *, parting: bool = False
    ) -> T:
        """What a call returns or raises.

        Args:
            call: What to do; the cord ends it in the database.
            seconds: How long it may take.
            whose: The name of the task it is a part of, or ``_LEDGER``.
            parting: Whether it is to be made although the process ends.

        Raises:
            TimeoutError: It took too long, and its thread is left behind.
            Stopped: The process ends.
        """
        lost = [thread for thread in self._lost.get(whose, ()) if thread.is_alive()]
        self._lost[whose] = lost
        if len(lost) >= MAX_LOST:
            raise TimeoutError(f"{len(lost)} calls of {whose} have not come back")
        end, cord = self._clock() + seconds, Cord()
        outcome: Future[T] = Future()
        outcome.add_done_callback(lambda _: self._woken.set())
        thread = threading.Thread(
            target=_fulfil, args=(outcome, call, cord), name="startup-call", daemon=True
        )
        thread.start()
        while not outcome.done():
            left = end - self._clock()
            stopped = self._stopping.is_set() and not parting
            if left <= 0 or stopped:
                lost.append(thread)
                cord.pull()
                if stopped:
                    raise Stopped
                raise TimeoutError(f"the time limit of {seconds} s passed")
            self._woken.wait(min(left, BEAT))
            self._woken.clear()
            self._election.keep()
        return outcome.result()


class _Release:
    """One task that is done once per release, as this pod sees it."""

    def __init__(
        self, startup: Startup, ledger: Ledger, task: StartupTask, work: Callable[..., object]
    ) -> None:
        self._startup = startup
        self._ledger = ledger
        self._task = task
        self._work = work
        self._looked = False
        # The attempt after which it was given up before this pod came: tried anew, once.
        self._former: int | None = None
        self._poll = MIN_POLL

    def settle(self) -> None:
        """Sees to it that the task is done or, if it is optional, given up."""
        startup, task = self._startup, self._task
        begun = startup.now()
        while True:
            self._step()
            state = self._state
            if state.done or (state.given_up and not task.required):
                return
            if not task.required and startup.now() - begun > task.patience:
                startup.show(task.name, state.abandoned(state.code or "timeout"))
                return
            startup.wait(self._pause() * startup.jitter())

    @property
    def _state(self) -> TaskState:
        return self._startup.states()[self._task.name]

    def _pause(self) -> float:
        """Seconds to the next look: longer and longer, but for who is to act."""
        if self._startup.election.held:
            return MIN_POLL
        self._poll = min(MAX_POLL, 1.5 * self._poll)
        return self._poll

    def _step(self) -> None:
        startup, name = self._startup, self._task.name
        try:
            entry = startup.bounded(self._ledger.entries, LEDGER_SECONDS, _LEDGER).get(name)
            if not self._looked and entry is not None and entry.state == "given_up":
                self._former = entry.attempt
            self._looked = True
            if self._may_begin(entry):
                self._attempt()
            elif self._state.given_up:
                startup.election.step_down()
        except Busy:
            return
        except (SQLAlchemyError, TimeoutError) as error:
            startup.show(name, self._state.waiting(_database_code(error)), _reason(error))

    def _may_begin(self, entry: Entry | None) -> bool:
        """Whether this pod may begin an attempt now. Shows where the task stands, or why not."""
        try:
            may = self._due(entry) and self._startup.election.won()
        except Unavailable as error:
            may = False
            if entry is None or entry.state != "running":
                code = os_error_code(error) or "connection_lost"
                state = self._stands(entry).waiting(code)
                self._startup.show(self._task.name, state, f"Redis: {error}")
                return may
        self._see(entry)
        return may

    def _see(self, entry: Entry | None) -> None:
        """Shows where the task stands."""
        before, state = self._state, self._stands(entry)
        if (state.status, state.attempt) != (before.status, before.attempt):
            self._poll = MIN_POLL
        self._startup.show(self._task.name, state)

    def _stands(self, entry: Entry | None) -> TaskState:
        """Where the task stands by what the ledger says."""
        state = TaskState(scope=self._state.scope, required=self._task.required)
        if entry is None:
            return state
        code, attempt = entry.error or "task_failed", entry.attempt
        if entry.state == "done":
            return state.succeeded(entry.duration, attempt)
        if entry.state == "running":
            known = state.failed(entry.error or "not_yet_checked", entry.duration, attempt)
            return known.running(attempt)
        failed = state.failed(code, entry.duration, attempt)
        given_up = entry.state == "given_up" and attempt != self._former
        return failed.abandoned(code) if given_up else failed

    def _due(self, entry: Entry | None) -> bool:
        """Whether an attempt may begin, if nobody is at it."""
        if entry is None or entry.state == "running":
            return True
        if entry.state == "given_up":
            return entry.attempt == self._former
        pause = self._task.pause(entry.tries) * self._startup.jitter()
        return entry.state == "failed" and not 0 <= entry.age < pause

    def _attempt(self) -> None:
        startup, ledger, task = self._startup, self._ledger, self._task
        claim = partial(ledger.claim, task.name, 1 + task.retries, self._due)
        entry = startup.bounded(claim, LEDGER_SECONDS, _LEDGER)
        if entry is None:
            return
        self._see(entry)
        attempt = entry.attempt
        perform = partial(ledger.perform, task.name, attempt, self._work, task.timeout)
        begun = startup.now()
        try:
            self._see(startup.bounded(perform, task.timeout, task.name))
        except Stopped:
            self._give_back(attempt)
            raise
        except Busy:
            raise
        except Exception as error:  # noqa: BLE001 - the rim: a task may raise what it likes
            code, given_up = _code(error), entry.tries > task.retries
            state = self._state.failed(code, startup.now() - begun, attempt)
            startup.show(task.name, state, _reason(error))
            record = partial(ledger.record, task.name, attempt, code, given_up=given_up)
            startup.bounded(record, LEDGER_SECONDS, _LEDGER)

    def _give_back(self, attempt: int) -> None:
        """The process ends, or has a successor, which is no fault of the task's."""
        call = partial(self._ledger.give_back, self._task.name, attempt)
        try:
            self._startup.bounded(call, PARTING_SECONDS, _LEDGER, parting=True)
        # RuntimeError: the interpreter ends, and some versions begin no thread then.
        except (SQLAlchemyError, TimeoutError, RuntimeError) as error:
            reason = _reason(error)
            self._startup.show(self._task.name, self._state.waiting(_database_code(error)), reason)


def _resumed(
    task: StartupTask, fleet: Scope, known: TaskState | None, *, serving: bool
) -> TaskState:
    scope = fleet if task.once == "release" else Scope.POD
    if known is None:
        return TaskState(scope=scope, required=task.required)
    return known.resumed(task, scope, serving=serving)


def _fulfil(outcome: Future[Any], call: Callable[[Cord], Any], cord: Cord) -> None:
    try:
        outcome.set_result(call(cord))
    except Exception as error:  # noqa: BLE001 - raised again where the call was made
        outcome.set_exception(error)
    except BaseException as error:  # noqa: BLE001 - sys.exit, in a task that was once a script
        outcome.set_exception(RuntimeError(f"the task wants to exit: {error!r}"))


def _code(error: Exception) -> str:
    """Of an attempt that has failed."""
    if isinstance(error, CheckFailed):
        return error.code
    if isinstance(error, TimeoutError | DBAPIError):
        code = _database_code(error)
        return "task_failed" if code in _OF_THE_TASK else code
    return "task_failed"


def _database_code(error: Exception) -> str:
    """Of a ledger that cannot be asked."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, DBAPIError) and error.orig is not None:
        return code_of(error.orig)
    return "query_failed"


def _reason(error: Exception) -> str:
    """For the log. SQLAlchemy's own text would hold the statement and its values."""
    if isinstance(error, CheckFailed):
        return error.reason
    inner = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return f"{type(inner).__name__}: {inner}".strip()
