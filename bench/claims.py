"""What is to be reached, each by its name, and the rows that show whether it is.

The rows carry the targets and are judged; here is only which of them belong together, so that
nothing that was to be shown can be left out.
"""

import re
from dataclasses import dataclass

from bench.core import Row


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that is to be reached.

    Attributes:
        what: Its name.
        reference: What it is measured against.
        target: What has to be reached; empty for what is only shown.
        family: Which family measures it.
        count: How many rows it takes to show it.
        rows: What the names of its rows match.
    """

    what: str
    reference: str
    target: str
    family: str
    count: int
    rows: str = ""

    def covers(self, row: Row) -> bool:
        """Whether a row belongs to it."""
        return row.family == self.family and re.search(self.rows, row.name) is not None


BARE = "a bare WSGI callable returning static bytes"
HOT = r"^(/health|readiness|liveness|startup), \w+: "
RENDERED = r"^(detailed|comprehensive), \w+: "
PEERS = (
    "Flask jsonify",
    "py-healthcheck",
    "python-dockerflow",
    "django-health-check",
    "svcs pings",
    "flask-healthz",
    "prometheus-flask-exporter",
)
CLAIMS = (
    Claim(
        "/health, readiness, liveness, startup on a web worker, req/s, sync and gthread",
        BARE,
        ">= 0.95",
        "probes",
        8,
        HOT + "req/s",
    ),
    Claim("the same, CPU per request", BARE, "<= 1.08", "probes", 8, HOT + "CPU"),
    Claim("detailed and comprehensive endpoints", BARE, ">= 0.40", "probes", 4, RENDERED + "req/s"),
    Claim(
        "cost on the user's own route (front, metrics, scoreboard), CPU per request",
        "the same app without us",
        "<= 1.05",
        "own route",
        2,
        "CPU per request",
    ),
    Claim(
        "the same against prometheus-flask-exporter on the same app",
        "its overhead",
        "<= 0.25 of it",
        "own route",
        2,
        "prometheus-flask-exporter",
    ),
    Claim(
        "/metrics, warm, 16 processes x 1,000 series",
        "prometheus_client's MultiProcessCollector + generate_latest, same files, same lines out",
        "<= 1/25",
        "metrics",
        2,
        "warm",
    ),
    Claim(
        "/metrics after 1,000 worker recycles",
        "before them",
        "<= 1.1",
        "metrics",
        1,
        "worker recycles",
    ),
    Claim(
        "probe on :5004 under 4x overload, p99",
        "the same idle",
        "<= 3, 100 % within 1 s",
        "bounded",
        3,
        "4x overload",
    ),
    Claim(
        "probe with database and Redis frozen, p99",
        "the same healthy",
        "<= 1.2",
        "bounded",
        2,
        "database and Redis frozen",
    ),
    Claim(
        "dependency checks per second at 8 workers x 400 probes/s",
        "interval alone",
        "1.0",
        "bounded",
        2,
        "dependency checks per second",
    ),
    Claim(
        "failure seen: dependency down to readiness 503, median",
        "interval x threshold + timeout",
        "<= 1.0",
        "recovery",
        4,
        "failure seen",
    ),
    Claim(
        "worker killed to respawned and counted", "1 s", "<= 1 s", "recovery", 2, "worker killed"
    ),
    Claim(
        "memory of the health worker", "a bare gunicorn worker with Flask", "<= +20 MB", "memory", 3
    ),
    Claim(
        "one coordination call per pod per interval at 1,000 simulated pods",
        "interval alone",
        "about one; server CPU < 5 % of a core; a look at the fleet < 10 ms",
        "coordination",
        4,
        "simulated pods",
    ),
    Claim(
        "every probe path on both ports, the fleet's Redis faulty for minutes, p99",
        "the same with Redis up",
        "<= 1.2",
        "coordination",
        30,
        r"^(all probe paths|/\S+) on :500[34], the fleet's Redis",
    ),
    Claim(
        "every JSON endpoint at 200 requests/s, any dependency refused, frozen or dripping, p99",
        "all of them up",
        "<= 50 ms",
        "endpoints",
        15,
    ),
    Claim(
        "status page of 64 workers, 40 checks and 200 pods, server time",
        "100 ms",
        "<= 1",
        "page",
        1,
    ),
    *(Claim(f"peer: {name}", BARE, "", "peers", 4, f"^{re.escape(name)}\\b") for name in PEERS),
)
