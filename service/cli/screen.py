"""The whole screen of a terminal, as ``top`` has it, given back whatever happens.

It is the alternate screen, so what was there before comes back. What is typed is not shown, and
no line is waited for. One ``select`` waits for a key, for the time, and by a pipe for signals: a
new size of the window ends the wait, Ctrl-Z gives the screen back until the program is continued,
and SIGTERM and SIGHUP end the program after the screen has been given back.
"""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Self

from service.cli.output import plain, tinted
from service.settings import dumb_terminal

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the alternate screen, no cursor, no wrapped lines
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
TOP, NEXT_LINE, END = "\x1b[H", "\x1b[K\r\n", "\x1b[K\x1b[J"  # each clears what it leaves behind
USUAL_SIZE = os.terminal_size((80, 24))


def usable() -> bool:
    """Whether standard output is a terminal on which one can write anywhere."""
    return sys.stdout.isatty() and not dumb_terminal()


def fitted(text: str, size: os.terminal_size) -> list[str]:
    """The lines of a text as far as there is room; the last one says what there is none for."""
    lines = [plain(line)[: size.columns] for line in text.split("\n")]
    if len(lines) <= size.lines:
        return lines
    kept = lines[: size.lines - 1]
    return [*kept, f"... {len(lines) - len(kept)} more lines"[: size.columns]]


class Screen:
    """The screen, for the block of a ``with`` in the main thread."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._typing: list[Any] = [] if self._input is None else termios.tcgetattr(self._input)
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {
            signal.SIGWINCH: _go_on,
            signal.SIGTSTP: self._pause,
            signal.SIGTERM: _end,
            signal.SIGHUP: _end,
        }

    def __enter__(self) -> Self:
        """Takes the screen."""
        self._bell, self._rope = os.pipe()
        os.set_blocking(self._rope, False)
        signal.set_wakeup_fd(self._rope, warn_on_full_buffer=False)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives it back."""
        with suppress(OSError):  # the terminal may be what has gone
            self._give_back()
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(self._bell)
        os.close(self._rope)

    def draw(self, text: str) -> None:
        """Shows as much of a text as there is room for, in the place of what was there."""
        size = os.get_terminal_size(sys.stdout.fileno())
        lines = fitted(text, size if all(size) else USUAL_SIZE)
        _write(f"{TOP}{tinted(NEXT_LINE.join(lines))}{END}")

    def wait(self, seconds: float) -> str:
        """What was typed; nothing when the time is over or a signal has come."""
        inputs = [self._bell, *([] if self._input is None else [self._input])]
        ready, _, _ = select.select(inputs, [], [], max(0.0, seconds))
        if self._bell in ready:
            os.read(self._bell, select.PIPE_BUF)
        if self._input not in ready:
            return ""
        typed = os.read(self._input, select.PIPE_BUF)
        if not typed:  # nobody will type any more
            self._input = None
        return typed.decode(errors="replace")

    def _take(self) -> None:
        if self._input is not None:
            tty.setcbreak(self._input)
        _write(ENTER)

    def _give_back(self) -> None:
        try:
            _write(LEAVE)
        finally:
            if self._typing:
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._typing)

    def _pause(self, *_: object) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()


def _go_on(*_: object) -> None:
    """The pipe has ended the wait."""


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
