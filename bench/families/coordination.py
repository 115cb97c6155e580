"""What a fleet of a thousand pods costs its one Redis server, and what its faults cost the probes.

The pods of the fleet are simulated: each is the service's own ``Coordinator`` with its own client
and connection, over a scoreboard of its own, but all in this process and without workers, monitors
or probes. A few threads work their rounds off, each when the coordinator itself says that it is
due, so pace, jitter, looks, results and the lease are what a pod makes of them. The calls are
counted by the server.
"""

import heapq
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from random import Random
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from statistics import median

from bench.client import Load, Stop, tour
from bench.core import (
    Effort,
    Row,
    at_most,
    between,
    in_turns,
    milliseconds,
    percentile,
    ratios,
    say,
)
from bench.servers import ServicePod
from service.coordination.client import connect
from service.coordination.fleet import KEEP, Fleet
from service.coordination.lease import keyspace
from service.coordinator import CALL_SECONDS, LOOK_SECONDS_PER_POD, Coordinator, Member
from service.health import (
    Check,
    CheckState,
    Phase,
    ProgressLimits,
    Result,
    Role,
    Run,
    Scope,
    Snapshot,
    Stance,
    Status,
)
from service.scoreboard import Scoreboard
from service.web.endpoints import ENDPOINTS, TWINS
from tests.servers.faults import Fault, FaultProxy
from tests.servers.redis import RedisServer, binary

FAMILY = "coordination"
PODS = 1000
INTERVAL = 10.0
WINDOWS, WINDOW_SECONDS = 5, 5.0
RESULTS_SECONDS = 30.0
CHECKS = ("database", "redis", "system_resources", "application")
SHARED = "stripe_api"
THREADS = 4
LOOKS = 20
KEYS = keyspace("mingus:health:", "BENCH", "test")

FAULTS = (Fault.FREEZE, Fault.BLACK_HOLE, Fault.DRIP, Fault.REFUSE, Fault.MUTE, Fault.RESET)
PROBES = tuple(endpoint.path for endpoint in (*ENDPOINTS, *TWINS) if endpoint.hot)
RATE = 600
ROUNDS, SECONDS = 5, 1.5
HELD, HELD_SECONDS, PIECE_SECONDS, AROUND = Fault.FREEZE, 120.0, 5.0, 2
SAME = at_most(1.2)
_ASKED = ", ".join(f"`{path}`" for path in PROBES)
HOW = (
    f"{PODS:,} pods, simulated in one process: each has the coordinator, client and connection of "
    "a real one and a scoreboard, and makes its rounds when the coordinator says so, with its "
    "jitter; simulated are the workers and the results of the checks. After everybody has "
    f"joined, at moments spread over one interval of {INTERVAL:g} s, {WINDOWS} windows of "
    f"{WINDOW_SECONDS:g} s are counted by the server itself (`INFO commandstats`), and the figure "
    "is the median of the windows; a pod that cannot sync comes back later, as it would. Then "
    f"the Redis of a real pod of a fleet of one fails behind a proxy, while {_ASKED} are asked on "
    f"both ports, over a new connection each, {RATE} times a second in all: {ROUNDS} rounds of "
    f"{SECONDS:g} s for each of {len(FAULTS)} faults, and for the same time without; each round "
    "gives one ratio of the slowest hundredth, the figure is their median. A row of a fault is "
    "about all paths; a row of a path is about all faults, of each of which all rounds together "
    f"give one ratio. One fault is then held for {HELD_SECONDS:g} s, in pieces of "
    f"{PIECE_SECONDS:g} s, against the median of {2 * AROUND} such pieces before and after it."
)


def rows(effort: Effort) -> Iterator[Row]:
    """A fleet of many; then a pod whose Redis fails."""
    files = getrlimit(RLIMIT_NOFILE)[1]
    setrlimit(RLIMIT_NOFILE, (files, files))
    with RedisServer(binary("valkey"), maxclients=str(2 * PODS)) as server:
        yield from _fleet(server, effort)
    yield from _faulty(effort)


