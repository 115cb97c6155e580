"""Notices as webhooks: a generic one, signed, and one that Slack understands.

The generic one keeps to Standard Webhooks (https://www.standardwebhooks.com): its ``webhook-id``
is made from the news alone, so retries and a successor's repetition carry the same one, and the
signature covers id, time of the attempt and body. A message has codes and names of ours; no
reason, no host, no secret.
"""

import hashlib
import hmac
import json
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from service.advice import Runbook, advice
from service.health import Notice, Status, Trouble
from service.notifier import ATTEMPT_SECONDS, Reply
from service.probes.http import (
    NO_ANSWER,
    Answer,
    Line,
    ask,
    prepared,
    retry_after,
    without_answer,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Who sends.

    Attributes:
        app: Name of the application.
        environment: Name of the environment.
        release: Name of the release, if it has one.
        version: Version of the application, for the ``User-Agent``.
        runbook: Where it is read.
    """

    app: str
    environment: str
    release: str | None
    version: str
    runbook: Runbook


def identity(source: Source, notice: Notice) -> str:
    """The ``webhook-id``: the same for the same news, whoever tells them and how often."""
    text = f"{source.app}\n{source.environment}\n{notice.key}"
    return f"msg_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def signature(key: bytes, message_id: str, at: int, body: bytes) -> str:
    """The ``webhook-signature`` of a message.

    Args:
        key: The secret's bytes.
        message_id: The ``webhook-id``.
        at: The ``webhook-timestamp``, Unix seconds.
        body: What is sent, byte by byte.
    """
    signed = f"{message_id}.{at}.".encode() + body
    return f"v1,{b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


def generic(source: Source, notice: Notice) -> bytes:
    """The body of the generic webhook. Every key is there in every message."""
    restored = notice.trouble is Trouble.NONE
    document = {
        "type": "check.restored" if restored else "check.failing",
        "timestamp": _timestamp(notice.since_at),
        "data": {
            "app": source.app,
            "environment": source.environment,
            "release": source.release,
            "pod": notice.pod,
            "scope": "pod" if notice.alone else "fleet",
            "check": notice.check,
            "critical": notice.critical,
            "status": notice.status.word,
            "code": notice.code,
            "origin": notice.origin,
            "ready": notice.ready,
            "failing_since": _timestamp(notice.failing_since_at),
            "lasted_seconds": None if notice.lasted is None else round(notice.lasted, 2),
            "advice": None if restored else advice(notice.code or ""),
            "runbook": _section(source, notice),
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def slack(source: Source, notice: Notice) -> bytes:
    """The body of a message for Slack, or for whoever understands its ``text``."""
    where = f"{source.app} {source.environment}"
    if source.release:
        where += f" {source.release}"
    whose = f"pod {notice.pod[:8]}" if notice.alone else "the fleet"
    if notice.trouble is Trouble.NONE:
        lasted = timedelta(seconds=round(notice.lasted or 0.0))
        told = [f"{notice.check} is restored in {whose}", f"it failed for {lasted}"]
        told.append(f"`{notice.code}`")
    else:
        told = [f"{notice.check} fails in {whose}", f"`{notice.code}`"]
        told += [notice.origin] if notice.origin else []
        told += [] if notice.ready else ["not ready"]
        told += [advice(notice.code or ""), _section(source, notice)]
    return json.dumps({"text": _escaped(f"[{where}] {'; '.join(told)}")}).encode()


def _section(source: Source, notice: Notice) -> str:
    """Where the runbook says what it means, of a restored check too."""
    return source.runbook.check(Status.UNHEALTHY, critical=notice.critical) or ""


class Webhook:
    """A target that is asked by POST. For one thread, ``close`` apart.

    Args:
        name: What it is called.
        url: Where to post to; a secret.
        source: Who sends.
        render: Makes the body.
        key: Signs it; without one it is not signed.
        wall: Unix seconds.
        timeout: Seconds an attempt may take, from the dial to the end of the answer.
    """

    def __init__(
        self,
        name: str,
        url: str,
        source: Source,
        render: Callable[[Source, Notice], bytes],
        key: bytes | None,
        wall: Callable[[], float] = time.time,  # noqa: TID251 - the time of an attempt, signed
        timeout: float = ATTEMPT_SECONDS,
    ) -> None:
        self.name = name
        self._url = url
        self._source = source
        self._render = render
        self._key = key
        self._wall = wall
        self._timeout = timeout
        self._line: Line | None = None

    def identity(self, notice: Notice) -> str:
        """Its ``webhook-id``."""
        return identity(self._source, notice)

    def send(self, notice: Notice) -> Reply:
        """One attempt. Never raises for what the network or the receiver does."""
        body = self._render(self._source, notice)
        request = prepared(
            "POST", self._url, self._headers(notice, body), self._source.version, body
        )
        self._line = line = Line(self._timeout)
        try:
            with line:
                answer = ask(line, request, self._timeout)
        except NO_ANSWER as error:
            return Reply(again=True, code=without_answer(line, error))
        return judged(answer)

    def close(self) -> None:
        """Cuts the attempt that is going on. From any thread, idempotent."""
        if self._line is not None:
            self._line.cut()

    def _headers(self, notice: Notice, body: bytes) -> Mapping[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            message_id, at = self.identity(notice), int(self._wall())
            headers["webhook-id"] = message_id
            headers["webhook-timestamp"] = str(at)
            headers["webhook-signature"] = signature(self._key, message_id, at, body)
        return headers


def judged(answer: Answer) -> Reply:
    """What a complete answer comes to: taken, later again, or never."""
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Reply(sent=True)
    later = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    wait = retry_after(answer.headers) if later else None
    return Reply(again=later, code=f"http_{status}", retry_after=wait)


def _timestamp(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _escaped(text: str) -> str:
    """What Slack would take for markup of its own, as text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
