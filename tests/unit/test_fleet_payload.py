"""The fleet's endpoint: what it shows of a view, and to whom."""

import json
from dataclasses import replace
from typing import Any

import pytest

from service.health import FleetView, Pod
from service.web.endpoints import FLEET
from service.web.payload import Payload
from service.web.schemas import FLEET_POD
from tests.unit.fakes import after
from tests.unit.pods import pod

PAYLOAD = Payload("MINGUS", "1.0.0", "production", debug=False)
ROWS = [
    {"pod": "a", "ready": True, "failing": [], "age_seconds": 0.5, "unheard of": 1},
    {"pod": "b", "ready": False, "release": "blue"},
    {"pod": "c"},
]
LEASES = {"checks": "a", "startup": None}
PUBLIC = {"scope", "fresh", "last_sync"}


def seen(**fields: Any) -> Pod:
    """A pod that knows two others and has lost its database."""
    members = json.dumps({"this": "b", "leases": LEASES, "pods": ROWS})
    view = FleetView(1000.0, 1.7e9, 30.0, 2, {"database": 0}, 50.0, members, **fields)
    here = pod()
    down = after(here.snapshot.states["database"].check, ".xx")
    states = {**here.snapshot.states, "database": down}
    return replace(here, snapshot=replace(here.snapshot, states=states, fleet=view))


def data(of: Pod, *, trusted: bool = True) -> Any:
    answer = FLEET.render(PAYLOAD, of, trusted=trusted)
    assert answer.passes
    return answer.body["data"]


def test_every_pod() -> None:
    shown = data(seen())
    assert [row["pod"] for row in shown["pods"]] == ["a", "b", "c"]
    assert all(row.keys() == FLEET_POD.keys() for row in shown["pods"])
    assert (shown["pods_total"], shown["pods_ready"]) == (3, 1)
    assert (shown["this_pod"], shown["leases"], shown["floor_percent"]) == ("b", LEASES, 50.0)
    assert (shown["scope"], shown["fresh"]) == ("fleet", True)
    assert shown["checks"]["database"] == {
        "status": "unhealthy",
        "failing_elsewhere": 0,
        "origin": "local",
    }
    assert shown["checks"]["redis"]["origin"] is None


def test_an_old_view_is_shown_as_one() -> None:
    shown = data(seen(fresh=False))
    assert shown["fresh"] is False
    assert shown["checks"]["database"]["origin"] is None
    assert len(shown["pods"]) == 3


def test_a_pod_that_knows_of_no_others() -> None:
    shown = data(pod())
    assert (shown["scope"], shown["fresh"], shown["last_sync"]) == ("pod", False, None)
    assert (shown["pods"], shown["checks"], shown["leases"]) == ([], {}, {})


@pytest.mark.parametrize("of", [seen(), pod()], ids=["fleet", "alone"])
def test_strangers_see_that_there_is_one(of: Pod) -> None:
    mine, theirs = data(of), data(of, trusted=False)
    assert theirs.keys() == mine.keys()
    assert {key: theirs[key] for key in PUBLIC} == {key: mine[key] for key in PUBLIC}
    assert all(theirs[key] is None for key in theirs.keys() - PUBLIC)
