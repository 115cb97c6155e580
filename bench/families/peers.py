"""Other health packages side by side, each in its own environment; nothing to reach here.

Each answers in the cheapest way its documentation shows, with at most one check that costs
nothing: what is compared is the way of an answer through the package.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from bench.client import LoadError
from bench.core import Effort, Row, in_turns
from bench.families.probes import TURNS, by_cpu, by_rate, pod_under_load
from bench.servers import Loaded, NotInstalledError, Server, client_core, environment

FAMILY = "peers"


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
    "beside it; what it adds to a request is in *Own route*. "
    f"{TURNS[0].upper()}{TURNS[1:]}. Nothing is to be reached here. "
    "A peer that cannot be installed is named as missing."
)
QUICK = ("gthread",)
FULL = ("gthread", "sync")


def rows(effort: Effort) -> Iterator[Row]:
    """Requests per second and processor time of each against bare WSGI."""
    for worker_class in QUICK if effort.quick else FULL:
        yield from _rows(worker_class, effort)


def _rows(worker_class: str, effort: Effort) -> Iterator[Row]:
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        bare = stack.enter_context(Server("bench.apps.bare:app", worker_class))
        pod = stack.enter_context(pod_under_load(worker_class))
        stack.enter_context(client_core())
        subjects = {
            "bare": Loaded(bare, "/", effort.slice),
            "mingus-health /health": Loaded(pod, "/health", effort.slice),
            "mingus-health /metrics": Loaded(pod, "/metrics", effort.slice),
        }
        for peer in PEERS:
            try:
                files = stack.enter_context(TemporaryDirectory())
                server = Server(
                    peer.target,
                    worker_class,
                    python=environment(peer.environment),
                    **({"PROMETHEUS_MULTIPROC_DIR": files} if "prom" in peer.environment else {}),
                )
                subjects[peer.name] = Loaded(stack.enter_context(server), peer.path, effort.slice)
            except NotInstalledError as error:
                missing[peer.name] = str(error)
            except (LoadError, OSError) as error:
                missing[peer.name] = f"does not answer: {error}"
        turns = in_turns(subjects, effort.rounds)
        for subject in subjects.values():
            subject.close()
    for name, found in turns.items():
        if name != "bare":
            title = f"{name}, {worker_class}"
            yield by_rate(FAMILY, title, turns["bare"], found)
            yield by_cpu(FAMILY, title, turns["bare"], found)
    for name, why in missing.items():
        yield Row.absent(FAMILY, f"{name}, {worker_class}", why)
