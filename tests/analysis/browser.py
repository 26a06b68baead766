"""A real browser for tests of pages: the machine's Chromium, or the one that Playwright installs."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, Playwright, sync_playwright

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
PHONE = {"viewport": NARROW, "is_mobile": True, "has_touch": True}
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


def unfold(found: Opened) -> None:
    """Open everything that is folded, and wait for its figures."""
    found.look("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found.page.wait_for_function(
        "[...document.querySelectorAll('[data-chart]')].every((box) => box.querySelector('svg'))"
    )
    found.page.wait_for_timeout(300)


def sound(found: Opened) -> None:
    """Nothing was said or asked for, every figure has marks, nothing is wider than the page."""
    unfold(found)
    assert found.said == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in found.requests if url.startswith("file:")]) == 1
    assert found.look("window.__report.errors") == []
    empty = found.look(
        """() => [...document.querySelectorAll("[data-chart]")].filter((box) => {
            const marks = box.querySelectorAll("svg .role-mark path, svg .role-mark text, svg .role-mark line");
            const { width, height } = box.getBoundingClientRect();
            return !marks.length || width < 100 || height < 60 || /NaN|undefined/.test(box.innerHTML);
        }).map((box) => box.dataset.chart)"""
    )
    assert empty == []
    assert found.look("document.documentElement.scrollWidth <= innerWidth")
    cut = found.look(
        """() => [...document.querySelectorAll("[data-chart]")].filter((box) =>
            box.querySelector("svg").getBoundingClientRect().right
            > box.getBoundingClientRect().right + 1).map((box) => box.dataset.chart)"""
    )
    assert cut == []


def violations(found: Opened) -> list[tuple[str, list[str]]]:
    """Return what axe finds against the rules of WCAG 2.1 AA, outside of figures' marks."""
    rules = ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]
    result = Axe().run(
        found.page, context={"exclude": [["svg.marks *"]]}, options={"runOnly": rules}
    )
    return [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in result.response["violations"]]


def arms_of(found: Opened) -> list[str]:
    return found.look(
        "[...new Set([...document.querySelectorAll('tr[data-arm].on')].map((row) => row.dataset.arm))]"
    )
