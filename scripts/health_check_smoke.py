"""Ask every health endpoint once and say whether all of them answered 200.

    python scripts/health_check_smoke.py [--base-url URL] [--contract] [--output FILE]

Works against any base URL with the standard library alone and changes nothing on the server.

Exit status: 0 all passed, 1 at least one failed, 2 the server is not reachable or the usage is
wrong. With --contract every answer is also compared with the HTTP contract, and an unhealthy
service (503 with a correct body) passes.
"""

import argparse
import base64
import contextlib
import http.client
import json
import math
import os
import queue
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from socket import gaierror
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from health_contract import ENDPOINTS, JSON, Endpoint, health_word, parse_json, shown, violations

DEFAULT_BASE_URL = "http://localhost:5003"
DEFAULT_TIMEOUT = 10.0  # seconds
REACHABLE_SECONDS = 5.0
LARGEST_BODY = 8 * 1024 * 1024

ALL_PASSED, SOME_FAILED, NOT_RUN = range(3)
INTERRUPTED, READER_GONE = 130, 141  # what a shell reports for SIGINT and SIGPIPE

GREEN, RED, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


class CommandError(Exception):
    """The command cannot run: wrong usage, or no server. Its text is one line for people."""


# --- asking -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What one GET brought back.

    Attributes:
        status: HTTP status, None when no complete answer came.
        headers: Its headers.
        body: Its body as sent.
        elapsed_ms: From the start of the request to the last byte, None without an answer.
        error: Why there is no answer, None when there is one.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    elapsed_ms: float | None = None
    error: str | None = None

    @property
    def is_json(self) -> bool:
        """Whether the answer says that it is JSON."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip() == JSON

    def content(self) -> tuple[Any, bool]:
        """The parsed JSON, the text or None, and whether JSON was announced and did not parse."""
        if self.status is None:
            return None, False
        if self.is_json:
            with contextlib.suppress(ValueError):
                return parse_json(self.body), False
        return self.body.decode(errors="replace"), self.is_json


class Target:
    """A server to ask.

    Attributes:
        base_url: Where it is, without user-info and without a slash at the end.
        timeout: Longest time for one answer, name resolution and body included, in seconds.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        timeout: float = DEFAULT_TIMEOUT,
        token: str | None = None,
    ) -> None:
        """Take a base URL apart.

        Raises:
            ValueError: The URL, the timeout or the token cannot be used; the text names which.
        """
        url = _checked_url(base_url)
        self.timeout = _checked_seconds(timeout)
        self._secure = url.scheme == "https"
        self._host, self._port = url.hostname or "", url.port
        self._prefix = url.path.rstrip("/")
        user_info, _, place = url.netloc.rpartition("@")
        self.base_url = f"{url.scheme}://{place}{self._prefix}"
        self._authorization = _authorization(user_info, _checked_token(token))
        self._secrets = _secrets(user_info, token)

    def url(self, path: str) -> str:
        """The full address of a path, without user-info."""
        return self.base_url + path

    def get(self, path: str, *, accept: str | None = None, within: float | None = None) -> Answer:
        """Ask once, following no redirect; whatever goes wrong is in the answer."""
        seconds = self.timeout if within is None else within
        headers = {"User-Agent": "mingus-health-check/1", "Connection": "close"}
        if accept:
            headers["Accept"] = accept
        if self._authorization:
            headers["Authorization"] = self._authorization
        return _within(seconds, lambda: self._exchange(path, headers, seconds))

    def scrub(self, value: Any) -> Any:
        """A JSON value in which no string shows the token or the password."""
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, "***")
        elif isinstance(value, dict):
            return {self.scrub(key): self.scrub(inner) for key, inner in value.items()}
        elif isinstance(value, list):
            return [self.scrub(inner) for inner in value]
        return value

    def _exchange(self, path: str, headers: Mapping[str, str], seconds: float) -> Answer:
        started = time.monotonic()
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        try:
            with contextlib.closing(kind(self._host, self._port, timeout=seconds)) as connection:
                connection.request("GET", self._prefix + path, headers=headers)
                with connection.getresponse() as response:
                    body = response.read(LARGEST_BODY + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(error=_reason(error, seconds))
        if len(body) > LARGEST_BODY:
            return Answer(error=f"the answer is larger than {LARGEST_BODY} bytes")
        if response.length:  # bytes announced and not sent
            return Answer(error="closed in the middle of the answer")
        elapsed_ms = round((time.monotonic() - started) * 1000, 2)
        return Answer(response.status, response.headers, body, elapsed_ms)


def _within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Bound the whole exchange: a socket's own time limit starts anew with every byte."""
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(ask()), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return Answer(error=_reason(TimeoutError(), seconds))


def _reason(error: Exception, seconds: float) -> str:
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (TimeoutError, f"no answer within {seconds:g} s"),
        (ConnectionRefusedError, "connection refused"),
        (http.client.RemoteDisconnected, "closed without an answer"),
        (http.client.IncompleteRead, "closed in the middle of the answer"),
        (ConnectionError, "connection lost"),
        (gaierror, "the host name does not resolve"),
        (ssl.SSLError, "TLS failed"),
        (OSError, "no connection"),
    )
    return next((text for kind, text in reasons if isinstance(error, kind)), "not an HTTP answer")


