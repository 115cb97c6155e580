"""What docs/events.md shows is what is sent, and its check of a signature works."""

import json
import time
from base64 import b64encode
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from service.advice import Runbook
from service.health import Notice, Status, Trouble
from service.notifier import ATTEMPT_SECONDS, ATTEMPTS, KEEP, LONGEST_RETRY_AFTER, PAUSE_LAST
from service.webhooks import Source, generic, identity, signature, slack
from tests.docs.test_documents import fences

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
RUNBOOK = Runbook("docs/operations.md")
SOURCE = Source("MINGUS", "production", "5c1e7d2", "1.0.0", RUNBOOK)
POD = "2f6c0a9be1d24c7f8a35b6d7e8f90a1b"
BEGAN = datetime.fromisoformat("2025-01-27T10:30:00+00:00").timestamp()


def notice(trouble: Trouble) -> Notice:
    restored = trouble is Trouble.NONE
    return Notice(
        check="redis",
        trouble=trouble,
        status=Status.HEALTHY if restored else Status.UNHEALTHY,
        code="connection_refused",
        since_at=BEGAN + 250.0 * restored,
        failing_since_at=BEGAN,
        critical=True,
        ready=restored,
        alone=True,
        pod=POD,
        origin=None if restored else "shared",
    )


FAILING, RESTORED = notice(Trouble.UNREADY), notice(Trouble.NONE)


def test_the_examples_are_what_is_sent() -> None:
    shown = [json.loads(text) for text in fences(DOCUMENT, "json")]
    assert shown == [json.loads(generic(SOURCE, each)) for each in (FAILING, RESTORED)]
    lines = fences(DOCUMENT, "text")[0].splitlines()
    assert lines == [json.loads(slack(SOURCE, each))["text"] for each in (FAILING, RESTORED)]


@pytest.mark.parametrize(
    ("altered", "right"),
    [
        pytest.param({}, True, id="as it was sent"),
        pytest.param({"body": b"{}"}, False, id="another body"),
        pytest.param({"webhook-id": "msg_another"}, False, id="another id"),
        pytest.param({"webhook-timestamp": "1700000000"}, False, id="an old one"),
        pytest.param({"key": bytes(24)}, False, id="another key"),
    ],
)
def test_the_check_of_a_signature(altered: dict[str, Any], *, right: bool) -> None:
    (snippet,) = fences(DOCUMENT, "python")
    names: dict[str, Any] = {}
    exec(snippet, names)
    key, body, now = bytes(range(32)), generic(SOURCE, FAILING), int(time.time())
    message_id = identity(SOURCE, FAILING)
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,old {signature(key, message_id, now, body)}",
    }
    secret = f"whsec_{b64encode(altered.pop('key', key)).decode()}"
    body = altered.pop("body", body)
    assert names["is_ours"]({**headers, **altered}, body, secret) is right


def test_the_figures() -> None:
    text = " ".join(DOCUMENT.split())
    assert f"2xx within {ATTEMPT_SECONDS:.0f} seconds" in text
    assert f"up to {PAUSE_LAST:.0f} seconds" in text
    assert f"for {KEEP / 60:.0f} minutes" in text
    assert f"heeded up to {LONGEST_RETRY_AFTER:.0f} seconds" in text
    assert ATTEMPTS == 10
    assert "at most ten times" in text


def test_markup_of_slack_is_text() -> None:
    source = Source("<!channel> & co", "production", None, "1.0.0", RUNBOOK)
    text = json.loads(slack(source, FAILING))["text"]
    assert text.startswith("[&lt;!channel&gt; &amp; co production] redis fails")


def test_messages_are_told_apart() -> None:
    assert identity(SOURCE, FAILING) == identity(SOURCE, notice(Trouble.UNREADY))
    others = [
        identity(SOURCE, RESTORED),
        identity(Source("MINGUS", "staging", None, "1", RUNBOOK), FAILING),
        identity(Source("SHOP", "production", None, "1", RUNBOOK), FAILING),
    ]
    assert len({identity(SOURCE, FAILING), *others}) == 4
