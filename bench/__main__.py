"""The command: ``make bench``, or ``python -m bench`` with its options."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench import plots, report
from bench.core import FULL, QUICK, Effort, Json, Row, say
from bench.families import everyone
from bench.servers import server_core


def main(arguments: Sequence[str] | None = None, families: Mapping[str, Any] | None = None) -> int:
    """Measures, shows, and with ``--check`` judges: the exit status."""
    known = everyone() if families is None else families
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=known, help="these families")
    parser.add_argument("--quick", action="store_true", help="in minutes; nothing is written")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio is not reached")
    parser.add_argument("--report", action="store_true", help="only make the document anew")
    parser.add_argument("--profile", action="store_true", help="where the microseconds go; no rows")
    options = parser.parse_args(arguments)
    if options.report:
        _publish(report.saved())
        return 0
    names = ["hot path"] if options.profile else options.only or list(known)
    if server_core() is None:
        print("bench: one core: client and servers share it, req/s says little", flush=True)
    rows: list[Row] = []
    effort = QUICK if options.quick else FULL
    for name in names:
        found, more = _measure(name, known[name], effort)
        rows += found
        if not options.quick:  # at once: what ends a later family costs that one only
            report.save(found, more, report.saved(), list(known))
        report.show_profile(more.get("profile", {}))
    report.show(rows)
    if not options.quick:
        _publish(report.saved())
    missed = [row for row in rows if row.met is False]
    if missed:
        print(f"\nbench: {len(missed)} not reached:")
        for row in missed:
            why = row.missing or f"{row.ratio:g}, to reach {row.target}"
            print(f"  {row.name}: {why}")
    return 1 if options.check and missed else 0


def _measure(name: str, family: Any, effort: Effort) -> tuple[list[Row], Json]:
    """The rows; and what is no row: points of curves, the profile, how all that was made."""
    say(name)
    rows: list[Row] = []
    more: Json = {"how": {name: family.HOW}}
    for row in family.rows(effort):
        rows.append(row)
        say(f"  {row.name}: {row.missing or f'{row.ratio:g}'}")
    if hasattr(family, "curves") and not effort.quick:
        more["curves"] = family.curves(effort)
    if hasattr(family, "profile"):
        more["profile"] = family.profile(effort)
    say(f"{name}: done")
    return rows, more


def _publish(results: Json) -> None:
    for path in plots.draw(results, report.rows_of(results)):
        print(f"bench: {report.relative(path)}")
    report.write_document(results)


if __name__ == "__main__":
    sys.exit(main())
