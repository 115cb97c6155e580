"""A real Prometheus scrapes both listeners of real pods while their processes come and go.

As Prometheus sees it, nothing happens: no scrape fails but of a listener that is gone, no
answer is a part of one, and no counter falls.
"""

import os
import signal
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.scoreboard import process_start
from tests.deploy.files import PROMETHEUS, read_yaml, seconds
from tests.load import CUT_OFF, Seen, probing
from tests.pod import Pod, eventually
from tests.servers.prometheus import Prometheus, Series

# As many jobs with the same targets as a scrape may take seconds: Prometheus gives each target
# of a job a moment of its own, so about every second somebody looks, with the real time limit.
PHASES = 10
PATH = "/api/system/health/simple"
COUNTERS = "_total|_count|_bucket|_sum"
# All that is scraped until now.
RUN = "[10m]"


def configuration(pods: list[Pod]) -> dict[str, Any]:
    """The shipped configuration, with these targets."""
    shipped = read_yaml(PROMETHEUS / "prometheus.yml")
    limit = shipped["global"]["scrape_timeout"]
    assert seconds(limit) == PHASES
    job = {key: value for key, value in shipped["scrape_configs"][0].items() if key != "job_name"}
    targets = [f"127.0.0.1:{port}" for pod in pods for port in (pod.port, pod.health_port)]
    return {
        "global": {**shipped["global"], "scrape_interval": limit},
        "scrape_configs": [
            {**job, "job_name": f"phase{phase}", "static_configs": [{"targets": targets}]}
            for phase in range(PHASES)
        ],
    }


@dataclass
class Deaths:
    """When what was gone.

    Attributes:
        killed: From when to when a process was being killed, by the port it served.
        answered: When each port of a pod that ends last took a connection.
    """

    killed: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[int, float] = field(default_factory=dict)

    def kill(self, pid: int, port: int) -> None:
        """Kills a process, and waits until it is gone."""
        born, begun = process_start(pid), time.time()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: process_start(pid) != born, f"process {pid} is gone")
        self.killed[port].append((begun, time.time()))

    @contextmanager
    def watch(self, pod: Pod) -> Iterator[None]:
        """Sees when the listeners of a pod go."""
        stop = threading.Event()

        def look(port: int) -> None:
            while not stop.wait(0.05):
                begun = time.time()
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                except OSError:
                    continue
                self.answered[port] = begun

        threads = [threading.Thread(target=look, args=(p,)) for p in (pod.port, pod.health_port)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)

    def explain(self, port: int, begun: float, took: float) -> str | None:
        """Why a scrape failed, if that is no fault of the service."""
        if any(begun <= end and start <= begun + took for start, end in self.killed[port]):
            return "its process was killed"
        # The kernel takes connections that nobody accepts any more: the scrape's end counts.
        if port in self.answered and begun + took > self.answered[port] - 0.5:
            return "its listener is gone"
        return None


def port_of(series: Series) -> int:
    return int(series["instance"].rpartition(":")[2])


