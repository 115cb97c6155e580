"""What a process does besides answering: watch over the monitor, and over Redis.

In the health worker it is done in the main thread, between two rounds of its loop; where there
are no hooks, in a thread of its own.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from service import pools
from service.embedded import EmbeddedRedis
from service.health import Role
from service.monitor import Monitor
from service.scoreboard import Scoreboard, Slot, process_start

log = structlog.get_logger(__name__)

# The monitor's loop waits for nothing, so a silence this long means it is gone.
MONITOR_SILENCE = 10.0
# Cleaners of temporary directories take what nobody has touched for days; a lock file among it
# would let two processes into one metric slot.
TOUCH_INTERVAL = 3600.0


class WatchDuties:
    """The duties of one health worker.

    Args:
        board: The pod's scoreboard.
        slot: The worker's own.
        epoch: Rank of its publications.
        monitor: What it watches over.
        redis: The embedded server, where there is one.
        directory: Of the pod's files.
        patience: Seconds after SIGTERM after which it leaves whoever is still there.
    """

    def __init__(
        self,
        board: Scoreboard,
        slot: Slot,
        epoch: int,
        monitor: Monitor,
        redis: EmbeddedRedis | None,
        directory: Path,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._slot = slot
        self._generation = slot.read().generation
        self._epoch = epoch
        self._monitor = monitor
        self._redis = redis
        self._directory = directory
        self._patience = patience
        self._clock = clock
        self._leaving_since: float | None = None
        self._said_draining = False
        self._next_touch = clock() + TOUCH_INTERVAL

    def beat(self, occupied: int) -> bool:
        """Once a second; False when this process should be replaced."""
        self._slot.beat(occupied)
        if self._redis is not None:
            self._redis.ensure()
        if self._board.draining and not self._said_draining:
            self._said_draining = True
            log.info("pod draining")
        if self._clock() >= self._next_touch:
            self._next_touch = self._clock() + TOUCH_INTERVAL
            _touch(self._directory)
        if self._monitor.stalled(MONITOR_SILENCE):
            log.critical("monitor stalled, replacing the health worker")
            return False
        return True

    def may_leave(self) -> bool:
        """Asked after a SIGTERM: whether a successor watches, or nobody is left to watch.

        While neither is so, it goes on watching and answering, but not for ever.
        """
        now = self._clock()
        if self._leaving_since is None:
            self._leaving_since = now
            self._monitor.retire()
        if now - self._leaving_since > self._patience:
            return True
        if self._board.generation != self._generation:
            return self._board.newest_epoch > self._epoch
        return not self._web_workers_live()

    def draining(self) -> bool:
        """Whether the pod is leaving."""
        return self._board.draining

    def stop(self) -> None:
        """Ends the monitor and the embedded server."""
        self._monitor.stop()
        if self._redis is not None:
            self._redis.stop()

    def _web_workers_live(self) -> bool:
        return any(
            process_start(worker.pid) == worker.process_start != 0
            for worker in self._board.workers()
            if worker.role is Role.WEB
        )


class Keeper:
    """Stands in for gunicorn where there are no hooks: stamps for the process, keeps a monitor.

    Args:
        slot: The process's own.
        make: Makes a monitor, of a new epoch each time.
        redis: The embedded server, where there is one; not started yet.
    """

    def __init__(
        self, slot: Slot, make: Callable[[], Monitor], redis: EmbeddedRedis | None
    ) -> None:
        self._slot = slot
        self._redis = redis
        self._make = make
        self._monitor = make()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="keeper", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the monitor. May be called more than once."""
        self._stopping.set()
        self._monitor.stop()

    def _loop(self) -> None:
        if self._redis is not None:
            self._redis.ensure()
            self._redis.wait()
        self._monitor.start()
        while not self._stopping.wait(1.0):
            self._slot.beat(0)
            if self._redis is not None:
                self._redis.ensure()
            use = pools.figures()
            if use is not None:
                self._slot.pool = use
            if self._monitor.stalled(MONITOR_SILENCE):
                log.critical("monitor stalled, starting another")
                self._monitor.stop()
                self._monitor = self._make()
                self._monitor.start()


def _touch(directory: Path) -> None:
    for path in directory.rglob("*"):
        with suppress(OSError):
            os.utime(path)
