"""``watch`` on a pseudo-terminal: what it draws, when it draws it, and what it leaves behind."""

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

from service.cli.screen import END, ENTER, LEAVE, TOP, fitted
from tests.pod import ROOT, Pod, eventually
from tests.process.commands import command_line_of

READINESS = "/api/system/health/readiness"
COLOUR = re.compile(r"\x1b\[\d+m")


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    pod = Pod(tmp_path_factory.mktemp("well"), DATABASE_URL="sqlite://")
    with pod.start().wait_for(200, READINESS):
        yield pod


class Terminal:
    """A window of some size with a program in it that has the terminal to itself."""

    def __init__(self, pod: Pod, *arguments: str, **environ: str) -> None:
        self._ours, theirs = os.openpty()
        self.resize(100, 40)
        self.usual = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            command_line_of(*arguments),
            env={**pod.environ, "TERM": "xterm", **environ},
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        self._theirs: int | None = theirs  # open, so that its settings outlive the program
        self._shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has it open any more
            while data := os.read(self._ours, 65536):
                self._shown += data

    @property
    def shown(self) -> str:
        """Everything that has been written so far."""
        return self._shown.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without colours; nothing before it has been drawn."""
        whole = [part for part in self.shown.split(TOP) if END in part]
        return COLOUR.sub("", whole[-1].split(END)[0]).split("\x1b[K\r\r\n") if whole else []

    @property
    def settings(self) -> list[Any]:
        assert self._theirs is not None
        return termios.tcgetattr(self._theirs)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def hang_up(self) -> None:
        """As by closing the window."""
        if self._theirs is not None:
            os.close(self._theirs)
            self._theirs = None
            self.process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._theirs is not None:
            os.close(self._theirs)
        self._reader.join()
        os.close(self._ours)


@contextmanager
def _watching(pod: Pod, *arguments: str, **environ: str) -> Iterator[Terminal]:
    """``watch``, drawn once; then again only when something happens, unless told otherwise."""
    terminal = Terminal(pod, "watch", "--interval", "3600", *arguments, **environ)
    try:
        eventually(lambda: terminal.lines, "it is drawn")
        yield terminal
    finally:
        terminal.close()


def test_it_draws_the_pod_and_its_workers(well: Pod) -> None:
    with _watching(well) as terminal:
        assert terminal.shown.startswith(ENTER)
        first, _, second, *rest = terminal.lines
        assert re.match(
            r"seen \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z, every 3600 s; q ends$", first
        )
        assert second.startswith(f"pod        {well.board.pod_id}")
        assert any(line.startswith("database ") for line in rest)
        assert sum(bool(re.match(r" *\d+ +\d+ +(web|health) ", line)) for line in rest) == 3
        assert "\x1b[32mhealthy\x1b[0m" in terminal.shown


def test_it_follows_the_size_of_the_window(well: Pod) -> None:
    with _watching(well) as terminal:
        whole = terminal.lines
        terminal.resize(30, 10)
        eventually(lambda: len(terminal.lines) == 10, "it fits")
        small = terminal.lines
        assert small[:9] == [line[:30] for line in whole[:9]]
        assert small[9] == f"... {len(whole) - 9} more lines"
        terminal.resize(100, 40)
        eventually(lambda: terminal.lines == whole, "it is whole again")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda terminal: terminal.type(b"q"), 0),
        (lambda terminal: terminal.type(b"\x03"), 0),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), 128 + signal.SIGTERM),
        (lambda terminal: terminal.process.send_signal(signal.SIGHUP), 128 + signal.SIGHUP),
    ],
    ids=["q", "Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_it_gives_the_screen_back(well: Pod, end: Callable[[Terminal], None], status: int) -> None:
    with _watching(well) as terminal:
        assert terminal.settings != terminal.usual
        end(terminal)
        assert terminal.process.wait(60) == status
        eventually(lambda: terminal.shown.endswith(LEAVE), "the screen is given back")
        assert terminal.settings == terminal.usual
        assert terminal.shown.count(ENTER) == terminal.shown.count(LEAVE) == 1


def test_it_gives_the_screen_back_while_it_is_stopped(well: Pod) -> None:
    with _watching(well) as terminal:
        process = psutil.Process(terminal.process.pid)
        terminal.type(b"\x1a")
        eventually(lambda: process.status() == psutil.STATUS_STOPPED, "Ctrl-Z stops it")
        eventually(lambda: terminal.shown.endswith(LEAVE), "the screen is given back")
        assert terminal.settings == terminal.usual
        process.resume()
        eventually(lambda: END in terminal.shown.rpartition(LEAVE)[2], "it is drawn again")
        terminal.type(b"q")
        assert terminal.process.wait(60) == 0


def test_it_ends_with_its_window(well: Pod) -> None:
    with _watching(well) as terminal:
        terminal.hang_up()
        assert terminal.process.wait(60) == 128 + signal.SIGHUP


def test_it_tells_that_the_pod_has_gone_and_come(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://").start().wait_for(200, READINESS)
    with _watching(pod, "--interval", "0.1") as terminal:
        pod.stop()
        eventually(lambda: terminal.lines[1].startswith("no running pod"), "it is told")
        assert any(line.startswith("database ") for line in terminal.lines)
        pod.start()
        eventually(lambda: terminal.lines[1] == "", "it is back")
        assert terminal.lines[2].endswith(pod.board.pod_id)


def test_a_key_looks_again(well: Pod) -> None:
    with _watching(well) as terminal:
        seen = terminal.lines[0]
        terminal.type(b" ")
        eventually(lambda: terminal.lines[0] != seen, "it is newer")


def test_colours_are_for_those_who_want_them(well: Pod) -> None:
    with _watching(well, NO_COLOR="1") as terminal:
        assert not COLOUR.search(terminal.shown)


def test_a_url_has_the_whole_screen_too(well: Pod) -> None:
    url = f"http://127.0.0.1:{well.health_port}"
    with _watching(well, "--url", url, "--timeout", "60") as terminal:
        assert terminal.lines[2].split() == ["url", url]


def test_a_terminal_that_only_prints_lines(well: Pod) -> None:
    terminal = Terminal(well, "watch", "--interval", "0.1", TERM="dumb")
    try:
        eventually(lambda: terminal.shown.count("seen ") > 2, "one screen follows the other")
        assert "\x1b" not in terminal.shown
        terminal.type(b"\x03")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("columns", "rows", "lines"),
    [
        (9, 3, ["one", "two three", "four"]),
        (9, 4, ["one", "two three", "four"]),
        (5, 2, ["one", "... 2"]),
        (80, 1, ["... 3 more lines"]),
        (1, 1, ["."]),
    ],
)
def test_what_there_is_room_for(columns: int, rows: int, lines: list[str]) -> None:
    assert fitted("one\ntwo three\nfour", os.terminal_size((columns, rows))) == lines


def test_nothing_rules_the_terminal_but_the_screen_itself() -> None:
    assert fitted("a\x1b[2J\tb", os.terminal_size((80, 24))) == ["a?[2J?b"]
