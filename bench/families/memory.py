"""Memory of the health worker, against a gunicorn worker with Flask and nothing else.

PSS decides: of a page that several processes share, each is charged its part. RSS charges the
arbiter's pages to every worker that was forked from it, USS charges them to nobody. Both are
shown. The environment is that of an installed pod, without development tools.
"""

from collections.abc import Iterator
from statistics import median

from bench.core import Effort, Row, at_most, mib
from bench.processes import Memory, memory
from bench.servers import Server, ServicePod, pause
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
    "These are shown beside it without a target."
)


def rows(effort: Effort) -> Iterator[Row]:
    """As it comes, and with everything there is to check."""
    samples = effort.times(SAMPLES, 1)
    bare = [_of_flask() for _ in range(samples)]
    title = "nothing to check but itself and Redis"
    yield from _against(bare, [_of_health_worker() for _ in range(samples)], title)
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
            ours = [_of_health_worker(**given) for _ in range(samples)]
            yield from _against(bare, ours, title)


def _of_flask() -> Memory:
    with Server("bench.apps.flask_jsonify:app") as server:
        for _ in range(20):
            server.get("/health")
        pause(1.0)
        return memory(server.workers[-1])


def _of_health_worker(**settings: str) -> Memory:
    with ServicePod(**settings) as pod:
        for path in ENDPOINTS:
            pod.get(path, health=True)
        pause(2.5)
        return memory(pod.health_worker)


def _against(bare: list[Memory], ours: list[Memory], title: str) -> Iterator[Row]:
    for kind, name in KINDS.items():
        reference, mine = (
            median([getattr(each, kind) for each in samples]) for samples in (bare, ours)
        )
        target = at_most((reference + MORE) / reference, f"+{mib(MORE)}")
        yield Row.of(
            FAMILY,
            f"health worker, {title}: {name}",
            f"{mib(reference)} Flask under gunicorn",
            f"{mib(mine)}, +{mib(mine - reference)}",
            mine / reference,
            target if kind == "pss" else None,
            rounds=[getattr(each, kind) / reference for each in ours],
        )