class Watcher:
    """Waits for scrapes of pods."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus

    def somebody(self, pod: Pod) -> None:
        """Until some job has scraped both ports anew, and well."""
        since = time.time()
        ports = {pod.port, pod.health_port}
        eventually(lambda: ports <= {port for _, port in self._good(since)}, "a scrape")

    def everybody(self, pods: list[Pod]) -> None:
        """Until each job has scraped both ports of some pods."""
        since = time.time()
        wanted = {
            (f"phase{phase}", port)
            for phase in range(PHASES)
            for pod in pods
            for port in (pod.port, pod.health_port)
        }
        eventually(lambda: wanted <= self._good(since), "a scrape of each target")

    def _good(self, since: float) -> set[tuple[str, int]]:
        """Job and port of the newest scrapes that were good, and newer."""
        # timestamp() is that of the sample for a bare selector only.
        found = self._prometheus.query("timestamp(up) and up == 1")
        return {(series["job"], port_of(series)) for series in found if series.value > since}


@pytest.mark.timeout(240)
def test_no_scrape_fails_and_no_counter_falls(make_pod: Callable[..., Pod]) -> None:
    pods = [make_pod(REDIS_EMBEDDED="off", HEALTH_DRAIN_SECONDS=drain).launch() for drain in "005"]
    killed, reloaded, drained = (pod.wait_for(200, "/health") for pod in pods)
    deaths = Deaths()
    with Prometheus(configuration(pods)) as prometheus, ExitStack() as load:
        watcher = Watcher(prometheus)
        seen = [load.enter_context(probing(pod, [PATH], rate=20, clients=2)) for pod in pods[:2]]
        watcher.everybody(pods)
        with deaths.watch(drained):
            eventually(lambda: len(deaths.answered) == 2, "both listeners are watched")
            os.kill(drained.pid, signal.SIGTERM)
            os.kill(reloaded.pid, signal.SIGHUP)
            eventually(
                lambda: {worker.generation for worker in reloaded.workers()} == {1}, "a reload"
            )
            for worker in killed.workers():
                deaths.kill(worker.pid, killed.port)
                eventually(lambda: len(killed.workers()) == 2, "the worker is replaced")
                watcher.somebody(killed)
            deaths.kill(killed.health_worker, killed.health_port)
            watcher.somebody(killed)
            assert drained.process is not None
            assert drained.process.wait(60) == 0
        load.close()
        watcher.everybody(pods[:2])
        failed = check_scrapes(prometheus, deaths)
        check_answers(prometheus)
        samples = check_counters(prometheus)
        check_counts(prometheus, pods, seen)
        assert prometheus.log == ""
    print(f"failed: {Counter(failed)}; {samples} samples of counters, none fell")
    # Of the scrapes that come every second, one may be under way when a process is killed.
    assert Counter(failed)["its process was killed"] <= 3


def check_scrapes(prometheus: Prometheus, deaths: Deaths) -> list[str]:
    """No scrape failed without a reason; the reasons of those that did."""
    scrapes = prometheus.query(f"up{RUN}")
    took = {
        (series["job"], series["instance"]): dict(series.samples)
        for series in prometheus.query(f"scrape_duration_seconds{RUN}")
    }
    good, reasons = 0, []
    for series in scrapes:
        for at, value in series.samples:
            if value == 1:
                good += 1
                continue
            seconds = took[series["job"], series["instance"]][at]
            reason = deaths.explain(port_of(series), at, seconds)
            assert reason, f"{series.labels} at {at}, {seconds} s; {deaths}"
            reasons.append(reason)
    assert good > 2 * len(scrapes)
    print(f"{good} good scrapes of {len(scrapes)} targets")
    # Nothing came twice, late or from the future.
    own = prometheus.own()
    for trouble in ("sample_duplicate_timestamp", "sample_out_of_order", "sample_out_of_bounds"):
        assert own[f"prometheus_target_scrapes_{trouble}_total"] == 0
    return reasons


def check_answers(prometheus: Prometheus) -> None:
    """Every good scrape held the pod's state, as it was: the drain was seen as one."""
    good = f"sum_over_time(up{RUN})"
    for gauge in ("mingus_health_ready", "mingus_health_snapshot_readable"):
        same = prometheus.query(f"count_over_time({gauge}{RUN}) == {good}")
        assert len(same) == len(prometheus.query(good)), gauge
    assert prometheus.query(f"min_over_time(mingus_health_snapshot_readable{RUN}) != 1") == []
    assert prometheus.query(f"max_over_time(mingus_health_metric_files_damaged{RUN}) != 0") == []
    draining = f'max_over_time(mingus_health_lifecycle{{state="draining"}}{RUN}) == 1'
    assert len({series["instance"] for series in prometheus.query(draining)}) == 2


def check_counters(prometheus: Prometheus) -> int:
    """No counter fell, and none was missing between two scrapes; how many samples there are."""
    # In one query: between two of them there may be another scrape.
    everything = prometheus.query(f'{{__name__=~"up|.+({COUNTERS})"}}{RUN}')
    scrapes = {
        (series["job"], series["instance"]): [at for at, value in series.samples if value == 1]
        for series in everything
        if series["__name__"] == "up"
    }
    found = [series for series in everything if series["__name__"] != "up"]
    for series in found:
        moments = [at for at, _ in series.samples]
        expected = scrapes[series["job"], series["instance"]]
        assert moments == expected[-len(moments) :], f"{series.labels} came and went"
        values = [value for _, value in series.samples]
        assert values == sorted(values), f"{series.labels} fell: {values}"
    names = {series["__name__"] for series in found}
    assert len(names) >= 9, names
    for name in names:
        assert prometheus.query(f"resets({name}{RUN}) > 0") == []
    return sum(len(series.samples) for series in found)


def check_counts(prometheus: Prometheus, pods: list[Pod], seen: list[Seen]) -> None:
    """What was counted is what happened, whichever listener says so."""

    def told(name: str, port: int, labels: str = "") -> set[float]:
        instance = f'instance="127.0.0.1:{port}"'
        found = prometheus.query(f"last_over_time({name}{{{instance}{labels}}}{RUN})")
        assert len(found) == PHASES
        return {series.value for series in found}

    # Two workers and the health worker, and as many again: killed one by one, or reloaded.
    for pod, starts in zip(pods, (6, 6, 3), strict=True):
        for port in (pod.port, pod.health_port):
            assert told("mingus_health_worker_starts_total", port) == {starts}
    for pod, clients, killed in zip(pods[:2], seen, (True, False), strict=True):
        cut_off = sum(clients.other_than("200").values())
        assert not clients.other_than("200", *(CUT_OFF if killed else ())), f"{clients}\n{pod.log}"
        for port in (pod.port, pod.health_port):
            counted = told("app_request_total", port, f',endpoint="{PATH}",status="200"')
            # A killed process takes answers along that it has counted.
            missing = {clients.total - each for each in counted}
            assert missing <= set(range(cut_off + 1)), f"{clients}\n{counted}"