# -- a thousand pods


@dataclass(frozen=True)
class Window:
    """What the server counted in one window, by pods and intervals.

    Attributes:
        syncs: Of the script that a pod calls once an interval.
        scripts: Of all scripts.
        share: Processor time, by the time of the clock.
    """

    syncs: float
    scripts: float
    share: float


def _fleet(server: RedisServer, effort: Effort) -> Iterator[Row]:
    pods = [SimulatedPod(server.url, number) for number in range(PODS)]
    fleet = Schedule(pods)
    say(f"  {len(pods):,} pods join")
    fleet.run(1.5 * INTERVAL)
    for pod in pods:
        pod.look_any_time(Random(pod.number).random())
    windows = [_window(server, fleet) for _ in range(effort.times(WINDOWS, 2))]
    client = connect(server.url, timeout=60)
    reader = Fleet(client, KEYS, CHECKS, keep=KEEP * INTERVAL)
    looks = [_seconds_of(reader) for _ in range(LOOKS)]
    client.close()
    yield from fleet_rows(len(pods), windows, looks, sum(pod.missed for pod in pods))


def _window(server: RedisServer, fleet: "Schedule") -> Window:
    before, used, begun = _counted(server), _cpu(server), time.monotonic()
    fleet.run(WINDOW_SECONDS)
    lasted = time.monotonic() - begun
    after, used = _counted(server), _cpu(server) - used
    due = len(fleet.pods) * lasted / INTERVAL
    syncs, scripts = (after[name] - before[name] for name in ("syncs", "scripts"))
    return Window(syncs / due, scripts / due, used / lasted)


def _counted(server: RedisServer) -> dict[str, int]:
    stats = server.admin.info("commandstats")
    calls = {name: int(entry["calls"]) for name, entry in stats.items()}
    # Where no check fails anywhere, a sync is the only script that makes a ZADD, and makes one.
    return {
        "syncs": calls.get("cmdstat_zadd", 0),
        "scripts": calls.get("cmdstat_evalsha", 0) + calls.get("cmdstat_eval", 0),
    }


def fleet_rows(
    pods: int, windows: list[Window], looks: list[float], missed: int = 0
) -> Iterator[Row]:
    """What the windows say."""
    title = f"{pods:,} simulated pods"
    syncs, scripts, shares = (
        [getattr(window, name) for window in windows] for name in ("syncs", "scripts", "share")
    )
    yield Row.of(
        FAMILY,
        f"{title}: syncs a pod and interval",
        "one",
        f"{median(syncs):.2f}",
        median(syncs),
        between(0.9, 1.1),
        rounds=syncs,
        note="counted by the server; fewer than 0.9 would be pods that do not take part; rounds "
        f"in which a pod could not sync: {missed}",
    )
    looking = LOOK_SECONDS_PER_POD * pods
    yield Row.of(
        FAMILY,
        f"{title}: all calls a pod and interval",
        "one",
        f"{median(scripts):.2f}",
        median(scripts),
        between(0.9, 1.2),
        rounds=scripts,
        note=f"with a look at the whole fleet every {max(INTERVAL, looking):g} s of each pod, and "
        f"what the holder of the lease publishes every {RESULTS_SECONDS:g} s",
    )
    yield Row.of(
        FAMILY,
        f"{title}: processor time of the Redis server",
        "a core",
        f"{100 * median(shares):.1f} %",
        median(shares),
        at_most(0.05, "5 % of a core"),
        rounds=shares,
    )
    yield Row.of(
        FAMILY,
        f"{title}: a look at the fleet, median",
        "10 ms",
        milliseconds(median(looks)),
        median(looks) / 0.010,
        at_most(1),
        rounds=[look / 0.010 for look in looks],
    )


def _seconds_of(fleet: Fleet) -> float:
    begun = time.monotonic()
    fleet.look()
    return time.monotonic() - begun


