"""What the service adds to a request of the user's own, beside what an exporter adds.

Access logs are off on both sides: gunicorn's costs the same with and without us.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from bench.core import (
    Effort,
    Row,
    Target,
    at_most,
    differences,
    in_turns,
    microseconds,
    middle,
)
from bench.families.probes import by_cpu, by_rate, pod_under_load
from bench.servers import CLIENTS, Loaded, NotInstalledError, Server, client_core, environment

FAMILY = "own route"
PATH = "/orders/7"
CPU, OVERHEAD = at_most(1.05), at_most(0.25)
# A difference of two figures is noisier than either: turns are longer than elsewhere.
ROUNDS, SECONDS = 31, 0.3
HOW = (
    "One Flask view that returns a little JSON, under plain gunicorn, under the service, and "
    "with prometheus-flask-exporter writing multiprocess files. The figure is the median of "
    f"{ROUNDS} rounds, in each of which everybody is loaded for {SECONDS:g} s by {CLIENTS} "
    "clients. What is added is the median of the rounds' differences to the plain one; beside it "
    "is the range in which the true median lies in 19 of 20 cases, instead of the ends of the "
    "rounds. Where only a part of that range is below zero, its upper end is judged, not the "
    "median; and a row whose reference cannot be told from zero is not met."
)


def rows(effort: Effort) -> Iterator[Row]:
    """Processor time per request with us and without, under both worker classes."""
    for worker_class in ("sync", "gthread"):
        yield from _rows(worker_class, effort)


def _rows(worker_class: str, effort: Effort) -> Iterator[Row]:
    why = ""
    with ExitStack() as stack:
        alone = stack.enter_context(Server("bench.apps.user:app", worker_class))
        pod = stack.enter_context(
            pod_under_load(worker_class, APP_MODULE="bench.apps.user:app", LOG_LEVEL="WARNING")
        )
        servers = {"alone": alone, "ours": pod}
        try:
            python = environment("prometheus-flask-exporter")
        except NotInstalledError as error:
            why = str(error)
        else:
            files = stack.enter_context(tempfile.TemporaryDirectory())
            exporter = Server(
                "bench.apps.exporter:app",
                worker_class,
                python=python,
                PROMETHEUS_MULTIPROC_DIR=files,
            )
            servers["exporter"] = stack.enter_context(exporter)
        stack.enter_context(client_core())
        seconds = effort.of(SECONDS, effort.slice)
        subjects = {name: Loaded(server, PATH, seconds) for name, server in servers.items()}
        turns = in_turns(subjects, effort.times(ROUNDS, effort.rounds))
        for subject in subjects.values():
            subject.close()
    title = f"a Flask view of the user's, {worker_class}"
    yield by_cpu(FAMILY, title, turns["alone"], turns["ours"], CPU)
    yield by_rate(FAMILY, title, turns["alone"], turns["ours"])
    name = f"what is added to it, against prometheus-flask-exporter, {worker_class}"
    if why:
        yield Row.absent(FAMILY, name, why, OVERHEAD)
        return
    times = {name: [turn.cpu for turn in found] for name, found in turns.items()}
    theirs = differences(times["exporter"], times["alone"])
    ours = differences(times["ours"], times["alone"])
    yield overhead(name, theirs, ours, OVERHEAD)


def overhead(name: str, theirs: list[float], ours: list[float], target: Target) -> Row:
    """What is added by ours, against what is added by another, from the rounds' differences."""
    other, (least, most) = median(theirs), middle(ours)
    if middle(theirs)[0] <= 0:
        return Row.absent(FAMILY, name, "the exporter's overhead is lost in the noise", target)
    added = median(ours)
    note = ""
    if most < 0:
        note = "below zero: service/response.py saves every answer more than the service adds"
    elif least < 0:
        note = "not to be told from zero: the upper end of the range is judged"
        added = max(added, most)
    return Row.of(
        FAMILY,
        name,
        microseconds(other),
        f"{microseconds(median(ours))}, {microseconds(least)} to {microseconds(most)}",
        added / other,
        target,
        rounds=[least / other, most / other],
        note=note,
    )
