"""How cost grows: with workers, checks and probes. No targets; the plots show the shape.

Up to 32 workers the reader's look at them is measured in this process, over a scoreboard with as
many inhabited slots; a few counts are those of real pods.

Series are in the family of the metrics, whose files these are.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from statistics import median

from bench.client import pace, request
from bench.core import Effort, Json, Row, percentile
from bench.processes import cpu_seconds
from bench.servers import ServicePod, pause
from service.health import (
    Check,
    CheckState,
    Phase,
    ProgressLimits,
    Result,
    Role,
    Run,
    Snapshot,
    Status,
)
from service.health.snapshot import Decoder, Encoder
from service.scoreboard import Scoreboard
from service.settings import CHECKS, PROVIDERS
from service.web.answers import Answers
from service.web.endpoints import ENDPOINTS
from service.web.payload import Payload
from service.web.reader import Reader

FAMILY = "growth"
WORKERS, REAL_WORKERS = (1, 2, 4, 8, 16, 32), (1, 8, 32)
CHECK_COUNTS, PROBE_RATES = (4, 10, 40, 100, 400), (1, 10, 100, 400, 1000, 2000, 4000)
POD_RATE, POD_SECONDS, RATE_SECONDS = 200, 4.0, 4.0
BATCHES = 31
HOW = (
    "No targets: the plots show the shape. *Liveness, the look itself* and *Publishing and "
    "answering* are measured in this process, the first over a scoreboard with as many inhabited "
    f"slots as workers, as the processor time of a call, median of {BATCHES} batches; of fewer "
    f"checks than the {len(CHECKS)} documented ones the "
    f"others are not configured. *Real pods* are started with "
    f"{', '.join(map(str, REAL_WORKERS))} web workers, and their health worker is asked "
    f"{POD_RATE} times a second for {POD_SECONDS:g} s. *Readiness on :5004* is one pod, asked for "
    f"{RATE_SECONDS:g} s at each rate over kept connections. Scrapes are made as in *Metrics*."
)
READINESS = "/api/system/health/readiness"
LIVENESS = "/api/system/health/liveness"


def rows(effort: Effort) -> Iterator[Row]:
    """Nothing here has a target."""
    del effort
    yield from ()


def curves(effort: Effort) -> Json:
    """Every curve, as lists of points."""
    return {
        "workers": [_by_workers(count) for count in WORKERS],
        "pods": [_of_real_pod(count) for count in REAL_WORKERS],
        "checks": [_by_checks(count) for count in CHECK_COUNTS],
        "probes": _by_probes(effort),
    }


def _best(work: Callable[[], object], times: int = 300) -> float:
    """Processor microseconds of one call: the median of several dozen runs."""
    found = []
    calls = max(1, times // BATCHES)
    for _ in range(BATCHES):
        begun = time.thread_time_ns()
        for _ in range(calls):
            work()
        found.append((time.thread_time_ns() - begun) / calls)
    return median(found) / 1000


def _state(name: str, at: float, *, critical: bool) -> CheckState:
    result = Result(Status.HEALTHY, response_time=0.002, details={"table_count": 12})
    run = Run(result, finished=at, finished_at=time.time(), duration=0.002)
    return CheckState.initial(Check(name, critical=critical)).observe(run)


def board_with(workers: int, checks: int) -> tuple[Scoreboard, list[Check]]:
    """A scoreboard with so many workers and the results of so many checks, 0 for the usual ones."""
    board, now = Scoreboard.create(None, slots=workers), time.monotonic()
    for number in range(workers):
        slot = board.slot(number)
        slot.assign(Role.WEB, generation=0, threads=4)
        slot.occupy()
        slot.enter(Phase.READY)
    documented = sorted(CHECKS, key=lambda name: name in PROVIDERS)  # those last
    names = [*documented, *(f"check_{number}" for number in range(checks))]
    states = {
        name: _state(name, now, critical=name in CHECKS[:2])
        for name in names[: checks or len(CHECKS)]
    }
    for name in CHECKS:
        states.setdefault(name, CheckState.initial(Check(name, unconfigured="not_configured")))
    board.publish(1, Encoder()(Snapshot(states)))
    return board, [state.check for state in states.values()]


def _by_workers(count: int) -> list[float]:
    """Microseconds of liveness: as it is asked, and when it has to look at every worker."""
    board, checks = board_with(count, 0)
    reader = Reader(board, checks, ProgressLimits())
    anew = _best(reader._look_for_life)
    reader.alive()
    return [count, _best(reader.alive), anew]


def _of_real_pod(count: int) -> list[float]:
    """Of liveness on :5004: processor microseconds of the health worker, and its median answer."""
    with ServicePod(WEB_CONCURRENCY=str(count), THREADS="2") as pod:
        pod.wait_for(200, LIVENESS)
        pids = [pod.health_worker]
        pause(1.0)
        before, idle = cpu_seconds(pids), POD_SECONDS / 2
        pause(idle)
        resting = (cpu_seconds(pids) - before) / idle
        before = cpu_seconds(pids)
        load = pace(pod.health_port, request(LIVENESS), rate=POD_RATE, seconds=POD_SECONDS)
        used = cpu_seconds(pids) - before - resting * load.seconds
        return [count, used / load.requests * 1e6, percentile(load.latencies, 50) * 1e6]


def _by_checks(count: int) -> list[float]:
    """Microseconds to publish, to read a publication, to render all of it, to answer readiness."""
    board, checks = board_with(2, count)
    reader = Reader(board, checks, ProgressLimits())
    body = board.newest()
    assert body is not None
    snapshot, encode, decode = Decoder()(body.body), Encoder(), Decoder()
    name = next(iter(snapshot.states))
    bodies = []
    for number in range(1000):  # one check has run between two publications
        state = replace(snapshot.states[name], failed_runs=number)
        bodies.append(Snapshot({**snapshot.states, name: state}))
    fresh, encoded = cycle(bodies), cycle([encode(each) for each in bodies])
    answers = Answers(reader, Payload("app", "1.0.0", "bench", debug=False))
    readiness = next(each for each in ENDPOINTS if each.path == READINESS)
    everything = next(each for each in ENDPOINTS if each.path == "/api/system/health/detailed")

    def render() -> None:
        answers._rendered.clear()
        answers.answer(everything, trusted=True)

    return [
        count,
        _best(lambda: board.publish(1, encode(next(fresh)))),
        _best(lambda: decode(next(encoded))),
        _best(render),
        _best(lambda: answers.answer(readiness, trusted=False), 3000),
    ]


def _by_probes(effort: Effort) -> list[list[float]]:
    """Of readiness on :5004 at a rate: the pod's processor share, median and p99 in ms."""
    found = []
    with ServicePod() as pod:
        pod.wait_for(200, READINESS)
        pids = [pod.health_worker, *pod.web_pids]
        for rate in PROBE_RATES:
            seconds = effort.of(RATE_SECONDS, 3.0)
            before = cpu_seconds(pids)
            load = pace(
                pod.health_port,
                request(READINESS),
                rate=rate,
                seconds=seconds,
                connections=min(16, 1 + rate // 50),
            )
            share = (cpu_seconds(pids) - before) / load.seconds
            tails = [percentile(load.latencies, percent) * 1e3 for percent in (50, 99)]
            found.append([rate, load.rate, share * 100, *tails])
            pause(0.2)
    return found
