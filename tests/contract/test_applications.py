"""Sections 1.1 and 3.1 to 3.8 with another application mounted: whose is which path."""

import pytest

from scripts.health_contract import parse_exposition
from tests.contract.audit import (
    BOTH,
    HEALTH,
    PATHS,
    PREFIX,
    RESOURCES,
    Audit,
    becomes,
    comes_to,
    comes_to_be_well,
    services,
)
from tests.contract.conftest import Launch, served
from tests.pod import UNHURRIED, Pod, eventually
from tests.servers.postgres import Postgres

STOCK = "stock"


@pytest.fixture(scope="module")
def pods(launch: Launch, postgres: Postgres) -> tuple[Pod, Pod]:
    """The smallest application there is, and the shop."""
    shop = {
        "APP_MODULE": "examples.shop:app",
        "HEALTH_CHECKS": "examples.shop:checks",
        "STARTUP_TASKS": "examples.shop:tasks",
        "APP_RELEASE": "1",
        "DATABASE_URL": f"{postgres.create_database('shop')}?application_name=shop",
        "DB_POOL_SIZE": "4",
        "DB_MAX_OVERFLOW": "1",
        "WEB_CONCURRENCY": "3",
        **UNHURRIED,
    }
    return launch(APP_MODULE="examples.plain:app", REDIS_EMBEDDED="off"), launch(**shop)


@pytest.fixture(scope="module")
def plain_app(pods: tuple[Pod, Pod]) -> Pod:
    return served(pods[0])


@pytest.fixture(scope="module")
def shop(pods: tuple[Pod, Pod]) -> Pod:
    return served(pods[1])


# -- paths

THEIRS = ("/", "/anything", "/api", "/api/system", "/healthy", "/metricsx", "//health", "/Health")


@pytest.mark.parametrize("path", THEIRS)
def test_unknown_paths_are_the_applications(plain_app: Pod, path: str) -> None:
    answer = plain_app.get(path)
    assert (answer.status, answer.body) == (200, f"hello from {path}\n".encode())
    assert answer.headers["content-type"] == "text/plain"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_every_method_of_them(plain_app: Pod, method: str) -> None:
    assert plain_app.get("/anything", method=method, body=b"x").status == 200


def test_the_documented_paths_stay_ours(plain_app: Pod) -> None:
    comes_to_be_well(plain_app)
    Audit(plain_app, application=True)()
    for path in PATHS[1:]:
        for spelling in (path.rstrip("/"), f"{path.rstrip('/')}/"):
            assert plain_app.get(spelling).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/health/nothing", "/health//", f"{PREFIX}/nothing"])
def test_unknown_paths_below_ours_are_ours(plain_app: Pod, path: str) -> None:
    for health in BOTH:
        answer = plain_app.get(path, health=health)
        assert answer.status == 404
        assert answer.json.get("data", answer.json)["error"] == "not_found"


def test_the_health_listener_serves_no_application(plain_app: Pod) -> None:
    for path in ("/", "/anything"):
        assert plain_app.status(path, health=HEALTH) == 404


# -- the shop


def test_the_shop_serves_and_keeps_the_contract(shop: Pod) -> None:
    comes_to_be_well_but_for_the_index(shop)
    Audit(shop, application=True)()
    answer = shop.get(
        "/products/tea", method="PUT", body=b'{"stock": 3}', Content_Type="application/json"
    )
    assert answer.status == 201
    assert shop.get("/products").json == [{"name": "tea", "stock": 3}]


def comes_to_be_well_but_for_the_index(pod: Pod) -> None:
    """And, as ever, for the resources of the machine that runs the tests."""
    paths = [path for path in PATHS[1:] if path != RESOURCES]
    eventually(
        lambda: all(pod.status(path, health=health) == 200 for path in paths for health in BOTH),
        f"well, not {services(pod)}",
    )


