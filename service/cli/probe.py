"""``probe``: what the kubelet would make of an address.

As the kubelet does it: one GET with its User-Agent, one time limit from the name lookup to the
last byte of the body, no proxy, no certificate verified, 10 KiB of the body and no more. 200 to
399 is a success. A redirect is followed where it stays on the host; one that leaves it is a
success by itself. An answer whose body breaks off says nothing: it is asked again, three times
in all, and then the kubelet goes on as if it had not asked.
"""

import argparse
import queue
import ssl
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urljoin, urlsplit

from service.cli.address import cause, split
from service.cli.output import plain, say, show

HEADERS = (("User-Agent", "kube-probe/1.34"), ("Accept", "*/*"), ("Connection", "close"))
MOVED = (301, 302, 303, 307, 308)
INFORMING = {*range(100, 200)} - {101}
INFORMATIONAL = 5
BODY_LIMIT = 10 * 1024
REDIRECTS = 10
ATTEMPTS = 3
UNUSABLE = 2

# A result, the status it was found by, and why.
Answer = tuple[str, int | None, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the kubelet would make of it.

    Attributes:
        result: ``success``, ``failure``, or ``unknown`` when the kubelet would not count it.
        status: HTTP status of the last answer, or None.
        why: The status or what went wrong.
        response_time_ms: Time it took.
    """

    result: str
    status: int | None
    why: str
    response_time_ms: float


def run(options: argparse.Namespace) -> int:
    """Asks once; 0 for a success, 1 for a failure, 2 when nothing can be said."""
    if split(options.url) is None:
        say("probe: the URL must be like http://localhost:5004/api/system/health/readiness")
        return UNUSABLE
    verdict = ask(options.url, options.timeout)
    line = f"{verdict.result} in {verdict.response_time_ms:.1f} ms: {plain(verdict.why)}"
    show(options, asdict(verdict), line)
    return ("success", "failure", "unknown").index(verdict.result)


def ask(url: str, timeout: float) -> Verdict:
    """The verdict on one question, whatever the server does."""
    for attempt in range(ATTEMPTS):
        begun = time.monotonic()
        result, status, why = once(url, timeout)
        if result != "unknown" or attempt == ATTEMPTS - 1:
            break
    return Verdict(result, status, why, round((time.monotonic() - begun) * 1000, 2))


def once(url: str, timeout: float) -> Answer:
    """One question; the kubelet asks again when nothing can be said."""
    # A thread, because no setting of a socket bounds a name lookup or a server that drips.
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    begun: list[int] = []
    asker = threading.Thread(
        target=lambda: answers.put(_one_answer(url, timeout, begun)), name="asker", daemon=True
    )
    asker.start()
    try:
        return answers.get(timeout=timeout)
    except queue.Empty:
        late = f"no whole answer within {timeout:g} s"
        return ("unknown", begun[0], late) if begun else ("failure", None, late)


def _one_answer(url: str, timeout: float, begun: list[int]) -> Answer:
    try:
        status = _status(url, timeout, begun)
    except (OSError, HTTPException, ValueError) as error:
        why = cause(error)
        return ("unknown", begun[0], why) if begun else ("failure", None, why)
    if 200 <= status < 400:  # noqa: PLR2004 - the kubelet's own limits
        return "success", status, f"status {status}"
    return "failure", status, f"status {status}"


def _status(url: str, timeout: float, begun: list[int]) -> int:
    """The status the kubelet judges by, which is in ``begun`` before the body is read."""
    host = urlsplit(url).hostname
    for _ in range(REDIRECTS):
        with closing(_connection(url, timeout)) as connection, _head(connection, url) as response:
            location = response.getheader("Location") if response.status in MOVED else None
            target = urljoin(url, location) if location else None
            if target is None or urlsplit(target).hostname != host:
                begun.append(response.status)
                _read(response)
                return response.status
        url = target
    raise HTTPException(f"stopped after {REDIRECTS} redirects")


def _head(connection: HTTPConnection, url: str) -> HTTPResponse:
    """Asks, and reads the answer as far as its body."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.putrequest("GET", target, skip_accept_encoding=True)
    for name, value in HEADERS:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    if len({*(response.headers.get_all("Content-Length") or ())}) > 1:
        response.close()
        raise HTTPException("the answer has two lengths")
    return response


def _read(response: HTTPResponse) -> None:
    body = response.read(BODY_LIMIT)
    if response.length and len(body) < BODY_LIMIT:
        raise HTTPException(f"the body breaks off, {response.length} bytes are missing")


class _Response(HTTPResponse):
    """An answer after those that only inform, of which the library skips one kind."""

    def begin(self) -> None:
        super().begin()
        for _ in range(INFORMATIONAL):
            if self.status not in INFORMING:
                return
            self.headers = None  # type: ignore[assignment] # or the library takes it as begun
            super().begin()
        if self.status in INFORMING:
            raise HTTPException("too many informational answers")


def _connection(url: str, timeout: float) -> HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        connection = HTTPConnection(host, parts.port, timeout=timeout)
    else:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    connection.response_class = _Response
    return connection
