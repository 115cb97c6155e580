"""The command: ``make bench``, or ``python -m bench`` with its options."""

import argparse
import sys
import time
from importlib import import_module
from typing import Any

from bench import plots, report
from bench.core import FULL, QUICK, Json, Row
from bench.servers import server_core

# In the order of the table.
FAMILIES = {
    "probes": "probes",
    "own route": "own_route",
    "metrics": "metrics",
    "bounded": "bounded",
    "recovery": "recovery",
    "memory": "memory",
    "coordination": "coordination",
    "peers": "peers",
    "growth": "growth",
}


def main() -> int:
    """Measures, shows, and with ``--check`` judges."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, help="these families")
    parser.add_argument("--quick", action="store_true", help="in minutes; nothing is written")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio is not reached")
    parser.add_argument("--report", action="store_true", help="only make the document anew")
    options = parser.parse_args()
    if options.report:
        _publish(report.saved())
        return 0
    if server_core() is None:
        print("bench: one core: client and servers share it, req/s says little", flush=True)
    rows, curves = _measure(options.only or list(FAMILIES), quick=options.quick)
    report.show(rows)
    if not options.quick:
        _publish(report.save(rows, curves, report.saved(), list(FAMILIES)))
    missed = [row for row in rows if row.met is False]
    if missed:
        print(f"\nbench: {len(missed)} not reached:")
        for row in missed:
            why = row.missing or f"{row.ratio:g}, to reach {row.target}"
            print(f"  {row.name}: {why}")
    return 1 if options.check and missed else 0


def _measure(names: list[str], *, quick: bool) -> tuple[list[Row], Json]:
    rows: list[Row] = []
    curves: Json = {}
    effort = QUICK if quick else FULL
    for name in names:
        family: Any = import_module(f"bench.families.{FAMILIES[name]}")
        begun = time.monotonic()
        rows += family.rows(effort)
        if hasattr(family, "curves") and not quick:
            curves |= family.curves(effort)
        print(f"bench: {name}, {time.monotonic() - begun:.0f} s", flush=True)
    return rows, curves


def _publish(results: Json) -> None:
    for path in plots.draw(results, report.rows_of(results)):
        print(f"bench: {report.relative(path)}")
    report.write_document(results)


if __name__ == "__main__":
    sys.exit(main())
