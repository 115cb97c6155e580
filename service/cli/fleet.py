"""``fleet``: the pods that share a Redis, as one of them last saw them.

Seen through that pod's scoreboard, or over HTTP with ``--url``.
"""

import argparse
from typing import Any

from service import settings
from service.cli import pod as pods
from service.cli.output import UNDISCLOSED, columns, pairs, show, yes
from service.cli.remote import Remote
from service.health import Scope
from service.health.pod import UNREADABLE
from service.scoreboard import ScoreboardError
from service.settings import Settings
from service.web.payload import members, span
from service.web.reader import Reader

# Of an id, as much as tells pods apart on a screen.
ID_DIGITS = 12


def run(options: argparse.Namespace) -> int:
    """Shows the fleet; 0 when the view is fresh or there is no fleet, 1 when it is stale."""
    given = settings.load()
    if options.url is None:
        found = document(given, pods.reader(given))
    else:
        found = Remote(options.url, given, options.timeout).fleet()
    show(options, found, text(found))
    expected = found["configured"] or found["scope"] == Scope.FLEET
    return int(expected and not found["fresh"])


def document(given: Settings, reader: Reader) -> dict[str, Any]:
    """What the endpoint of the fleet says to trusted callers, and how old that is.

    Raises:
        ScoreboardError: The pod's newest publication cannot be read.
    """
    pod = reader.pod()
    if not pod.readable:
        raise ScoreboardError(UNREADABLE)
    view = pod.snapshot.fleet
    return {
        "configured": given.redis_address is not None,
        "age_seconds": view and round(max(0.0, reader.now() - view.seen), 1),
        **members(pod, trusted=True),
    }


def text(found: dict[str, Any]) -> str:
    """The screen: the view, then every pod, then the checks that fail somewhere."""
    if found["scope"] == "pod":
        return f"alone: {_why_alone(found)}"
    if found["pods"] is None:
        return pairs([("view", _age(found)), ("pods", UNDISCLOSED)])
    hosts = {row["pod"]: row["host"] for row in found["pods"]}
    above = pairs(
        [
            ("view", _age(found)),
            ("pods", f"{found['pods_total']}, {found['pods_ready']} of them ready{_cut(found)}"),
            *(
                (f"lease {name}", "nobody" if holder is None else _name(holder, hosts.get(holder)))
                for name, holder in found["leases"].items()
            ),
            ("readiness", _policy(found["floor_percent"])),
        ]
    )
    everyone = columns(
        ("POD", "HOST", "RELEASE", "LIFECYCLE", "READY", "WORKERS", "AGE", "FAILING"),
        [_row(row, found["this_pod"]) for row in found["pods"]],
    )
    failing = [
        (name, check["status"], check["failing_elsewhere"], check["origin"])
        for name, check in found["checks"].items()
        if check["failing_elsewhere"] or check["status"] not in ("healthy", "not_configured")
    ]
    head = ("CHECK", "HERE", "FAILING ELSEWHERE", "ORIGIN")
    below = columns(head, failing) if failing else "every check passes in every pod"
    return f"{above}\n\n{everyone}\n\n{below}"


def _why_alone(found: dict[str, Any]) -> str:
    if found["configured"] is None:
        return "this pod has no configured Redis (REDIS_URL), or has not reached it yet"
    if found["configured"]:
        return "this pod has not reached the configured Redis yet; its log says why"
    return "a fleet needs a configured Redis (REDIS_URL), and this pod has none"


def _age(found: dict[str, Any]) -> str:
    age = span(found["age_seconds"])
    if found["fresh"]:
        return f"fresh, {age} old"
    return f"stale, {age} old: the configured Redis does not answer, and each pod goes on alone"


def _cut(found: dict[str, Any]) -> str:
    listed, there = len(found["pods"]), found["pods_total"]
    return f"; the latest {listed} are listed" if listed < there else ""


def _policy(floor: float | None) -> str:
    if floor is None:
        return "strict"
    return f"a check that fails in more than {floor:g} % of the pods takes none out of traffic"


def _name(pod: str, host: str | None) -> str:
    return f"{pod[:ID_DIGITS]} on {host}" if host else pod[:ID_DIGITS]


def _row(row: dict[str, Any], this: str | None) -> tuple[object, ...]:
    """A pod; what it says of itself came from another process, perhaps of another release."""
    failing = row["failing"]
    return (
        row["pod"][:ID_DIGITS] + (" (this)" if row["pod"] == this else ""),
        row["host"],
        row["release"],
        row["lifecycle"],
        yes(row["ready"]),
        None if row["workers_total"] is None else f"{row['workers_ok']}/{row['workers_total']}",
        span(row["age_seconds"]),
        ", ".join(map(str, failing)) if isinstance(failing, list) else failing,
    )
