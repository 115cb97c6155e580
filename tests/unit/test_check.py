"""Which definitions of a check are possible, and what follows from the possible ones."""

from typing import Any

import pytest

from service.health import Check, Thresholds


@pytest.mark.parametrize(
    "name", ["", "Database", "1st", "_own", "my-check", "my check", "a.b", "x" * 64, "caf\u00e9"]
)
def test_a_name_is_a_plain_identifier(name: str) -> None:
    with pytest.raises(ValueError, match="must match"):
        Check(name)


@pytest.mark.parametrize("name", ["a", "queue", "queue_2", "x" * 63])
def test_a_plain_identifier_is_a_name(name: str) -> None:
    assert Check(name).name == name


@pytest.mark.parametrize("field", ["interval", "timeout", "failing_interval"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_time_goes_forward(field: str, seconds: float) -> None:
    wrong: dict[str, Any] = {field: seconds}
    with pytest.raises(ValueError, match=f"queue: {field} must be more than 0"):
        Check("queue", **wrong)


@pytest.mark.parametrize(("failure", "success"), [(0, 1), (1, 0), (-1, 2)])
def test_thresholds_count_from_one(failure: int, success: int) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        Thresholds(failure, success)


def test_two_of_a_kind_decide() -> None:
    assert Check("queue").thresholds == Thresholds(failure=2, success=2)


@pytest.mark.parametrize(
    ("interval", "timeout", "expiry"),
    [
        pytest.param(5, 2, 18, id="database"),
        pytest.param(5, 1, 17, id="redis"),
        pytest.param(60, 5, 186, id="provider"),
        pytest.param(0.1, 0.1, 1.4, id="as quick as may be"),
    ],
)
def test_when_a_result_expires(interval: float, timeout: float, expiry: float) -> None:
    assert Check("queue", interval, timeout).expiry == pytest.approx(expiry)
