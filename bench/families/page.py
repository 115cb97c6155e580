"""The status page of a large pod in a large fleet: the server's time for one look.

Measured in this process: nothing is cached between two looks, so a look costs what is measured.
"""

import time
from collections.abc import Iterator
from gzip import compress
from statistics import median

from bench.core import Effort, Row, at_most
from service.advice import Runbook
from service.web.payload import Payload
from service.web.status_page.document import document
from service.web.status_page.page import render
from service.web.status_page.routes import QUICK
from tests.unit.large import CHECKS, PODS, WORKERS, large_reader

FAMILY = "page"
ALLOWED_MS = 100.0
LOOKS = 31
HOW = (
    f"The page of a pod with {WORKERS} web workers and {CHECKS} checks with full histories, in a "
    f"fleet of {PODS} pods, made and compressed in this process: the median of {LOOKS} looks, each "
    "of which reads the scoreboard anew."
)


def rows(effort: Effort) -> Iterator[Row]:
    """One look at all of it."""
    reader, payload = large_reader(), Payload("app", "1.0.0", "bench", debug=False)
    spent, page, sent = [], b"", b""
    for _ in range(effort.times(LOOKS, 5)):
        begun = time.perf_counter()
        page = render(document(reader, payload, Runbook(""), trusted=True), events=True)
        sent = compress(page, QUICK)
        spent.append((time.perf_counter() - begun) * 1000)
    yield Row.of(
        FAMILY,
        f"{WORKERS} workers, {CHECKS} checks, {PODS} pods: server time",
        f"{ALLOWED_MS:g} ms allowed",
        f"{median(spent):.1f} ms",
        median(spent) / ALLOWED_MS,
        at_most(1.0),
        rounds=[each / ALLOWED_MS for each in spent],
        note=f"{len(page) / 1000:.0f} kB, {len(sent) / 1000:.1f} kB as it is sent",
    )
