"""The status page without a browser: what is on it, for whom, and that nothing breaks out."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from gzip import compress
from html.parser import HTMLParser
from typing import Any

import pytest

from service.advice import Runbook
from service.health import Phase
from service.health.snapshot import Snapshot, encode
from service.web.payload import span
from service.web.status_page.document import document
from service.web.status_page.page import POLICY, render, spark
from tests.unit import pods
from tests.unit.large import fleet, large_reader
from tests.unit.pods import NOW, REFUSED, snapshot
from tests.unit.test_answers import PAYLOAD, Rig

BUDGET = 60_000  # bytes
RUNBOOK = Runbook("docs/operations.md")
HOSTILE = "\"'><script>alert(1)</script>&`"
Attributes = list[tuple[str, str | None]]
VOID = {"meta", "link", "br"}
# Those whose end tag HTML lets out.
OPEN_ENDED = {"li", "dt", "dd", "tr", "td", "th", "thead", "tbody"}


class Outline(HTMLParser):
    """Every tag of a page, and a complaint about each that does not close."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in VOID | OPEN_ENDED:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, _attrs: Attributes) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPEN_ENDED:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class Page(Rig):
    """The pod of the examples, and its page."""

    def __init__(self, **found: Any) -> None:
        super().__init__()
        self.runbook = RUNBOOK
        self.board.expected = 1
        self.publish(**found)

    def document(self, *, trusted: bool = True) -> dict[str, Any]:
        return document(self.reader, PAYLOAD, self.runbook, trusted=trusted)

    def html(self, *, trusted: bool = True, events: bool = False) -> bytes:
        return render(self.document(trusted=trusted), events=events)


@pytest.fixture
def page() -> Page:
    page = Page()
    page.board.serve(NOW - 86_395.0)
    return page


@pytest.mark.parametrize(
    ("change", "headline"),
    [
        pytest.param(lambda _page: None, "Ready", id="serving"),
        pytest.param(
            lambda page: page.publish(database=REFUSED),
            "Not ready: database unhealthy (connection_refused)",
            id="failing",
        ),
        pytest.param(
            lambda page: page.publish(system_resources=pods.DISK_HIGH),
            "Ready, with a warning: system_resources",
            id="warning",
        ),
        pytest.param(lambda page: page.board.drain(), "Not ready: draining", id="draining"),
        pytest.param(
            lambda page: (page.publish(database=REFUSED), page.board.maintain(on=True)),
            "Not ready: maintenance, database unhealthy (connection_refused)",
            id="two reasons",
        ),
        pytest.param(
            lambda page: page.pass_time(61.0), "No web worker makes progress", id="stalled"
        ),
        pytest.param(
            lambda page: page.board.publish(1, b"\xff"),
            "Not ready: the newest publication cannot be read",
            id="unreadable",
        ),
    ],
)
def test_the_headline(page: Page, change: Callable[[Page], object], headline: str) -> None:
    change(page)
    assert page.document()["headline"] == headline
    assert f"<b>{headline}</b>".encode() in page.html()


def test_a_pod_that_starts() -> None:
    assert Page().document()["headline"] == "Not ready: starting"


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"database": REFUSED, "stripe_api": pods.ABSENT},
        dict.fromkeys(pods.CHECKS, pods.NEVER),
        dict.fromkeys(pods.CHECKS, pods.ABSENT),
    ],
    ids=["well", "failing", "never run", "nothing configured"],
)
@pytest.mark.parametrize("later", [0.0, 1e6], ids=["fresh", "expired"])
def test_every_state_has_a_page(found: dict[str, Any], later: float) -> None:
    page = Page(**found)
    for trusted in (False, True):
        outline = Outline(page.html(trusted=trusted))
        assert outline.tags.count("h1") == 1
        page.pass_time(later)


def test_others_get_the_verdicts_alone(page: Page) -> None:
    seen, everything = page.document(trusted=False), page.document()
    assert seen.keys() == {
        *("timestamp", "name", "version", "lifecycle", "status", "headline", "verdicts"),
        "trusted",
    }
    assert "table" not in Outline(page.html(trusted=False)).tags
    assert seen.items() <= {**everything, "trusted": False}.items()


def test_what_is_said_of_a_check(page: Page) -> None:
    page.publish(database=REFUSED)
    check = page.document()["checks"]["database"]
    assert (check["status"], check["error"]) == ("unhealthy", "connection_refused")
    assert (check["age_seconds"], check["critical"], check["origin"]) == (1.6, True, None)
    assert [run["status"] for run in check["runs"]] == ["unhealthy"]
    (turn,) = check["transitions"]
    assert (turn["ago_seconds"], turn["status"]) == (1.6, "unhealthy")
    assert "is it running, and is it where the URL says?" in Outline(page.html()).text


