"""Health answers of a web worker, against a WSGI callable that returns static bytes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from bench.core import FULL as EFFORT
from bench.core import (
    Effort,
    Row,
    Target,
    at_least,
    at_most,
    in_turns,
    microseconds,
    rate,
    ratios,
)
from bench.servers import CLIENTS, THREADS, WORKERS, Loaded, Server, ServicePod, Turn, client_core

FAMILY = "probes"
HOT = {
    "/health": "/health",
    "readiness": "/api/system/health/readiness",
    "liveness": "/api/system/health/liveness",
    "startup": "/api/system/health/startup",
}
RENDERED = {"detailed": "/health/detailed", "comprehensive": "/api/system/health/"}
RATE, CPU, RENDERED_RATE = at_least(0.95), at_most(1.08), at_least(0.40)


def turns_of(rounds: int) -> str:
    """How a figure is made of its rounds, for the document."""
    return (
        f"the figure is the median of {rounds} rounds, in each of which everybody is loaded for "
        f"{EFFORT.slice:g} s by {CLIENTS} clients, every other round in the opposite order"
    )


HOW = (
    "Each path of a pod with a database and a Redis, against a WSGI callable that sends a "
    f"constant body with two headers (ours must have four). {WORKERS} web workers, under gthread "
    f"of {THREADS} threads each; {turns_of(EFFORT.rounds)}."
)


def rows(effort: Effort) -> Iterator[Row]:
    """Requests per second and processor time of each, under both worker classes."""
    for worker_class in ("sync", "gthread"):
        yield from _rows(worker_class, effort)


def _rows(worker_class: str, effort: Effort) -> Iterator[Row]:
    with ExitStack() as stack:
        bare = stack.enter_context(Server("bench.apps.bare:app", worker_class))
        pod = stack.enter_context(pod_under_load(worker_class))
        stack.enter_context(client_core())
        subjects = {"bare": Loaded(bare, "/", effort.slice)}
        for name, path in {**HOT, **RENDERED}.items():
            subjects[name] = Loaded(pod, path, effort.slice)
        turns = in_turns(subjects, effort.rounds)
        for subject in subjects.values():
            subject.close()
    for name in HOT:
        yield by_rate(FAMILY, f"{name}, {worker_class}", turns["bare"], turns[name], RATE)
        yield by_cpu(FAMILY, f"{name}, {worker_class}", turns["bare"], turns[name], CPU)
    for name in RENDERED:
        title = f"{name}, {worker_class}"
        yield by_rate(FAMILY, title, turns["bare"], turns[name], RENDERED_RATE)


@contextmanager
def pod_under_load(worker_class: str, **settings: str) -> Iterator[ServicePod]:
    """A pod with a database and a Redis, on the servers' core."""
    pod = ServicePod(pin=True, WORKER_CLASS=worker_class, **settings)
    pod.environ.setdefault("DATABASE_URL", f"sqlite:///{pod.directory}/bench.sqlite3")
    with pod.start():
        yield pod


def by_rate(
    family: str, name: str, reference: list[Turn], ours: list[Turn], target: Target | None = None
) -> Row:
    """A row about requests per second."""
    rates = [[turn.rate for turn in turns] for turns in (ours, reference)]
    return Row.of(
        family,
        f"{name}: req/s",
        rate(median(rates[1])),
        rate(median(rates[0])),
        median(ratios(*rates)),
        target,
        rounds=ratios(*rates),
    )


def by_cpu(
    family: str, name: str, reference: list[Turn], ours: list[Turn], target: Target | None = None
) -> Row:
    """A row about processor time per request."""
    times = [[turn.cpu for turn in turns] for turns in (ours, reference)]
    return Row.of(
        family,
        f"{name}: CPU per request",
        microseconds(median(times[1])),
        microseconds(median(times[0])),
        median(ratios(*times)),
        target,
        rounds=ratios(*times),
    )
