"""The shipped alerts and the dashboard over real pods that are in real trouble.

A minute of the rules takes a second here, an hour a minute: their unit tests hold the real
times.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from math import isnan

import pytest

from tests.deploy.files import PROMETHEUS, RULES, dashboard, read_yaml
from tests.pod import ROOT, Pod, eventually, frozen
from tests.servers.prometheus import Prometheus
from tests.servers.redis import RedisServer, binary

HURRY = {"h": "m", "m": "s"}


def hurried(rules: str) -> str:
    """The rules, sixty times as fast."""
    return re.sub(
        r"(for: |\[)(\d+)([hm])", lambda match: match[1] + match[2] + HURRY[match[3]], rules
    )


def listeners(pods: Iterable[Pod]) -> list[str]:
    """As Prometheus calls them, two for each pod: web and health."""
    return [f"127.0.0.1:{port}" for pod in pods for port in (pod.port, pod.health_port)]


def about(alert: str, *instances: str) -> set[tuple[str, str]]:
    """An alert about some listeners."""
    return {(f"MingusHealth{alert}", instance) for instance in instances}


def both(alert: str, *pods: Pod) -> set[tuple[str, str]]:
    """An alert about both listeners of some pods."""
    return about(alert, *listeners(pods))


class Watch:
    """Waits for alerts of a Prometheus."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus

    def fire(self, expected: set[tuple[str, str]]) -> None:
        """Until all of them fire."""
        eventually(lambda: expected <= self._prometheus.firing(), f"{expected} fire")

    def resolve(self, expected: set[tuple[str, str]]) -> None:
        """Until none of them fires."""
        eventually(lambda: not expected & self._prometheus.firing(), f"{expected} are resolved")


def command(pod: Pod, *words: str) -> None:
    """A command of the service, given inside the pod."""
    subprocess.run(
        [sys.executable, "-m", "service", *words], env=pod.environ, cwd=ROOT, check=True, timeout=60
    )


def visit(pod: Pod) -> None:
    """Some requests; the application raises, for it is not told how slow."""
    assert pod.get("/slow").status == 500
    pod.get("/health")


def answered(prometheus: Prometheus, expression: str) -> bool:
    """Whether a query of the dashboard has an answer."""
    for name, value in {
        "$__rate_interval": "2m",
        "$job": "mingus-health",
        "$instance": ".+",
    }.items():
        expression = expression.replace(name, value)
    return any(not isnan(series.value) for series in prometheus.query(expression))


@pytest.mark.timeout(240)
def test_alerts_fire_and_resolve_and_the_dashboard_shows_it(make_pod: Callable[..., Pod]) -> None:
    shipped = read_yaml(PROMETHEUS / "prometheus.yml")
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(binary("valkey")))
        # So long that frozen processes are still there when the last of their alerts fires.
        patient = ("--timeout", "120")
        one = make_pod(*patient, REDIS_URL=redis.url, APP_MODULE="tests.process.apps:app")
        two = make_pod(*patient, REDIS_URL=redis.url, HEALTH_LIVENESS_STALL_SECONDS="2")
        two.environ["DATABASE_URL"] = f"sqlite:///{two.directory}/database.sqlite3"
        three = make_pod(REDIS_EMBEDDED="off")
        pods = [one, two, three]
        for pod in pods:
            pod.launch()
        for pod in pods:
            pod.wait_for(200, "/health")
        (job,) = shipped["scrape_configs"]
        prometheus = stack.enter_context(
            Prometheus(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": shipped["rule_files"],
                    "scrape_configs": [job | {"static_configs": [{"targets": listeners(pods)}]}],
                },
                {RULES.name: hurried(RULES.read_text())},
            )
        )
        watch = Watch(prometheus)
        eventually(lambda: prometheus.value("sum(up)") == 6, "every target is scraped")
        # A busy machine's resources warn, and fail; and it may be late with the first scrapes.
        busy = {"MingusHealthCheckWarning", "MingusHealthOptionalCheckFailing"}
        eventually(lambda: {name for name, _ in prometheus.firing()} <= busy, "nothing else fires")

        visit(one)

        # Two pods lose a critical dependency; the third is drained by hand and forgotten.
        command(three, "drain")
        redis.stop()
        outage = both("CheckFailing", one, two) | both("NotReady", one, two)
        outage |= about("NoneReady", "") | both("DrainForgotten", three)
        watch.fire(outage)
        visit(one)
        redis.start()
        command(three, "undrain")
        watch.resolve(outage)
        assert both("CheckFlapping", one, two).isdisjoint(prometheus.firing())
        visit(one)

        queries = [t["expr"] for panel in dashboard()["panels"] for t in panel.get("targets", ())]
        for query in queries:
            eventually(partial(answered, prometheus, query), f"an answer to {query}")

        # A monitor stands still, a web worker elsewhere; a metric file breaks; a pod ends.
        web, health = listeners([one])
        trouble = about("CheckStale", web) | about("TargetDown", health) | both("TargetDown", three)
        trouble |= both("MetricFilesDamaged", two) | both("WorkersMissing", two)
        broken = two.directory / "run" / "metrics" / "counter_99.db"
        with frozen([one.health_worker, two.workers()[0].pid]):
            broken.write_bytes(b"\xff" * 64)
            three.stop()
            watch.fire(trouble)
        broken.unlink()
        three.start()
        watch.resolve(trouble)
        assert [rule for rule in prometheus.rules() if rule["health"] != "ok"] == []
        assert prometheus.log == ""
