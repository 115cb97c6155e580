"""gunicorn's hooks: which process is what, and how it comes and goes.

The arbiter gives each worker a role before the fork; after it, the worker drops the other role's
listener. There is exactly one current health worker for each generation: respawned at once,
the last one TTOU would take, and on a stop the last to leave.

The first line of each hook says in which process it runs. None raises once the server is up:
an exception in the arbiter would take the whole of it down.

The arbiter imports the service, and the libraries its settings call for, before it forks: the
workers share that memory, and a respawned one is there at once. It keeps all of it over a HUP.
Of the application it imports nothing: every worker does that for itself.
"""

import functools
import gc
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gunicorn.errors import AppImportError

from service import app, pools, response, scoreboard, settings
from service.health import Phase, Role
from service.metrics import prepare
from service.scoreboard import Scoreboard
from service.web_worker import become_web_worker, let_in, turn_away
from service.worker import RENDERERS, become_health_worker

# The age is only a sort key of the arbiter's, which stops its oldest worker first.
LAST_TO_GO = 10**9
# Sent to the arbiter by the check that an application can be imported; see ``preflight``.
APPROVED = signal.SIGRTMIN + 10
# Seconds in which a handshake that has begun is over, between pods of one cluster.
HANDSHAKE = 0.2
# A worker that lived shorter is left to the arbiter's own loop, which does not spin.
SHORT_LIFE = 1.0
# Seconds the arbiter has, however busy its machine is, to stop all for one that cannot load.
TURN = 5.0
BEAT = 500_000_000
# Interval of the timer of a boot, which ends with its first expiry; tells it from an application's.
BOOT_TIMER = 4096.0
# Of linux/tcp.h: of a listener, the field "unacked" is the length of its queue.
TCP_LISTEN, TCP_INFO_UNACKED, TCP_INFO_BYTES = 10, 24, 32

SETTINGS = settings.load_or_exit()

log = logging.getLogger("gunicorn.error")


@dataclass(slots=True)
class Seat:
    """A worker's place in the pod, on the worker object of both the arbiter and the worker.

    Attributes:
        board: The pod's scoreboard.
        number: The worker's slot in it.
        role: What the worker is for.
        epoch: Rank of its publications; 0 for a web worker.
        age: Its real age, in gunicorn's count.
        born: When it was forked, monotonic seconds.
        retiring: Whether a reload has replaced it.
    """

    board: Scoreboard
    number: int
    role: Role
    epoch: int
    age: int
    born: float
    retiring: bool = False


def never_raises(hook: Callable[..., None]) -> Callable[..., None]:
    """Logs what goes wrong in a hook, and goes on."""

    # gunicorn counts a hook's parameters through inspect.signature, which follows __wrapped__.
    @functools.wraps(hook)
    def guarded(*args: Any) -> None:
        try:
            hook(*args)
        except Exception:  # a forked child leaves through SystemExit, which goes through
            log.exception("hook %s", hook.__name__)

    return guarded


def _refuse(why: str) -> None:
    sys.stderr.write(f"mingus-health: {why}\n")
    raise SystemExit(settings.EX_CONFIG)


def _seats(server: Any) -> list[Seat]:
    return [seat for worker in server.WORKERS.values() if (seat := _seat(worker))]


def _seat(worker: Any) -> Seat | None:
    """A worker's seat; None where its own hook failed."""
    return getattr(worker, "seat", None)


# -- the arbiter starts


def on_starting(server: Any) -> None:
    """Arbiter, before it listens; a USR2's new master too. Has what the workers will share.

    The one hook that may raise: a server that cannot share its state must not start.
    """
    if server.cfg.reuse_port:
        _refuse("reuse_port cannot be used: a worker that drops a listener would drop its queue")
    if server.cfg.preload_app:
        _refuse("preload_app cannot be used: each worker loads the application for itself")
    if server.num_workers < 2:  # noqa: PLR2004 - the health worker and one web worker
        _refuse("workers must be at least 2: one is the health worker (set WEB_CONCURRENCY)")
    if not any(_port(address) == SETTINGS.health_port for address in server.cfg.address):
        _refuse(f"bind must contain HEALTH_PORT {SETTINGS.health_port}: probes are answered there")
    if not server.cfg.timeout:
        _refuse("timeout must not be 0: a frozen worker would never be replaced")
    try:
        server.board = _make_shared_state(upgraded_from=server.master_pid)
    except (OSError, scoreboard.ScoreboardError) as error:
        _refuse(f"RUN_DIR: {error}")
    server.board.expected = server.num_workers - 1
    app.preload(SETTINGS)


