"""Is the pod making progress? Computed from the workers' own stamps, at the question.

No worker is judged by load: a busy worker whose requests come and go makes progress.
It is stuck when it has hung in boot, when its main loop has stopped stamping, or when
every one of its threads has been busy with the same requests for too long.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What a worker process is for."""

    WEB = 1
    HEALTH = 2


class Phase(IntEnum):
    """Where a worker process is in its life."""

    FREE = 0
    BOOTING = 1
    READY = 2
    STOPPING = 3


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """What one worker process says of itself.

    Attributes:
        slot: Its number in the scoreboard.
        pid: Process id; 0 between the fork and the worker's first stamp.
        process_start: Start time of the process in clock ticks since boot, to tell it
            from a later process with the same id.
        role: WEB or HEALTH.
        phase: Where it is in its life.
        generation: Number of the reload it was born in.
        phase_since: When it entered that phase, monotonic seconds.
        beat: Newest stamp of its main loop, monotonic seconds.
        threads: How many requests it can serve at once, >= 1.
        in_flight: Requests being served now.
        occupied: Threads held by connections, requests or not, at the newest beat.
        all_busy_since: Since when every thread has been busy with the same requests,
            monotonic seconds, 0 when one is free.
        all_occupied_since: The same for threads held by connections, 0 when one is free.
        finished: Requests web workers have finished in this slot since the pod started.
        oldest_since: Start of the oldest request being served, monotonic seconds; 0 when there
            is none.
        queued: Connections that wait in the worker for one of its threads.
        backlog: Connections that wait in the listener's queue, which all web workers share.
        memory_bytes: Resident memory of the process, shared pages included.
    """

    slot: int
    pid: int
    process_start: int
    role: Role
    phase: Phase
    generation: int
    phase_since: float
    beat: float
    threads: int
    in_flight: int
    occupied: int
    all_busy_since: float
    all_occupied_since: float
    finished: int
    oldest_since: float = 0.0
    queued: int = 0
    backlog: int = 0
    memory_bytes: int = 0

    def stuck(self, now: float, limits: "ProgressLimits") -> bool:
        """Whether this worker makes no progress at ``now``."""
        if self.phase is Phase.BOOTING:
            return now - self.phase_since > limits.boot
        full_since = [at for at in (self.all_busy_since, self.all_occupied_since) if at]
        return any(now - at > limits.stall for at in (self.beat, *full_since))

    def cannot_be_stuck_before(self, limits: "ProgressLimits") -> float:
        """The earliest moment at which this process in this phase can be stuck.

        It holds whatever the worker does next: later stamps only push the moment on.
        """
        if self.phase is Phase.BOOTING:
            return self.phase_since + limits.boot
        full_since = [at for at in (self.all_busy_since, self.all_occupied_since) if at]
        return min([self.beat, *full_since]) + limits.stall


@dataclass(frozen=True, slots=True)
class ProgressLimits:
    """How long a worker may stand still.

    Attributes:
        boot: Seconds it may take to boot.
        stall: Seconds without a stamp, or with every thread on the same requests.
    """

    boot: float = 60.0
    stall: float = 60.0


def progressing(
    slots: Iterable[WorkerSlot], vacant_since: float, now: float, lim: ProgressLimits
) -> Iterator[WorkerSlot]:
    """The web workers that make progress at ``now``.

    A boot counts if it began within a boot's time of the last moment with a worker that had
    booted: where every boot fails, there is always a young one.

    Args:
        slots: The occupied slots, of whatever role.
        vacant_since: When the arbiter last freed the slot of a web worker that had booted, or
            started; monotonic seconds.
        now: Monotonic seconds.
        lim: How long a worker may stand still.
    """
    for slot in slots:
        in_vain = slot.phase is Phase.BOOTING and slot.phase_since - vacant_since > lim.boot
        if slot.role is Role.WEB and not in_vain and not slot.stuck(now, lim):
            yield slot


def alive(
    slots: Iterable[WorkerSlot], vacant_since: float, now: float, lim: ProgressLimits
) -> bool:
    """Whether at least one web worker of the pod makes progress at ``now``.

    Between two web workers there is nobody to ask: for as long as a boot may take, that is no
    evidence. The arguments are those of ``progressing``.
    """
    web = [slot for slot in slots if slot.role is Role.WEB]
    if not web:
        return now - vacant_since <= lim.boot
    return any(progressing(web, vacant_since, now, lim))


@dataclass(frozen=True, slots=True)
class PoolUse:
    """The figures of one worker's database connection pool.

    Attributes:
        size: Connections the pool keeps, None when the pool keeps no such numbers.
        checked_in: Of those, idle ones.
        checked_out: Connections in use, overflow included.
        overflow: Connections open beyond ``size``, >= 0.
        invalid: Connections thrown away in the last 300 s.
        capacity: ``size`` and the overflow allowed; None when unlimited or unknown.
    """

    size: int | None
    checked_in: int | None
    checked_out: int | None
    overflow: int | None
    invalid: int | None
    capacity: int | None