def test_the_runbook_is_a_link_where_it_is_published(page: Page) -> None:
    page.publish(database=REFUSED, system_resources=pods.DISK_HIGH)
    sections = ("notready", "checkfailing", "checkwarning")
    html = page.html().decode()
    for section in sections:
        assert f"<code>docs/operations.md#mingushealth{section}</code>" in html
    assert "<a href" not in html.replace('<a href="">', "")
    page.runbook = Runbook('https://wiki.test/health?a="b"&c')
    html = page.html().decode()
    for section in sections:
        where = f"https://wiki.test/health?a=&quot;b&quot;&amp;c#mingushealth{section}"
        assert f'<a href="{where}" rel="noreferrer">runbook</a>' in html


def test_what_is_said_of_a_worker(page: Page) -> None:
    slot = page.board.slot(0)
    slot.request_started()
    page.pass_time(2.0)
    slot.beat(2, queued=3, backlog=5)
    (worker,) = page.document()["workers"]
    assert (worker["state"], worker["threads_busy"], worker["threads"]) == ("busy", 2, 4)
    assert (worker["oldest_seconds"], worker["queued"], worker["beat_age_seconds"]) == (2.0, 3, 0.0)
    assert page.document()["backlog"] == 5


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda _page: None, "idle"),
        (lambda page: page.board.slot(0).beat(4), "full"),
        (lambda page: page.board.slot(0).enter(Phase.STOPPING), "stopping"),
        (lambda page: page.board.slot(0).enter(Phase.BOOTING), "booting"),
        (lambda page: page.pass_time(61.0), "stuck"),
    ],
)
def test_what_a_worker_is_doing(page: Page, change: Callable[[Page], object], state: str) -> None:
    change(page)
    assert [worker["state"] for worker in page.document()["workers"]] == [state]


def test_nothing_that_is_shown_can_break_out(page: Page) -> None:
    """Names come from settings, the application and other pods."""
    hostile = fleet(1, host=HOSTILE, release=HOSTILE, failing=[HOSTILE], lifecycle=HOSTILE)
    page.board.publish(1, encode(Snapshot(snapshot().states, fleet=hostile)))
    for outline in (Outline(page.html()), Outline(page.html(events=True))):
        assert outline.tags.count("script") == 1
        assert outline.text.count(HOSTILE) == 4
        assert not any(name.startswith("on") or name == "style" for name in outline.attributes)


def test_pods_that_cannot_be_read_are_shown_among_the_others(page: Page) -> None:
    seen = json.loads(fleet(3).members)
    seen["pods"][1] = {"pod": f"{1:032x}", "age_seconds": 2.0}
    view = replace(fleet(3), members=json.dumps(seen))
    page.board.publish(1, encode(Snapshot(snapshot().states, fleet=view)))
    rows = page.document()["fleet"]["pods"]
    assert [row["ready"] for row in rows] == [False, None, True]
    assert "None" not in Outline(page.html()).text


def test_the_policy_allows_what_stands_in_the_page_and_nothing_else(page: Page) -> None:
    assert POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in POLICY
    assert not re.search(r"(?:src|href)=\"(?!data:|\")", page.html().decode())


def test_a_usual_page_is_small(page: Page) -> None:
    assert len(page.html()) < BUDGET / 2


def test_a_large_pod_in_a_large_fleet() -> None:
    """64 workers, 40 checks, 200 pods: all of them are on it, and it travels small."""
    html = render(document(large_reader(), PAYLOAD, RUNBOOK, trusted=True), events=True)
    outline = Outline(html)
    assert outline.tags.count("tr") == 3 + 64 + 40 + 200
    assert outline.tags.count("svg") == 40
    assert len(compress(html, 1)) < BUDGET / 2
    assert len(html) < 4 * BUDGET


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (61, "1 min 1 s"),
        (3_661, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_lengths_of_time(seconds: float | None, text: str | None) -> None:
    assert span(seconds) == text


def test_a_drawing_says_in_words_what_it_shows() -> None:
    runs = [
        {"duration_ms": 1.0, "status": "healthy"},
        {"duration_ms": 3.0, "status": "warning"},
        {"duration_ms": 2000.0, "status": "unhealthy"},
    ]
    drawn = spark(runs)
    assert 'aria-label="newest runs: 3, failed: 1, median 3.00 ms, longest 2000.00 ms"' in drawn
    assert drawn.count("<path") == 3
    heights = [int(height) for height in re.findall(r"v-(\d+)", drawn)]
    assert heights[0] < heights[1] < heights[2] == 20
    assert spark([]) == ""
    assert "v-2" in spark([{"duration_ms": 0.0, "status": "healthy"}])
