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
from service.scoreboard import Scoreboard
from tests.pod import eventually
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

FAMILY = "recovery"
READINESS = "/api/system/health/readiness"
SEEN, RESPAWNED = at_most(1.0), at_most(1.0)
INTERVAL, TIMEOUT, THRESHOLD = 2.0, 1.0, 2
ROUNDS, KILLS = 5, 9
HOW = (
    f"A real server goes down at {ROUNDS} moments, evenly spread over the interval of "
    f"{INTERVAL:g} s; it is ended, so that it refuses, or stopped where it stands, so that it "
    "hangs. The figure is the median time to the first 503 of readiness, by what is promised. "
    f"{KILLS} times each, a web worker is killed (-9) until another serves in its place and "
    "`/metrics` has counted it, and the health worker until another has published; again the "
    "median."
)


def rows(effort: Effort) -> Iterator[Row]:
    """A dependency that goes down, then workers that are killed."""
    with Postgres() as postgres, RedisServer(binary("valkey")) as redis:
        settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "HEALTH_CRITICAL_CHECKS": "database,redis",
            "HEALTH_FAILURE_THRESHOLD": str(THRESHOLD),
            "HEALTH_SUCCESS_THRESHOLD": "1",
        }
        for name in ("DATABASE", "REDIS"):
            settings[f"HEALTH_{name}_INTERVAL_SECONDS"] = f"{INTERVAL:g}"
            settings[f"HEALTH_{name}_TIMEOUT_SECONDS"] = f"{TIMEOUT:g}"
        with ServicePod(**settings) as pod:
            pod.wait_for(200, READINESS)
            servers: dict[str, Postgres | RedisServer] = {"database": postgres, "Redis": redis}
            for name, server in servers.items():
                ways = {
                    "refuses": (server.stop, server.start),
                    "hangs": (server.freeze, server.thaw),
                }
                for way, (down, up) in ways.items():
                    yield _seen(pod, f"{name} {way}", down, up, effort.times(ROUNDS, 3))
    with ServicePod() as pod:
        yield _respawned(pod, effort.times(KILLS, 5))
        yield _watched_again(pod, effort.times(KILLS, 5))


def _seen(
    pod: ServicePod, what: str, down: Callable[[], None], up: Callable[[], None], rounds: int
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
        f"failure seen, {what}: down to readiness 503",
        f"{bound:g} s: interval x threshold + timeout",
        f"{median(taken):.2f} s",
        median(taken) / bound,
        SEEN,
        rounds=[each / bound for each in taken],
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
    return _killed("web worker killed to respawned and counted", taken)


def _watched_again(pod: ServicePod, rounds: int) -> Row:
    """From kill -9 of the health worker to the first publication of another."""
    taken = []
    for _ in range(rounds):
        board, victim = pod.board, pod.health_worker
        epoch = board.newest_epoch
        begun = time.monotonic()
        os.kill(victim, signal.SIGKILL)

        def back(board: Scoreboard = board, epoch: int = epoch) -> bool:
            return board.newest_epoch > epoch

        eventually(back, "a publication of another health worker")
        taken.append(time.monotonic() - begun)
        pod.wait_for(200, READINESS)
    return _killed("health worker killed to respawned and published", taken)


def _killed(name: str, taken: list[float]) -> Row:
    return Row.of(
        FAMILY, name, "1 s", milliseconds(median(taken)), median(taken), RESPAWNED, rounds=taken
    )


def _starts(pod: ServicePod) -> float:
    text = pod.get("/metrics?name[]=mingus_health_worker_starts", health=True).body.decode()
    found = re.search(r"(?m)^mingus_health_worker_starts_total (\S+)$", text)
    return float(found[1]) if found else 0.0
