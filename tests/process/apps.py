"""Applications the process tests serve."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from service import Check, CheckFailed, Result

FOREVER = threading.Event()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """``/slow?seconds=N`` takes its time, ``/stuck`` never ends, anything else says the pid."""
    query = parse_qs(environ.get("QUERY_STRING", ""))
    if environ["PATH_INFO"] == "/slow":
        FOREVER.wait(float(query["seconds"][0]))
    if environ["PATH_INFO"] == "/stuck":
        FOREVER.wait()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


# What a test puts into this file decides what importing this module does.
_mood = Path(os.environ.get("APP_MOOD_FILE", "/nonexistent"))
if _mood.exists():
    match _mood.read_text().strip():
        case "broken":
            raise RuntimeError("the deploy is broken")
        case "ending":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hanging":
            FOREVER.wait()
        case "stubborn":
            while True:
                with suppress(Exception):
                    FOREVER.wait()
        case "ticking":
            signal.signal(signal.SIGALRM, lambda *_: Path(os.environ["HOME"], "tick").touch())
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        case "deaf":  # waits in C for good, with the interpreter's lock
            lock = ctypes.create_string_buffer(256)
            for _ in range(2):
                ctypes.PyDLL(None).pthread_mutex_lock(lock)


def checks() -> dict[Check, Any]:
    """Checks of every kind, most of them wrong."""
    return {
        Check("wrong_value", interval=1): lambda: True,
        Check("wrong_details", interval=1): lambda: Result(details={"at": object()}),
        Check("wrong_number", interval=1): lambda: Result(details={"ratio": float("nan")}),
        Check("wrong_size", interval=1): lambda: Result(details={"text": "x" * 100_000}),
        Check("wrong_code", interval=1): _raise_unknown_code,
        Check("wrong_secret", interval=1): _raise_secret,
        Check("right", interval=1): lambda: None,
    }


def _raise_unknown_code() -> None:
    raise CheckFailed("oversold")


def _raise_secret() -> None:
    raise RuntimeError("cannot reach https://user:hunter2@host.test/")
