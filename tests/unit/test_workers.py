"""Does the pod make progress? The workers' own stamps decide: section 4.5 of the contract."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health import Phase, ProgressLimits, Role, WorkerSlot
from service.health.workers import alive

NOW = 10_000.0
LIMITS = ProgressLimits(boot=30.0, stall=60.0)


def ago(seconds: float) -> float:
    return NOW - seconds


def worker(**fields: Any) -> WorkerSlot:
    """A web worker that has been ready for an hour and idles."""
    usual: dict[str, Any] = {
        "slot": 1,
        "pid": 4711,
        "process_start": 99,
        "role": Role.WEB,
        "phase": Phase.READY,
        "generation": 0,
        "phase_since": ago(3600.0),
        "beat": ago(0.5),
        "threads": 4,
        "in_flight": 0,
        "occupied": 0,
        "all_busy_since": 0.0,
        "all_occupied_since": 0.0,
        "finished": 0,
    }
    return WorkerSlot(**{**usual, **fields})


BUSY = worker(in_flight=4, occupied=4)
STUCK = worker(beat=ago(61.0))
HEALTH = worker(role=Role.HEALTH)
BOOTING: dict[str, Any] = {"phase": Phase.BOOTING, "beat": 0.0}


@pytest.mark.parametrize(
    ("slot", "stuck"),
    [
        pytest.param(worker(), False, id="idle"),
        pytest.param(BUSY, False, id="busy without a stamp of it"),
        pytest.param(worker(beat=ago(60.0)), False, id="a stamp as old as may be"),
        pytest.param(worker(beat=ago(60.1)), True, id="a stale stamp"),
        pytest.param(worker(all_busy_since=ago(60.0)), False, id="busy as long as may be"),
        pytest.param(worker(all_busy_since=ago(60.1)), True, id="busy with the same requests"),
        pytest.param(worker(all_busy_since=ago(0.1)), False, id="load: new requests all the time"),
        pytest.param(worker(all_occupied_since=ago(59.0)), False, id="held for a while"),
        pytest.param(worker(all_occupied_since=ago(61.0)), True, id="held by dripping clients"),
        pytest.param(
            worker(all_busy_since=ago(1.0), all_occupied_since=ago(61.0)), True, id="either counts"
        ),
        pytest.param(worker(**BOOTING, phase_since=ago(30.0)), False, id="booting in time"),
        pytest.param(worker(**BOOTING, phase_since=ago(30.1)), True, id="hung in boot"),
        pytest.param(
            worker(phase=Phase.BOOTING, phase_since=ago(1.0), beat=ago(3600.0)),
            False,
            id="a slot's earlier stamps do not count in boot",
        ),
        pytest.param(worker(phase_since=ago(3600.0)), False, id="booted long ago"),
        pytest.param(worker(phase=Phase.STOPPING), False, id="stopping, and still stamping"),
        pytest.param(worker(phase=Phase.STOPPING, beat=ago(61.0)), True, id="hung in its stop"),
        pytest.param(worker(threads=1, in_flight=1, beat=ago(59.0)), False, id="one thread"),
        pytest.param(worker(beat=NOW + 5), False, id="a stamp from the future"),
    ],
)
def test_one_worker(slot: WorkerSlot, *, stuck: bool) -> None:
    assert slot.stuck(NOW, LIMITS) is stuck


@pytest.mark.parametrize(
    ("slots", "vacant", "expected"),
    [
        pytest.param([worker()], 3600.0, True, id="one works"),
        pytest.param([STUCK, STUCK, worker()], 3600.0, True, id="one of three works"),
        pytest.param([STUCK, STUCK], 0.0, False, id="all are stuck"),
        pytest.param([STUCK, worker(**BOOTING, phase_since=ago(1))], 2.0, True, id="one boots"),
        pytest.param([STUCK, worker(**BOOTING, phase_since=ago(31))], 0.0, False, id="none does"),
        pytest.param([worker(**BOOTING, phase_since=ago(1))], 31.0, True, id="boots fail"),
        pytest.param([worker(**BOOTING, phase_since=ago(1))], 31.1, False, id="for too long"),
        pytest.param(
            [worker(**BOOTING, phase_since=ago(30))], 60.0, True, id="the last has its time"
        ),
        pytest.param([], 30.0, True, id="between two workers"),
        pytest.param([], 30.1, False, id="nobody has come"),
        pytest.param([HEALTH], 1.0, True, id="the health worker says nothing, for now"),
        pytest.param([HEALTH], 61.0, False, id="it is no web worker"),
        pytest.param([HEALTH, STUCK], 1.0, False, id="it does not speak for the others"),
        pytest.param([worker(role=Role.HEALTH, beat=ago(9e3)), worker()], 9e9, True, id="nor ill"),
        pytest.param([BUSY] * 4, 9e9, True, id="load alone is progress"),
    ],
)
def test_the_pod(slots: list[WorkerSlot], vacant: float, *, expected: bool) -> None:
    assert alive(slots, ago(vacant), NOW, LIMITS) is expected


def test_the_documented_limits() -> None:
    assert ProgressLimits() == ProgressLimits(boot=60.0, stall=60.0)


slots = st.lists(
    st.builds(
        worker,
        role=st.sampled_from(Role),
        phase=st.sampled_from([Phase.BOOTING, Phase.READY, Phase.STOPPING]),
        phase_since=st.floats(0, NOW),
        beat=st.floats(0, NOW),
        all_busy_since=st.one_of(st.just(0.0), st.floats(1, NOW)),
        all_occupied_since=st.one_of(st.just(0.0), st.floats(1, NOW)),
    ),
    max_size=6,
)


@given(slots=slots, vacant=st.floats(0, NOW))
def test_a_worker_that_makes_progress_keeps_the_pod_alive(
    slots: list[WorkerSlot], vacant: float
) -> None:
    assert alive([*slots, worker()], vacant, NOW, LIMITS)


@given(slots=slots, vacant=st.floats(0, NOW))
def test_the_health_worker_changes_nothing(slots: list[WorkerSlot], vacant: float) -> None:
    web = [slot for slot in slots if slot.role is Role.WEB]
    assert alive(slots, vacant, NOW, LIMITS) == alive(web, vacant, NOW, LIMITS)


@given(slots=slots, vacant=st.floats(0, NOW), in_flight=st.integers(0, 99))
def test_load_changes_nothing(slots: list[WorkerSlot], vacant: float, in_flight: int) -> None:
    def loaded(slot: WorkerSlot) -> WorkerSlot:
        names = WorkerSlot.__slots__
        fields = {name: getattr(slot, name) for name in names}
        return WorkerSlot(**{**fields, "in_flight": in_flight, "occupied": in_flight})

    before = alive(slots, vacant, NOW, LIMITS)
    assert alive([loaded(slot) for slot in slots], vacant, NOW, LIMITS) == before


MOMENTS = st.floats(min_value=0.0, max_value=200.0)


@given(
    phase=st.sampled_from((Phase.BOOTING, Phase.READY, Phase.STOPPING)),
    stamps=st.tuples(MOMENTS, MOMENTS, MOMENTS, MOMENTS),
    later=MOMENTS,
)
def test_a_worker_is_not_stuck_before_it_can_be(
    phase: Phase, stamps: tuple[float, ...], later: float
) -> None:
    since, beat, busy, occupied = map(ago, stamps)
    one = worker(
        phase=phase, phase_since=since, beat=beat, all_busy_since=busy, all_occupied_since=occupied
    )
    until = one.cannot_be_stuck_before(LIMITS)
    at = NOW + later
    assert one.stuck(at, LIMITS) == (at > until) or math.isclose(at, until)
