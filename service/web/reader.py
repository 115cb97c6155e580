"""What the scoreboard says about the pod at the moment somebody asks.

A worker decodes each publication once and keeps it; what changes between two publications
(age, flags, workers) is looked at anew for each question.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from service.health import Check, Phase, Pod, ProgressLimits, Snapshot
from service.health.snapshot import Decoder
from service.health.workers import alive, progressing
from service.scoreboard import Scoreboard

log = structlog.get_logger(__name__)

# Of what an answer is built from: the publication and the flags.
Version = bytes


class Reader:
    """One worker's eyes. Threads may share one.

    Args:
        scoreboard: The pod's.
        checks: The documented checks, for the answer before the first publication.
        limits: How long a worker may stand still.
        clock: Monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        checks: Iterable[Check],
        limits: ProgressLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251 - the time of the answer
    ) -> None:
        self.scoreboard = scoreboard
        self.now = clock
        self.wall = wall
        self.limits = limits
        self._blank = Snapshot.blank(checks)
        self._decoded: tuple[int, Snapshot] = (0, self._blank)
        self._decode = Decoder()
        self._unreadable = 0
        self._witness = scoreboard.slot(0), Phase.FREE, 0, float("-inf")

    @property
    def version(self) -> Version:
        """Changes when a new publication or a new flag may change an answer."""
        return self.scoreboard.version

    def published(self) -> tuple[Snapshot, bool]:
        """The newest publication as it was published, and whether it could be read."""
        rank, snapshot = self._decoded
        newest_rank = self.scoreboard.rank
        if newest_rank == rank:
            return snapshot, True
        newest = self.scoreboard.newest()
        if newest is None:
            return self._blank, False
        try:
            snapshot = self._decode(newest.body)
        except (ValueError, KeyError, TypeError) as error:
            self._report_unreadable(newest.rank, error)
            return self._blank, False
        self._decoded = newest.rank, snapshot
        return snapshot, True

    def alive(self) -> bool:
        """Whether at least one web worker makes progress, from the workers' own stamps."""
        slot, phase, pid, until = self._witness
        if self.now() < until and slot.inhabited_by(phase, pid):
            return True
        return self._look_for_life()

    @property
    def uptime(self) -> float:
        """Seconds since the pod's master started."""
        return max(0.0, self.now() - self.scoreboard.booted)

    def pod(self) -> Pod:
        """Everything there is to say now."""
        board, now = self.scoreboard, self.now()
        snapshot, readable = self.published()
        return Pod(
            snapshot=replace(
                snapshot.at(now), lifecycle=board.lifecycle, serving_at=board.serving_at
            ),
            readable=readable,
            alive=self.alive(),
            at=self.wall(),
            booted_at=board.booted_at,
            uptime=self.uptime,
            in_flight=board.in_flight,
        )

    def nothing(self) -> Pod:
        """The pod to somebody who knows nothing: no evidence of health, nor of a stall."""
        return Pod(
            snapshot=Snapshot.blank(
                replace(state.check, unconfigured=None) for state in self._blank.states.values()
            ),
            readable=False,
            alive=True,
            at=self.wall(),
            booted_at=self.scoreboard.booted_at,
            uptime=self.uptime,
            in_flight=0,
        )

    def _look_for_life(self) -> bool:
        board, now, limits = self.scoreboard, self.now(), self.limits
        workers = list(board.workers())
        for worker in progressing(workers, board.vacant_since, now, limits):
            until = worker.cannot_be_stuck_before(limits)
            self._witness = board.slot(worker.slot), worker.phase, worker.pid, until
        return alive(workers, board.vacant_since, now, limits)

    def _report_unreadable(self, rank: int, error: Exception) -> None:
        if rank != self._unreadable:
            self._unreadable = rank
            log.error(
                "publication unreadable", rank=rank, reason=f"{type(error).__name__}: {error}"
            )
