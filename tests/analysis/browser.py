"""A real browser for tests of pages: the machine's Chromium, or the one that Playwright installs."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox"]  # The pages are our own; as root, Chromium starts no other way.


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser; skip, and say how to get one, where there is none."""
    with sync_playwright() as playwright:
        found = _started(playwright)
        if found is None:
            pytest.skip("needs a browser: apt install chromium, or playwright install chromium")
        yield found
        found.close()


def _started(playwright: Playwright) -> Browser | None:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        return playwright.chromium.launch(executable_path=path, args=FLAGS)
    except Error:
        return None


def unpacked(packed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a data set as the page stores it (analysis.report.html.pack)."""
    columns = {name: column for name, column in packed.items() if name}

    def value(column: list[Any], at: int) -> Any:
        if len(column) == 1:
            return column[0]
        return column[0][column[1][at]] if isinstance(column[0], list) else column[at]

    return [
        {name: value(column, at) for name, column in columns.items()} for at in range(packed[""])
    ]


@dataclass
class Opened:
    """A page that was opened offline, and what it did.

    Attributes:
        page: Playwright's page.
        said: Warnings and errors of the console, and exceptions.
        requests: Addresses that were asked for.
        seconds: Until its figures were drawn.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def look(self, script: str, *given: Any) -> Any:
        """Return what a script finds on the page."""
        return self.page.evaluate(script, *given)


@contextmanager
def opened(browser: Browser, file: Path, at: str = "", **how: Any) -> Iterator[Opened]:
    """Open a page without a network and wait for its figures.

    Args:
        browser: Which.
        file: The page.
        at: What follows its address.
        how: Of the context: ``viewport``, ``color_scheme`` and so on.
    """
    context = browser.new_context(offline=True, accept_downloads=True, **how)
    found = Opened(context.new_page())
    page = found.page
    page.on("console", lambda m: m.type in ("error", "warning") and found.said.append(m.text))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    start = time.perf_counter()
    page.goto(file.as_uri() + at)
    page.wait_for_function("window.__report?.ready === true", timeout=60_000)
    found.seconds = time.perf_counter() - start
    yield found
    context.close()