def _make_shared_state(*, upgraded_from: int) -> Scoreboard:
    directory = SETTINGS.directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A name of our own choice, under /tmp, anybody may have taken before us.
    if SETTINGS.run_dir is None and directory.lstat().st_uid != os.getuid():
        raise scoreboard.ScoreboardError(f"{directory} belongs to somebody else")
    scoreboard.sweep(directory)
    boards = {board.master[0]: board for board in scoreboard.living(directory)}
    old = boards.pop(upgraded_from, None)
    if boards:
        raise scoreboard.ScoreboardError(f"{directory} is another pod's, of master {min(boards)}")
    prepare(SETTINGS.metrics_directory, fresh=old is None)
    return Scoreboard.create(
        scoreboard.path_of(directory, os.getpid()),
        slots=4 * (SETTINGS.web_concurrency + 1) + 64,
        adopt=old,
    )


@never_raises
def when_ready(server: Any) -> None:
    """Arbiter, its own signal handlers in place. Puts ours before them."""
    take = server.SIG_QUEUE.put_nowait
    if server.master_pid:
        let_in(server.LISTENERS)  # the old master may have been about to leave when it started us

    def in_child() -> bool:
        return os.getpid() != int(server.pid)

    @never_raises
    def on_term(sig: int, _frame: Any) -> None:
        if in_child():
            os._exit(0)  # between its fork and its own handlers; nobody would tell it again
        if _another_serves(server):
            take(sig)  # nothing to wait for
        elif server.board.stopping or not SETTINGS.health_drain_seconds:
            _leave(server, on_last_call)
        else:
            server.board.stop()
            signal.setitimer(signal.ITIMER_REAL, SETTINGS.health_drain_seconds)

    def on_last_call(_sig: int, _frame: Any) -> None:
        if in_child():
            os._exit(0)
        take(signal.SIGTERM)

    # A collector that visits what all workers share would give each of them its own copy of it.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGALRM, lambda *_: in_child() or _leave(server, on_last_call))
    signal.signal(signal.SIGHUP, lambda *_: in_child() or _reload(server, take))
    signal.signal(APPROVED, lambda *_: in_child() or take(signal.SIGHUP))


@never_raises
def _leave(server: Any, on_last_call: Callable[[int, Any], None]) -> None:
    """Arbiter. The drain is over: first nobody new, then gunicorn's own stop."""
    server.board.stop()
    if not (server.systemd or _another_serves(server)):
        turn_away(each for each in server.LISTENERS if not _is_health(each))
    for sig in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(sig, on_last_call)
    signal.setitimer(signal.ITIMER_REAL, HANDSHAKE)


def _another_serves(server: Any) -> bool:
    """Arbiter. Whether there is another one, in an upgrade: it serves on from the same queues."""
    return bool(server.reexec_pid or server.master_pid)


@never_raises
def _reload(server: Any, take: Callable[[int], None]) -> None:
    """Arbiter."""
    if not (SETTINGS.app_module or SETTINGS.health_checks or SETTINGS.startup_tasks):
        take(signal.SIGHUP)
    else:
        _preflight(server)


def _preflight(server: Any) -> None:
    """Arbiter. Has the application imported elsewhere before workers are bet on it.

    gunicorn stops everything when a new worker cannot import the application, the healthy old
    workers too. The process started here sends APPROVED back, or one line to the log.
    """
    command = [sys.executable, "-m", "service", "preflight", "--approve", str(os.getpid())]
    environ = settings.environment()
    try:
        os.posix_spawn(
            sys.executable,
            command,
            environ,
            # For an upgrade, gunicorn's listeners outlive an exec.
            file_actions=[(os.POSIX_SPAWN_CLOSE, each.fileno()) for each in server.LISTENERS],
            setsigmask=(),
            setsigdef=(signal.SIGHUP,),
        )
    except OSError as error:
        log.error("the reload is refused: %s: %s", sys.executable, error)  # noqa: TRY400


