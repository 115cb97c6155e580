"""Which pod does what is done once per release, while others wait.

The holder of a lease, where there is a Redis to keep one. It only spares the database a queue of
pods: that an effect is committed once is up to the ledger. So its term is short, and nothing but
the wait for a dead holder depends on it.
"""

import time
from collections.abc import Callable
from typing import Protocol

import structlog

from service.coordination.lease import Grant, Unavailable
from service.health import Scope

log = structlog.get_logger(__name__)

LEASE_SECONDS = 6.0


class Hold(Protocol):
    """A lease, as ``lease.Lease`` is one."""

    def acquire(self) -> Grant | None:
        """Takes the lease or renews it; None while another pod holds it."""

    def release(self) -> None:
        """Gives the lease up."""


class Election:
    """Which pod does what is done once per release. Used by the startup thread only.

    Args:
        lease: Of the fleet; None where there is nobody to ask, and each pod asks the ledger.
        proceed: Whether to go on without an answer.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        lease: Hold | None,
        *,
        proceed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._proceed = proceed
        self._clock = clock
        self._asked = float("-inf")
        self.held = False

    @property
    def scope(self) -> Scope:
        """Among whom one is chosen."""
        return Scope.POD if self._lease is None else Scope.FLEET

    def won(self) -> bool:
        """Whether this pod may begin an attempt now. Asks each time.

        Raises:
            Unavailable: Nobody can say, and the policy is to wait.
        """
        if self._lease is None:
            return True
        self._asked = self._clock()
        try:
            self.held = self._lease.acquire() is not None
        except Unavailable:
            self.held = False
            if not self._proceed:
                raise
            return True
        return self.held

    def keep(self) -> None:
        """Renews the lease if it is held and time; what becomes of it does not matter here."""
        if self.held and self._clock() - self._asked >= LEASE_SECONDS / 3:
            try:
                self.won()
            except Unavailable as error:
                log.warning("startup lease not renewed", reason=str(error))

    def step_down(self) -> None:
        """Lets another pod have it."""
        if self._lease is None or not self.held:
            return
        self.held = False
        try:
            self._lease.release()
        except Unavailable as error:
            log.warning("startup lease not released", reason=str(error))
