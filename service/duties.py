"""What the health worker does besides answering: watch over the monitor and over Redis.

All of it runs in the health worker's main thread, between two rounds of its loop.
"""

import time
from collections.abc import Callable

import structlog

from service.embedded import EmbeddedRedis
from service.health import Role
from service.monitor import Monitor
from service.scoreboard import Scoreboard, Slot, process_start

log = structlog.get_logger(__name__)

# The monitor's loop waits for nothing, so a silence this long means it is gone.
MONITOR_SILENCE = 10.0


class WatchDuties:
    """The duties of one health worker.

    Args:
        board: The pod's scoreboard.
        slot: The worker's own.
        generation: Number of the reload it was born in.
        epoch: Rank of its publications.
        monitor: What it watches over.
        redis: The embedded server, where there is one.
        patience: Seconds after SIGTERM after which it leaves whoever is still there.
    """

    def __init__(
        self,
        board: Scoreboard,
        slot: Slot,
        generation: int,
        epoch: int,
        monitor: Monitor,
        redis: EmbeddedRedis | None,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._slot = slot
        self._generation = generation
        self._epoch = epoch
        self._monitor = monitor
        self._redis = redis
        self._patience = patience
        self._clock = clock
        self._leaving_since: float | None = None
        self._said_draining = False

    def beat(self, occupied: int) -> bool:
        """Once a second; False when this process should be replaced."""
        self._slot.beat(occupied)
        if self._redis is not None:
            self._redis.ensure()
        if self._board.draining and not self._said_draining:
            self._said_draining = True
            log.info("pod draining")
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
