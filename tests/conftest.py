"""Fixtures every test may ask for: real servers and a real pod."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.pod import Pod


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
