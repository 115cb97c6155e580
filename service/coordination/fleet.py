"""What the pods of a fleet tell each other through Redis: one call a pod and interval.

    sync      say how this pod is, take or renew the lease, hear what is new: all in one script
    publish   the holder's results, refused when a newer term has begun
    look      every pod, for the view of the fleet
    prune     forget the pods that have gone; the holder does it
    leave     a pod that stops is forgotten at once, and its lease is free

Every key carries the same hash tag. Ages are told by the server's clock, so pods need none in
common. A pod whose last sync is ``KEEP`` intervals ago is gone.

    pods        sorted set, pod -> time of its last sync
    info        hash, pod -> what it says of itself, JSON
    failing:*   sorted set for each check, pod it fails in -> time of its last sync
    result      the holder's newest results; result:version, result:at
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from service.coordination.client import Client
from service.coordination.lease import HOLD, Bid, Script, Unavailable, lease_keys

KEEP = 3
# What is larger is not taken in: all results together, and what one pod says of itself.
MAX_RESULT_BYTES = 32 * 1024
MAX_INFO_BYTES = 2048
MAX_LISTED = 500
KEPT_SECONDS = 24 * 3600  # what a fleet leaves behind that nobody prunes any more

NOW = """
local function clock()
  local at = redis.call('TIME')
  return at[1] * 1000 + math.floor(at[2] / 1000)
end
"""
SYNC = f"""
{HOLD}{NOW}
local lease, fences, pods, info, result, version, published = unpack(KEYS, 1, 7)
local owner, previous, ttl_ms, want, pod, said, known, window = unpack(ARGV, 1, 8)
local fence = false
if want == '1' then
  fence = hold(lease, fences, owner, previous, ttl_ms)
else
  release(lease, owner)
  release(lease, previous)
