"""The table: on the terminal, in results.json and in docs/performance.md."""

import json
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from bench.core import Json, Row, significant
from bench.processes import cores
from bench.servers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from document_blocks import filled

RESULTS = ROOT / "bench" / "results.json"
DOCUMENT = ROOT / "docs" / "performance.md"
BLOCK = "bench: table"
HEAD = ("What", "Reference", "Ours", "Ratio", "To reach", "Met")


def machine() -> Json:
    """What has to be known of the machine to read the figures."""
    return {"cores": len(cores()), "python": platform.python_version(), "system": platform.system()}


def saved() -> Json:
    """The results of the newest full run; empty where there are none."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def save(rows: Iterable[Row], curves: Json, before: Json, order: list[str]) -> Json:
    """Puts new results in the place of those of the same families."""
    new = [asdict(row) for row in rows]
    fresh = {row["family"] for row in new}
    kept = [row for row in before.get("rows", []) if row["family"] not in fresh]
    merged = sorted([*kept, *new], key=lambda row: order.index(row["family"]))
    results = {
        "machine": machine(),
        "rows": merged,
        "curves": {**before.get("curves", {}), **_rounded(curves)},
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
        return row.name, "-", "-", "-", row.target, f"missing: {row.missing}"
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    return row.name, row.reference, row.ours, f"{row.ratio:g}", row.target, met


def markdown(results: Json) -> str:
    """The tables of the document, one for each family."""
    return "\n\n".join(_sections(rows_of(results), results.get("machine", {})))


def _sections(rows: list[Row], where: Json) -> Iterator[str]:
    yield (
        f"Measured on {where.get('cores')} cores, {where.get('system')}, "
        f"Python {where.get('python')}."
    )
    for family, members in groupby(rows, key=lambda row: row.family):
        yield f"### {family.capitalize()}"
        lines = [HEAD, ("---", "---", "---", "---:", "---", "---"), *map(cells, members)]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_document(results: Json) -> None:
    """Makes the block of the document anew."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(filled(text, {BLOCK: markdown(results)}), encoding="utf-8")


def show(rows: list[Row]) -> None:
    """Prints the table."""
    table = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def relative(path: Path) -> str:
    """A path as a reader of the repository knows it."""
    return str(path.relative_to(ROOT))
