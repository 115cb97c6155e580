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
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, urljoin, urlsplit

from service.cli.output import say, show

USER_AGENT = "kube-probe/1.34"
BODY_LIMIT = 10 * 1024
REDIRECTS = 10
ATTEMPTS = 3
UNUSABLE = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the kubelet would make of it.

    Attributes:
        result: ``success``, ``failure``, or ``unknown`` when the kubelet would not count it.
        status: HTTP status of the last answer, or None.
        why: What went wrong, or None.
        response_time_ms: Time it took.
    """

    result: str
    status: int | None
    why: str | None
    response_time_ms: float


class _NoVerdictError(Exception):
    """The answer began and could not be read."""


def run(options: argparse.Namespace) -> int:
    """Asks once; 0 for a success, 1 for a failure, 2 when nothing can be said."""
    try:
        parts = urlsplit(options.url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        say("probe: the URL must be like http://localhost:5004/api/system/health/readiness")
        return UNUSABLE
    verdict = ask(options.url, options.timeout)
    found = asdict(verdict)
    why = verdict.why and f": {verdict.why}"
    show(options, found, f"{verdict.result} in {verdict.response_time_ms:.1f} ms{why or ''}")
    return ("success", "failure", "unknown").index(verdict.result)


def ask(url: str, timeout: float) -> Verdict:
    """The verdict on one question, whatever the server does."""
    for attempt in range(ATTEMPTS):
        begun = time.monotonic()
        result, status, why = _bounded(url, timeout)
        if result != "unknown" or attempt == ATTEMPTS - 1:
            break
    return Verdict(result, status, why, round((time.monotonic() - begun) * 1000, 2))


def _bounded(url: str, timeout: float) -> tuple[str, int | None, str | None]:
    # A thread, because no setting of a socket bounds a name lookup or a server that drips.
    answers: queue.SimpleQueue[tuple[str, int | None, str | None]] = queue.SimpleQueue()
    asker = threading.Thread(
        target=lambda: answers.put(_one_answer(url, timeout)), name="asker", daemon=True
    )
    asker.start()
    try:
        return answers.get(timeout=timeout)
    except queue.Empty:
        return "failure", None, f"no whole answer within {timeout:g} s"


def _one_answer(url: str, timeout: float) -> tuple[str, int | None, str | None]:
    try:
        status = _status(url, timeout)
    except _NoVerdictError as error:
        return "unknown", None, f"the body of the answer breaks off: {error}"
    except (OSError, HTTPException, ValueError) as error:
        return "failure", None, _cause(error)
    if 200 <= status < 400:  # noqa: PLR2004 - the kubelet's own limits
        return "success", status, f"status {status}"
    return "failure", status, f"status {status}"


def _status(url: str, timeout: float) -> int:
    """The status the kubelet judges by, after redirects."""
    host = urlsplit(url).hostname
    for _ in range(REDIRECTS):
        status, location = _exchange(url, timeout)
        if status not in (301, 302, 303, 307, 308) or location is None:
            return status
        url = urljoin(url, location)
        if urlsplit(url).hostname != host:
            return status
    raise HTTPException(f"stopped after {REDIRECTS} redirects")


def _exchange(url: str, timeout: float) -> tuple[int, str | None]:
    """One request; the status of its answer, and where it sends us."""
    parts = urlsplit(url)
    connection = _connection(parts, timeout)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.putrequest("GET", target, skip_accept_encoding=True)
        headers = (("User-Agent", USER_AGENT), ("Accept", "*/*"), ("Connection", "close"))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        try:
            response.read(BODY_LIMIT)
        except (OSError, HTTPException, ValueError) as error:
            raise _NoVerdictError(_cause(error)) from error
        return response.status, response.getheader("Location")
    finally:
        connection.close()


def _connection(parts: SplitResult, timeout: float) -> HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "http":
        return HTTPConnection(host, parts.port, timeout=timeout)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(host, parts.port, timeout=timeout, context=context)


def _cause(error: Exception) -> str:
    """An error in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
