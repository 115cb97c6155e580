"""What a fleet of a thousand pods costs its one Redis server, and what its faults cost the probes.

Every simulated pod has a connection of its own and makes the service's own calls at the
service's own pace, all in this process. The server's processor time is what counts.
"""

import heapq
import random
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from bench.client import Load, probe
from bench.core import Effort, Row, at_most, in_turns, milliseconds, percentile
from bench.families.bounded import READINESS, by_p99
from bench.servers import ServicePod
from service.coordination.client import connect
from service.coordination.fleet import KEEP, Fleet, Report
from service.coordination.lease import Term, keyspace
from service.coordinator import JITTER, LOOK_SECONDS_PER_POD, TTL_INTERVALS
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import RedisServer, binary

FAMILY = "coordination"
PODS = 1000
INTERVAL = 10.0
SECONDS = 30.0
CHECKS = ("database", "redis", "system_resources", "application", "stripe_api")
THREADS = 4
LOOKS = 20
FAULTS = (Fault.FREEZE, Fault.BLACK_HOLE, Fault.DRIP, Fault.REFUSE, Fault.MUTE, Fault.RESET)
chance = random.Random(0).random


def rows(effort: Effort) -> Iterator[Row]:
    """Calls, the server's share of a core, and one look at the whole fleet."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with RedisServer(binary("valkey")) as server:
        load = Schedule([SimulatedPod(server.url, number) for number in range(PODS)])
        load.run(1.2 * INTERVAL)  # everybody has joined
        for pod in load.pods:
            pod.next_look += LOOK_SECONDS_PER_POD * PODS * chance()
        load.took.clear()
        used, begun = _cpu(server), time.monotonic()
        load.run(SECONDS)
        lasted, used = time.monotonic() - begun, _cpu(server) - used
        looks = [_look(load.pods[0]) for _ in range(LOOKS)]
    yield from _rows(load.took, used / lasted, lasted, looks)
    yield from _faulty(effort)


def _rows(took: list[float], share: float, lasted: float, looks: list[float]) -> Iterator[Row]:
    calls = len(took) * INTERVAL / lasted / PODS
    fleet, one = f"{PODS:,} simulated pods", "one a pod and interval"
    yield Row.of(FAMILY, f"{fleet}: calls", one, f"{calls:.2f}", calls, at_most(1.1, "about one"))
    yield Row.of(
        FAMILY,
        f"{fleet}: processor time of the Redis server",
        "a core",
        f"{100 * share:.1f} %",
        share,
        at_most(0.05, "5 % of a core"),
    )
    yield Row.of(
        FAMILY,
        f"{fleet}: a look at the fleet, median",
        "10 ms",
        milliseconds(percentile(looks, 50)),
        percentile(looks, 50) / 0.010,
        at_most(1),
    )


def _faulty(effort: Effort) -> Iterator[Row]:
    """Readiness of a pod of the fleet while its Redis fails, against while it does not."""
    seconds = 1.0 if effort.quick else 2.0
    with RedisServer(binary("valkey")) as redis, FaultProxy(("127.0.0.1", redis.port)) as line:
        host, port = line.address
        settings = {
            "REDIS_URL": f"redis://{host}:{port}/0",
            "HEALTH_CRITICAL_CHECKS": "none",
            "HEALTH_FLEET_INTERVAL_SECONDS": "2",
        }
        with ServicePod(**settings) as pod:
            pod.wait_for(200, READINESS)
            for fault in FAULTS:

                def asked(now: Fault) -> list[Load]:
                    line.fault = now
                    ports = (pod.health_port, pod.port)
                    return [probe(port, READINESS, rate=300, seconds=seconds) for port in ports]

                subjects = {
                    "up": lambda: asked(Fault.NONE),
                    "down": lambda fault=fault: asked(fault),
                }
                turns = in_turns(subjects, 5)
                for number, listener in enumerate((":5004", ":5003")):
                    up, down = ([each[number] for each in turns[name]] for name in ("up", "down"))
                    shown = fault.name.lower().replace("_", " ")
                    title = f"probe on {listener}, the fleet's Redis: {shown}: p99"
                    yield replace(by_p99(title, up, down, at_most(1.2)), family=FAMILY)


def _look(pod: "SimulatedPod") -> float:
    begun = time.monotonic()
    pod.fleet.look()
    return time.monotonic() - begun


class SimulatedPod:
    """The calls of one pod."""

    def __init__(self, url: str, number: int) -> None:
        self.name = f"{number:032x}"
        keys = keyspace("mingus:health:", "BENCH", "test")
        self.fleet = Fleet(connect(url, timeout=60), keys, CHECKS, keep=KEEP * INTERVAL)
        self.term = Term(self.name, TTL_INTERVALS * INTERVAL, time.monotonic)
        about = {"host": f"shop-{number}", "release": "2025-01-27.1", "lifecycle": "serving"}
        workers = {"ready": True, "workers_ok": 4, "workers_total": 4, "failing": []}
        self.next_look = time.monotonic() + INTERVAL * chance()
        self.report = Report(self.name, {**about, **workers}, frozenset())

    def sync(self) -> None:
        """One sync, as the coordinator makes it."""
        bid = self.term.bid()
        synced = self.fleet.sync(bid, self.report, ttl_ms=self.term.ttl_ms, want=True)
        self.term.settle(bid, synced.fence)

    def look(self, now: float, pods: int) -> None:
        """A look at the others, when it is time for one."""
        if now >= self.next_look:
            self.next_look = now + max(INTERVAL, LOOK_SECONDS_PER_POD * pods)
            self.fleet.look()

    def next_sync(self, now: float) -> float:
        """When the next one is due."""
        holds = self.term.held(now) is not None
        pace = INTERVAL / 2 if holds else INTERVAL
        return now + pace * (1 + JITTER * (2 * chance() - 1))


@dataclass
class Schedule:
    """The schedule of all pods, worked off by a few threads."""

    pods: list[SimulatedPod]
    took: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    queue: list[tuple[float, int]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Lets the pods sync for a while."""
        begun = time.monotonic()
        if not self.queue:
            self.queue = [(begun + INTERVAL * chance(), n) for n in range(len(self.pods))]
            heapq.heapify(self.queue)
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in range(THREADS):
                threads.submit(self._work, begun + seconds)

    def _work(self, end: float) -> None:
        never = threading.Event()
        while True:
            with self.lock:
                due, number = heapq.heappop(self.queue)
            if due > end:
                with self.lock:
                    heapq.heappush(self.queue, (due, number))
                return
            never.wait(max(0.0, due - time.monotonic()))
            begun = time.monotonic()
            self.pods[number].sync()
            now = time.monotonic()
            self.pods[number].look(now, len(self.pods))
            with self.lock:
                self.took.append(now - begun)
                heapq.heappush(self.queue, (self.pods[number].next_sync(now), number))


def _cpu(server: RedisServer) -> float:
    """CPU seconds the server has used."""
    used = server.admin.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
