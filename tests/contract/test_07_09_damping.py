"""Invariants 7 and 9: what a row of results does to a status, and that all verdicts follow it.

The test hands each run of one critical check its result, so a history is a word:
``.`` healthy, ``w`` warning, ``x`` unhealthy. The words beside it are what is published after
each result: H, W, U. The smallest known form of such a state, HAProxy's counter of rise and
fall, is the oracle for longer ones.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.contract.audit import BOTH, HEALTH, PREFIX, WEB, Audit, agreement, services
from tests.contract.conftest import Launch
from tests.contract.scripted import NAME, Script
from tests.pod import Pod, eventually

WORDS = {"H": "healthy", "W": "warning", "U": "unhealthy"}
CODES = {".": None, "w": "slow_response", "x": "check_failed"}


@dataclass
class Played:
    """A pod whose one critical check follows a script.

    Attributes:
        pod: The pod.
        script: Hands each run its result.
        failure: HEALTH_FAILURE_THRESHOLD.
        success: HEALTH_SUCCESS_THRESHOLD.
        last_check: Of the newest run that was looked at.
    """

    pod: Pod
    script: Script
    failure: int
    success: int
    audit: Audit = field(init=False)
    last_check: str | None = None

    def __post_init__(self) -> None:
        self.audit = Audit(self.pod)

    def play(self, result: str) -> tuple[str, str | None]:
        """Hands the next run its result; the status and code published for it."""
        self.script.say(result)
        for health in BOTH:
            eventually(lambda health=health: self._newer(health=health), "the run is published")
        found = services(self.pod)[NAME]
        self.last_check = found["last_check"]
        return found["status"], found["error"]

    def _newer(self, *, health: bool) -> bool:
        return services(self.pod, health=health)[NAME]["last_check"] != self.last_check

    def follow(self, history: str) -> str:
        """The initials of the statuses after each result, every endpoint agreeing."""
        return "".join(self._step(result) for result in history)

    def _step(self, result: str) -> str:
        status, code = self.play(result)
        assert (code is None) == (status == "healthy")
        passes = 200 if status in ("healthy", "warning") else 503
        for health in BOTH:
            for path in ("/health", f"{PREFIX}/simple", f"{PREFIX}/readiness"):
                assert self.pod.status(path, health=health) == passes, (result, path)
            assert self.pod.status(f"{PREFIX}/startup", health=health) == 200
            assert self.pod.status(f"{PREFIX}/liveness", health=health) == 200
        assert self.pod.get("/health").json["status"] == status
        assert self.pod.get(f"{PREFIX}/readiness").data["services"] == {NAME: status}
        return status[0].upper()

    def settle(self) -> None:
        """Back to healthy, whatever came before."""
        for _ in range(self.success + 1):
            self.play(".")
        self.pod.wait_for(200, f"{PREFIX}/startup")


@pytest.fixture(scope="module", params=[(2, 2), (3, 1)], ids=["2 and 2", "3 and 1"])
def played(
    request: pytest.FixtureRequest, launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Played]:
    failure, success = request.param
    with Script(tmp_path_factory.mktemp("script") / "s") as script:
        pod = launch(
            HEALTH_CHECKS="tests.contract.scripted:checks",
            HEALTH_CRITICAL_CHECKS=NAME,
            HEALTH_FAILURE_THRESHOLD=str(failure),
            HEALTH_SUCCESS_THRESHOLD=str(success),
            SCRIPT=str(script.path),
            REDIS_EMBEDDED="off",
        )
        yield Played(pod, script, failure, success)
        pod.stop()


def test_it_is_starting_until_the_check_has_a_result(played: Played) -> None:
    pod = played.pod
    pod.wait_for(503, f"{PREFIX}/startup")
    for health in BOTH:
        assert pod.get("/health", health=health).json["status"] == "unknown"
        assert pod.get(f"{PREFIX}/", health=health).data["lifecycle"] == "starting"
        assert pod.status(f"{PREFIX}/readiness", health=health) == 503
        assert pod.status(f"{PREFIX}/liveness", health=health) == 200
    eventually(lambda: NAME in services(pod), "the registered check is published")
    assert services(pod)[NAME]["error"] == "not_yet_checked"
    assert pod.get(f"{PREFIX}/readiness").data["services"] == {NAME: "unknown"}
    assert pod.get(f"{PREFIX}/startup").data["services"][NAME] == "unknown"
    played.audit()


def test_the_first_result_counts_at_once(played: Played) -> None:
    assert played.play("x") == ("unhealthy", "check_failed")
    played.audit()
    assert played.pod.status(f"{PREFIX}/startup") == 503
    for _ in range(played.success):
        found = played.play(".")
    assert found == ("healthy", None)
    played.pod.wait_for(200, f"{PREFIX}/startup")
    played.audit()


HISTORIES = {
    (2, 2): {
        "a blip is forgiven": (".x.", "HWH"),
        "two blips are two blips": ("x.x.x.", "WHWHWH"),
        "two in a row are a failure": ("xxx", "WUU"),
        "one success is not enough": ("xx.x.x", "WUUUUU"),
        "two are": ("xx..", "WUUH"),
        "an opposite result resets the count": ("xx.x..", "WUUUUH"),
        "a warning is no failure": ("wxwx.", "WWWWH"),
        "warnings end a failure too": ("xxww.", "WUUWH"),
    },
    (3, 1): {
        "two blips are forgiven": ("xx.", "WWH"),
        "three are not": ("xxx", "WWU"),
        "one success is enough": ("xxx.", "WWUH"),
        "as is a warning": ("xxxw", "WWUW"),
        "an opposite result resets the count": ("xxwxx.", "WWWWWH"),
    },
}


def test_a_history_and_what_is_published(played: Played) -> None:
    for name, (history, expected) in HISTORIES[played.failure, played.success].items():
        played.settle()
        with agreement(played.pod):
            assert played.follow(history) == expected, name


def test_the_code_is_that_of_the_failing_run(played: Played) -> None:
    played.settle()
    assert played.play("x") == ("warning", "check_failed")
    assert played.play("w") == ("warning", "slow_response")
    for _ in range(played.failure):
        found = played.play("x")
    assert found == ("unhealthy", "check_failed")
    for _ in range(played.success - 1):
        assert played.play("w") == ("unhealthy", "check_failed")
    assert played.play("w") == ("warning", "slow_response")


def test_a_counter_of_rise_and_fall_gives_the_same(played: Played) -> None:
    played.settle()
    chance = random.Random(played.failure)
    history = "".join(chance.choices(".wx", [3, 1, 5], k=24))
    with agreement(played.pod) as seen:
        assert played.follow(history) == rise_and_fall(history, played.failure, played.success)
    assert {statuses[0] for statuses in seen} == {200, 503}


def rise_and_fall(history: str, failure: int, success: int) -> str:
    """One integer: from 0 it rises to ``success`` (up); above that, failures are forgiven."""
    full = success + failure - 1
    counter, published = full, ""
    for result in history:
        if result == "x":
            counter = counter - 1 if counter > success else 0
        else:
            counter = counter + 1 if counter + 1 < success else full
        if counter >= success:
            published += {".": "H", "w": "W", "x": "W"}[result]
        else:
            published += "U"
    return published


def test_every_place_shows_the_registered_check_last(played: Played) -> None:
    played.settle()
    for _ in range(played.failure):
        played.play("x")
    for health in (WEB, HEALTH):
        for path in ("/health/detailed", f"{PREFIX}/", f"{PREFIX}/detailed"):
            body = played.pod.get(path, health=health).json
            body = body.get("data", body)
            assert body["unhealthy_services"][-1] == NAME
            assert body["services"][NAME]["status"] == "unhealthy"
            assert body["critical_services_failing"] is True
        numbers = played.pod.get("/health/metrics", health=health).json["metrics"]
        assert list(numbers["health_check_status"])[-1] == NAME
        assert numbers["health_check_status"][NAME] == 0
        text = played.pod.get("/metrics", health=health).body.decode()
        assert f'health_check_status{{component="{NAME}"}} 0.0' in text
        assert (
            f'health_check_failures_total{{component="{NAME}",error_type="check_failed"}}' in text
        )
    played.audit()