end
local now, failing = clock(), {{}}
redis.call('ZADD', pods, now, pod)
redis.call('HSET', info, pod, said)
for i = 8, #KEYS do
  if ARGV[i + 1] == '1' then
    redis.call('ZADD', KEYS[i], now, pod)
  else
    redis.call('ZREM', KEYS[i], pod)
  end
  failing[#failing + 1] = redis.call('ZCOUNT', KEYS[i], now - window, '+inf')
end
local newest, at, body = redis.call('GET', version), redis.call('GET', published), false
if newest and newest ~= known then
  body = redis.call('GET', result)
end
return {{fence, redis.call('GET', lease), redis.call('ZCOUNT', pods, now - window, '+inf'),
         failing, newest, at and now - at or -1, body}}
"""
PUBLISH = f"""
{NOW}
if tonumber(ARGV[1]) < (tonumber(redis.call('GET', KEYS[1]) or '0') or 0) then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
redis.call('SET', KEYS[4], clock(), 'PX', ARGV[4])
return 1
"""
LOOK = f"""
{NOW}
local now, leases = clock(), {{}}
local pods = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'REV', 'WITHSCORES')
local names, ages = {{}}, {{}}
for i = 1, #pods, 2 do
  names[#names + 1] = pods[i]
  ages[#ages + 1] = now - pods[i + 1]
end
local infos = #names > 0 and redis.call('HMGET', KEYS[2], unpack(names)) or {{}}
for i = 3, #KEYS do
  leases[#leases + 1] = redis.call('GET', KEYS[i])
end
return {{names, ages, infos, leases}}
"""
PRUNE = f"""
{NOW}
local before = clock() - ARGV[1]
for _, pod in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, 500)) do
  redis.call('ZREM', KEYS[1], pod)
  redis.call('HDEL', KEYS[2], pod)
end
for i = 3, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', before)
end
for i = 1, #KEYS do
  redis.call('EXPIRE', KEYS[i], ARGV[2])
end
return 1
"""
LEAVE = f"""
{HOLD}
release(KEYS[1], ARGV[1])
release(KEYS[1], ARGV[2])
if ARGV[3] == '' then
  return 1
end
redis.call('HDEL', KEYS[2], ARGV[3])
for i = 3, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[3])
end
return 1
"""

ROLE = "checks"
ROLES = (ROLE, "startup")


@dataclass(frozen=True, slots=True)
class Report:
    """What a pod says of itself.

    Attributes:
        pod: Its id.
        info: What is shown of it, as JSON values.
        failing: Names of the checks that fail there.
    """

    pod: str
    info: Mapping[str, Any]
    failing: frozenset[str]


@dataclass(frozen=True, slots=True)
class Synced:
    """What one sync brought back.

    Attributes:
        fence: Of the lease, if it was granted.
        holder: Pod that holds the lease, "" for none.
        pods: How many there are, this one included.
        failing: In how many of them each check fails, this one included, by its name.
        version: Of the newest results, "" for none.
        age: Seconds since these were published.
        body: The results themselves, if they are not known here yet; empty if they are too large.
    """

    fence: int | None
    holder: str
    pods: int
    failing: Mapping[str, int]
    version: str
    age: float
    body: bytes | None


class Fleet:
    """The calls of one pod, all of them I/O and nothing else. One thread at a time.

    Args:
        client: Of the server; its own limit bounds each call.
        key_prefix: Begins the keys; see ``lease.keyspace``.
        checks: Names of the checks that pods compare.
        keep: Seconds after its last sync that a pod counts as gone.
    """

    def __init__(
        self, client: Client, key_prefix: str, checks: Iterable[str], *, keep: float
    ) -> None:
        self._checks = tuple(checks)
        self._keep_ms = int(keep * 1000)
        self._lease, self._fence = lease_keys(key_prefix, ROLE)
        self._pods, self._info = f"{key_prefix}pods", f"{key_prefix}info"
        self._results = [f"{key_prefix}result{part}" for part in ("", ":version", ":at")]
        self._failing = [f"{key_prefix}failing:{name}" for name in self._checks]
        self._leases = [lease_keys(key_prefix, role)[0] for role in ROLES]
        self._sync = Script(client, SYNC)
        self._publish = Script(client, PUBLISH)
        self._look = Script(client, LOOK)
        self._prune = Script(client, PRUNE)
        self._leave = Script(client, LEAVE)

    def sync(self, bid: Bid, report: Report, *, ttl_ms: int, want: bool, known: str = "") -> Synced:
        """Says how this pod is and hears what is new.

        Args:
            bid: For the lease, as ``lease.Term`` makes it.
            report: What the pod says of itself.
            ttl_ms: Of the lease.
            want: Whether to take or renew the lease; else it is given up.
            known: Version of the results that need not be sent again.

        Raises:
            Unavailable: Redis gave no usable answer.
        """
        info = json.dumps(report.info, separators=(",", ":"))
        keys = [self._lease, self._fence, self._pods, self._info, *self._results, *self._failing]
        fails = ["1" if name in report.failing else "0" for name in self._checks]
        about_lease = [bid.owner, bid.previous, ttl_ms, "1" if want else "0"]
        reply = self._sync(keys, [*about_lease, report.pod, info, known, self._keep_ms, *fails])
        try:
            fence, lease, pods, failing, version, age_ms, body = reply
            return Synced(
                None if fence is None else int(fence),
                holder_of(lease),
                int(pods),
                dict(zip(self._checks, failing, strict=True)),
                (version or b"").decode(),
                age_ms / 1000,
                body if body is None or len(body) <= MAX_RESULT_BYTES else b"",
            )
        except (TypeError, ValueError) as error:
            raise Unavailable(f"an answer that is none: {error}") from error

    def publish(self, fence: int, version: str, body: bytes, *, keep: float) -> bool:
        """Publishes results under a lease; False when a newer term has begun.

        Raises:
            Unavailable: Redis gave no usable answer.
        """
        keys = [self._fence, *self._results]
        return bool(self._publish(keys, [fence, body, version, int(keep * 1000)]))

    def look(self) -> tuple[list[dict[str, Any]], dict[str, str | None]]:
        """What the pods say of themselves, the latest first, and who holds each role's lease.

        Raises:
            Unavailable: Redis gave no usable answer.
        """
        reply = self._look([self._pods, self._info, *self._leases], [MAX_LISTED])
        try:
            names, ages, infos, leases = reply
            rows = [
                {**_info(info), "pod": pod.decode(), "age_seconds": age / 1000}
                for pod, age, info in zip(names, ages, infos, strict=True)
                if age <= self._keep_ms
            ]
            holders = {
                role: holder_of(lease) or None for role, lease in zip(ROLES, leases, strict=True)
            }
        except (TypeError, ValueError) as error:
            raise Unavailable(f"an answer that is none: {error}") from error
        return rows, holders

    def prune(self) -> None:
        """Forgets the pods that have gone.

        Raises:
            Unavailable: Redis gave no usable answer.
        """
        self._prune([self._pods, self._info, *self._failing], [self._keep_ms, KEPT_SECONDS])

    def leave(self, bid: Bid, pod: str) -> None:
        """Gives up the lease, and forgets a pod, if one is named.

        Raises:
            Unavailable: Redis gave no usable answer.
        """
        keys = [self._lease, self._info, self._pods, *self._failing]
        self._leave(keys, [bid.owner, bid.previous, pod])


def holder_of(lease: bytes | None) -> str:
    """The pod in the value of a lease key, "" for none."""
    return "" if lease is None else lease.decode(errors="replace").rpartition(":")[0]


# What a pod says of itself. One of another release may say it otherwise.
_INFO: dict[str, type] = {
    "host": str,
    "release": str,
    "lifecycle": str,
    "ready": bool,
    "workers_ok": int,
    "workers_total": int,
    "failing": list,
}


def _info(text: bytes | None) -> dict[str, Any]:
    """What a pod said of itself, without what cannot be read."""
    if text is None or len(text) > MAX_INFO_BYTES:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name, kind in _INFO.items() if isinstance(found.get(name), kind)}