class SimulatedPod:
    """A pod as its fleet sees it: the coordinator, and a scoreboard where all is well.

    Attributes:
        missed: Rounds in which the server was out of reach, or late.
    """

    def __init__(self, url: str, number: int) -> None:
        self.number = number
        self.missed = 0
        board = Scoreboard.create(None, slots=4)
        board.expected = 4
        for place in range(4):
            slot = board.slot(place)
            slot.assign(Role.WEB, generation=0, threads=4)
            slot.occupy()
            slot.enter(Phase.READY)
        board.serve(time.time())
        shared = Check(SHARED, interval=RESULTS_SECONDS, scope=Scope.FLEET)
        self._states = {check.name: _healthy(check) for check in (*map(Check, CHECKS), shared)}
        self._ran = time.monotonic()
        about = {"host": f"shop-{number}", "release": "2025-01-27.1"}
        self.coordinator = Coordinator(
            partial(connect, url, timeout=CALL_SECONDS),
            board,
            [state.check for state in self._states.values()],
            Member(KEYS, about, ProgressLimits(), INTERVAL, None),
            chance=Random(number).random,
        )
        self.coordinator.tell(Snapshot(self._states))

    def look_any_time(self, part: float) -> None:
        """Forgets that all looked at the fleet when they joined it, at one moment."""
        pause = max(INTERVAL, LOOK_SECONDS_PER_POD * PODS)
        self.coordinator._looked = time.monotonic() - pause * part

    def round(self, due: float) -> float:
        """One round of the coordinator's loop; when the next is due."""
        now = time.monotonic()
        if now - self._ran >= RESULTS_SECONDS and self.coordinator.stance() is Stance.HOLDER:
            self._ran = now
            self._states[SHARED] = _healthy(self._states[SHARED].check)
            self.coordinator.tell(Snapshot(self._states))
        due = self.coordinator.round(due)
        self.missed += bool(self.coordinator._failures)  # it comes back later, as a pod does
        return due


def _healthy(check: Check) -> CheckState:
    result = Result(Status.HEALTHY, response_time=0.002, details={})
    run = Run(result, finished=time.monotonic(), finished_at=time.time(), duration=0.002)
    return CheckState.initial(check).observe(run)


