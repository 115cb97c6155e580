"""A scrape of the metric files, against prometheus_client's collector over the same files.

Processor time of this process, on files that real processes have written. Between two scrapes
every process counts something, so that no scrape finds what the one before found.
"""

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from bench.core import Effort, Json, Row, at_most, in_turns, milliseconds, paired_ratio, ratios
from service.metrics import Format, MultiprocessReader, prepare, take_slot
from service.metrics.files import MetricFile, reserve
from service.metrics.instruments import Instruments

FAMILY = "metrics"
WARM, RECYCLED = at_most(1 / 25, "1/25"), at_most(1.1)
PROCESSES, SERIES, RECYCLES = 16, 1000, 1000
# Between two scrapes, over all processes: a quiet pod, and a busy one.
QUIET, BUSY = 16, 1000
IN_A_ROW, ROUNDS = 5, 11
HOW = (
    "Processor time of scrapes in this process, over files in memory that hold their label sets "
    "in different orders. Before the first measurement the lines are compared with the client's. "
    f"{ROUNDS} rounds, in each of which both make {IN_A_ROW} scrapes in a row and give the median "
    "of these; between two scrapes the processes count requests. The figure is the median of the "
    "rounds' ratios. Recycled workers are processes that take a slot, count and end."
)


class Files:
    """The metric files of some processes: histograms, counters and gauges, 4 : 3 : 1 or so.

    Args:
        directory: Where they are.
        processes: How many.
        series: How many lines each process accounts for.
    """

    def __init__(self, directory: Path, processes: int, series: int) -> None:
        self.directory = directory
        self._random = random.Random(7)
        self._sets: list[list[tuple[memoryview[float], int]]] = []
        for process in range(processes):
            for kind, sets in _label_sets(series).items():
                path = directory / f"{kind}_{process}.db"
                reserve(path, 65536)
                file = MetricFile(path)
                # Every process meets its label sets in the order of its own requests.
                self._random.shuffle(sets)
                self._sets += [[file.place(key) for key in keys] for keys in sets]
        self._random.shuffle(self._sets)
        self.count(len(self._sets) * 10)

    def count(self, requests: int) -> None:
        """Counts so many requests: a few routes get most of them, as Zipf found."""
        weights = [1 / rank for rank in range(1, len(self._sets) + 1)]
        for label_set in self._random.choices(self._sets, weights, k=requests):
            file, number = label_set[0]
            file[number] += self._random.choice((1.0, 0.25))
            if len(label_set) > 1:
                file, number = self._random.choice(label_set[1:])
                file[number] += 1.0


