"""What one reader can say about the pod at one moment: the whole input of every answer."""

from dataclasses import dataclass

from service.health.snapshot import Snapshot


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