@never_raises
def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
    """Arbiter, at boot (before ``on_starting``), HUP, TTIN and TTOU."""
    if old_value is None:
        return
    if new_value < 2:  # noqa: PLR2004 - the health worker and one web worker
        server._num_workers = 2  # noqa: SLF001 - the public setter would come back here
    server.board.expected = server.num_workers - 1


# -- workers come and go


@never_raises
def pre_fork(server: Any, worker: Any) -> None:
    """Arbiter, the worker object made, its process not yet."""
    seats, board = _seats(server), server.board
    used = {seat.number for seat in seats}
    number = next(number for number in range(len(used) + 1) if number not in used)
    current = {seat.role for seat in seats if not seat.retiring}
    role = Role.WEB if Role.HEALTH in current else Role.HEALTH
    threads = RENDERERS if role is Role.HEALTH else server.cfg.threads
    board.slot(number).assign(role, board.generation, threads)
    worker.seat = Seat(
        board=board,
        number=number,
        role=role,
        epoch=board.next_epoch() if role is Role.HEALTH else 0,
        age=worker.age,
        born=time.monotonic(),
    )
    if role is Role.HEALTH:
        worker.age += LAST_TO_GO


@never_raises
def post_fork(server: Any, worker: Any) -> None:
    """Worker, just forked: the arbiter's signal handlers, no application."""
    seat = _seat(worker)
    if seat is None:
        worker.log.error("no seat for this worker, leaving")
        sys.exit(1)
    seat.board.slot(seat.number).occupy()
    # gunicorn's timeout begins with the first beat. The kernel also ends what hangs in C, and who
    # has lost the arbiter.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SETTINGS.health_boot_seconds, BOOT_TIMER)
    mine = [each for each in worker.sockets if _is_health(each) == (seat.role is Role.HEALTH)]
    if not mine and seat.role is Role.WEB:
        # USR2 and systemd: what was inherited decides, not the settings.
        worker.log.warning("no listener on port %s, serving all there are", SETTINGS.port)
        mine = [each for each in worker.sockets if not _is_health(each)] or worker.sockets
    for listener in worker.sockets:
        if listener not in mine:
            listener.sock.close()  # this process's copy; a queue in it would wait for ever
    worker.sockets = mine  # replaced, not changed: the old list is the arbiter's
    if seat.role is Role.HEALTH:
        become_health_worker(worker)
    else:
        response.install()
        become_web_worker(worker, lasting=server.systemd)
    worker.load_wsgi = functools.partial(_load, worker, seat)


def _port(address: object) -> object:
    """The port of a TCP address; None of another."""
    return address[1] if isinstance(address, tuple) else None


def _is_health(listener: Any) -> bool:
    return _port(listener.sock.getsockname()) == SETTINGS.health_port


def _load(worker: Any, seat: Seat) -> None:
    """Worker. Builds what it serves; one that cannot takes the others along only at the start."""
    try:
        _build(worker, seat)
    except Exception as error:
        if seat.board.serving_at is None:
            _wait_for_turn(worker, seat)
            if isinstance(error, settings.SettingsError):
                log.debug("worker cannot load", exc_info=True)
                raise AppImportError(f"mingus-health: {error}") from error
            raise
        log.exception("worker cannot load, trying again")
        threading.Event().wait(SHORT_LIFE)
        sys.exit(1)


def _wait_for_turn(worker: Any, seat: Seat) -> None:
    """Worker. Lets another say first that it cannot load, and leaves quietly when it has.

    gunicorn, told so a second time while it stops, ends in a traceback and another status.
    """
    end = time.monotonic() + TURN * max(0, seat.number - 1)  # the first web worker is 1
    while time.monotonic() < end:
        if not worker.alive:
            sys.exit(0)
        threading.Event().wait(0.02)


