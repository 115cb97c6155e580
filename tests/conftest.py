"""Fixtures every test may ask for: real servers and a real pod."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.pod import Pod

# How long an example takes is the machine's affair.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure() -> None:
    """A suite started in the background ignores SIGINT, and so would whatever it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Tests of these folders count what happens to real servers, and print it.
COUNTING = ("tests/deploy/", "tests/kubernetes/", "tests/nginx/", "tests/process/")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what passed tests have counted: pytest itself shows it only of those that fail."""
    counted = [
        report
        for report in terminalreporter.getreports("passed")
        if report.when == "call" and report.capstdout and report.nodeid.startswith(COUNTING)
    ]
    if counted:
        terminalreporter.section("counted")
    for report in sorted(counted, key=lambda report: report.nodeid):
        terminalreporter.line(report.nodeid, bold=True)
        terminalreporter.line(report.capstdout.rstrip())


@pytest.fixture(autouse=True)
def logging_as_it_comes() -> Iterator[None]:
    """What a command has configured in this process is over with its test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def make_pod(tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    """Makes pods that are stopped at the end of the test."""
    with ExitStack() as stack:
        count = 0

        def make(*options: str, **settings: str) -> Pod:
            nonlocal count
            count += 1
            directory = tmp_path / f"pod{count}"
            directory.mkdir()
            pod = Pod(directory, *options, **settings)

            def stop() -> None:
                if pod.process is not None:
                    pod.stop()

            stack.callback(stop)
            return pod

        yield make
