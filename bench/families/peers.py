"""Other health packages side by side, each in its own environment; nothing to reach here.

Each answers in the cheapest way its documentation shows, with at most one check that costs
nothing: what is compared is the way of an answer through the package.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.client import LoadError
from bench.core import Effort, Row, in_turns
from bench.families.probes import by_cpu, by_rate, pod_under_load, turns_of
from bench.servers import Loaded, NotInstalledError, Server, client_core, environment

FAMILY = "peers"
METRICS = "mingus-health /metrics"
ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Peer:
    """A package, or what people do without one.

    Attributes:
        environment: Its file in requirements/peers.
        target: The application that uses it.
        path: What is asked.
        shown: How the table calls it, where not as its environment.
    """

    environment: str
    target: str
    path: str
    shown: str = ""

    @property
    def name(self) -> str:
        """How the table calls it."""
        return self.shown or self.environment


PEERS = (
    Peer("flask", "bench.apps.flask_jsonify:app", "/health", "Flask jsonify"),
    Peer("py-healthcheck", "bench.apps.py_healthcheck:app", "/health"),
    Peer("python-dockerflow", "bench.apps.dockerflow_lb:app", "/__lbheartbeat__"),
    Peer(
        "python-dockerflow",
        "bench.apps.dockerflow_lb:app",
        "/__heartbeat__",
        "python-dockerflow, checks",
    ),
    Peer("svcs", "bench.apps.svcs_pings:app", "/health", "svcs pings"),
    Peer("flask-healthz", "bench.apps.flask_healthz_ready:app", "/healthz/ready"),
    Peer("django-health-check", "bench.apps.django_health_check:app", "/health/?format=json"),
    Peer(
        "prometheus-flask-exporter",
        "bench.apps.exporter:app",
        "/metrics",
        "prometheus-flask-exporter, /metrics",
    ),
)
HOW = (
    "Each in its own environment of pinned versions (`requirements/peers/`), answering in the "
    "cheapest way its documentation shows, with at most one check that costs nothing. "
    "prometheus-flask-exporter answers no health question: what it has is `/metrics`, with ours "
    f"beside it; what it adds to a request is in *Own route*. As in *Probes*, {turns_of(ROUNDS)}. "
    "Nothing is to be reached here. A peer that cannot be installed is named as missing."
)
QUICK = ("gthread",)
FULL = ("gthread", "sync")


def rows(effort: Effort) -> Iterator[Row]:
    """Requests per second and processor time of each against bare WSGI."""
    for worker_class in QUICK if effort.quick else FULL:
        yield from _rows(worker_class, effort)


def _rows(worker_class: str, effort: Effort) -> Iterator[Row]:
    installed, missing = _installed()
    with ExitStack() as stack:
        bare = stack.enter_context(Server("bench.apps.bare:app", worker_class))
        pod = stack.enter_context(pod_under_load(worker_class))
        stack.enter_context(client_core())
        lines = {METRICS: pod.get("/metrics").body.count(b"\n")}
        subjects = {
            "bare": Loaded(bare, "/", effort.slice),
            "mingus-health /health": Loaded(pod, "/health", effort.slice),
            METRICS: Loaded(pod, "/metrics", effort.slice),
        }
        for peer, python in installed.items():
            try:
                files = stack.enter_context(TemporaryDirectory())
                server = Server(
                    peer.target, worker_class, python=python, PROMETHEUS_MULTIPROC_DIR=files
                )
                subjects[peer.name] = Loaded(stack.enter_context(server), peer.path, effort.slice)
                if peer.path == "/metrics":
                    lines[peer.name] = server.get(peer.path).count(b"\n")
            except (LoadError, OSError) as error:
                missing[peer.name] = f"does not answer: {error}"
        turns = in_turns(subjects, min(effort.rounds, ROUNDS))
        for subject in subjects.values():
            subject.close()
    for name, found in turns.items():
        if name != "bare":
            title = f"{name}, {worker_class}"
            note = f"about {lines[name]:,} lines" if name in lines else ""
            yield replace(by_rate(FAMILY, title, turns["bare"], found), note=note)
            yield by_cpu(FAMILY, title, turns["bare"], found)
    for name, why in missing.items():
        yield Row.absent(FAMILY, f"{name}, {worker_class}", why)


def _installed() -> tuple[dict[Peer, Path], dict[str, str]]:
    """The Python of each peer; and why there is none, by the name of the peer.

    Before anything is connected to: what is installed meanwhile may take longer than servers keep
    a connection.
    """
    installed, missing = {}, {}
    for peer in PEERS:
        try:
            installed[peer] = environment(peer.environment)
        except NotInstalledError as error:
            missing[peer.name] = str(error)
    return installed, missing
