"""Where the microseconds of an answer go: each step of ``Front.__call__`` in a loop of its own.

Everything is as in a web worker: a scoreboard in shared memory, metric files, a publication. Only
gunicorn is not there, so what is shown is our own part of an answer, with warm caches.
"""

import time
from collections.abc import Callable, Iterator
from itertools import repeat
from statistics import median
from typing import Any

from bench.core import Effort, Json, Row, significant
from bench.families.growth import board_with
from bench.families.metrics import temporary
from service.health import ProgressLimits
from service.metrics import Instruments, prepare, take_slot
from service.settings import Settings
from service.web.answers import ALIVE, Answers
from service.web.disclosure import Disclosure
from service.web.endpoints import Endpoint
from service.web.front import HOT, Front, _prepared, hot
from service.web.payload import Payload
from service.web.reader import Reader

FAMILY = "hot path"
PATHS = {
    "/health": "/health",
    "readiness": "/api/system/health/readiness",
    "liveness": "/api/system/health/liveness",
    "startup": "/api/system/health/startup",
    "/readyz": "/readyz",
}
BATCHES, CALLS = 31, 2000
HOW = (
    "Each step of the front is called alone, with what a web worker has around it and without "
    f"gunicorn: the processor time of one call, median of {BATCHES} batches of {CALLS:,} calls, "
    "less that of a call that does nothing. The whole is measured in the same way, and the rest "
    "is what the steps leave of it. The table is in *Where the microseconds go*."
)

Call = Callable[[], object]


def rows(effort: Effort) -> Iterator[Row]:
    """Nothing here has a target."""
    del effort
    yield from ()


def profile(effort: Effort) -> Json:
    """The microseconds of each step, by path."""
    with temporary() as directory:
        prepare(directory, fresh=True)
        take_slot(directory).use()
        columns = {name: _steps(path, effort) for name, path in PATHS.items()}
    names = next(iter(columns.values()))
    return {
        "paths": [f"`{name}`" if name[0] == "/" else name for name in columns],
        "steps": {step: [column[step] for column in columns.values()] for step in names},
    }


def _steps(path: str, effort: Effort) -> dict[str, float]:
    board, checks = board_with(2, 0)
    board.serve(time.time())
    settings = Settings()
    slot, instruments = board.slot(0), Instruments()
    reader = Reader(board, checks, ProgressLimits())
    answers = Answers(reader, Payload("app", "1.0.0", "bench", debug=False))
    disclosure = Disclosure(settings.health_trusted_networks, (), (), ())
    front = Front(answers, disclosure, slot, instruments.request, _no_application)
    environ = _environ(path)
    endpoint = HOT[path]
    status, body = answers.answer(endpoint, trusted=False)
    if not status.startswith("200"):
        raise AssertionError(f"{path} is not what is measured: {body!r}")

    def took(call: Call) -> float:
        calls = effort.times(CALLS, CALLS // 10)
        return _microseconds(call, calls) - _microseconds(_nothing, calls)

    version = took(_version(reader, endpoint))
    answer = took(lambda: answers.answer(endpoint, trusted=endpoint.graded))
    steps = {
        "which endpoint is asked": took(lambda: hot("GET", path, "", "*/*")),
        "who may see what": took(lambda: disclosure.trusts(environ)) if endpoint.graded else 0.0,
        "which publication and flags; of liveness, whether a worker moves": version,
        "the body, with the time of the answer": answer - version,
        "the worker's stamp in the scoreboard": took(slot.request_answered),
        "counter and histogram, in shared memory": took(
            lambda: instruments.request("GET", endpoint.path, "200", 0.0001)
        ),
        "headers": took(lambda: _started(status, _prepared(len(body), endpoint.media))),
    }
    whole = took(lambda: front(environ, _started))
    steps["the rest: calls, clock"] = whole - sum(steps.values())
    steps["all of it"] = whole
    return {name: significant(us) for name, us in steps.items()}


def _version(reader: Reader, endpoint: Endpoint) -> Call:
    if endpoint.vital:
        return lambda: ALIVE[reader.alive()]
    return lambda: reader.version


def _environ(path: str) -> dict[str, Any]:
    """What gunicorn hands over, as far as it matters."""
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "40000",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "5003",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:5003",
        "HTTP_USER_AGENT": "kube-probe/1.33",
        "HTTP_ACCEPT": "*/*",
        "HTTP_CONNECTION": "close",
    }


def _started(_status: str, _headers: object) -> None:
    """Stands in for the server's ``start_response``."""


def _nothing() -> None:
    """What a call costs that does nothing."""


def _no_application() -> Any:
    raise AssertionError("no hot path needs Flask")


def _microseconds(call: Call, calls: int) -> float:
    found = []
    for _ in range(BATCHES):
        begun = time.thread_time_ns()
        for _ in repeat(None, calls):
            call()
        found.append((time.thread_time_ns() - begun) / calls / 1000)
    return median(found)
