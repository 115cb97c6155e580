"""``check``: the answer of a probe endpoint as an exit status, for exec probes."""

import argparse

from service import settings
from service.cli.output import show
from service.cli.pod import reader
from service.health import Kind


def run(options: argparse.Namespace) -> int:
    """Says nothing, but for ``--json``; 0 where the endpoint is 200, 1 where it is 503."""
    pod = reader(settings.load()).pod()
    verdicts = {
        Kind.LIVENESS: pod.alive,
        Kind.READINESS: pod.snapshot.ready,
        Kind.STARTUP: pod.snapshot.started,
    }
    passes = verdicts[Kind(options.kind)]
    if options.json:
        show(options, {"kind": options.kind, "passes": passes}, "")
    return int(not passes)
