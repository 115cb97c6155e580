"""``check``: the answer of a probe endpoint as an exit status, for exec probes."""

import argparse

from service import settings
from service.cli.pod import reader
from service.health import Kind


def run(options: argparse.Namespace) -> int:
    """Says nothing; 0 where the endpoint is 200, 1 where it is 503."""
    pod = reader(settings.load()).pod()
    verdicts = {
        Kind.LIVENESS: pod.alive,
        Kind.READINESS: pod.snapshot.ready,
        Kind.STARTUP: pod.snapshot.started,
    }
    return int(not verdicts[Kind(options.kind)])
