"""A real Chromium for the tests of the status page."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.pod import PATIENCE, ROOT

# A picture of each state, for whoever wants to see what the tests saw.
PICTURES = ROOT / "tests" / "artefacts"
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SCHEMES = ("light", "dark")

expect.set_options(timeout=PATIENCE * 1000)


class Visit:
    """A page somebody has open.

    Attributes:
        page: It, as Playwright has it.
        complaints: What the browser had to say against it.
        asked: The addresses it asked for anything.
    """

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1400, "height": 1000}, **context)
        self.page.set_default_timeout(PATIENCE * 1000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def row(self, table: str, name: str) -> Any:
        """The row of a table that begins with a name."""
        head = self.page.get_by_role("rowheader", name=name)
        return self.page.locator(f"section:has(#{table}) tbody tr").filter(has=head)

    @property
    def verdict(self) -> Any:
        """The line that says how the pod is."""
        return self.page.get_by_role("status")

    def picture(self, name: str) -> None:
        """Keeps a picture in both colour schemes, each of which must be accessible."""
        PICTURES.mkdir(exist_ok=True)
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme)
            found = Axe().run(self.page)
            assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"
            self.page.screenshot(path=PICTURES / f"{name}-{scheme}.png", full_page=True)
        self.page.emulate_media(color_scheme="light")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise FileNotFoundError("the tests need a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=Path(program), args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens pages that are closed at the end of the test, which the browser must not regret."""
    visits: list[Visit] = []

    def make(url: str, **context: Any) -> Visit:
        visits.append(Visit(browser, url, **context))
        return visits[-1]

    yield make
    for each in visits:
        each.page.context.close()
