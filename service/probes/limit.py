"""Waits that end: at their limit, or at once when another thread calls them off.

``Limit`` waits for a file descriptor. What can only block, a name lookup or a driver that
knows no time limit, goes ``Aside``: into a thread that can be left behind.
"""

import copy
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from service.health import CheckFailed

T = TypeVar("T")


class Limit:
    """The end of a run: a moment, or whenever another thread calls it off."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.end = clock() + seconds
        self._bell, self._rope = socket.socketpair()
        self.called_off = False

    @property
    def passed(self) -> bool:
        """Whether nobody waits any more. From any thread."""
        return self.called_off or self._clock() >= self.end

    def part(self, parts: int) -> "Limit":
        """A limit to one of so many equal parts of the time left."""
        part = copy.copy(self)
        now = self._clock()
        part.end = now + (self.end - now) / parts
        return part

    def wait(self, fd: int, events: int) -> None:
        """Wait for a file descriptor.

        Args:
            fd: What to wait for.
            events: ``POLLIN`` and ``POLLOUT``, as for ``select.poll``.

        Raises:
            CheckFailed: The limit came first: ``timeout``.
        """
        seconds = max(0.0, self.end - self._clock())
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self._bell, select.POLLIN)
        ready = [number for number, _ in poll.poll(1000 * seconds)]
        if ready != [fd] or not seconds:
            raise CheckFailed("timeout", "called off" if ready else "no answer in time")

    def call_off(self) -> None:
        """End the run now. From any thread, until ``close``."""
        self.called_off = True
        self._rope.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give back what waiting takes; nobody waits any more."""
        self._bell.close()
        self._rope.close()


class Aside:
    """Calls that know no time limit, each in a thread that can be left behind.

    At most one is out: while one that was left behind has not come back, the next call waits
    for it, and for nothing else. So a name server's silence costs one thread and not one a run.
    """

    def __init__(self) -> None:
        self._door: socket.socket | None = None  # readable as soon as the call is back

    def __del__(self) -> None:
        if self._door is not None:  # of a call that was left behind for good
            self._door.close()

    @property
    def busy(self) -> bool:
        """Whether a call that was left behind has not come back yet."""
        return self._door is not None

    def call(self, work: Callable[[], T], limit: Limit) -> T:
        """What the work returns or raises.

        Raises:
            CheckFailed: The limit came first: ``timeout``.
        """
        self._settle(limit)
        self._door, far_side = socket.socketpair()
        outcome: Future[T] = Future()
        threading.Thread(
            target=_fulfil, args=(outcome, work, far_side), name="aside", daemon=True
        ).start()
        self._settle(limit)
        return outcome.result(timeout=0)

    def _settle(self, limit: Limit) -> None:
        if self._door is not None:
            limit.wait(self._door.fileno(), select.POLLIN)
            self._door.close()
            self._door = None


def _fulfil(outcome: Future[T], work: Callable[[], T], door: socket.socket) -> None:
    with door:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the call was made
            outcome.set_exception(error)
