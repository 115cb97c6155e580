"""What one reader can say about the pod at one moment: the whole input of every answer."""

from dataclasses import dataclass

from service.health.snapshot import Lifecycle, Snapshot
from service.health.state import CheckState
from service.health.status import Status

UNREADABLE = "the newest publication cannot be read"


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod at one moment.

    Attributes:
        snapshot: The newest snapshot, aged to this moment, its lifecycle filled in.
        readable: Whether the shared state could be read; if not, the snapshot is blank.
        alive: Whether at least one web worker makes progress.
        at: The moment, Unix seconds.
        booted_at: Start of the pod's master, Unix seconds.
        uptime: Seconds since then on the monotonic clock.
        in_flight: Requests the web workers are serving at this moment.
    """

    snapshot: Snapshot
    readable: bool
    alive: bool
    at: float
    booted_at: float
    uptime: float
    in_flight: int

    @property
    def obstacles(self) -> list[str]:
        """Why it is not ready, in words, what matters most first; nothing when it is."""
        snapshot = self.snapshot
        starting = snapshot.lifecycle is Lifecycle.STARTING
        if not self.readable:
            return [UNREADABLE]
        found = [] if snapshot.lifecycle is Lifecycle.SERVING else [snapshot.lifecycle.value]
        found += [
            obstacle(name, state.status, state.code)
            for name, state in snapshot.states.items()
            if not state.status.passes
            and (state.check.critical or (starting and _needed_to_start(state)))
        ]
        found += [
            obstacle(f"task {name}", task.status, task.code)
            for name, task in snapshot.tasks.items()
            if starting and task.holds_up
        ]
        return found


def obstacle(name: str, status: Status, code: str | None) -> str:
    """What keeps a pod, such as ``redis unhealthy (timeout)``."""
    return f"{name} {status.word} ({code})"


def _needed_to_start(state: CheckState) -> bool:
    return state.run is None or (state.check.startup and not state.passed_once)
