"""The plots of docs/performance, from the saved results; small SVG files, the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import Json, Row
from bench.servers import ROOT

HERE = ROOT / "docs" / "performance"
SIZE = (6.4, 3.4)
OURS, OTHERS = "#1b6ca8", "#9aa5b1"


@dataclass(frozen=True, slots=True)
class Curve:
    """One plot of how something grows.

    Attributes:
        family: Whose curve it is.
        name: Its points in the results.
        title: What is shown.
        across: The axis below.
        up: The axis at the side.
        lines: Name and column of each line.
    """

    family: str
    name: str
    title: str
    across: str
    up: str
    lines: tuple[tuple[str, int], ...]


SCRAPE = (("incremental reader", 1), ("prometheus_client", 2))
CURVES = (
    Curve("metrics", "series", "A warm scrape of 4 processes", "series", "CPU, ms", SCRAPE),
    Curve(
        "metrics", "processes", "A warm scrape, 1,000 series each", "processes", "CPU, ms", SCRAPE
    ),
    Curve(
        "growth",
        "workers",
        "Liveness, the look itself",
        "web workers",
        "us",
        (("as it is asked", 1), ("looking at every worker", 2)),
    ),
    Curve(
        "growth",
        "pods",
        "Liveness on :5004 of real pods",
        "web workers",
        "us",
        (("CPU of the health worker", 1), ("median answer", 2)),
    ),
    Curve(
        "growth",
        "checks",
        "Publishing and answering",
        "checks",
        "us",
        (
            ("publish", 1),
            ("read a publication", 2),
            ("render everything", 3),
            ("answer readiness", 4),
        ),
    ),
    Curve(
        "growth",
        "probes",
        "Readiness on :5004",
        "probes a second",
        "ms; CPU of the pod, % of a core",
        (("median", 3), ("p99", 4), ("CPU, %", 2)),
    ),
)
BARS = {
    "probes": "requests per second, bare WSGI = 1: longer is better",
    "peers": "requests per second, bare WSGI = 1: longer is better",
}
# 1 is just reached.
SHARE = "how much of what is allowed is taken: beyond 1 is missed"
TO_TARGETS = (
    "page",
    "own route",
    "metrics",
    "endpoints",
    "bounded",
    "recovery",
    "memory",
    "coordination",
)
FAMILY_PLOTS = {**BARS, **dict.fromkeys(TO_TARGETS, SHARE)}


def path_of(name: str) -> Path:
    """Where a plot is."""
    return HERE / f"{name.replace(' ', '-')}.svg"


def draw(results: Json, rows: Sequence[Row]) -> list[Path]:
    """Every plot there are results for."""
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9})
    HERE.mkdir(exist_ok=True)
    made = [_curve(curve, results) for curve in CURVES if curve.name in results.get("curves", {})]
    for family, title in FAMILY_PLOTS.items():
        mine = [row for row in rows if row.family == family]
        made += [_bars(family, title.capitalize(), _lengths(mine, to_target=title is SHARE))]
    return [path for path in made if path]


def _lengths(rows: Sequence[Row], *, to_target: bool) -> dict[str, float]:
    """What each bar stands for."""
    if to_target:
        return {row.name: row.share for row in rows if row.share is not None}
    ratios = {row.name: row.ratio for row in rows if row.name.endswith("req/s")}
    return {name.removesuffix(": req/s"): ratio for name, ratio in ratios.items() if ratio}


def _curve(curve: Curve, results: Json) -> Path:
    figure, axes = _figure(curve.title)
    points = results["curves"][curve.name]
    for (name, column), style in zip(curve.lines, ("o-", "s--", "^-.", "d:"), strict=False):
        across, up = [point[0] for point in points], [point[column] for point in points]
        axes.plot(across, up, style, label=name, markersize=4, linewidth=1.3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([point[0] for point in points], [f"{point[0]:,}" for point in points])
    axes.minorticks_off()
    axes.set_xlabel(curve.across)
    axes.set_ylabel(curve.up)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _save(figure, f"growth-{curve.name}")


def _bars(family: str, title: str, values: dict[str, float]) -> Path | None:
    if not values:
        return None
    longest = max(map(len, values))
    width = SIZE[0] + 0.065 * max(0, longest - 35)  # so that names leave room for their bars
    figure, axes = _figure(title, (width, 0.9 + 0.24 * len(values)))
    names = list(values)[::-1]
    colours = [OURS if family != "peers" or "mingus" in name else OTHERS for name in names]
    axes.barh(names, [values[name] for name in names], color=colours, height=0.7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.02)
    axes.grid(axis="x", alpha=0.3)
    return _save(figure, family)


def _figure(title: str, size: tuple[float, float] = SIZE) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who draws needs it

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, fontsize=10)  # of the figure: the axes may be narrower than it
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, name: str) -> Path:
    path = path_of(name)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
    return path
