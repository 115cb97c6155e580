"""Probes while the pod suffers: overload, frozen dependencies; and how often checks run."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from bench.client import Load, LoadError, pace, probe, request
from bench.core import (
    Effort,
    Row,
    Target,
    at_most,
    exactly,
    in_turns,
    milliseconds,
    percentile,
    ratios,
    significant,
)
from bench.servers import ROOT, THREADS, WORKERS, ServicePod, pause
from tests.pod import eventually
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

FAMILY = "bounded"
READINESS = "/api/system/health/readiness"
OVERLOADED, WITHIN, FROZEN, CHECKS = at_most(3), exactly(1), at_most(1.2), exactly(1)
LIMIT = 1.0
OVERLOAD_ROUNDS, OVERLOAD_SECONDS, OVERLOAD_RATE = 5, 3.0, 100
FROZEN_ROUNDS, FROZEN_SECONDS, FROZEN_RATE = 7, 2.0, 300
MANY_WORKERS, PROBES = 8, 400
CHECK_ROUNDS, CHECK_SECONDS, INTERVAL = 5, 6.0, 0.2
ENOUGH = 0.95  # of the probes that are asked for, or the row says nothing
HOW = (
    "Readiness over a new connection each, one at a time. Overload is four times as many clients "
    f"as the web workers have threads, on a route that waits or computes: {OVERLOAD_ROUNDS} "
    f"rounds of {OVERLOAD_SECONDS:g} s at {OVERLOAD_RATE} probes a second. Frozen is SIGSTOP of "
    f"the real servers: {FROZEN_ROUNDS} rounds of {FROZEN_SECONDS:g} s at {FROZEN_RATE} a second. "
    "A round gives one ratio of the slowest hundredth, the figure is their median. Checks are "
    "counted by the servers themselves, Redis by its statistics and PostgreSQL by its log, at an "
    f"interval of {INTERVAL:g} s: {CHECK_ROUNDS} rounds of {CHECK_SECONDS:g} s without probes and "
    "with them, their medians compared; probes that come too seldom end the measurement."
)
# What is asked of it there is the answer within a second.
BUSY = (
    "shown without a target: the web workers of an overloaded pod are held, which the row above "
    "is about; where they compute as well, everybody on the machine waits for a processor, and "
    "how long is the kernel's choice"
)


def rows(effort: Effort) -> Iterator[Row]:
    """Overload, then frozen servers, then the count of checks."""
    yield from _overload(effort)
    with Postgres() as postgres, RedisServer(binary("valkey")) as redis:
        yield from _frozen(postgres, redis, effort)
        yield from _checks(postgres, redis, effort)


# -- overload


def _overload(effort: Effort) -> Iterator[Row]:
    """:5004 while four times as many clients as threads hold the web workers."""
    seconds = effort.of(OVERLOAD_SECONDS, 1.0)
    for route, name in (("/wait", "threads held"), ("/compute", "processors busy too")):
        with ServicePod(APP_MODULE="bench.apps.user:app", LOG_LEVEL="WARNING") as pod:

            def measure(pod: ServicePod = pod) -> Load:
                return probe(pod.health_port, READINESS, rate=OVERLOAD_RATE, seconds=seconds)

            def loaded(pod: ServicePod = pod, route: str = route) -> Load:
                with occupied(pod, route, 4 * WORKERS * THREADS):
                    return measure(pod)

            turns = in_turns({"idle": measure, "loaded": loaded}, OVERLOAD_ROUNDS)
        title = f"probe on :5004 under 4x overload, {name}"
        target = OVERLOADED if route == "/wait" else None
        note = "" if target else BUSY
        yield by_p99(f"{title}: p99", turns["idle"], turns["loaded"], target, note)
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
def occupied(pod: ServicePod, path: str, clients: int) -> Iterator[None]:
    """So many clients in a process of their own, each asking again and again.

    Afterwards the web workers are given time for what these have left behind.
    """
    command = [sys.executable, "-m", "bench.client", str(pod.port), path, str(clients)]
    process = subprocess.Popen(command, cwd=ROOT)
    pause(0.7)  # until all of them ask
    try:
        yield
    finally:
        process.kill()
        process.wait()
        eventually(lambda: _at_rest(pod), "web workers without a request")


def _at_rest(pod: ServicePod) -> bool:
    """Whether no request is served, nor waits to be: between two there is no pause so long."""
    for _ in range(5):
        if pod.board.in_flight:
            return False
        pause(0.02)
    return True


def by_p99(
    name: str, reference: list[Load], ours: list[Load], target: Target | None, note: str = ""
) -> Row:
    """The slowest hundredth of both."""
    theirs, mine = (
        [percentile(turn.latencies, 99) for turn in turns] for turns in (reference, ours)
    )
    return Row.of(
        FAMILY,
        name,
        milliseconds(median(theirs)),
        milliseconds(median(mine)),
        median(ratios(mine, theirs)),
        target,
        rounds=ratios(mine, theirs),
        note=note,
    )


# -- frozen


def _frozen(postgres: Postgres, redis: RedisServer, effort: Effort) -> Iterator[Row]:
    """Readiness while neither the database nor Redis answers, against while both do."""
    seconds = effort.of(FROZEN_SECONDS, 1.0)
    with ServicePod(DATABASE_URL=postgres.url, REDIS_URL=redis.url) as pod:
        pod.wait_for(200, READINESS)
        for port, listener in ((pod.health_port, ":5004"), (pod.port, ":5003")):

            def healthy(port: int = port) -> Load:
                return probe(port, READINESS, rate=FROZEN_RATE, seconds=seconds)

            def frozen(port: int = port) -> Load:
                with postgres.frozen(), redis.frozen():
                    return probe(port, READINESS, rate=FROZEN_RATE, seconds=seconds)

            rounds = effort.times(FROZEN_ROUNDS, 5)
            turns = in_turns({"healthy": healthy, "frozen": frozen}, rounds)
            title = f"probe on {listener}, database and Redis frozen: p99"
            yield by_p99(title, turns["healthy"], turns["frozen"], FROZEN)


# -- how often checks run


def _checks(postgres: Postgres, redis: RedisServer, effort: Effort) -> Iterator[Row]:
    """Runs that the servers have seen, with 400 probes a second and with none."""
    seconds = effort.of(CHECK_SECONDS, 2.0)
    settings = {
        "WEB_CONCURRENCY": str(MANY_WORKERS),
        "DATABASE_URL": postgres.url,
        "REDIS_URL": redis.url,
        "HEALTH_DATABASE_INTERVAL_SECONDS": str(INTERVAL),
        "HEALTH_REDIS_INTERVAL_SECONDS": str(INTERVAL),
    }
    rates: list[float] = []
    with ServicePod(**settings) as pod:
        pod.wait_for(200, READINESS)

        def per_second(work: Callable[[], object]) -> dict[str, float]:
            before = _runs(postgres, redis)
            work()
            return {
                name: (n - before[name]) / seconds for name, n in _runs(postgres, redis).items()
            }

        def probes() -> None:
            payload = request(READINESS)
            load = pace(pod.port, payload, rate=PROBES, seconds=seconds, connections=16)
            rates.append(load.rate)
            if load.rate < ENOUGH * PROBES:
                raise LoadError(f"only {load.rate:.0f} of {PROBES} probes a second")

        subjects = {
            "alone": lambda: per_second(lambda: pause(seconds)),
            "probed": lambda: per_second(probes),
        }
        turns = in_turns(subjects, effort.times(CHECK_ROUNDS, 3))
    for name in _runs(postgres, redis):
        alone, probed = ([turn[name] for turn in turns[kind]] for kind in ("alone", "probed"))
        yield Row.of(
            FAMILY,
            f"dependency checks per second, {name}, {MANY_WORKERS} workers x {PROBES} probes/s",
            f"{significant(median(alone)):g}/s without probes",
            f"{significant(median(probed)):g}/s",
            median(probed) / median(alone),
            CHECKS,
            rounds=ratios(probed, alone),
            note=f"at {significant(median(rates)):g} probes/s, that of the slowest round "
            f"{significant(min(rates)):g}; once an interval and a run would be at most "
            f"{1 / INTERVAL:g}/s",
        )


def _runs(postgres: Postgres, redis: RedisServer) -> dict[str, int]:
    """How many checks each server has seen since it was started."""
    pings = redis.admin.info("commandstats").get("cmdstat_ping", {})
    selects = sum(sql == "SELECT 1" for sql in postgres.statements("mingus-health"))
    return {"PostgreSQL": selects, "Redis": int(pings.get("calls", 0))}
