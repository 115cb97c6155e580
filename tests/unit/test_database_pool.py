"""The pools of all workers, added up."""

import pytest

from service.health import PoolUse, Status
from service.probes.database import pool_part

NO_FIGURES = PoolUse(None, None, None, None, None, None)


def worker(out: int, *, size: int = 10, allowed: int | None = 20, invalid: int = 0) -> PoolUse:
    """A worker with so many connections in use, and ``allowed`` beyond the pool's size."""
    return PoolUse(
        size=size,
        checked_in=max(0, size - out),
        checked_out=out,
        overflow=max(0, out - size),
        invalid=invalid,
        capacity=None if allowed is None else size + allowed,
    )


@pytest.mark.parametrize(
    ("uses", "status", "code"),
    [
        pytest.param([], Status.HEALTHY, None, id="nobody has reported"),
        pytest.param([NO_FIGURES], Status.HEALTHY, None, id="no figures are kept"),
        pytest.param([worker(0)] * 4, Status.HEALTHY, None, id="idle"),
        pytest.param([worker(23), worker(0)], Status.HEALTHY, None, id="below the threshold"),
        pytest.param([worker(24), worker(0)], Status.WARNING, "pool_saturated", id="at it"),
        pytest.param([worker(30), worker(0)], Status.WARNING, "pool_saturated", id="one is full"),
        pytest.param([worker(30)] * 4, Status.UNHEALTHY, "pool_exhausted", id="all are full"),
        pytest.param(
            [worker(30), NO_FIGURES], Status.WARNING, "pool_saturated", id="full, and one unknown"
        ),
        pytest.param([worker(99, allowed=None)] * 2, Status.HEALTHY, None, id="unlimited"),
        pytest.param(
            [worker(1, size=1, allowed=0)], Status.UNHEALTHY, "pool_exhausted", id="of one"
        ),
        pytest.param(
            [worker(0), worker(0, invalid=1)],
            Status.WARNING,
            "connections_invalidated",
            id="thrown away",
        ),
        pytest.param(
            [worker(30, invalid=9), worker(0)], Status.WARNING, "pool_saturated", id="both"
        ),
    ],
)
def test_what_is_wrong_with_the_pools(
    uses: list[PoolUse], status: Status, code: str | None
) -> None:
    part = pool_part(uses, 0.8)
    assert (part.status, part.code) == (status, code)


def test_the_figures_are_sums_over_the_workers_that_have_some() -> None:
    part = pool_part([worker(12, invalid=1), worker(3, invalid=2), NO_FIGURES], 0.8)
    assert part.shown() == {
        "status": "warning",
        "error": "connections_invalidated",
        "scope": "pod",
        "workers": 3,
        "info": {
            "pool_size": 20,
            "checked_in": 7,
            "checked_out": 15,
            "overflow": 2,
            "invalid": 3,
        },
    }


@pytest.mark.parametrize("uses", [[], [NO_FIGURES], [NO_FIGURES, NO_FIGURES]])
def test_what_nobody_counts_is_null(uses: list[PoolUse]) -> None:
    assert pool_part(uses, 0.8).shown() == {
        "status": "healthy",
        "error": None,
        "scope": "pod",
        "workers": len(uses),
        "info": dict.fromkeys(
            ("pool_size", "checked_in", "checked_out", "overflow", "invalid"), None
        ),
    }
