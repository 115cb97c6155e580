"""The Redis-backed lock: which pod may do what only one pod of the fleet should.

    acquire   take the lease if it is free; keep it, if it is ours already
    hold      until ``valid_until``, a moment of our own clock from before the request was sent
    release   give it up; the next acquire begins a new term

Acquiring and renewing are one request that names its owner, so it may be repeated: what was
granted in a reply that got lost is granted again. A term has an owner id of its own, so a
process that stepped down cannot resume a lease it has forgotten; and an acquire names the
owner of the term before, so that a release which never arrived does not lock its pod out.

A lease is no proof: its holder may be paused between a look at the clock and the effect. So
each term has a fence, a number that rises from term to term, and whoever takes effects in
refuses one with a lower fence than it has seen. The fence is the larger of the last one plus 1
and the server's time in microseconds: a counter alone would start again after a failover or a
FLUSHALL, and then the newer holder would have the lower number.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import redis

from service.probes.errors import mask

TTL = 15.0

# KEYS of a lease: who holds it as ``owner|fence``, and the newest fence.
# ``previous`` is the owner of an earlier term of the same process, which is over: for free.
# The fence is forgotten 30 days after the last holder; the clock alone then keeps it rising.
HOLD = """
local function hold(lease, fences, owner, previous, ttl_ms)
  local current = redis.call('GET', lease)
  if current then
    local holder, fence = string.match(current, '^(.-)|(%d+)$')
    if holder == owner then
      redis.call('PEXPIRE', lease, ttl_ms)
      redis.call('EXPIRE', fences, 2592000)
      return fence
    end
    if holder ~= previous then
      return false
    end
  end
  local now = redis.call('TIME')
  local last = tonumber(redis.call('GET', fences) or '0') or 0
  local fence = string.format('%.0f', math.max(last + 1, now[1] * 1000000 + now[2]))
  redis.call('SET', fences, fence, 'EX', 2592000)
  redis.call('SET', lease, owner .. '|' .. fence, 'PX', ttl_ms)
  return fence
end
local function release(lease, owner)
  local current = redis.call('GET', lease)
  if current and string.match(current, '^(.-)|') == owner then
    redis.call('DEL', lease)
  end
end
"""
ACQUIRE = f"{HOLD} return hold(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])"
RELEASE = f"{HOLD} release(KEYS[1], ARGV[1]) return 1"


class Unavailable(Exception):  # noqa: N818 - what happened, not what kind of object it is
    """Redis gave no usable answer; whether it got the request is not known."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease held.

    Attributes:
        fence: Higher than that of every earlier term of the lease.
        valid_until: When to start nothing more under it, monotonic seconds.
    """

    fence: int
    valid_until: float


@dataclass(frozen=True, slots=True)
class Bid:
    """What a request for a lease says.

    Attributes:
        owner: Who asks: id of the running term.
        previous: Id of the term before, which is over.
        at: When it was made, before anything was sent; monotonic seconds.
    """

    owner: str
    previous: str
    at: float


class Term:
    """What a process knows of its own hold on a lease. One thread bids; any may ask.

    Args:
        pod_id: Of the pod, without a ``|``.
        ttl: Seconds the server keeps a lease that is not renewed; more than 1.
        clock: Monotonic seconds.
    """

    def __init__(self, pod_id: str, ttl: float, clock: Callable[[], float]) -> None:
        margin = max(1.0, 0.1 * ttl)
        if "|" in pod_id or ttl <= margin:
            raise ValueError("a lease needs a pod id without a | and a ttl of more than 1 second")
        self.ttl_ms = int(ttl * 1000)
        self._pod_id = pod_id
        self._validity = ttl - margin
        self._clock = clock
        self._previous = ""
        self._owner = self._new_owner()
        self._grant: Grant | None = None

    def _new_owner(self) -> str:
        return f"{self._pod_id}:{uuid.uuid4()}"

    def bid(self) -> Bid:
        """What to ask with, in the running term, or in a new one if that is over."""
        now = self._clock()
        if self._grant is not None and now >= self._grant.valid_until:
            self.end()
        return Bid(self._owner, self._previous, now)

    def settle(self, bid: Bid, fence: int | None) -> Grant | None:
        """Takes in the answer to a bid: the fence that was granted, or None."""
        if bid.owner != self._owner:
            return None  # of a term that has been ended meanwhile
        if fence is None:
            if self._grant is not None:
                self.end()
            return None
        self._grant = Grant(fence, bid.at + self._validity)
        return self.held(self._clock())

    def end(self) -> str:
        """Ends the running term and returns its owner, for the server to forget."""
        self._previous, self._owner = self._owner, self._new_owner()
        self._grant = None
        return self._previous

    def held(self, now: float) -> Grant | None:
        """The grant, if it is valid at ``now`` (monotonic seconds)."""
        grant = self._grant
        return grant if grant is not None and now < grant.valid_until else None


class Scripting(Protocol):
    """As much of a client as a lease needs."""

    def register_script(self, script: str, /) -> Callable[..., Any]:
        """A script to be run, with ``keys`` and ``args``."""


class Lease:
    """One role in the fleet, such as ``startup``. One thread at a time makes calls.

    Args:
        client: Of the server; its own limit bounds each call.
        key_prefix: Begins the keys; see ``keyspace``.
        role: What it is a lease of.
        pod_id: Of the pod that asks.
        ttl: Seconds the server keeps a lease that is not renewed; renew at a third of it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        client: Scripting,
        key_prefix: str,
        role: str,
        pod_id: str,
        *,
        ttl: float = TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = lease_keys(key_prefix, role)
        self._term = Term(pod_id, ttl, clock)
        self._acquire = Script(client, ACQUIRE)
        self._release = Script(client, RELEASE)

    def acquire(self) -> Grant | None:
        """Takes the lease or renews it; None while another pod holds it.

        The fence of a grant may differ from the last one's: then the server had lost the
        lease, and this is a new term.

        Raises:
            Unavailable: Redis gave no usable answer. A grant held goes on until it ends.
        """
        bid = self._term.bid()
        fence = self._acquire(self._keys, [bid.owner, bid.previous, self._term.ttl_ms])
        return self._term.settle(bid, None if fence is None else int(fence))

    def release(self) -> None:
        """Gives the lease up, if it is held. The term is over whatever comes of the request.

        Raises:
            Unavailable: Redis gave no usable answer; the next ``acquire`` here releases, too.
        """
        self._release(self._keys[:1], [self._term.end()])

    def held(self, now: float) -> Grant | None:
        """The grant, if it is valid at ``now`` (monotonic seconds). Any thread."""
        return self._term.held(now)


class Script:
    """A Lua script the server keeps.

    Args:
        client: Of the server.
        source: The script.
    """

    def __init__(self, client: Scripting, source: str) -> None:
        self._script = client.register_script(source)

    def __call__(self, keys: list[str], arguments: list[Any]) -> Any:
        """Runs it.

        Raises:
            Unavailable: Redis gave no usable answer. What it said is masked, for any log.
        """
        try:
            return self._script(keys=keys, args=arguments)
        except (redis.RedisError, OSError, ValueError) as error:
            raise Unavailable(mask(f"{type(error).__name__}: {error}")) from error


def keyspace(key_prefix: str, app: str, environment: str) -> str:
    """What begins every key of one application in one environment: one hash slot for all."""
    return f"{key_prefix}{{{quote(app, safe='')}:{quote(environment, safe='')}}}:"


def lease_keys(key_prefix: str, role: str) -> list[str]:
    """The two keys of a role's lease."""
    return [f"{key_prefix}lease:{role}", f"{key_prefix}fence:{role}"]
