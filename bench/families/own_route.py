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
    at_most,
    in_turns,
    microseconds,
    paired_difference,
    significant,
)
from bench.families.probes import by_cpu, by_rate, pod_under_load
from bench.servers import Loaded, NotInstalledError, Server, client_core, environment

FAMILY = "own route"
PATH = "/orders/7"
CPU, OVERHEAD = at_most(1.05), at_most(0.25)


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
        subjects = {name: Loaded(server, PATH, effort.slice) for name, server in servers.items()}
        turns = in_turns(subjects, effort.rounds)
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
    theirs = paired_difference(times["exporter"], times["alone"])
    ours = paired_difference(times["ours"], times["alone"])
    shown = microseconds(theirs), microseconds(ours)
    yield Row.of(FAMILY, name, *shown, significant(ours / theirs), OVERHEAD)
    assert median(times["alone"]) > 0
