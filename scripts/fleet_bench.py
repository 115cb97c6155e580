"""What a large fleet costs its Redis: the service's own calls, of many pods in one process.

    python scripts/fleet_bench.py [--pods 1000] [--seconds 30]

Each pod has a connection of its own and syncs at the pace the service has. Printed are the
server's share of a core, the calls a pod and interval, how long a call takes, and one look at
the whole fleet. Needs what the tests need: ``make setup``.
"""

import argparse
import heapq
import os
import random
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from service.coordination.client import connect
from service.coordination.fleet import KEEP, Fleet, Report
from service.coordination.lease import Term, keyspace
from service.coordinator import JITTER, LOOK_SECONDS_PER_POD, TTL_INTERVALS
from tests.servers.redis import RedisServer, binary

INTERVAL = 10.0
CHECKS = ("database", "redis", "system_resources", "application", "stripe_api")
THREADS = 4
chance = random.Random(0).random  # noqa: S311 - a schedule, not a secret


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
class Load:
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


def cpu(server: RedisServer) -> float:
    """CPU seconds the server has used."""
    used = server.admin.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def percentile(times: list[float], percent: int) -> float:
    """In milliseconds."""
    return 1000 * sorted(times)[len(times) * percent // 100]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with RedisServer(binary("valkey")) as server:
        load = Load([SimulatedPod(server.url, number) for number in range(options.pods)])
        load.run(1.2 * INTERVAL)  # everybody has joined
        for pod in load.pods:
            pod.next_look += LOOK_SECONDS_PER_POD * options.pods * chance()
        load.took.clear()
        used, begun = cpu(server), time.monotonic()
        load.run(options.seconds)
        lasted, used = time.monotonic() - begun, cpu(server) - used
        calls = len(load.took) * INTERVAL / lasted / options.pods
        print(f"{options.pods} pods, one sync in {INTERVAL:.0f} s each, on {os.cpu_count()} cores")
        print(f"  calls a pod and interval  {calls:.2f}")
        print(f"  the server's CPU          {100 * used / lasted:.1f} % of a core")
        print(
            f"  one sync                  {percentile(load.took, 50):.2f} ms in the median, "
            f"{percentile(load.took, 99):.2f} ms p99"
        )
        looks = []
        for _ in range(20):
            begun = time.monotonic()
            rows, _holders = load.pods[0].fleet.look()
            looks.append(time.monotonic() - begun)
        print(f"  a look at {len(rows)} pods       {percentile(looks, 50):.2f} ms in the median")
        print(f"  memory of the server      {server.admin.info('memory')['used_memory_human']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