@dataclass
class Schedule:
    """The rounds of all pods, worked off by a few threads."""

    pods: list[SimulatedPod]
    lock: threading.Lock = field(default_factory=threading.Lock)
    queue: list[tuple[float, int]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Lets the pods live for a while; what a thread of theirs ends with is raised here."""
        begun = time.monotonic()
        if not self.queue:
            chance = Random(0).random
            self.queue = [(begun + INTERVAL * chance(), n) for n in range(len(self.pods))]
            heapq.heapify(self.queue)
        with ThreadPoolExecutor(THREADS) as threads:
            work = [threads.submit(self._work, begun + seconds) for _ in range(THREADS)]
        for each in work:
            each.result()

    def _work(self, end: float) -> None:
        never = threading.Event()
        while True:
            with self.lock:
                if not self.queue:  # fewer pods than threads
                    return
                due, number = heapq.heappop(self.queue)
            if due > end:
                with self.lock:
                    heapq.heappush(self.queue, (due, number))
                never.wait(max(0.0, end - time.monotonic()))
                return
            never.wait(max(0.0, due - time.monotonic()))
            due = self.pods[number].round(due)
            with self.lock:
                heapq.heappush(self.queue, (due, number))


def _cpu(server: RedisServer) -> float:
    """CPU seconds the server has used."""
    used = server.admin.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


# -- a Redis that fails


def _faulty(effort: Effort) -> Iterator[Row]:
    """Every probe path of a pod of the fleet while its Redis fails, against while it does not."""
    with RedisServer(binary("valkey")) as redis, FaultProxy(("127.0.0.1", redis.port)) as line:
        host, port = line.address
        settings = {
            "REDIS_URL": f"redis://{host}:{port}/0",
            "HEALTH_CRITICAL_CHECKS": "none",
            "HEALTH_FLEET_INTERVAL_SECONDS": "2",
        }
        with ServicePod(**settings) as pod:
            pod.wait_for(200, PROBES[0])
            listeners = {":5004": pod.health_port, ":5003": pod.port}
            stops = [(port, path) for path, port in product(PROBES, listeners.values())]

            def asked(fault: Fault, seconds: float) -> dict[Stop, Load]:
                line.fault = fault
                return tour(stops, rate=RATE, seconds=seconds)

            seconds, rounds = effort.of(SECONDS, 1.0), effort.times(ROUNDS, 2)
            found: dict[Fault, dict[str, list[dict[Stop, Load]]]] = {}
            for fault in FAULTS:
                say(f"  the fleet's Redis: {_name(fault)}")
                found[fault] = in_turns(
                    {
                        "up": lambda: asked(Fault.NONE, seconds),
                        "down": lambda fault=fault: asked(fault, seconds),
                    },
                    rounds,
                )
            for (listener, port), fault in product(listeners.items(), FAULTS):
                title = f"all probe paths on {listener}, the fleet's Redis: {_name(fault)}: p99"
                yield _same(title, found[fault], [stop for stop in stops if stop[0] == port])
            everything = {
                name: [_together(turns[name], stops) for turns in found.values()]
                for name in ("up", "down")
            }
            for (listener, port), path in product(listeners.items(), PROBES):
                title = f"{path} on {listener}, the fleet's Redis: all faults: p99"
                yield _same(title, everything, [(port, path)])

            pieces, around = (
                int(effort.of(HELD_SECONDS, 10.0) / PIECE_SECONDS),
                effort.times(AROUND, 1),
            )
            say(f"  {_name(HELD)} held for {pieces * PIECE_SECONDS:g} s")
            reference = [asked(Fault.NONE, PIECE_SECONDS) for _ in range(around)]
            held = [asked(HELD, PIECE_SECONDS) for _ in range(pieces)]
            line.fault = Fault.NONE
            pod.wait_for(200, PROBES[0])
            reference += [asked(Fault.NONE, PIECE_SECONDS) for _ in range(around)]
            for listener, port in listeners.items():
                title = (
                    f"all probe paths on {listener}, the fleet's Redis: {_name(HELD)} held for "
                    f"{pieces * PIECE_SECONDS:g} s: p99"
                )
                mine = [stop for stop in stops if stop[0] == port]
                yield _same(title, {"up": reference, "down": held}, mine)


def _name(fault: Fault) -> str:
    return fault.name.lower().replace("_", " ")


def _same(title: str, turns: dict[str, list[dict[Stop, Load]]], stops: list[Stop]) -> Row:
    """The slowest hundredth of some paths: the median of the rounds."""
    up, down = (
        [
            percentile([each for stop in stops for each in turn[stop].latencies], 99)
            for turn in taken
        ]
        for taken in (turns["up"], turns["down"])
    )
    if len(up) != len(down):  # no turns: each piece against all of the others
        up = [median(up)] * len(down)
    worst = max(each for turn in turns["down"] for stop in stops for each in turn[stop].latencies)
    failed = sum(sum(turn[stop].statuses.values()) for turn in turns["down"] for stop in stops)
    note = f"{failed} answers were not 200" if failed else ""
    return Row.of(
        FAMILY,
        title,
        milliseconds(median(up)),
        f"{milliseconds(median(down))}, max {milliseconds(worst)}",
        median(ratios(down, up)),
        SAME,
        rounds=ratios(down, up),
        note=note,
    )


def _together(turns: list[dict[Stop, Load]], stops: list[Stop]) -> dict[Stop, Load]:
    """Some turns as if they were one: of a path alone, one turn has too few answers."""
    merged = {stop: Load() for stop in stops}
    for stop, load in merged.items():
        for turn in turns:
            load.latencies += turn[stop].latencies
            for status, count in turn[stop].statuses.items():
                load.statuses[status] = load.statuses.get(status, 0) + count
    return merged