def _label_sets(series: int) -> dict[str, list[list[str]]]:
    """Keys as the client writes them, by label set, so that they give that many lines."""
    buckets = [*(str(float(bound)) for bound in range(1, 15)), "+Inf"]
    lines = len(buckets) + 2
    waits = series * 68 // 100 // lines or 1
    stocks = max(1, series * 4 // 100)
    orders = max(1, series - waits * lines - stocks)
    return {
        "histogram": [_histogram(f"/orders/{number}", buckets) for number in range(waits)],
        "counter": [
            [mmap_key("orders", "orders_total", ["shop"], [f"shop {number}"], "Orders")]
            for number in range(orders)
        ],
        "gauge_livesum": [
            [mmap_key("stock", "stock", ["item"], [f"item {number}"], "In stock")]
            for number in range(stocks)
        ],
    }


def _histogram(route: str, buckets: list[str]) -> list[str]:
    name, meaning = "wait_seconds", "Time to answer"
    return [
        mmap_key(name, f"{name}_sum", ["route"], [route], meaning),
        *(
            mmap_key(name, f"{name}_bucket", ["route", "le"], [route, bound], meaning)
            for bound in buckets
        ),
    ]


def vanilla(directory: Path) -> str:
    """What prometheus_client gives."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))
    return generate_latest(registry).decode()


def scrape_cpu(scrape: Callable[[], object]) -> float:
    """Processor seconds of one scrape."""
    begun = time.process_time_ns()
    scrape()
    return (time.process_time_ns() - begun) / 1e9


@contextmanager
def temporary() -> Iterator[Path]:
    """A directory in memory, as a pod's is where it can be."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as name:
        yield Path(name)


def _measured(
    processes: int, series: int, rounds: int, requests: int = QUIET
) -> tuple[list[float], list[float]]:
    """Processor seconds of our warm scrapes and of the client's."""
    with temporary() as directory:
        files, reader = Files(directory, processes, series), MultiprocessReader(directory)
        mine, theirs = reader.render(Format.TEXT), vanilla(directory)
        if sorted(mine.splitlines()) != sorted(theirs.splitlines()):
            raise AssertionError("the reader and the client do not give the same lines")

        def turn(scrape: Callable[[], object]) -> float:
            """The median of some scrapes in a row, each after some requests."""
            times = []
            for _ in range(IN_A_ROW):
                files.count(requests)
                times.append(scrape_cpu(scrape))
            return median(times)

        subjects = {
            "client": lambda: turn(lambda: vanilla(directory)),
            "ours": lambda: turn(lambda: reader.render(Format.TEXT)),
        }
        turns = in_turns(subjects, rounds)
        return turns["ours"], turns["client"]


def rows(effort: Effort) -> Iterator[Row]:
    """The warm scrape, and the scrape after workers have come and gone."""
    title = f"/metrics, warm, {PROCESSES} processes x {SERIES:,} series"
    for requests in (QUIET, BUSY):
        ours, client = _measured(PROCESSES, SERIES, min(effort.rounds, ROUNDS), requests)
        yield Row.of(
            FAMILY,
            f"{title}, {requests:,} requests since the last scrape: CPU",
            milliseconds(median(client)),
            milliseconds(median(ours)),
            paired_ratio(ours, client),
            WARM,
            rounds=ratios(ours, client),
        )
    yield _after_recycles(min(effort.rounds, ROUNDS))


def _after_recycles(rounds: int) -> Row:
    """Each recycled worker is a process that takes a slot, counts and ends."""
    with temporary() as young, temporary() as old:
        subjects = {
            name: _lived_through(directory, recycles)
            for name, directory, recycles in (("young", young, 1), ("old", old, RECYCLES))
        }
        turns = in_turns(subjects, rounds)
    return Row.of(
        FAMILY,
        f"/metrics after {RECYCLES:,} worker recycles: CPU per scrape",
        f"{milliseconds(median(turns['young']))} before",
        milliseconds(median(turns["old"])),
        paired_ratio(turns["old"], turns["young"]),
        RECYCLED,
        rounds=ratios(turns["old"], turns["young"]),
    )


def _lived_through(directory: Path, recycles: int) -> Callable[[], float]:
    """A turn of scrapes of a pod with one worker that stays and many that do not."""
    prepare(directory, fresh=True)
    holder = _forked_holder(directory)
    for _ in range(recycles):
        _recycle(directory)
    os.close(holder)
    reader = MultiprocessReader(directory)
    started = f"mingus_health_worker_starts_total {recycles + 1}.0"
    if started not in reader.render(Format.TEXT):
        raise AssertionError("a recycled worker has not been counted")

    def turn() -> float:
        return median(scrape_cpu(lambda: reader.render(Format.TEXT)) for _ in range(10 * IN_A_ROW))

    return turn


def _recycle(directory: Path) -> None:
    """One worker's life."""
    pid = os.fork()
    if pid == 0:
        try:
            _count(directory)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _count(directory: Path) -> None:
    take_slot(directory).use()
    instruments = Instruments()
    instruments.worker_started()
    for route in ("/health", "/orders/<int:number>", "other"):
        for status in ("200", "404", "503"):
            instruments.request("GET", route, status, 0.003)


def _forked_holder(directory: Path) -> int:
    """A worker that stays, so that the recycled ones get the next slot; closing it ends it."""
    told, tells = os.pipe()
    ready, says = os.pipe()
    if os.fork() == 0:
        os.close(tells)
        _count(directory)
        os.write(says, b".")
        os.read(told, 1)
        os._exit(0)
    os.close(told)
    os.close(says)
    os.read(ready, 1)
    os.close(ready)
    return tells


def curves(effort: Effort) -> Json:
    """How a scrape grows with series, and with processes."""
    sizes = [100, 1000, 10_000] if effort.quick else [100, 1000, 10_000, 100_000]
    by_series = []
    for series in sizes:
        ours, client = _measured(4, series, 3 if series > 10_000 else 5)
        by_series.append([series, median(ours) * 1e3, median(client) * 1e3])
    by_processes = []
    for processes in (1, 2, 4, 8, 16, 32):
        ours, client = _measured(processes, SERIES, 5)
        by_processes.append([processes, median(ours) * 1e3, median(client) * 1e3])
    return {"series": by_series, "processes": by_processes}
