"""Invariant 20: both metrics paths, in every format, for every reader, over every accident.

The audits of the other tests look at the metrics in every state of a pod. Here are the formats,
the readers that others wrote, and the counters.
"""

import gzip
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from scripts.health_contract import JSON, METRICS, OPENMETRICS, TEXT_FORMAT, parse_json
from service.health import Role
from tests.contract.audit import BOTH, STRANGER, becomes, comes_to_be_well
from tests.contract.audit import METRICS as PATHS
from tests.contract.conftest import Launch, served
from tests.pod import UNHURRIED, Answer, Pod, eventually, free_port

ASKED = list(product(PATHS, BOTH))
NINE = {
    "mingus_database_status",
    "mingus_redis_status",
    "mingus_database_response_time_ms",
    "mingus_redis_response_time_ms",
    "mingus_cpu_usage_percent",
    "mingus_memory_usage_percent",
    "mingus_disk_usage_percent",
    "mingus_uptime_seconds",
    "mingus_health_check_timestamp",
}
TOLERATED = {"mingus_database_response_time_ms", "mingus_redis_response_time_ms"}
INTERNAL = {name for name, metric in METRICS.items() if metric.internal}


# -- content negotiation

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
NEGOTIATED = {
    "": TEXT_FORMAT,
    "*/*": TEXT_FORMAT,
    "text/plain": TEXT_FORMAT,
    "text/plain; version=0.0.4": TEXT_FORMAT,
    "text/plain; version=1.0.0": TEXT_FORMAT,
    "text/*": TEXT_FORMAT,
    "text/html": TEXT_FORMAT,
    "text/html,application/xhtml+xml,*/*;q=0.8": TEXT_FORMAT,
    "image/png": TEXT_FORMAT,
    "nonsense": TEXT_FORMAT,
    "application/json": JSON,
    "application/json; charset=utf-8": JSON,
    "application/openmetrics-text": OPENMETRICS,
    "application/openmetrics-text; version=1.0.0": OPENMETRICS,
    "application/openmetrics-text; version=1.0.0; charset=utf-8": OPENMETRICS,
    PROMETHEUS: OPENMETRICS,
    "application/json;q=0.5,text/plain;q=0.4": JSON,
    "application/json;q=0.4,text/plain;q=0.5": TEXT_FORMAT,
    "application/json,text/plain": TEXT_FORMAT,
    "application/json;q=0.3,*/*;q=0.3": TEXT_FORMAT,
    "application/openmetrics-text; version=0.0.1": TEXT_FORMAT,
    "application/openmetrics-text; version=2.0.0,application/json;q=0.1": JSON,
    "application/json,application/openmetrics-text": OPENMETRICS,
    "application/json;q=0,*/*": TEXT_FORMAT,
    "application/openmetrics-text;q=0.9,application/json;q=0.95,text/plain;q=0.1": JSON,
}


@pytest.mark.parametrize("accept", NEGOTIATED)
def test_content_negotiation(plain: Pod, accept: str) -> None:
    for path, health in ASKED:
        for method in ("GET", "HEAD"):
            answer = plain.get(path, health=health, method=method, Accept=accept)
            assert answer.status == 200
            assert answer.headers["content-type"] == NEGOTIATED[accept]
            assert answer.headers["vary"] in ("Accept", "Accept, Accept-Encoding")


def test_no_accept_at_all_is_text(plain: Pod) -> None:
    for path, health in ASKED:
        assert plain.get(path, health=health).headers["content-type"] == TEXT_FORMAT


def test_json_has_exactly_the_nine_names(plain: Pod) -> None:
    for path, health in ASKED:
        body = plain.get(path, health=health, Accept=JSON).json
        assert body["success"] is True
        assert body["data"].keys() == NINE
        assert None not in body["data"].values()


@pytest.mark.parametrize("accept", ["text/plain", PROMETHEUS])
def test_compressed_is_the_same_and_says_so(plain: Pod, accept: str) -> None:
    for path, health in ASKED:
        answer = plain.get(path, health=health, Accept=accept, Accept_Encoding="gzip")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        exposition = gzip.decompress(answer.body)
        assert b"mingus_health_ready 1" in exposition
        assert len(answer.body) < len(exposition) / 2
        refused = plain.get(path, health=health, Accept=accept, Accept_Encoding="gzip;q=0")
        assert "content-encoding" not in refused.headers


