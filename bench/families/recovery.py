"""How soon what breaks is seen, and is whole again."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from statistics import median

from bench.core import Effort, Row, at_most, milliseconds
from bench.servers import ServicePod, pause
from service.health import Phase
from tests.pod import eventually
from tests.servers.redis import RedisServer, binary

FAMILY = "recovery"
READINESS = "/api/system/health/readiness"
SEEN, RESPAWNED = at_most(1.0), at_most(1.0)
INTERVAL, TIMEOUT, THRESHOLD = 2.0, 1.0, 2


def rows(effort: Effort) -> Iterator[Row]:
    """A dependency that goes down, then a worker that is killed."""
    rounds = 5 if effort.quick else 9
    with RedisServer(binary("valkey")) as redis:
        settings = {
            "REDIS_URL": redis.url,
            "HEALTH_REDIS_INTERVAL_SECONDS": f"{INTERVAL:g}",
            "HEALTH_REDIS_TIMEOUT_SECONDS": f"{TIMEOUT:g}",
            "HEALTH_FAILURE_THRESHOLD": str(THRESHOLD),
            "HEALTH_SUCCESS_THRESHOLD": "1",
        }
        with ServicePod(**settings) as pod:
            pod.wait_for(200, READINESS)
            ways = {
                "refuses": (redis.stop, redis.start),
                "hangs": (redis.freeze, redis.thaw),
            }
            for way, (down, up) in ways.items():
                yield _seen(pod, way, down, up, rounds)
    with ServicePod() as pod:
        yield _respawned(pod, rounds)


def _seen(
    pod: ServicePod, way: str, down: Callable[[], None], up: Callable[[], None], rounds: int
) -> Row:
    """From the moment a dependency goes down to the first 503 of readiness."""
    bound, taken = INTERVAL * THRESHOLD + TIMEOUT, []
    for number in range(rounds):
        pause(INTERVAL * number / rounds)  # any moment of an interval is as likely as another
        begun = time.monotonic()
        down()
        try:
            eventually(lambda: pod.status(READINESS) == 503, "readiness that is 503")
            taken.append(time.monotonic() - begun)
        finally:
            up()
        eventually(lambda: pod.status(READINESS) == 200, "readiness that is 200 again")
    return Row.of(
        FAMILY,
        f"failure seen, Redis {way}: down to readiness 503",
        f"{bound:g} s: interval x threshold + timeout",
        f"{median(taken):.2f} s",
        median(taken) / bound,
        SEEN,
    )


def _respawned(pod: ServicePod, rounds: int) -> Row:
    """From kill -9 of a web worker to another that serves and has been counted."""
    taken = []
    for _ in range(rounds):
        before, victim = _starts(pod), pod.web_pids[0]
        whole = len(pod.web_pids)
        begun = time.monotonic()
        os.kill(victim, signal.SIGKILL)

        def back(before: float = before, whole: int = whole) -> bool:
            ready = [each for each in pod.workers() if each.phase is Phase.READY]
            return len(ready) == whole and _starts(pod) == before + 1

        eventually(back, "a worker in the place of the one that was killed")
        taken.append(time.monotonic() - begun)
    return Row.of(
        FAMILY,
        "web worker killed to respawned and counted",
        "1 s",
        milliseconds(median(taken)),
        median(taken),
        RESPAWNED,
    )


def _starts(pod: ServicePod) -> float:
    text = pod.get("/metrics?name[]=mingus_health_worker_starts", health=True).body.decode()
    found = re.search(r"(?m)^mingus_health_worker_starts_total (\S+)$", text)
    return float(found[1]) if found else 0.0
