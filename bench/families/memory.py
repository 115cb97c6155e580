"""Memory of the health worker, against a gunicorn worker with Flask and nothing else.

PSS decides: of a page that several processes share, each is charged its part. RSS charges the
arbiter's pages to every worker that was forked from it, USS charges them to nobody. Both are
shown. The environment is that of an installed pod, without development tools.
"""

from collections.abc import Iterator

from bench.core import Effort, Row, at_most, mib
from bench.processes import Memory, memory
from bench.servers import Server, ServicePod, pause
from tests.pod import ENDPOINTS
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

FAMILY = "memory"
MORE = 20 * 2**20
KINDS = {"pss": "PSS", "uss": "USS", "rss": "RSS"}


def rows(effort: Effort) -> Iterator[Row]:
    """As it comes, and with everything there is to check."""
    del effort  # nothing here gets better by repeating it
    with Server("bench.apps.flask_jsonify:app") as server:
        for _ in range(20):
            server.get("/health")
        pause(1.0)
        bare = memory(server.workers[-1])
    with ServicePod() as pod:
        yield from _against(bare, _of_health_worker(pod), "nothing to check but itself and Redis")
    with Postgres() as postgres, RedisServer(binary("valkey")) as redis:
        settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "STRIPE_SECRET_KEY": "sk_test_of_the_bench",
            "STRIPE_API_BASE": "http://127.0.0.1:9",
        }
        with ServicePod(**settings) as pod:
            title = "PostgreSQL, Redis and a provider"
            yield from _against(bare, _of_health_worker(pod), title)


def _of_health_worker(pod: ServicePod) -> Memory:
    for path in ENDPOINTS:
        pod.get(path, health=True)
    pause(3.0)
    return memory(pod.health_worker)


def _against(bare: Memory, ours: Memory, title: str) -> Iterator[Row]:
    for kind, name in KINDS.items():
        reference, mine = getattr(bare, kind), getattr(ours, kind)
        target = at_most((reference + MORE) / reference, f"+{mib(MORE)}")
        yield Row.of(
            FAMILY,
            f"health worker, {title}: {name}",
            f"{mib(reference)} Flask under gunicorn",
            f"{mib(mine)}, +{mib(mine - reference)}",
            mine / reference,
            target if kind == "pss" else None,
        )
