"""From the document to the page: HTML rendered here, which a script only brings up to date.

The page is whole in itself: style and script stand in it, allowed by their hashes and nothing
else (``POLICY``), and it asks no other host. It is the same without the script, once.
"""

from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from service.advice import advice
from service.health.history import RUNS
from service.web.payload import Document, span

_HERE = Path(__file__).parent
_STYLE, _SCRIPT = ((_HERE / name).read_text("utf-8") for name in ("style.css", "live.js"))


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(_STYLE)}",
        f"script-src {_hash(_SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

# What stands in the tab beside the name.
_SYMBOLS = {"healthy": "✓", "warning": "!", "unhealthy": "✕", "unknown": "?"}
_ICONS = {"healthy": "%231a7f37", "warning": "%239a6700", "unknown": "%238250df"}
_BAD = "%23cf222e"

# Of the drawing of the newest runs: a line for each. One far beyond the usual is cut off, so that
# the others can be told apart.
_STEP, _HEIGHT, _LEAST, _CUT = 4, 20, 2, 3
_WIDTH = _STEP * RUNS
_KINDS = {"healthy": "", "warning": "warned", "unhealthy": "failed"}


def render(page: Document, *, events: bool) -> bytes:
    """The page of a document.

    Args:
        page: See ``document``.
        events: Whether the server tells of news; else the script asks now and then.
    """
    alive = page["verdicts"]["liveness"]
    status = page["status"] if alive else "unhealthy"
    overall = page["verdicts"]["overall"]
    shown = overall if status == "healthy" and overall == "warning" else status
    return _TEMPLATE.render(
        page=page,
        shown=shown,
        events=events,
        symbol=_SYMBOLS.get(shown, "✕"),
        icon=_ICONS.get(shown, _BAD),
        style=Markup(_STYLE),  # noqa: S704 - ours, and hashed
        script=Markup(_SCRIPT),  # noqa: S704 - ours, and hashed
    ).encode()


def spark(runs: list[dict[str, Any]]) -> Markup:
    """The newest runs as a drawing, the newest to the right, and in words."""
    if not runs:
        return Markup()
    durations = [run["duration_ms"] for run in runs]
    longest, usual = max(durations), median(durations)
    full = min(longest, _CUT * usual) or longest or 1
    lines: dict[str, list[str]] = {kind: [] for kind in _KINDS.values()}
    for number, run in enumerate(runs):
        height = min(_HEIGHT, max(_LEAST, round(_HEIGHT * run["duration_ms"] / full)))
        at = _WIDTH - _STEP * (len(runs) - number) + _STEP // 2
        lines[_KINDS[run["status"]]].append(f"M{at} {_HEIGHT}v-{height}")
    failed = len(lines["failed"])
    words = (
        f"newest runs: {len(runs)}, failed: {failed}, "
        f"median {usual:.2f} ms, longest {longest:.2f} ms"
    )
    paths = "".join(
        f'<path{f" class={kind}" if kind else ""} d="{"".join(each)}"/>'
        for kind, each in lines.items()
        if each
    )
    return Markup(  # noqa: S704 - numbers and our own words
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(words)}">'
        f"<title>{escape(words)}</title>{paths}</svg>"
    )


def _todo(code: str) -> Markup:
    """What to do about a code; what stands between backquotes is typed as it is."""
    text = str(escape(advice(code)))
    parts = text.split("`")
    return Markup(  # noqa: S704 - escaped above
        "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
    )


def _section(where: str) -> Markup:
    """A section of the runbook: a link where it is published, else where to find it."""
    text = escape(where)
    if not where.startswith(("http://", "https://")):
        return Markup(f"<code>{text}</code>")  # noqa: S704 - escaped above
    return Markup(f'<a href="{text}" rel="noreferrer">runbook</a>')  # noqa: S704 - escaped above


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters.update(span=span, spark=spark, advice=_todo, section=_section)
_TEMPLATE = _ENVIRONMENT.get_template("page.html")
