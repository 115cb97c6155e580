"""The notifier with targets that are no servers: what no connection could show."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.health import Check, Notice, Snapshot, Stance, Teller
from service.monitor import MAX_LOST
from service.notifier import ATTEMPT_SECONDS, ATTEMPTS, GRACE, PAUSE_LAST, Notifier, Reply
from tests.unit.fakes import Clock, after, until

ROOT = Path(__file__).parents[2]
DATABASE = Check("database")


class Stuck:
    """A target whose attempts do not end, cut or not, as in a name server's silence."""

    name = "stuck"

    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls = self.closed = 0

    def identity(self, notice: Notice) -> str:
        return notice.check

    def send(self, notice: Notice) -> Reply:  # noqa: ARG002 - whatever it is
        self.calls += 1
        assert self.released.wait(600)
        return Reply(sent=True)

    def close(self) -> None:
        self.closed += 1


class Broken(Stuck):
    """A target with a fault in it."""

    def send(self, notice: Notice) -> Reply:
        raise LookupError(notice.check)


class Rig:
    def __init__(self, target: Stuck) -> None:
        self.target = target
        self.clock = Clock()
        self.settled: list[str] = []
        self.notifier = Notifier(
            [target],
            Teller("pod", 0.0),
            lambda _, result: self.settled.append(result),
            clock=self.clock,
            wall=Clock(1.7e9),
            chance=lambda: 0.5,
        )
        self.notifier.tell(Snapshot({"database": after(DATABASE, ".xx")}), Stance.ALONE)
        self.notifier.round()

    def overrun(self) -> None:
        """The attempt that has begun does not end in time, and after a pause begins the next."""
        self.clock.advance(ATTEMPT_SECONDS + GRACE)
        self.notifier.round()
        self.clock.advance(PAUSE_LAST)
        self.notifier.round()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    target = Stuck()
    yield target
    target.released.set()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "probe-notify-stuck"]


def test_attempts_that_never_end_cost_two_threads(stuck: Stuck) -> None:
    rig = Rig(stuck)
    with capture_logs() as logs:
        for _ in range(ATTEMPTS):
            rig.overrun()
    assert rig.settled == ["failed"]
    assert logs[0]["code"] == "timeout"
    until(lambda: stuck.calls == MAX_LOST, "the two calls there were threads for")
    assert len(threads()) == MAX_LOST
    assert stuck.closed
    rig.notifier.stop()
    stuck.released.set()
    until(lambda: not threads(), "the end of the lost threads")


def test_what_a_lost_attempt_comes_to_goes_nowhere(stuck: Stuck) -> None:
    rig = Rig(stuck)
    rig.clock.advance(ATTEMPT_SECONDS + GRACE)
    rig.notifier.round()
    stuck.released.set()
    until(lambda: not threads(), "the end of the lost thread")
    rig.notifier.round()
    assert rig.settled == []
    rig.clock.advance(PAUSE_LAST)

    def sent() -> bool:
        rig.notifier.round()
        return rig.settled == ["sent"]

    until(sent, "the next attempt")
    rig.notifier.stop()


def test_a_fault_of_ours_is_one_message() -> None:
    rig = Rig(Broken())
    with capture_logs() as logs:

        def failed() -> bool:
            rig.notifier.round()
            return rig.settled == ["failed"]

        until(failed, "it is given up")
    assert {line["event"] for line in logs} == {"notification failed", "notification given up"}
    rig.notifier.stop()


def test_it_waits_for_nothing_while_there_is_nothing(stuck: Stuck) -> None:
    rig = Rig(stuck)
    assert rig.notifier.round() == ATTEMPT_SECONDS + GRACE
    stuck.released.set()
    until(lambda: rig.notifier.round() == float("inf"), "nothing more to do")
    rig.notifier.stop()


def test_a_pod_without_webhooks_pays_for_none() -> None:
    code = (
        "import sys; from service import app, assembly; from service.settings import Settings; "
        "assert assembly.notifier(Settings(), None, None) is None; "
        "print(*{'requests', 'service.notifier', 'service.webhooks'} & {*sys.modules})"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
