"""Every JSON endpoint while a dependency fails: none may be slow, in any way of failing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product

from bench.client import Load, Stop, tour
from bench.core import Effort, Row, at_most, in_turns, milliseconds, percentile, ratios
from bench.families.bounded import occupied
from bench.servers import THREADS, ServicePod
from service.web.endpoints import ENDPOINTS, FLEET, JSON, METRICS, OPENAPI
from tests.servers.faults import Fault, FaultProxy
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

FAMILY = "endpoints"
PATHS = (
    *(endpoint.path for endpoint in (*ENDPOINTS, METRICS, FLEET) if endpoint.media == JSON),
    OPENAPI,
)
WORKERS = 4
RATE = 200
ROUNDS, SECONDS = 5, 1.5
LIMIT = 0.050
UP = "all up"
FAULTS = {"refused": Fault.REFUSE, "frozen": Fault.FREEZE, "dripping": Fault.DRIP}
# The health listener bears any load of the web workers: threads that are held, processors too.
WEB, HELD, BUSY = ":5003, no load", ":5004, threads held", ":5004, processors busy"
LOADS = {HELD: "/wait", BUSY: "/compute"}
CLIENTS = 4 * WORKERS * THREADS
HOW = (
    f"All {len(PATHS)} JSON endpoints of a pod with {WORKERS} web workers, in turn, {RATE} "
    "requests a second in all, over a new connection each; a time begins when the request was "
    "due. PostgreSQL and Redis are real, each behind a proxy that makes it refuse, freeze or "
    f"drip a byte at a time. :5003 is asked without load, :5004 while {CLIENTS} clients hold "
    "every thread of the web workers, and once more, with everything up, while these compute "
    f"without a pause. {ROUNDS} rounds of {SECONDS:g} s for each, every other one in the opposite "
    "order; the figure is the slowest hundredth of all rounds of the slowest endpoint, the ratio "
    "that to the same with everything up, and what has to be reached is the figure itself. The "
    "range of the rounds is that of the slowest hundredth of all endpoints together."
)


def rows(effort: Effort) -> Iterator[Row]:
    """A row for each listener and way of failing."""
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres())
        redis = stack.enter_context(RedisServer(binary("valkey")))
        lines = {
            name: stack.enter_context(FaultProxy(("127.0.0.1", port)))
            for name, port in (("PostgreSQL", postgres.port), ("Redis", redis.port))
        }
        settings = {
            "APP_MODULE": "bench.apps.user:app",
            "WEB_CONCURRENCY": str(WORKERS),
            "LOG_LEVEL": "WARNING",
            "DATABASE_URL": _behind(postgres.url, postgres.port, lines["PostgreSQL"]),
            "REDIS_URL": _behind(redis.url, redis.port, lines["Redis"]),
        }
        pod = stack.enter_context(ServicePod(**settings))
        pod.wait_for(200, "/health")
        turns = in_turns(_subjects(pod, lines, effort), effort.times(ROUNDS, 2))
    yield from endpoint_rows(turns)


def _behind(url: str, port: int, line: FaultProxy) -> str:
    return url.replace(f":{port}/", f":{line.address[1]}/")


Turn = dict[Stop, Load]


def _subjects(
    pod: ServicePod, lines: dict[str, FaultProxy], effort: Effort
) -> dict[str, Callable[[], dict[str, Turn]]]:
    """What is asked in a round: by the way of failing, and in it by the listener."""
    seconds = effort.of(SECONDS, 1.0)

    def asked(port: int) -> Turn:
        return tour([(port, path) for path in PATHS], rate=RATE, seconds=seconds)

    def up() -> dict[str, Turn]:
        found = {WEB: asked(pod.port)}
        for name, load in LOADS.items():
            with occupied(pod, load, CLIENTS):
                found[name] = asked(pod.health_port)
        return found

    def down(line: FaultProxy, fault: Fault) -> dict[str, Turn]:
        """With a fault, from before it is seen; afterwards all is well again."""
        line.fault = fault
        try:
            web = asked(pod.port)
            with occupied(pod, LOADS[HELD], CLIENTS):
                held = asked(pod.health_port)
                line.fault = Fault.NONE
        finally:
            line.fault = Fault.NONE
        pod.wait_for(200, "/health")
        return {WEB: web, HELD: held}

    ways = product(lines.items(), FAULTS.items())
    return {
        UP: up,
        **{
            f"{name} {way}": lambda line=line, fault=fault: down(line, fault)
            for (name, line), (way, fault) in ways
        },
    }


def endpoint_rows(turns: dict[str, list[dict[str, Turn]]]) -> Iterator[Row]:
    """What the turns say."""
    for listener in turns[UP][0]:
        reference = [turn[listener] for turn in turns[UP]]
        healthy = max(slowest(reference).values())
        for way, found in turns.items():
            if listener not in found[0]:
                continue
            mine = [turn[listener] for turn in found]
            by_path = slowest(mine)
            path = max(by_path, key=by_path.__getitem__)
            most = max(each for turn in mine for load in turn.values() for each in load.latencies)
            yield Row.of(
                FAMILY,
                f"every JSON endpoint, {listener}, {way}: p99 of the slowest",
                f"{milliseconds(healthy)} {UP}" if way is not UP else f"{LIMIT * 1e3:g} ms",
                f"{milliseconds(by_path[path])}, max {milliseconds(most)}",
                by_path[path] / (healthy if way is not UP else LIMIT),
                at_most(LIMIT / healthy if way is not UP else 1.0, f"{LIMIT * 1e3:g} ms"),
                rounds=ratios(_tails(mine), _tails(reference)) if way is not UP else (),
                note=f"the slowest is `{path}`; p99 {milliseconds(by_path[path])}, "
                f"the slowest answer of all {milliseconds(most)}",
            )


def slowest(turns: list[Turn]) -> dict[str, float]:
    """The slowest hundredth of each path, of all turns together."""
    latencies: dict[str, list[float]] = {}
    for turn in turns:
        for (_, path), load in turn.items():
            latencies.setdefault(path, []).extend(load.latencies)
    return {path: percentile(each, 99) for path, each in latencies.items()}


def _tails(turns: list[Turn]) -> list[float]:
    return [
        percentile([each for load in turn.values() for each in load.latencies], 99)
        for turn in turns
    ]