def test_requests_are_counted_by_their_routes(shop: Pod) -> None:
    """Of an application that is Flask's the routes are known; values of a path are not shown."""
    put(shop, "cocoa", 1)
    assert shop.status("/products") == 200
    assert shop.status("/no/such/product") == 404
    assert shop.status("/health/standard") in (200, 503)
    wanted = {
        ("PUT", "/products/<name>", "201"),
        ("GET", "/products", "200"),
        ("GET", "other", "404"),
        ("GET", "/health/standard", "200"),
    }
    becomes(lambda: wanted - counted(shop), set(), "requests that are not counted")
    assert "cocoa" not in shop.get("/metrics").body.decode()


def counted(pod: Pod) -> set[tuple[str, str, str]]:
    samples = parse_exposition(pod.get("/metrics").body.decode()).samples
    return {
        (sample.labels["method"], sample.labels["endpoint"], sample.labels["status"])
        for sample in samples
        if sample.name == "app_request_total"
    }


def put(shop: Pod, name: str, stock: int) -> None:
    answer = shop.get(
        f"/products/{name}",
        method="PUT",
        body=f'{{"stock": {stock}}}'.encode(),
        Content_Type="application/json",
    )
    assert answer.status == 201


def test_the_registered_check_is_in_every_place(shop: Pod) -> None:
    put(shop, "coffee", 1)
    comes_to(shop, STOCK, "healthy")
    where_it_must_be(shop, "healthy", listed=None, gauge=1)
    put(shop, "coffee", -1)
    comes_to(shop, STOCK, "unhealthy", "check_failed")
    where_it_must_be(shop, "unhealthy", listed="unhealthy_services", gauge=0)
    # It is not critical, so people are warned and the pod serves on.
    for health in BOTH:
        assert shop.get(f"{PREFIX}/", health=health).data["overall_status"] == "warning"
        assert shop.status("/health", health=health) == 200
    Audit(shop, secrets=("coffee", "oversold"), application=True)()
    put(shop, "coffee", 1)
    comes_to(shop, STOCK, "healthy")


def where_it_must_be(shop: Pod, status: str, *, listed: str | None, gauge: int) -> None:
    """In services, in the lists and in the metrics, after the eight documented checks."""
    for health in BOTH:
        for path in ("/health/detailed", f"{PREFIX}/", f"{PREFIX}/detailed"):
            body = shop.get(path, health=health).json
            body = body.get("data", body)
            assert body["services"][STOCK]["status"] == status, path
            for name in ("unhealthy_services", "warning_services", "unknown_services"):
                assert (STOCK in body[name]) == (name == listed)
            if listed:
                assert body[listed][-1] == STOCK
        numbers = shop.get("/health/metrics", health=health).json["metrics"]
        for name in ("duration_seconds", "failures_total", "status"):
            assert list(numbers[f"health_check_{name}"])[-1] == STOCK
        assert numbers["health_check_status"][STOCK] == gauge
        text = shop.get("/metrics", health=health).body.decode()
        assert f'health_check_status{{component="{STOCK}"}} {gauge}.0' in text
        assert f'mingus_health_check_state{{check="{STOCK}",critical="false"' in text


def test_pool_numbers_are_the_connections_the_server_sees(shop: Pod, postgres: Postgres) -> None:
    """What the workers' engines hold is open at the server, but for the checks' own."""
    for _ in range(30):
        assert shop.status("/products") == 200
    web = {worker.pid for worker in shop.workers()}
    assert len(web) == 3
    for health in BOTH:
        eventually(
            lambda health=health: pool_agrees(shop, postgres, health=health),
            f"{open_sessions(postgres)} sessions, not {pool(shop)}",
        )


def pool(shop: Pod, *, health: bool = False) -> dict[str, int]:
    return shop.get("/health/database", health=health).json["connection_pool"]


def open_sessions(postgres: Postgres) -> int:
    """Sessions that anything of the pod has in the shop's database."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND application_name = 'shop'"
    )
    return int(postgres.execute(sql)[0][0])


def pool_agrees(shop: Pod, postgres: Postgres, *, health: bool) -> bool:
    found = pool(shop, health=health)
    info = found["info"]
    # Beside the workers' there are the database check's own connection, and the one of the
    # health worker's copy of the shop, which counts the stock.
    workers = open_sessions(postgres) - 2
    return (
        found["workers"] == 3
        and info["pool_size"] == 12
        and info["checked_out"] == 0
        and info["checked_in"] == workers
    )
