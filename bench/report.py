"""The tables: on the terminal, in results.json and in docs/performance.md."""

import json
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from bench.claims import CLAIMS, Claim
from bench.core import Json, Row, significant
from bench.families import everyone
from bench.plots import CURVES, FAMILY_PLOTS, path_of
from bench.processes import cores
from bench.servers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from document_blocks import filled

RESULTS = ROOT / "bench" / "results.json"
DOCUMENT = ROOT / "docs" / "performance.md"
HEAD = ("What", "Reference", "Ours", "Ratio", "Rounds", "To reach", "Met")
CLAIMS_HEAD = ("What", "Reference", "To reach", "Nearest to it", "Met")
NOT_YET = "not measured yet"
MET = {True: "yes", False: "**no**", None: ""}


def machine() -> Json:
    """What has to be known of the machine to read the figures."""
    return {"cores": len(cores()), "python": platform.python_version(), "system": platform.system()}


def saved() -> Json:
    """The results of the newest full run; empty where there are none."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def save(rows: Iterable[Row], more: Json, before: Json, order: list[str]) -> Json:
    """Puts new results in the place of those of the same families."""
    new = [asdict(row) for row in rows]
    fresh = {row["family"] for row in new}
    kept = [row for row in before.get("rows", []) if row["family"] not in fresh]
    merged = sorted([*kept, *new], key=lambda row: order.index(row["family"]))
    results = {
        "machine": machine(),
        "rows": merged,
        "curves": {**before.get("curves", {}), **_rounded(more.get("curves", {}))},
        "profile": more.get("profile") or before.get("profile", {}),
        "how": {**before.get("how", {}), **more.get("how", {})},
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _rounded(curves: Json) -> Json:
    return {
        name: [[significant(number, 4) for number in point] for point in points]
        for name, points in curves.items()
    }


def rows_of(results: Json) -> list[Row]:
    """The rows of saved results."""
    return [Row(**row) for row in results.get("rows", [])]


def cells(row: Row) -> tuple[str, ...]:
    """A row as the table shows it."""
    if row.missing:
        return row.name, "-", "-", "-", "", row.target, f"missing: {row.missing}"
    spread = "" if row.low is None else f"{row.low:g} to {row.high:g}"
    ratio = f"{row.ratio:g}"
    return row.name, row.reference, row.ours, ratio, spread, row.target, MET[row.met]


def _table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]], right: str) -> str:
    rule = tuple("---:" if name == right else "---" for name in head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def claims(results: Json) -> str:
    """What was to be reached, each by its name, and whether it is."""
    rows = rows_of(results)
    return _table(CLAIMS_HEAD, (_claim(claim, rows) for claim in CLAIMS), "Nearest to it")


def _claim(claim: Claim, rows: list[Row]) -> tuple[str, ...]:
    mine = [row for row in rows if claim.covers(row)]
    if claim.target:
        mine = [row for row in mine if row.met is not None]
    measured = [row for row in mine if not row.missing]
    worst = max(measured, key=lambda row: row.share or 0.0, default=None)
    nearest = f"{worst.ratio:g}, worst of {len(measured)}" if worst and claim.target else ""
    if any(row.met is False for row in measured):
        met = MET[False]
    elif len(measured) >= claim.count:
        met = MET[True] if claim.target else "shown"
    else:
        why = {row.missing for row in mine if row.missing} or {NOT_YET}
        met = f"missing: {len(measured)} of {claim.count} rows; {', '.join(sorted(why))}"
    return claim.what, claim.reference, claim.target, nearest, met


def markdown(results: Json) -> str:
    """The tables of the document, one for each family."""
    return "\n\n".join(_sections(results))


def _sections(results: Json) -> Iterator[str]:
    where, rows = results.get("machine", {}), rows_of(results)
    yield (
        f"Measured on {where.get('cores')} cores, {where.get('system')}, "
        f"Python {where.get('python')}."
    )
    found = {family: list(members) for family, members in groupby(rows, key=lambda r: r.family)}
    for family, module in everyone().items():
        yield f"### {family.capitalize()}"
        yield results.get("how", {}).get(family, module.HOW)
        members = found.get(family, [])
        if family in FAMILY_PLOTS:  # the others have no rows
            table = _table(HEAD, map(cells, members), "Ratio")
            yield table if members else f"{NOT_YET.capitalize()}."
        notes = [f"- *{row.name}*: {row.note}" for row in members if row.note]
        if notes:
            yield "\n".join(notes)


def plots(results: Json) -> str:
    """The plots there are results for."""
    measured = {row.family for row in rows_of(results) if not row.missing}
    bars = [(family, title) for family, title in FAMILY_PLOTS.items() if family in measured]
    lines = [
        f"![{family.capitalize()}: {title}]({_shown(path_of(family))})" for family, title in bars
    ]
    curves = [curve for curve in CURVES if curve.name in results.get("curves", {})]
    grown = [f"![{curve.title}]({_shown(path_of(f'growth-{curve.name}'))})" for curve in curves]
    return "\n".join([*lines, "", "How cost grows, on logarithmic axes:", "", *grown])


def _shown(path: Path) -> str:
    return str(path.relative_to(DOCUMENT.parent))


def profile(results: Json) -> str:
    """The steps of an answer, and the microseconds of each."""
    found = results.get("profile", {})
    if not found:
        return f"{NOT_YET.capitalize()}."
    head = ("Part", *found["paths"])
    lines = ((step, *(f"{us:.2f}" for us in each)) for step, each in found["steps"].items())
    rule = ("---", *("---:" for _ in found["paths"]))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def blocks(results: Json) -> dict[str, str]:
    """Everything of the document that is made from the results and the code."""
    return {
        "bench: claims": claims(results),
        "bench: table": markdown(results),
        "bench: plots": plots(results),
        "bench: profile": profile(results),
    }


def write_document(results: Json) -> None:
    """Makes the blocks of the document anew."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(filled(text, blocks(results)), encoding="utf-8")


def show(rows: list[Row]) -> None:
    """Prints the table."""
    table = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    for row in rows:
        if row.note:
            print(f"  {row.name}: {row.note}")


def show_profile(measured: Json) -> None:
    """Prints where the microseconds go."""
    if measured:
        print(profile({"profile": measured}))


def relative(path: Path) -> str:
    """A path as a reader of the repository knows it."""
    return str(path.relative_to(ROOT))
