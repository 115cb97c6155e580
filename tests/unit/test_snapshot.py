"""The verdicts on everything at one moment: sections 1.2 and 1.3 of the contract."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.health import Check, CheckState, Lifecycle, Result, Run, Snapshot, Status, TaskState
from service.health.snapshot import Decoder, Encoder, decode, encode
from tests.unit.fakes import LETTERS, after, run
from tests.unit.strategies import json_values, snapshots

SERVING = Lifecycle.SERVING
few = settings(max_examples=40)
WORDS = {letter: status for status, letter in LETTERS.items()}
# Critical, and not.
NAMES = {"D": "database", "R": "redis", "S": "stripe_api", "P": "system_resources"}


def state(name: str, letter: str, *, critical: bool = False, startup: bool = False) -> CheckState:
    """A check that stands where a letter says."""
    unconfigured = "not_configured" if letter == "N" else None
    check = Check(name, critical=critical, startup=startup, unconfigured=unconfigured)
    history = {"N": "", "?": "", "H": ".", "W": "w", "U": "x"}[letter]
    return after(check, history)


def snapshot(text: str, lifecycle: Lifecycle = SERVING, **fields: Any) -> Snapshot:
    """A snapshot such as ``DH RU SW``: the database healthy, Redis unhealthy, Stripe warned."""
    states = (
        state(NAMES[short], letter, critical=short in "DR", startup=short in "DR")
        for short, letter in text.split()
    )
    return Snapshot({each.check.name: each for each in states}, lifecycle, **fields)


@pytest.mark.parametrize(
    ("text", "overall", "failing"),
    [
        pytest.param("DH RH SH PH", "healthy", False, id="all is well"),
        pytest.param("DH RW SH PH", "warning", False, id="a critical one is warned about"),
        pytest.param("DU RH SH PH", "unhealthy", True, id="a critical one is down"),
        pytest.param("D? RH SH PH", "unknown", True, id="a critical one is unknown"),
        pytest.param("D? RU SH PH", "unhealthy", True, id="down is worse than unknown"),
        pytest.param("DH RH SU PH", "warning", False, id="a provider is down"),
        pytest.param("DH RH S? PH", "warning", False, id="a provider is unknown"),
        pytest.param("DH RH SH PU", "warning", False, id="the disk is full"),
        pytest.param("DN RN SN PN", "not_configured", False, id="nothing is configured"),
        pytest.param("DN RN SN PH", "healthy", False, id="only what always is"),
        pytest.param("DN RN SU PN", "warning", False, id="only a provider, and it is down"),
        pytest.param("DN RU SH PH", "unhealthy", True, id="without a database"),
        pytest.param("", "not_configured", False, id="no checks at all"),
    ],
)
def test_overall(text: str, overall: str, *, failing: bool) -> None:
    everything = snapshot(text)
    assert everything.overall.word == overall
    assert everything.critical_failing is failing


@pytest.mark.parametrize(
    ("lifecycle", "text", "pod", "ready"),
    [
        pytest.param("serving", "DH RH", "healthy", True, id="all is well"),
        pytest.param("serving", "DW RH", "warning", True, id="a warning"),
        pytest.param("serving", "DU RH", "unhealthy", False, id="one is down"),
        pytest.param("serving", "D? RH", "unknown", False, id="one is unknown"),
        pytest.param("serving", "D? RU", "unhealthy", False, id="both"),
        pytest.param("serving", "DN RH", "healthy", True, id="one is not configured"),
        pytest.param("serving", "DN RN", "healthy", True, id="none is configured"),
        pytest.param("serving", "SU PU", "healthy", True, id="none is critical"),
        pytest.param("starting", "DH RH", "unknown", False, id="starting"),
        pytest.param("starting", "DU RU", "unknown", False, id="starting, and all is down"),
        pytest.param("draining", "DH RH", "unhealthy", False, id="draining"),
        pytest.param("draining", "D? R?", "unhealthy", False, id="draining, and blind"),
        pytest.param("maintenance", "DH RH", "unhealthy", False, id="maintenance"),
        pytest.param("maintenance", "DN RN", "unhealthy", False, id="maintenance of nothing"),
    ],
)
def test_the_pod_verdict(lifecycle: str, text: str, pod: str, *, ready: bool) -> None:
    everything = snapshot(text, Lifecycle(lifecycle))
    assert everything.pod.word == pod
    assert everything.ready is ready
    assert everything.pod.passes is ready


@few
@given(snapshots(("database", "redis", "own")), st.floats(0, 4e6))
def test_all_who_answer_for_the_pod_agree_at_every_age(everything: Snapshot, now: float) -> None:
    for aged in (everything, everything.at(now)):
        assert aged.pod.passes == aged.ready
        serving = replace(aged, lifecycle=SERVING)
        assert serving.ready == (not serving.critical_failing)
        assert serving.overall.passes == (not serving.critical_failing)


# -- before the first result


def test_nobody_knows_anything_at_first() -> None:
    checks = [
        Check("database", critical=True),
        Check("redis", critical=True, unconfigured="not_configured"),
        Check("stripe_api"),
    ]
    blank = Snapshot.blank(checks)
    assert [LETTERS[each.status] for each in blank.states.values()] == ["?", "N", "?"]
    assert blank.lifecycle is Lifecycle.STARTING
    assert (blank.pod, blank.ready, blank.started) == (Status.UNKNOWN, False, False)
    assert blank.fresh_until == float("inf")


def test_started_is_latched_elsewhere() -> None:
    assert not snapshot("DH RH", Lifecycle.STARTING).started
    for lifecycle in (SERVING, Lifecycle.MAINTENANCE, Lifecycle.DRAINING):
        assert snapshot("DU RU", lifecycle, serving_at=1.7e9).started


# -- staleness


def test_a_snapshot_ages_check_by_check() -> None:
    states = {
        name: CheckState.initial(Check(name, interval=5.0, timeout=timeout, critical=True)).observe(
            run(finished=1000.0)
        )
        for name, timeout in (("redis", 1.0), ("database", 2.0))
    }
    states["stripe_api"] = state("stripe_api", "N")
    fresh = Snapshot(states, SERVING, serving_at=1.7e9)

    def seen(now: float) -> str:
        aged = fresh.at(now)
        return "".join(LETTERS[each.status] for each in aged.states.values()) + aged.pod.word[0]

    assert [seen(now) for now in (1017.0, 1017.5, 1018.0, 1018.5)] == [
        "HHNh",
        "?HNu",
        "?HNu",
        "??Nu",
    ]
    assert fresh.fresh_until == 1017.0
    assert fresh.at(1017.5).fresh_until == 1018.0
    assert fresh.at(1018.5).fresh_until == float("inf")
    assert fresh.at(2000.0).serving_at == 1.7e9


@few
@given(snapshots(("database", "redis")), st.floats(0, 2e6), st.floats(0, 2e6))
def test_nothing_changes_until_it_expires(everything: Snapshot, now: float, later: float) -> None:
    aged = everything.at(now)
    if now <= later < aged.fresh_until:
        assert everything.at(later) == aged
    assert aged.at(now) == aged


# -- from starting to serving

WAITS = TaskState()
DONE = WAITS.running(1).succeeded(0.5, 1)
GIVEN_UP = WAITS.running(1).failed("task_failed", 0.5, 1).abandoned("task_failed")


def optional(state: TaskState) -> TaskState:
    return replace(state, required=False)


@pytest.mark.parametrize(
    ("text", "tasks", "may"),
    [
        pytest.param("DH RH SH PH", {}, True, id="all is well"),
        pytest.param("DW RH SU PU", {}, True, id="what is not critical is down"),
        pytest.param("DN RN SN PH", {}, True, id="little is configured"),
        pytest.param("DU RH SH PH", {}, False, id="a startup check is down"),
        pytest.param("D? RH SH PH", {}, False, id="a startup check has not run"),
        pytest.param("DH RH S? PH", {}, False, id="another check has not run"),
        pytest.param("DH RH", {"migrate": DONE, "warm": DONE}, True, id="tasks done"),
        pytest.param("DH RH", {"migrate": DONE, "warm": WAITS}, False, id="one waits"),
        pytest.param("DH RH", {"migrate": WAITS.running(1)}, False, id="one runs"),
        pytest.param("DH RH", {"migrate": GIVEN_UP}, False, id="one was given up"),
        pytest.param("DU RH", {"migrate": DONE}, False, id="tasks are not everything"),
        pytest.param("DH RH", {"warm": optional(GIVEN_UP)}, True, id="one nobody needs failed"),
        pytest.param("DH RH", {"warm": optional(WAITS)}, False, id="one nobody needs waits"),
    ],
)
def test_what_keeps_a_pod_from_serving(
    text: str, tasks: dict[str, TaskState], *, may: bool
) -> None:
    assert snapshot(text, Lifecycle.STARTING, tasks=tasks).may_serve() is may


def test_a_startup_check_counts_that_has_passed_once() -> None:
    down_again = after(Check("database", startup=True), ".xx")
    assert down_again.status is Status.UNHEALTHY
    assert Snapshot({"database": down_again}).may_serve()


# -- as bytes


@few
@given(snapshots(("database", "own")))
def test_what_was_encoded_is_decoded(everything: Snapshot) -> None:
    published = replace(everything, lifecycle=Lifecycle.STARTING, serving_at=None)
    assert decode(encode(everything)) == published


@given(st.dictionaries(st.text(), json_values, max_size=3))
def test_whatever_was_measured_is_kept(details: dict[str, Any]) -> None:
    measured = CheckState.initial(Check("own")).observe(run(Result(details=details)))
    decoded = decode(encode(Snapshot({"own": measured})))
    assert decoded.states["own"] == measured


@few
@given(snapshots(("redis", "database")))
def test_the_order_of_the_checks_is_kept(everything: Snapshot) -> None:
    assert list(decode(encode(everything)).states) == ["redis", "database"]


def test_the_reason_stays_in_the_process() -> None:
    secret = Result.failed("authentication_failed", "password s3cret is wrong")
    failing = CheckState.initial(Check("database")).observe(run(secret))
    body = encode(Snapshot({"database": failing}))
    assert b"s3cret" not in body
    assert b"reason" not in body
    decoded = decode(body).states["database"].run
    assert decoded is not None
    assert (decoded.result.code, decoded.result.reason) == ("authentication_failed", "")


UNREADABLE = (ValueError, KeyError, TypeError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"states": [], "tasks": {}, "fleet": null}',
        b'{"checks": 0, "fleet": null}',
        b'{"checks": 0, "tasks": {}}',
        b'{"checks": 0, "tasks": [1], "fleet": null}',
        b'{"checks": 0, "tasks": null, "fleet": null}',
        b'{"checks": 0, "tasks": {"migrate": 1}, "fleet": null}',
        b'{"checks": 0, "tasks": {"migrate": {"status": 1}}, "fleet": null}',
        b'{"checks": 0, "tasks": {}, "fleet": {"a": 1}}',
        b'{"checks": 1, "tasks": {}, "fleet": null}',
        b'{"checks": null, "tasks": {}, "fleet": null}',
        b'{"checks": 0, "tasks": {}, "fleet": null}\n',
        b'{"checks": 1, "tasks": {}, "fleet": null}\n',
        b'{"checks": 1, "tasks": {}, "fleet": null}\nnull',
        b'{"checks": 1, "tasks": {}, "fleet": null}\n{}',
        b'{"checks": 1, "tasks": {}, "fleet": null}\n{"check": 1}',
    ],
    ids=repr,
)
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(UNREADABLE):
        decode(body)


@st.composite
def almost_snapshots(draw: st.DrawFn) -> bytes:
    """A publication of which one value, however deep, is something else."""
    document = [json.loads(line) for line in encode(draw(snapshots(("database",)))).split(b"\n")]
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(keys))
        if not (isinstance(node[key], dict | list) and node[key] and draw(st.booleans())):
            break
        node = node[key]
    node[key] = draw(json_values)
    return b"\n".join(json.dumps(line).encode() for line in document)


@few
@given(almost_snapshots())
def test_a_publication_of_another_version_raises_nothing_else(body: bytes) -> None:
    with suppress(*UNREADABLE):
        decode(body)


# -- only what has changed is written and read again


def test_an_encoder_and_a_decoder_remember_what_has_not_changed() -> None:
    first = Snapshot({name: CheckState.initial(Check(name)) for name in ("database", "redis")})
    ran = first.states["redis"].observe(Run(Result(), 1.0, 2.0, 0.1))
    second = Snapshot({**first.states, "redis": ran}, tasks={"seed": TaskState()})
    encoder, decoder = Encoder(), Decoder()
    seen = [decoder(encoder(snapshot)) for snapshot in (first, second, second, first)]
    assert [one.states for one in seen] == [each.states for each in (first, second, second, first)]
    assert seen[1].tasks == second.tasks
    assert seen[1].states["database"] is seen[0].states["database"]
    assert encoder(second) == encode(second)
