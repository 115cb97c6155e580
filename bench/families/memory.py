"""Memory of the health worker, against a gunicorn worker with Flask and nothing else.

PSS decides: of a page that several processes share, each is charged its part. RSS charges the
arbiter's pages to every worker that was forked from it, USS charges them to nobody. Both are
shown, and so is the sum over the pod, because what one process is not charged another one is.
The environment is that of an installed pod, without development tools.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Self

from bench.core import Effort, Row, at_most, mib
from bench.processes import Memory, children, memory
from bench.servers import WORKERS, Server, ServicePod, pause
from tests.pod import ENDPOINTS
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

FAMILY = "memory"
MORE = 20 * 2**20
KINDS = {"pss": "PSS", "uss": "USS", "rss": "RSS"}
SAMPLES = 5
HOW = (
    f"{SAMPLES} servers one after the other of each, of which each figure is the median: every "
    "endpoint is asked once, and the worker is looked at when it has come to rest. PSS decides: "
    "RSS charges the pages of the gunicorn master to each of its workers, USS to none of them. "
    "These are shown beside it without a target. So is the sum of the PSS of all processes, ours "
    f"with the health worker: master and {WORKERS} web workers have their part of what is shared."
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One running server.

    Attributes:
        worker: The one process that is compared.
        everything: PSS of the master and all its workers, in bytes.
    """

    worker: Memory
    everything: int

    @classmethod
    def of(cls, master: int, worker: int) -> Self:
        """What there is now."""
        processes = [master, *children(master)]
        return cls(memory(worker), sum(memory(pid).pss for pid in processes))


def rows(effort: Effort) -> Iterator[Row]:
    """As it comes, and with everything there is to check."""
    samples = effort.times(SAMPLES, 1)
    bare = [_of_flask() for _ in range(samples)]
    title = "nothing to check but itself and Redis"
    yield from _against(bare, [_of_pod() for _ in range(samples)], title)
    with Postgres() as postgres, RedisServer(binary("valkey")) as redis:
        settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "STRIPE_SECRET_KEY": "sk_test_of_the_bench",
            "STRIPE_API_BASE": "http://127.0.0.1:9",
        }
        stores = {name: settings[name] for name in ("DATABASE_URL", "REDIS_URL")}
        everything = "PostgreSQL, Redis and a provider"
        for title, given in (("PostgreSQL and Redis", stores), (everything, settings)):
            ours = [_of_pod(**given) for _ in range(samples)]
            yield from _against(bare, ours, title)


def _of_flask() -> Sample:
    with Server("bench.apps.flask_jsonify:app") as server:
        for _ in range(20):
            server.get("/health")
        pause(1.0)
        return Sample.of(server.process.pid, server.workers[-1])


def _of_pod(**settings: str) -> Sample:
    with ServicePod(**settings) as pod:
        for path in ENDPOINTS:
            pod.get(path, health=True)
        pause(2.5)
        return Sample.of(pod.pid, pod.health_worker)


def _against(bare: list[Sample], ours: list[Sample], title: str) -> Iterator[Row]:
    for kind, name in KINDS.items():
        figures = ([getattr(each.worker, kind) for each in samples] for samples in (bare, ours))
        # Without a target where PSS does not decide.
        yield _row(f"health worker, {title}: {name}", *figures, more=MORE if kind == "pss" else 0)
    figures = ([each.everything for each in samples] for samples in (bare, ours))
    yield _row(f"the whole pod, {title}: PSS", *figures)


def _row(name: str, bare: Iterable[int], ours: Iterable[int], more: int = 0) -> Row:
    reference, rounds = median(bare), list(ours)
    mine = median(rounds)
    return Row.of(
        FAMILY,
        name,
        f"{mib(reference)} Flask under gunicorn",
        f"{mib(mine)}, +{mib(mine - reference)}",
        mine / reference,
        at_most((reference + more) / reference, f"+{mib(more)}") if more else None,
        rounds=[each / reference for each in rounds],
    )