# -- readers


def families(answer: Answer) -> dict[str, Any]:
    """The families of an exposition as the reference readers understand it."""
    text = answer.body.decode()
    if answer.headers["content-type"] == OPENMETRICS:
        found = openmetrics_parser.text_string_to_metric_families(text)
    else:
        found = parser.text_string_to_metric_families(text)
    return {family.name: family for family in found}


def test_the_reference_readers_agree_about_both_formats(plain: Pod) -> None:
    for path, health in ASKED:
        text = families(plain.get(path, health=health))
        open_ = families(plain.get(path, health=health, Accept=PROMETHEUS))
        assert text.keys() == open_.keys()
        assert {name: family.type for name, family in text.items()} == {
            name: family.type for name, family in open_.items()
        }


def test_every_documented_name_is_there(plain: Pod) -> None:
    """But for failures, of which a pod that is well has none."""
    comes_to_be_well(plain)
    for path, health in ASKED:
        found = families(plain.get(path, health=health))
        names = {*found, *(f"{name}_total" for name in found)}
        assert METRICS.keys() - names <= {"health_check_failures_total"}


def test_strangers_see_no_internals(plain: Pod) -> None:
    for path, health in ASKED:
        for accept in ("text/plain", PROMETHEUS):
            ours = families(plain.get(path, health=health, Accept=accept))
            theirs = families(plain.get(path, health=health, Accept=accept, **STRANGER))
            assert ours.keys() >= INTERNAL
            assert ours.keys() - theirs.keys() == INTERNAL


@pytest.fixture(scope="module")
def prometheus() -> dict[str, str]:
    """Prometheus's own programs."""
    found = {name: shutil.which(name) for name in ("prometheus", "promtool")}
    if not all(found.values()):
        why = "prometheus and promtool are needed: apt-get install prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    return {name: path for name, path in found.items() if path}


def test_promtool_accepts_all_but_two_documented_names(
    plain: Pod, prometheus: dict[str, str]
) -> None:
    for path, health in ASKED:
        for caller in ({}, STRANGER):
            text = plain.get(path, health=health, **caller).body
            checked = subprocess.run(
                [prometheus["promtool"], "check", "metrics"],
                input=text,
                capture_output=True,
                check=False,
                timeout=60,
            )
            lines = (checked.stdout + checked.stderr).decode().splitlines()
            complaints = [line for line in lines if line.split(" ")[0] not in TOLERATED]
            assert complaints == []
            assert checked.returncode in (0, 3), "3: complaints only"


