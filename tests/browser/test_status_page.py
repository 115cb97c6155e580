"""The status page in a browser: every state, live, accessible, and without its script."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.pod import Pod, eventually, free_port
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisServer, binary

READINESS = "/api/system/health/readiness"
Open = Callable[..., Visit]
Make = Callable[..., Pod]


def url(pod: Pod, *, health: bool = True) -> str:
    return f"http://127.0.0.1:{pod.health_port if health else pod.port}/status"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@pytest.fixture
def well(make_pod: Make, tmp_path: Path) -> Pod:
    """The shop: with a check and startup tasks of its own."""
    pod = make_pod(
        DATABASE_URL=f"sqlite:///{tmp_path}/shop.sqlite3",
        APP_MODULE="examples.shop:app",
        HEALTH_CHECKS="examples.shop:checks",
        STARTUP_TASKS="examples.shop:tasks",
        APP_RELEASE="2025.1",
        HEALTH_DATABASE_TIMEOUT_SECONDS="30",  # no run of a busy machine fails
    )
    return pod.start().wait_for(200, READINESS)


# -- the states


def test_starting(make_pod: Make, visit: Open) -> None:
    """It waits for a database that is not there, and says so."""
    pod = make_pod(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/none").launch()
    pod.wait_for(200, "/api/system/health/liveness")
    seen = visit(url(pod))
    expect(seen.verdict).to_contain_text("Not ready: starting")
    expect(seen.verdict).to_contain_text("database unhealthy (connection_refused)")
    expect(seen.page.locator("#verdicts")).to_contain_text("startup no")
    expect(seen.page).to_have_title(re.compile("^[✕?] Not ready: starting"))
    seen.picture("starting")


def test_healthy(well: Pod, visit: Open) -> None:
    seen = visit(url(well))
    expect(seen.verdict).to_contain_text("Ready")
    expect(seen.row("checks", "database")).to_contain_text("healthy")
    expect(seen.row("checks", "stripe_api")).to_contain_text("not configured")
    expect(seen.row("checks", "stock")).to_contain_text("healthy")
    expect(seen.page.locator("section:has(#tasks) tbody tr").first).to_contain_text("ms")
    expect(seen.page.locator("section:has(#workers) tbody tr")).to_have_count(3)
    expect(seen.page.get_by_role("meter")).to_have_count(3)
    expect(seen.row("checks", "database").get_by_role("img")).to_have_attribute(
        "aria-label",
        re.compile(r"^newest runs: \d+, failed: 0, median [\d.]+ ms, longest [\d.]+ ms$"),
    )
    seen.picture("healthy")
    assert seen.complaints == []
    assert all(asked.startswith((url(well), "data:")) for asked in seen.asked)


def test_a_dependency_goes_and_comes_back(make_pod: Make, visit: Open) -> None:
    """Without reload, and what has been unfolded and focused stays so."""
    with Postgres() as postgres:
        pod = make_pod(DATABASE_URL=postgres.url).start().wait_for(200, READINESS)
        seen = visit(url(pod))
        seen.page.evaluate("window.untouched = true")
        row = seen.row("checks", "database")
        row.locator("summary").click()
        postgres.stop()
        expect(seen.verdict).to_contain_text("Not ready: database unhealthy")
        expect(row).to_contain_text("unhealthy")
        expect(row.locator("small")).to_contain_text("is it running")
        expect(row.locator("ol")).to_be_visible()
        expect(row.locator("path.failed")).to_have_count(1)
        assert row.locator("summary").evaluate("each => each === document.activeElement")
        seen.picture("dependency-down")
        postgres.start()
        expect(seen.verdict).not_to_contain_text("Not ready")
        expect(row.locator("ol li").first).to_contain_text("healthy")
        assert seen.page.evaluate("window.untouched"), "the page was never loaded anew"
        assert seen.complaints == []


def test_a_worker_that_is_stuck(make_pod: Make, visit: Open) -> None:
    pod = make_pod(
        *("--timeout", "300"),  # nobody replaces it while it is looked at
        APP_MODULE="tests.process.apps:app",
        WORKER_CLASS="sync",
        HEALTH_LIVENESS_STALL_SECONDS="1",
    )
    pod.start()
    seen = visit(url(pod))
    with _stuck(pod):
        expect(seen.page.locator(".mark.stuck")).to_have_count(1)
        stuck = seen.page.locator("section:has(#workers) tr:has(.stuck)")
        expect(stuck).to_contain_text("1 of 1")
        expect(stuck).to_contain_text(re.compile(r"\d+(\.\d)? s"))
        seen.picture("worker-stuck")
        with _stuck(pod):
            expect(seen.verdict).to_contain_text("No web worker makes progress")
            expect(seen.page.locator("#verdicts")).to_contain_text("liveness no")


@contextmanager
def _stuck(pod: Pod) -> Iterator[None]:
    """A request that never ends, once it is being served."""
    before = pod.board.in_flight
    with closing(HTTPConnection("127.0.0.1", pod.port)) as connection:
        connection.request("GET", "/stuck")
        eventually(lambda: pod.board.in_flight == before + 1, "it is served")
        yield


def test_draining(well: Pod, visit: Open) -> None:
    seen = visit(url(well))
    expect(seen.verdict).to_contain_text("Ready")
    well.board.drain()
    expect(seen.verdict).to_contain_text("Not ready: draining")
    expect(seen.page.locator("#verdicts")).to_contain_text("liveness yes")
    seen.picture("draining")
    well.board.drain(on=False)
    expect(seen.verdict).to_contain_text("Ready")


def test_redis_lost(make_pod: Make, redis: RedisServer, visit: Open) -> None:
    """The fleet is out of sight, which the page says; the rest of it is as before."""
    pod = make_pod(DATABASE_URL="sqlite://", REDIS_URL=redis.url, HEALTH_FLEET_INTERVAL_SECONDS="2")
    pod.start().wait_for(200, READINESS)
    seen = visit(url(pod))
    fleet = seen.page.locator("#fleet")
    expect(fleet).to_contain_text("1 of 1 pods ready")
    redis.stop()
    expect(seen.verdict).to_contain_text("Not ready: redis unhealthy (connection_refused)")
    expect(fleet).to_contain_text("last heard of")
    seen.picture("redis-lost")
    redis.start()
    expect(seen.verdict).not_to_contain_text("Not ready")


def test_a_fleet_of_three(make_pod: Make, redis: RedisServer, visit: Open) -> None:
    pods = [
        make_pod(
            DATABASE_URL="sqlite://",
            REDIS_URL=redis.url,
            HEALTH_FLEET_INTERVAL_SECONDS="2",
            APP_RELEASE=release,
            WEB_CONCURRENCY="1",
        )
        for release in ("2025.1", "2025.1", "2025.2")
    ]
    for pod in pods:
        pod.launch()
    for pod in pods:
        pod.wait_for(200, READINESS)
    seen = visit(url(pods[0]))
    rows = seen.page.locator("section:has(#fleet) tbody tr")
    expect(rows).to_have_count(3)
    expect(seen.page.locator("#fleet")).to_contain_text("3 of 3 pods ready")
    expect(seen.page.locator("tr.this")).to_contain_text(pods[0].board.pod_id[:8])
    expect(rows.filter(has_text="2025.2")).to_have_count(1)
    expect(rows.filter(has_text="checks")).to_have_count(1)
    pods[2].board.maintain(on=True)
    expect(rows.first).to_contain_text("maintenance")
    seen.picture("fleet-of-three")


# -- for everybody


def test_on_the_web_listener_it_asks_now_and_then(well: Pod, visit: Open) -> None:
    seen = visit(url(well, health=False))
    expect(seen.page.locator("#live")).to_have_text("· every 2 s")
    well.board.maintain(on=True)
    expect(seen.verdict).to_contain_text("Not ready: maintenance")
    assert not any(asked.endswith("/events") for asked in seen.asked)
    assert seen.complaints == []


def test_on_the_health_listener_it_is_told(well: Pod, visit: Open) -> None:
    seen = visit(url(well))
    expect(seen.page.locator("#live")).to_have_text("· live")
    assert any(asked.endswith("/status/events") for asked in seen.asked)


def test_without_script(well: Pod, visit: Open) -> None:
    seen = visit(url(well), java_script_enabled=False)
    expect(seen.verdict).to_contain_text("Ready")
    expect(seen.row("checks", "database")).to_contain_text("healthy")
    well.board.drain()
    seen.page.get_by_role("link", name="reload").click()
    expect(seen.verdict).to_contain_text("draining")


def test_with_the_keyboard_alone(well: Pod, visit: Open) -> None:
    """Every table can be scrolled, and every list of turns unfolded."""
    seen = visit(url(well))
    reached = []
    for _ in range(12):
        seen.page.keyboard.press("Tab")
        reached.append(
            seen.page.evaluate(
                "document.activeElement.getAttribute('aria-labelledby')"
                " || document.activeElement.tagName"
            )
        )
    assert {"checks", "SUMMARY", "workers"} <= set(reached)
    seen.row("checks", "database").locator("summary").focus()
    seen.page.keyboard.press("Enter")
    expect(seen.row("checks", "database").locator("ol")).to_be_visible()


def test_others_see_the_verdicts_alone(make_pod: Make, visit: Open) -> None:
    pod = make_pod(DATABASE_URL="sqlite://", HEALTH_TRUSTED_NETWORKS="none")
    pod.start().wait_for(200, READINESS)
    seen = visit(url(pod))
    expect(seen.verdict).to_contain_text("Ready")
    expect(seen.page.locator("table")).to_have_count(0)
    expect(seen.page.locator("main")).to_contain_text("for trusted callers")
    assert str(pod.pid) not in seen.page.content()
    assert pod.board.pod_id not in seen.page.content()
    seen.picture("stranger")


def test_a_narrow_screen_scrolls_in_its_tables(well: Pod, visit: Open) -> None:
    seen = visit(url(well))
    seen.page.set_viewport_size({"width": 360, "height": 700})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    seen.picture("narrow")


def test_a_pod_that_is_gone_is_told_as_old(well: Pod, visit: Open) -> None:
    seen = visit(url(well))
    expect(seen.page.locator("#live")).to_have_text("· live")
    well.stop()
    expect(seen.page.locator("#live")).to_contain_text("no answer since then")
    well.start()
    expect(seen.page.locator("#live")).to_have_text("· live")
    expect(seen.verdict).to_contain_text("Ready")
