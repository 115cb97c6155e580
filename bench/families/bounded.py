"""Probes while the pod suffers: overload, frozen dependencies; and how often checks run."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from bench.client import Load, pace, probe, request
from bench.core import (
    Effort,
    Row,
    at_most,
    exactly,
    in_turns,
    milliseconds,
    percentile,
    significant,
)
from bench.servers import ROOT, THREADS, WORKERS, ServicePod, pause
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

FAMILY = "bounded"
READINESS = "/api/system/health/readiness"
OVERLOADED, WITHIN, FROZEN, CHECKS = at_most(3), exactly(1), at_most(1.2), exactly(1)
LIMIT = 1.0
MANY_WORKERS, PROBES = 8, 400
INTERVAL = 0.2


def rows(effort: Effort) -> Iterator[Row]:
    """Overload, then frozen servers, then the count of checks."""
    yield from _overload(effort)
    with Postgres() as postgres, RedisServer(binary("valkey")) as redis:
        yield from _frozen(postgres, redis, effort)
        yield _checks(postgres, redis, effort)


# -- overload


def _overload(effort: Effort) -> Iterator[Row]:
    """:5004 while four times as many clients as threads hold the web workers."""
    seconds = 1.0 if effort.quick else 4.0
    for route, name in (("/wait", "threads held"), ("/compute", "processors busy too")):
        with ServicePod(APP_MODULE="bench.apps.user:app", LOG_LEVEL="WARNING") as pod:

            def measure(pod: ServicePod = pod) -> Load:
                return probe(pod.health_port, READINESS, rate=100, seconds=seconds)

            def loaded(pod: ServicePod = pod, route: str = route) -> Load:
                with occupied(pod.port, route, 4 * WORKERS * THREADS):
                    return measure(pod)

            turns = in_turns({"idle": measure, "loaded": loaded}, 5)
        title = f"probe on :5004 under 4x overload, {name}"
        target = OVERLOADED if route == "/wait" else None
        yield by_p99(f"{title}: p99", turns["idle"], turns["loaded"], target)
        latencies = [each for turn in turns["loaded"] for each in turn.latencies]
        failed = sum(sum(turn.statuses.values()) for turn in turns["loaded"])
        quick = sum(each <= LIMIT for each in latencies) - failed
        yield Row.of(
            FAMILY,
            f"{title}: answered within {LIMIT:g} s",
            f"{len(latencies):,} probes",
            f"{quick:,}",
            quick / len(latencies),
            WITHIN,
        )


@contextmanager
def occupied(port: int, path: str, clients: int) -> Iterator[None]:
    """So many clients in a process of their own, each asking again and again."""
    command = [sys.executable, "-m", "bench.client", str(port), path, str(clients)]
    process = subprocess.Popen(command, cwd=ROOT)
    pause(0.7)  # until all of them ask
    try:
        yield
    finally:
        process.kill()
        process.wait()


def by_p99(name: str, reference: list[Load], ours: list[Load], target: object) -> Row:
    """The medians of the slowest hundredth of both."""
    tails = [[percentile(turn.latencies, 99) for turn in turns] for turns in (reference, ours)]
    middles = [median(tail) for tail in tails]
    return Row.of(
        FAMILY,
        name,
        milliseconds(middles[0]),
        milliseconds(middles[1]),
        middles[1] / middles[0],
        target,  # type: ignore[arg-type]
    )


# -- frozen


def _frozen(postgres: Postgres, redis: RedisServer, effort: Effort) -> Iterator[Row]:
    """Readiness while neither the database nor Redis answers, against while both do."""
    seconds = 1.0 if effort.quick else 3.0
    with ServicePod(DATABASE_URL=postgres.url, REDIS_URL=redis.url) as pod:
        pod.wait_for(200, READINESS)
        for port, listener in ((pod.health_port, ":5004"), (pod.port, ":5003")):

            def healthy(port: int = port) -> Load:
                return probe(port, READINESS, rate=300, seconds=seconds)

            def frozen(port: int = port) -> Load:
                with postgres.frozen(), redis.frozen():
                    return probe(port, READINESS, rate=300, seconds=seconds)

            turns = in_turns({"healthy": healthy, "frozen": frozen}, 5 if effort.quick else 9)
            title = f"probe on {listener}, database and Redis frozen: p99"
            yield by_p99(title, turns["healthy"], turns["frozen"], FROZEN)


# -- how often checks run


def _checks(postgres: Postgres, redis: RedisServer, effort: Effort) -> Row:
    """Runs that Redis itself has seen, with 400 probes a second and with none."""
    seconds = 4.0 if effort.quick else 12.0
    settings = {
        "WEB_CONCURRENCY": str(MANY_WORKERS),
        "DATABASE_URL": postgres.url,
        "REDIS_URL": redis.url,
        "HEALTH_REDIS_INTERVAL_SECONDS": str(INTERVAL),
    }
    with ServicePod(**settings) as pod:
        pod.wait_for(200, READINESS)

        def per_second(work: Callable[[], object]) -> float:
            before = _pings(redis)
            work()
            return (_pings(redis) - before) / seconds

        def probed() -> float:
            payload = request(READINESS)
            return per_second(
                lambda: pace(pod.port, payload, rate=PROBES, seconds=seconds, connections=16)
            )

        turns = in_turns({"alone": lambda: per_second(lambda: pause(seconds)), "probed": probed}, 3)
    ratio = median(turns["probed"]) / median(turns["alone"])
    return Row.of(
        FAMILY,
        f"dependency checks per second, {MANY_WORKERS} workers x {PROBES} probes/s",
        f"{significant(median(turns['alone'])):g}/s without probes",
        f"{significant(median(turns['probed'])):g}/s",
        ratio,
        CHECKS,
    )


def _pings(redis: RedisServer) -> int:
    stats = redis.admin.info("commandstats")
    return int(stats.get("cmdstat_ping", {}).get("calls", 0))
