"""What has turned between two moments."""

from dataclasses import replace

import pytest

from service.health import (
    Check,
    CheckState,
    Event,
    FleetView,
    Lifecycle,
    Scope,
    Snapshot,
    Standing,
    Status,
)
from service.health.events import pod_turned, turned
from service.health.snapshot import decode, encode
from tests.unit.fakes import RESULTS, after, run

DATABASE = Check("database", critical=True)
STRIPE = Check("stripe_api", scope=Scope.FLEET)


def transitions(check: Check, history: str, step: float = 1.0) -> list[Event]:
    """The events of a history, a run each ``step`` seconds, the first one at Unix 1000."""
    state, found = CheckState.initial(check), []
    for count, letter in enumerate(history):
        moment = 1000.0 + step * count
        before, state = (
            state.at(moment),
            state.observe(run(RESULTS[letter], finished=moment, at=moment)),
        )
        found.append(turned(before, state, None))
    return [event for event in found if event]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param(".", [("unknown", "healthy", None)], id="a first result ends nothing known"),
        pytest.param("...", [("unknown", "healthy", None)], id="what lasts is no event"),
        pytest.param(
            "..x.",
            [
                ("unknown", "healthy", None),
                ("healthy", "warning", 2.0),
                ("warning", "healthy", 1.0),
            ],
            id="a blip",
        ),
        pytest.param(
            ".xxx...",
            [
                ("unknown", "healthy", None),
                ("healthy", "warning", 1.0),
                ("warning", "unhealthy", 1.0),
                ("unhealthy", "healthy", 3.0),
            ],
            id="an outage, from its confirmation to its confirmed end",
        ),
    ],
)
def test_histories_of_a_check(history: str, expected: list[tuple[str, str, float | None]]) -> None:
    found = [(event.before, event.after, event.lasted) for event in transitions(DATABASE, history)]
    assert found == expected


def test_an_event_says_why_and_when() -> None:
    *_, event = transitions(STRIPE, ".xx")
    assert (event.check, event.at, event.scope) == ("stripe_api", 1002.0, Scope.FLEET)
    assert event.codes == {"stripe_api": "connection_refused"}


def test_a_silence_until_expiry_ends_what_was_before() -> None:
    late = DATABASE.expiry + 5.0
    *_, event = transitions(DATABASE, "..", step=late)
    assert (event.before, event.after, event.lasted) == ("unknown", "healthy", 5.0)


def test_where_a_failure_comes_from() -> None:
    view = FleetView(1000.0, 1.7e9, 30.0, others=3, elsewhere={"database": 3})
    event = turned(after(DATABASE, ".x"), after(DATABASE, ".xx"), view)
    assert event is not None
    assert event.origin == "shared"


def test_the_beginning_of_a_status_is_published() -> None:
    state = after(DATABASE, ".xxx")
    (again,) = decode(encode(Snapshot({"database": state}))).states.values()
    assert (again.since, again.since_at) == (state.since, state.since_at) == (1002.0, 1.7e9)


@pytest.mark.parametrize(
    ("lifecycle", "history", "standing"),
    [
        (Lifecycle.STARTING, "..", Standing.STARTING),
        (Lifecycle.SERVING, "..", Standing.READY),
        (Lifecycle.SERVING, "xx", Standing.NOT_READY),
        (Lifecycle.MAINTENANCE, "xx", Standing.MAINTENANCE),
        (Lifecycle.DRAINING, "..", Standing.DRAINING),
    ],
)
def test_how_a_pod_stands(lifecycle: Lifecycle, history: str, standing: Standing) -> None:
    snapshot = Snapshot({"database": after(DATABASE, history)}, lifecycle=lifecycle)
    assert Standing.of(snapshot) is standing


def test_a_pod_that_turns() -> None:
    serving = Snapshot({"database": after(DATABASE, "..")}, lifecycle=Lifecycle.SERVING)
    assert pod_turned(Standing.READY, serving, 5.0) is None
    event = pod_turned(Standing.STARTING, serving, 5.0, 4.0)
    assert event == Event(None, "starting", "ready", {}, 5.0, 4.0)
    unknown = replace(after(DATABASE, ".."), status=Status.UNKNOWN, code="stale")
    failing = replace(serving, states={"database": unknown, "stripe_api": after(STRIPE, "xx")})
    event = pod_turned(Standing.READY, failing, 9.0, 4.0)
    assert event == Event(None, "ready", "not_ready", {"database": "stale"}, 9.0, 4.0)