def _build(worker: Any, seat: Seat) -> None:
    # Read anew: a secret's file may have changed since the arbiter read it.
    given, slot = settings.load(), seat.board.slot(seat.number)
    if seat.role is Role.WEB:
        worker.wsgi = app.web(given, seat.board, slot)
    else:
        worker.wsgi, worker.duties = app.health(
            given,
            seat.board,
            slot,
            epoch=seat.epoch,
            patience=worker.cfg.graceful_timeout - 0.5,
        )


@never_raises
def post_worker_init(worker: Any) -> None:
    """Worker, its own signal handlers in place and the application loaded."""
    if signal.getitimer(signal.ITIMER_REAL)[1] == BOOT_TIMER:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seat = worker.seat
    slot = seat.board.slot(seat.number)
    slot.enter(Phase.READY)
    if seat.role is Role.WEB:
        worker.notify = _beating(worker, slot)
        worker.timeout = 1.0  # how often an idle sync worker's loop comes round, and beats


def _beating(worker: Any, slot: scoreboard.Slot) -> Callable[[], None]:
    """Web worker. The main loop's sign of life to the arbiter, and now to the pod."""
    notify, last = worker.notify, 0

    def notify_and_beat() -> None:
        nonlocal last
        notify()
        now = time.monotonic_ns()
        if now - last >= BEAT:
            last = now
            slot.beat(occupied_threads(worker), queued(worker), backlog(worker))
            use = pools.figures()
            if use is not None:
                slot.pool = use

    return notify_and_beat


def occupied_threads(worker: Any) -> int:
    """Web worker. Threads that connections hold, with a request or without one."""
    pool = getattr(worker, "tpool", None)
    if pool is None:
        return 0  # sync: there is nobody to count while its only thread is busy
    idle = len(worker.keepalived_conns) + len(worker.pending_conns)
    return max(0, int(worker.nr_conns) - queued(worker) - idle)


def queued(worker: Any) -> int:
    """Web worker. Connections it has accepted that wait for one of its threads."""
    pool = getattr(worker, "tpool", None)
    return 0 if pool is None else int(pool._work_queue.qsize())  # noqa: SLF001 - no public way


def backlog(worker: Any) -> int:
    """Web worker. Connections that wait to be accepted; 0 where the kernel does not tell."""
    waiting = 0
    for listener in worker.sockets:
        with suppress(OSError):
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
            if info[0] == TCP_LISTEN:
                waiting += struct.unpack_from("=I", info, TCP_INFO_UNACKED)[0]
    return waiting


@never_raises
def pre_request(worker: Any, req: Any) -> None:
    """Web worker, in the thread that serves the request."""
    if worker.seat.board.draining:
        req.force_close()


@never_raises
def on_reload(server: Any) -> None:
    """Arbiter, in a HUP, before the new workers are forked."""
    server.board.next_generation()
    for worker in server.WORKERS.values():
        seat = _seat(worker)
        if seat is not None:
            seat.retiring, worker.age = True, seat.age


@never_raises
def child_exit(server: Any, worker: Any) -> None:
    """Arbiter, a worker reaped. Respawns it now: the arbiter would wait for older ones."""
    seat = _seat(worker)
    if seat is None:
        return
    age = time.monotonic() - seat.born
    booting = seat.board.slot(seat.number).inhabited_by(Phase.BOOTING, worker.pid)
    if booting and age >= SETTINGS.health_boot_seconds:
        log.error("Worker (pid:%s) had not booted within HEALTH_BOOT_SECONDS", worker.pid)
    seat.board.free(seat.number)
    stopping = not server.LISTENERS
    if stopping or seat.retiring or age < SHORT_LIFE:
        return
    current = [each for each in _seats(server) if each.role is seat.role and not each.retiring]
    wanted = 1 if seat.role is Role.HEALTH else server.num_workers - 1
    if len(current) < wanted:
        server.spawn_worker()


@never_raises
def on_exit(server: Any) -> None:
    """Arbiter, at its very end."""
    scoreboard.path_of(SETTINGS.directory, server.pid).unlink(missing_ok=True)
