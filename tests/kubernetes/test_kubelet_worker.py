"""When a verdict counts, and what is asked at all: histories in, beliefs out.

``.`` a success, ``x`` a failure, ``?`` an answer that cannot be judged. Beliefs: ``P`` passed,
``F`` failed, ``-`` nothing said yet.
"""

from collections.abc import Iterator

import pytest

from service.health import Kind
from tests.kubelet import (
    ContainerStatus,
    Observation,
    Outcome,
    ProbeSpec,
    ProbeWorker,
)

OUTCOMES = {
    ".": Outcome.SUCCESS,
    "w": Outcome.WARNING,
    "x": Outcome.FAILURE,
    "?": Outcome.ERROR,
}
BELIEFS = {True: "P", False: "F", None: "-"}


class Scripted:
    """A server that answers what is written; an answer that cannot be judged stays so."""

    def __init__(self, history: str) -> None:
        self.asked = 0
        self._answers = self._tell(history)

    def _tell(self, history: str) -> Iterator[Outcome]:
        for word in history:
            yield from [OUTCOMES[word]] * (3 if word == "?" else 1)

    def __call__(self) -> Observation:
        self.asked += 1
        return Observation(next(self._answers), None, "", 0.0)


def worker(kind: Kind, history: str, **spec: int) -> tuple[ProbeWorker, Scripted]:
    server = Scripted(history)
    return ProbeWorker(ProbeSpec(kind, **spec), server), server


def running(kind: Kind, **changed: int | bool) -> ContainerStatus:
    """A container that is asked this kind of question."""
    status = {"id": 1, "running": True, "startup_passed": kind is not Kind.STARTUP}
    return ContainerStatus(**{**status, **changed})


@pytest.mark.parametrize(
    ("kind", "success", "failure", "history", "believed"),
    [
        pytest.param(Kind.READINESS, 1, 2, ".x.xx.", "PPPPFP", id="two failures in a row count"),
        pytest.param(Kind.READINESS, 3, 1, "..x...", "FFFFFP", id="three successes in a row"),
        pytest.param(Kind.READINESS, 1, 3, "xx", "FF", id="not ready before the first answer"),
        pytest.param(Kind.READINESS, 1, 2, ".x?x", "PPPF", id="thrown away, not forgotten"),
        pytest.param(Kind.READINESS, 1, 1, "w", "P", id="a warning is a success"),
        pytest.param(Kind.LIVENESS, 1, 3, "xx.xxx", "PPPPPF", id="alive until it counts"),
        pytest.param(Kind.LIVENESS, 1, 3, "???", "PPP", id="what stalls is never restarted"),
        pytest.param(Kind.STARTUP, 1, 3, "xx.", "--P", id="started in time"),
        pytest.param(Kind.STARTUP, 1, 3, "xxx", "--F", id="not started in time"),
    ],
)
def test_histories(kind: Kind, success: int, failure: int, history: str, believed: str) -> None:
    probe, _ = worker(kind, history, success=success, failure=failure)
    status = running(kind)
    seen = ""
    for now, _ in enumerate(history):
        assert probe.turn(status, now)
        seen += BELIEFS[probe.verdict(1)]
    assert seen == believed


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("started", [False, True])
def test_startup_gates_the_others(kind: Kind, started: bool) -> None:  # noqa: FBT001
    probe, server = worker(kind, ".")
    probe.turn(running(kind, startup_passed=started), 0.0)
    assert server.asked == int(started is not (kind is Kind.STARTUP))


@pytest.mark.parametrize(
    ("kind", "history"), [(Kind.LIVENESS, "x."), (Kind.STARTUP, "x."), (Kind.STARTUP, "..")]
)
def test_a_decision_holds_until_there_is_another_container(kind: Kind, history: str) -> None:
    probe, server = worker(kind, history, failure=1)
    for _ in range(3):
        assert probe.turn(running(kind), 0.0)
    assert server.asked == 1
    decided = history[0] == "."
    assert probe.verdict(1) is decided
    assert probe.verdict(2) is {Kind.LIVENESS: True, Kind.STARTUP: None}[kind]
    probe.turn(running(kind, id=2), 0.0)
    assert server.asked == 2
    assert probe.verdict(2) is True


def test_readiness_is_not_held() -> None:
    probe, server = worker(Kind.READINESS, "xx.", failure=1)
    for _ in range(3):
        probe.turn(running(Kind.READINESS), 0.0)
    assert server.asked == 3
    assert probe.verdict(1) is True


def test_nobody_asks_a_container_that_does_not_run() -> None:
    for kind in Kind:
        probe, server = worker(kind, ".")
        assert probe.turn(ContainerStatus(), 0.0)
        assert probe.turn(running(kind, running=False), 0.0)
        assert server.asked == 0
        assert probe.verdict(1) is False


def test_the_initial_delay_counts_whole_seconds() -> None:
    probe, server = worker(Kind.LIVENESS, ".", initial_delay=2)
    status = running(Kind.LIVENESS)
    for now, asked in ((0.0, 0), (1.9, 0), (2.0, 1)):
        probe.turn(status, now)
        assert server.asked == asked


def test_a_pod_that_leaves_is_still_asked_whether_it_is_ready() -> None:
    for kind, goes_on in ((Kind.LIVENESS, False), (Kind.STARTUP, False), (Kind.READINESS, True)):
        probe, server = worker(kind, "x", failure=1)
        assert probe.turn(running(kind, deleted=True), 0.0) is goes_on
        assert server.asked == int(goes_on)
        assert probe.verdict(1) is not goes_on


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Kind.LIVENESS, {"success": 2}),
        (Kind.STARTUP, {"success": 2}),
        (Kind.READINESS, {"grace": 5}),
        (Kind.READINESS, {"period": 0}),
        (Kind.READINESS, {"timeout": 0}),
        (Kind.READINESS, {"failure": 0}),
    ],
)
def test_what_the_api_server_refuses(kind: Kind, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=kind.value):
        ProbeSpec(kind, **wrong)


def test_a_manifest_is_read_with_the_defaults_of_kubernetes() -> None:
    container = {
        "ports": [{"name": "health", "containerPort": 5004}],
        "livenessProbe": {"httpGet": {"path": "/live", "port": "health"}},
        "readinessProbe": {
            "httpGet": {
                "path": "/ready",
                "port": 80,
                "scheme": "HTTPS",
                "httpHeaders": [{"name": "X-Probe", "value": "1"}],
            },
            "initialDelaySeconds": 1,
            "periodSeconds": 2,
            "timeoutSeconds": 3,
            "successThreshold": 4,
            "failureThreshold": 5,
        },
    }
    assert ProbeSpec.read(Kind.LIVENESS, container) == ProbeSpec(
        Kind.LIVENESS, path="/live", port=5004, timeout=1, period=10, success=1, failure=3
    )
    assert ProbeSpec.read(Kind.READINESS, container) == ProbeSpec(
        Kind.READINESS,
        path="/ready",
        port=80,
        scheme="HTTPS",
        headers=(("X-Probe", "1"),),
        initial_delay=1,
        period=2,
        timeout=3,
        success=4,
        failure=5,
    )
    assert ProbeSpec.read(Kind.STARTUP, container) is None