def _checked_url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        sound = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        sound = False
    if not (sound and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("the base URL must look like http://host:port/prefix")
    if url.query or url.fragment:
        raise ValueError("the base URL must not have a query or a fragment")
    return url


def _checked_seconds(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 < seconds <= threading.TIMEOUT_MAX):
        raise ValueError("the timeout must be a number of seconds above 0")
    return seconds


def _checked_token(token: str | None) -> str | None:
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("the token must be printable ASCII without spaces")
    return token


def _authorization(user_info: str, token: str | None) -> str | None:
    if token:
        return f"Bearer {token}"
    return f"Basic {_basic(user_info)}" if user_info else None


def _basic(user_info: str) -> str:
    user, _, password = user_info.partition(":")
    return base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _secrets(user_info: str, token: str | None) -> tuple[str, ...]:
    """Every spelling of what must not be shown, longest first."""
    password = user_info.partition(":")[2]
    spellings = {token or "", user_info, unquote(user_info), password, unquote(password)}
    if user_info:
        spellings.add(_basic(user_info))
    return tuple(sorted(spellings - {""}, key=len, reverse=True))


# --- the command line -------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Options common to the commands; wrong usage is a CommandError of one line."""

    def __init__(self, description: str | None) -> None:
        """Declare the common options."""
        summary = (description or "").partition("\n")[0]
        super().__init__(description=summary, allow_abbrev=False)
        self.add_argument(
            "--base-url",
            metavar="URL",
            default=os.environ.get("HEALTH_BASE_URL") or DEFAULT_BASE_URL,
            help=f"server to ask (default: $HEALTH_BASE_URL, else {DEFAULT_BASE_URL})",
        )
        self.add_argument(
            "--timeout",
            metavar="SECONDS",
            type=float,
            default=DEFAULT_TIMEOUT,
            help="longest time for one answer (default: 10)",
        )
        self.add_argument(
            "--token",
            default=_token_of_environment(),
            help="bearer token that discloses details (default: $HEALTH_DETAILS_TOKEN)",
        )
        self.add_argument("--no-color", action="store_true", help="plain text on a terminal too")

    def error(self, message: str) -> NoReturn:
        """Refuse the usage."""
        raise CommandError(f"{message} (see --help)")


def _token_of_environment() -> str | None:
    """The service takes a list of tokens from the same variable; any one of them will do."""
    tokens = os.environ.get("HEALTH_DETAILS_TOKEN", "").split(",")
    return next((token.strip() for token in tokens if token.strip()), None)


def reachable(options: argparse.Namespace) -> tuple[Target, Answer]:
    """The target of the options, and its answer at /.

    Raises:
        CommandError: The options are unusable, or nothing answers within 5 s.
    """
    try:
        target = Target(options.base_url, options.timeout, options.token)
    except ValueError as error:
        raise CommandError(str(error)) from error
    answer = target.get("/", within=REACHABLE_SECONDS)
    if answer.error:
        raise CommandError(f"{target.base_url} is not reachable: {answer.error}")
    return target, answer


def guarded(command: Callable[[], int]) -> int:
    """Run a command; what stops it becomes an exit status and one line, never a traceback."""
    try:
        status = command()
        print(end="", flush=True)
    except CommandError as error:
        _complain(str(error))
        status = NOT_RUN
    except KeyboardInterrupt:
        _complain("interrupted")
        status = INTERRUPTED
    except OSError as error:
        _abandon_output()
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        _complain(f"cannot write the output: {error.strerror}")
        status = NOT_RUN
    return status


def _complain(text: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {plain(text)}", file=sys.stderr)


def _abandon_output() -> None:
    """Or the interpreter would try to write the rest once more while it shuts down."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def plain(text: str) -> str:
    """The same as printable ASCII on one line."""
    return text if text.isascii() and text.isprintable() else shown(text, limit=len(text) * 12)


def colored(word: str, color: str, options: argparse.Namespace) -> str:
    """A word in color, where a terminal shows it and nobody has objected."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return f"{color}{word}{PLAIN}" if terminal and not options.no_color else word


def timestamp() -> str:
    """The time in the form of the contract."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- the smoke test ---------------------------------------------------------------------------

TESTS = ENDPOINTS[1:]  # all but /, which is the pre-check


def run_test(endpoint: Endpoint, target: Target, *, contract: bool) -> dict[str, Any]:
    """One entry of ``results`` in the file."""
    asked_at = timestamp()
    answer = target.get(endpoint.path)
    success, errors = answer.status == HTTPStatus.OK, None
    if contract and answer.status is not None:
        errors = violations(endpoint.path, answer.status, answer.headers, answer.body)
        success = not errors
    return {
        "endpoint": endpoint.path,
        "url": target.url(endpoint.path),
        "status_code": answer.status,
        "expected_status": int(HTTPStatus.OK),
        "response_time": answer.elapsed_ms,
        "success": success,
        "description": endpoint.description,
        "timestamp": asked_at,
        **{key: target.scrub(value) for key, value in _said(answer, errors).items()},
    }


def _said(answer: Answer, errors: list[str] | None) -> dict[str, Any]:
    """The part of a result that repeats what the server said."""
    data, unparsable = answer.content()
    optional = {
        "health_status": health_word(data),
        "json_parse_error": unparsable or None,
        "error": answer.error,
        "contract_errors": errors,
    }
    text_or_object = data if isinstance(data, dict | str | None) else json.dumps(data)
    applicable = {key: value for key, value in optional.items() if value is not None}
    return {"response_data": text_or_object, **applicable}


def summarize(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``summary`` of the file."""
    passed = sum(result["success"] for result in results)
    times = [result["response_time"] for result in results if result["response_time"] is not None]
    return {
        "total_tests": len(results),
        "passed_tests": passed,
        "failed_tests": len(results) - passed,
        "response_time_ms": {
            "average": round(sum(times) / len(times), 2) if times else None,
            "minimum": min(times, default=None),
            "maximum": max(times, default=None),
        },
    }


def write_results(path: Path, document: Mapping[str, Any]) -> None:
    """Write the file completely or leave what was there.

    Raises:
        CommandError: It cannot be written.
    """
    text = json.dumps(document, indent=2) + "\n"
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.exists() and not target.is_file():
        raise CommandError(f"cannot write {path}: not a regular file")
    try:
        with draft.open("x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def describe(result: Mapping[str, Any], options: argparse.Namespace) -> str:
    """The lines that people see for one result."""
    word = colored("PASS", GREEN, options) if result["success"] else colored("FAIL", RED, options)
    status = result["status_code"] or "---"
    elapsed = result["response_time"]
    duration = "-" if elapsed is None else f"{elapsed:.2f} ms"
    remark = result.get("error") or result.get("health_status", "")
    first = f"{word}  {status}  {duration:>11}  {result['endpoint']:<34}  {plain(remark)}"
    wrong = (f"        {plain(error)}" for error in result.get("contract_errors", ()))
    return "\n".join([first.rstrip(), *wrong])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("health_check_results.json"),
        help="where to write the results (default: health_check_results.json)",
    )
    output.add_argument("--no-output", action="store_true", help="write no file")
    parser.add_argument(
        "--contract",
        action="store_true",
        help="compare every answer with the contract too; a correct 503 passes",
    )
    parser.add_argument("--quiet", action="store_true", help="print failures only")
    return parser.parse_args(argv)


def _run(argv: Sequence[str] | None) -> int:
    options = _parse(argv)
    target, root = reachable(options)
    started_at = timestamp()
    if root.status != HTTPStatus.OK:
        print(f"NOTE  {root.status}  / should answer 200")
    results = []
    for endpoint in TESTS:
        results.append(result := run_test(endpoint, target, contract=options.contract))
        if not (options.quiet and result["success"]):
            print(describe(result, options), flush=True)
    test_run = {"timestamp": started_at, "base_url": target.base_url, "timeout": target.timeout}
    document = {"test_run": test_run, "results": results, "summary": summarize(results)}
    return _conclude(document, options)


def _conclude(document: Mapping[str, Any], options: argparse.Namespace) -> int:
    if not options.no_output:
        write_results(options.output, document)
    summary = document["summary"]
    if not options.quiet:
        print(f"{summary['passed_tests']} of {summary['total_tests']} passed")
    return SOME_FAILED if summary["failed_tests"] else ALL_PASSED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the head of this file."""
    return guarded(lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
