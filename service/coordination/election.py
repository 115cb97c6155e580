"""Which pod does what is done once per release, while others wait.

The holder of a lease, where there is a Redis to keep one. It only spares the database a queue of
pods: that an effect is committed once is up to the ledger. So its term is short, and nothing but
the wait for a dead holder depends on it.
"""

import threading
import time
from collections.abc import Callable
from concurrent import futures
from functools import partial
from typing import Any, Protocol

import structlog

from service.coordination.client import Client
from service.coordination.lease import Grant, Unavailable
from service.health import Scope

log = structlog.get_logger(__name__)

LEASE_SECONDS = 6.0
# Calls to Redis that have not come back, beyond which there is no further one.
MAX_LOST = 4


class Hold(Protocol):
    """A lease, as ``lease.Lease`` is one."""

    def acquire(self) -> Grant | None:
        """Takes the lease or renews it; None while another pod holds it."""

    def release(self) -> None:
        """Gives the lease up."""


class InTime:
    """A client of Redis whose scripts end in time, also where a name server is silent.

    Each call has a thread of its own. One that does not come back is left behind with its client,
    which asks for nothing any more; so what a lease has heard of its calls is all there was.

    Args:
        connect: Makes a client, without I/O.
        seconds: What a call may take; more than the client's own limit.
    """

    def __init__(self, connect: Callable[[], Client], seconds: float) -> None:
        self._connect = connect
        self._seconds = seconds
        self._client: Client | None = connect()
        self._lost: list[threading.Thread] = []

    def register_script(self, script: str, /) -> Callable[..., Any]:
        """As ``redis.Redis``; what it returns raises TimeoutError, too."""
        return partial(self._run, script)

    def _run(self, script: str, **arguments: Any) -> Any:
        self._lost = [thread for thread in self._lost if thread.is_alive()]
        if len(self._lost) >= MAX_LOST:
            raise TimeoutError("earlier calls have not come back")
        client = self._client = self._client or self._connect()
        outcome: futures.Future[Any] = futures.Future()

        def call() -> None:
            try:
                outcome.set_result(client.register_script(script)(**arguments))
            except Exception as error:  # noqa: BLE001 - raised again where the call was made
                outcome.set_exception(error)

        thread = threading.Thread(target=call, name="startup-redis", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter ends, and some versions begin none then
            raise TimeoutError(str(error)) from error
        if not futures.wait([outcome], self._seconds).done:
            self._lost.append(thread)
            self._client = None
            client.abort()
            raise TimeoutError(f"no answer in {self._seconds} s")
        return outcome.result()


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
