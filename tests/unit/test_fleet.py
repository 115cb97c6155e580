"""What follows from a view of the fleet: where a failure comes from, and the readiness floor."""

import pytest

from service.health import Check, CheckState, FleetView, Lifecycle, Scope, Snapshot, Status
from service.health.fleet import floored
from service.health.schedule import next_alone, shareable
from service.health.snapshot import decode, encode
from tests.unit.fakes import after

DATABASE = Check("database", critical=True)
STRIPE = Check("stripe_api", interval=60.0, timeout=5.0, failing_interval=15.0, scope=Scope.FLEET)
NOW = 1010.0


def view(others: int, failing: int = 0, floor: float | None = None) -> FleetView:
    elsewhere = {"database": failing, "stripe_api": failing}
    return FleetView(NOW, 1.7e9, 30.0, others, elsewhere, floor)


@pytest.mark.parametrize(
    ("others", "failing", "origin"),
    [
        (0, 0, None),
        (1, 0, "local"),
        (1, 1, "shared"),
        (7, 0, "local"),
        (7, 3, "local"),
        (7, 4, "shared"),
        (7, 7, "shared"),
    ],
)
def test_where_a_failure_comes_from(others: int, failing: int, origin: str | None) -> None:
    assert view(others, failing).origin(after(DATABASE, ".xx")) == origin
    assert view(others, failing).origin(after(DATABASE, "...")) is None


def test_an_old_view_says_nothing() -> None:
    old = view(7, 7, floor=50).at(NOW + 30.1)
    failing = after(DATABASE, ".xx")
    assert not old.fresh
    assert old.origin(failing) is None
    assert floored(failing, old) == failing
    assert old.fresh_until == float("inf")
    assert view(7).at(NOW + 29.9).fresh_until == NOW + 30


@pytest.mark.parametrize(
    ("floor", "others", "failing", "status"),
    [
        pytest.param(None, 7, 7, Status.UNHEALTHY, id="strict"),
        pytest.param(50, 7, 7, Status.WARNING, id="everybody"),
        pytest.param(50, 7, 4, Status.WARNING, id="five of eight"),
        pytest.param(50, 7, 3, Status.UNHEALTHY, id="four of eight are not more than half"),
        pytest.param(50, 7, 0, Status.UNHEALTHY, id="only here"),
        pytest.param(50, 0, 0, Status.UNHEALTHY, id="there is no other to share it"),
    ],
)
def test_the_floor(floor: float | None, others: int, failing: int, status: Status) -> None:
    state = floored(after(DATABASE, ".xx"), view(others, failing, floor))
    assert (state.status, state.code) == (status, "connection_refused")


def test_the_floor_is_for_critical_checks_that_fail() -> None:
    everybody = view(7, 7, floor=50)
    provider = after(STRIPE, ".xx")
    assert floored(provider, everybody) == provider
    stale = after(DATABASE, ".xx").at(NOW + 1000)
    assert floored(stale, everybody).status is Status.UNKNOWN
    fine = after(DATABASE, "...")
    assert floored(fine, everybody) == fine


def test_a_pod_above_the_floor_is_ready_until_its_view_is_too_old() -> None:
    states = {"database": after(DATABASE, ".xx", step=4.0)}
    published = Snapshot(states, Lifecycle.SERVING, 1.7e9, fleet=view(3, 3, floor=50))
    read = decode(encode(published))
    assert read.fleet == published.fleet
    serving = Snapshot(read.states, Lifecycle.SERVING, 1.7e9, fleet=read.fleet)
    now = serving.at(NOW)
    assert now.ready
    assert (now.pod, now.overall) == (Status.WARNING, Status.WARNING)
    assert now.states["database"].code == "connection_refused"
    # The view outlives the result here; both ends are known beforehand.
    assert now.fresh_until == 1008.0 + DATABASE.expiry
    assert not serving.at(NOW + 31).ready


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("sync", [2.0, 10.0])
@pytest.mark.parametrize("interval", [15.0, 60.0, 300.0])
@pytest.mark.parametrize("history", [".", ".x", ".xx"])
def test_alone_a_check_runs_later_and_before_its_result_expires(
    interval: float, sync: float, chance: float, history: str
) -> None:
    check = Check("stripe_api", interval, 5.0, min(15.0, interval), scope=Scope.FLEET)
    assert shareable(check, sync)
    state = after(check, history)
    assert state.run is not None
    wait = next_alone(state, chance, sync) - state.run.finished
    shared = (check.failing_interval if state.failing else interval) * 1.1 + 2 * sync
    assert wait >= min(shared, 3 * interval)
    assert wait + check.timeout < check.expiry


@pytest.mark.parametrize(
    ("scope", "interval", "shared"),
    [
        (Scope.FLEET, 15.0, True),
        (Scope.FLEET, 14.9, False),
        (Scope.POD, 60.0, False),
    ],
)
def test_what_can_be_shared(scope: Scope, interval: float, *, shared: bool) -> None:
    check = Check("stripe_api", interval, 5.0, scope=scope)
    assert shareable(check, 10.0) is shared


def test_no_check_has_run_yet() -> None:
    with pytest.raises(ValueError, match="has not run yet"):
        next_alone(CheckState.initial(STRIPE), 0.5, 10.0)