@contextmanager
def scraping(program: str, pod: Pod, home: Path) -> Iterator[str]:
    """A Prometheus that scrapes both paths of both listeners; its base URL."""
    port, ports = free_port(), {False: pod.port, True: pod.health_port}
    jobs = "".join(
        f"- job_name: '{'health' if health else 'web'}{path}'\n"
        f"  metrics_path: {path}\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{ports[health]}']}}]\n"
        for path, health in ASKED
    )
    configuration = home / "prometheus.yml"
    configuration.write_text(
        f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}"
    )
    command = [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def told(url: str) -> Any:
    """What Prometheus says; None while it is not there yet."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return parse_json(answer.read())["data"]
    except OSError:
        return None


def test_a_real_prometheus_scrapes_both_listeners(
    plain: Pod, prometheus: dict[str, str], tmp_path: Path
) -> None:
    comes_to_be_well(plain)
    with scraping(prometheus["prometheus"], plain, tmp_path) as base:

        def result(query: str) -> list[str]:
            data = told(f"{base}/api/v1/query?query={query}")
            return [sample["value"][1] for sample in data["result"]] if data else []

        eventually(lambda: result("up") == ["1"] * 4, f"four targets up, not {result('up')}")

        def targets() -> set[tuple[str, str]]:
            found = told(f"{base}/api/v1/targets")["activeTargets"]
            return {(target["health"], target["lastError"]) for target in found}

        # On a busy machine a scrape may come too late; the next one is in time.
        becomes(targets, {("up", "")}, "the targets")
        eventually(lambda: result("mingus_health_ready") == ["1"] * 4, "ready, as scraped")
        becomes(
            lambda: [int(count) > 100 for count in result("scrape_samples_scraped")],
            [True] * 4,
            "whether there are many samples",
        )
        # What is scraped can be stored: nothing is dropped as a duplicate or out of order.
        stored = result("scrape_samples_post_metric_relabeling")
        assert len(stored) == 4
    log = (tmp_path / "log").read_text()
    assert "Error on ingesting" not in log
    assert "append failed" not in log.lower()


# -- counters


@pytest.fixture(scope="module")
def mortal(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """One whose web workers also go of their own accord."""
    database = tmp_path_factory.mktemp("mortal") / "shop.sqlite3"
    url = f"sqlite:///{database}"
    return served(launch("--max-requests", "150", DATABASE_URL=url, **UNHURRIED))


Counters = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def counters(pod: Pod, *, health: bool) -> Counters:
    """Every series of a counter or a histogram."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(pod.get("/metrics", health=health)).values()
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


class Memory:
    """What the counters have been; nothing may fall or vanish."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.seen: Counters = {}

    def look(self) -> None:
        for health in BOTH:
            now = counters(self.pod, health=health)
            for series, value in self.seen.items():
                assert now.get(series, -1.0) >= value, series
            self.seen = now

    @property
    def requests(self) -> float:
        """All requests of the pod."""
        return sum(value for (name, _), value in self.seen.items() if name == "app_request_total")

    @property
    def worker_starts(self) -> float:
        return self.seen["mingus_health_worker_starts_total", ()]


def test_no_counter_falls_whoever_dies(mortal: Pod) -> None:
    comes_to_be_well(mortal)
    memory = Memory(mortal)
    for role in (Role.WEB, Role.HEALTH, Role.WEB, Role.HEALTH):
        for _ in range(20):
            mortal.get("/health")
        memory.look()
        # One may be retiring: while its successor is on the way there is one less.
        before = eventually(lambda role=role: complete(mortal, role), "all workers are there")
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda role=role, before=before: replaced(mortal, role, before), "replaced")
        comes_to_be_well(mortal)
        memory.look()
    # 3 processes at first, 4 in place of the killed, and others of the retired.
    eventually(lambda: memory.look() or memory.worker_starts >= 7, "every start is counted")


def complete(pod: Pod, role: Role) -> set[int]:
    """The workers of a role; nobody, while they are not as many as there should be."""
    pids = {worker.pid for worker in pod.workers(role)}
    return pids if len(pids) == (2 if role is Role.WEB else 1) else set()


def replaced(pod: Pod, role: Role, before: set[int]) -> bool:
    now = {worker.pid for worker in pod.workers(role)}
    return len(now) == len(before) and min(before) not in now


def test_no_counter_falls_when_workers_retire(mortal: Pod) -> None:
    comes_to_be_well(mortal)
    memory = Memory(mortal)
    first = {worker.pid for worker in mortal.workers(Role.WEB)}

    def others() -> bool:
        for _ in range(20):
            assert mortal.status("/health/detailed") in (200, None)
        memory.look()
        return not first & {worker.pid for worker in mortal.workers(Role.WEB)}

    eventually(others, "all web workers have retired")
    comes_to_be_well(mortal)
    memory.look()


def test_no_counter_falls_in_a_reload(mortal: Pod) -> None:
    comes_to_be_well(mortal)
    memory = Memory(mortal)
    memory.look()
    before = {worker.pid for role in Role for worker in mortal.workers(role)}
    os.kill(mortal.pid, signal.SIGHUP)

    def reloaded() -> bool:
        memory.look()
        return not before & {worker.pid for role in Role for worker in mortal.workers(role)}

    eventually(reloaded, "all workers are others")
    comes_to_be_well(mortal)
    memory.look()


def test_every_request_is_counted_once(mortal: Pod) -> None:
    """On one listener each: what one worker has counted every worker tells."""
    comes_to_be_well(mortal)
    memory = Memory(mortal)
    memory.look()
    for health in BOTH:
        for _ in range(25):  # HEAD, which nothing else asks this pod
            assert mortal.status("/health/standard", health=health, method="HEAD") == 200
    key = ("endpoint", "/health/standard"), ("method", "HEAD"), ("status", "200")

    def counted() -> float:
        memory.look()
        return memory.seen.get(("app_request_total", key), 0.0)

    becomes(counted, 50.0, f"requests with {key}")
    assert memory.seen["app_request_duration_seconds_count", key] == 50.0
