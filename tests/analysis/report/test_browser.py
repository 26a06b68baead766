"""The report of a real study in a real browser."""

import csv
import html
import io
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from study.run_folder.store import RunFolder
from tests.analysis.browser import (
    PHONE,
    WIDE,
    Opened,
    arms_of,
    opened,
    sound,
    unfold,
    unpacked,
    violations,
)
from tests.running import Finished


@pytest.fixture(scope="module")
def real(finished_study: Finished) -> Path:
    """The report of a real, small study."""
    return finished_study.out / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "how",
    [{"viewport": WIDE}, PHONE, {"viewport": {"width": 1600, "height": 900}}],
    ids=["wide", "phone", "wider"],
)
def test_a_real_report(chromium: Browser, real: Path, how: dict[str, Any], scheme: str) -> None:
    with opened(chromium, real, color_scheme=scheme, **how) as found:
        sound(found)
        dark = found.look("document.documentElement.classList.contains('dark')")
        assert dark == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(chromium: Browser, real: Path, scheme: str) -> None:
    with opened(chromium, real, color_scheme=scheme, viewport=WIDE) as found:
        found.page.locator("[data-open]").first.click()
        assert violations(found) == []


def faded(found: Opened, figure: str) -> int:
    return found.look(
        """(key) => [...document.querySelectorAll(`[data-chart=${key}] svg .mark-symbol path`)]
            .filter((path) => Number(path.getAttribute("opacity") ?? 1) < 0.5).length""",
        figure,
    )


def test_a_click_selects_everywhere(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        assert faded(found, "recovery") == 0
        found.page.locator("[data-chart=diversity] .mark-symbol path").first.click()
        found.page.locator("#chip").wait_for()
        (arm,) = arms_of(found)
        assert f"sel={arm}" in found.page.url
        found.page.wait_for_timeout(200)
        assert faded(found, "recovery") > 0
        assert faded(found, "cost") > 0
        with opened(chromium, real, at=found.page.url.partition("html")[2]) as again:
            assert arms_of(again) == [arm]
        found.page.locator("[data-act=clear]").click()
        assert arms_of(found) == []
        assert "#" not in found.page.url


def test_a_brush_selects_what_it_holds(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        chart = found.page.locator("[data-chart=diversity] svg")
        chart.evaluate("(svg) => svg.scrollIntoView({ block: 'center', behavior: 'instant' })")
        box = chart.bounding_box()
        found.page.mouse.move(box["x"] + 70, box["y"] + 10)
        found.page.mouse.down()
        found.page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] - 70, steps=8)
        found.page.mouse.up()
        found.page.locator("#chip").wait_for()
        every = found.page.locator("tr[data-arm]").count()
        assert 1 < len(arms_of(found)) < every
        drawn = (
            "document.querySelectorAll('[data-chart=diversity] [class*=brush_brush] path').length"
        )
        assert found.look(drawn) > 0
        found.page.locator("[data-act=clear]").click()
        found.page.wait_for_timeout(200)
        sizes = found.look(
            "[...document.querySelectorAll('[data-chart=diversity] [class*=brush_brush]')]"
            ".map((node) => node.getBoundingClientRect().width)"
        )
        assert max(sizes, default=0) < 5


def test_a_method_of_the_key_selects_its_arms(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        found.page.locator("[data-method=batch_ensemble]").click()
        candidates = found.look(
            "JSON.parse(document.getElementById('payload').textContent).methods.batch_ensemble"
        )
        assert sorted(arms_of(found)) == sorted(candidates)


def test_the_drawer_has_all_of_an_arm(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        row = found.page.locator("tr[data-arm]").first
        arm = row.get_attribute("data-arm")
        row.locator("[data-open]").click()
        drawer = found.page.locator("#drawer")
        text = drawer.inner_text()
        assert "--replay" in text
        assert "method: " in text
        page = found.look("JSON.parse(document.getElementById('payload').textContent)")
        measures = zip(page["measured"], page["arms"][arm]["measures"], strict=True)
        assert all(name in text and said in text for name, said in measures if said)
        assert f"open={arm}" in found.page.url
        with opened(chromium, real, at=found.page.url.partition("html")[2]) as again:
            assert again.page.locator("#drawer").is_visible()
        found.page.keyboard.press("Escape")
        assert not drawer.is_visible()
        assert "open=" not in found.page.url


def test_the_table_sorts_and_filters(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        table = found.page.locator("#configurations ~ .table")
        rows = table.locator("tbody tr")
        table.locator("th button", has_text="NLL").last.click()
        values = [
            float(v)
            for v in found.look(
                "[...document.querySelectorAll('#configurations ~ .table tbody tr')].map((r) => r.cells[r.cells.length - 3].dataset.v)"
            )
            if v
        ]
        assert values == sorted(values, reverse=True)
        every = rows.count()
        found.page.locator("[data-filter=configurations]").fill("positive")
        assert rows.locator("visible=true").count() == 1
        assert (
            found.page.locator("#configurations ~ * [role=status]").inner_text() == f"1 of {every}"
        )


def test_every_trial_is_listed_with_its_curve(
    chromium: Browser, real: Path, finished_study: Finished
) -> None:
    trials = RunFolder(finished_study.out).rows()
    with opened(chromium, real, viewport=WIDE) as found:
        assert found.page.locator("#trials tbody").count() == 0
        found.page.locator("#trials summary").click()
        rows = found.page.locator("#trials tbody tr")
        rows.first.wait_for()
        assert rows.count() == len(trials)
        shown = found.look(
            "[...document.querySelectorAll('#trials tbody tr')].filter((row) => row.querySelector('svg'))"
            ".map((row) => row.cells[0].textContent)"
        )
        assert set(shown) == {name for name, row in trials.items() if row.status == "complete"}
        found.page.locator("#trials th button", has_text="Validation NLL").click()
        losses = [v for v in rows.locator("td:nth-child(6)").all_inner_texts() if v]
        assert losses == sorted(losses, key=float, reverse=True)
        found.page.locator("[data-filter=trials]").fill("search single")
        own = [r for r in trials.values() if (r.stage, r.method) == ("search", "single")]
        assert rows.locator("visible=true").count() == len(own)


def test_every_picture_can_be_seen(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        unfold(found)
        found.page.locator("#examples").scroll_into_view_if_needed()
        found.look(
            "Promise.all([...document.images].map((one) => { one.loading = 'eager'; return one.decode(); }))"
        )
        widths = found.look("[...document.images].map((one) => one.naturalWidth)")
        assert len(widths) > 50
        assert min(widths) > 0
        votes = found.page.locator(".votes svg")
        assert votes.count() == 24
        assert "the members predict" in (votes.first.get_attribute("aria-label") or "")


def test_a_choice_redraws(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        figure = found.page.locator("[data-figure=severity]")
        assert figure.locator("svg", has_text="NLL − single").count() == 1
        figure.locator("button", has_text=re.compile("^Accuracy$")).click()
        found.page.wait_for_timeout(300)
        assert figure.locator("svg", has_text="NLL − single").count() == 0
        assert found.said == []


def test_a_tooltip_says_what_a_mark_is(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        found.page.locator("[data-chart=diversity] .mark-symbol path").first.hover()
        tip = found.page.locator("#vg-tooltip-element.visible")
        tip.wait_for()
        assert "Configuration" in tip.inner_text()


def test_escape_clears_the_selection(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        found.page.locator("tr[data-arm] .tag").first.click()
        assert len(arms_of(found)) == 1
        found.page.keyboard.press("Escape")
        assert arms_of(found) == []


def test_the_first_stop_of_the_keyboard_leads_to_the_verdict(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        found.page.keyboard.press("Tab")
        assert found.look("document.activeElement.textContent") == "Skip to the verdict"
        assert found.look("document.activeElement.getBoundingClientRect().left") >= 0
        found.page.keyboard.press("Enter")
        found.page.wait_for_function("location.hash === '#verdict'")


def test_a_thumb_hits_everything_and_sees_recoveries(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, **PHONE) as found:
        unfold(found)
        small = found.look(
            """() => [...document.querySelectorAll("button, a, summary, input")].filter((one) => {
                const { width, height } = one.getBoundingClientRect();
                return width && (width < 24 || height < 24) && getComputedStyle(one).position !== "absolute";
            }).map((one) => one.outerHTML.slice(0, 90))"""
        )
        assert small == []
        outside = found.look(
            """() => [...document.querySelectorAll("#configurations ~ .table tbody tr")]
                .filter((row) => row.cells[1].getBoundingClientRect().right > innerWidth).length"""
        )
        assert outside == 0


def test_details_begin_with_the_reason(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        found.page.locator("[data-open]").first.click()
        assert found.page.locator("#drawer h3").first.inner_text() == "Why"


@pytest.mark.parametrize(
    "kinds", [("csv", "svg"), pytest.param(("png",), marks=pytest.mark.slow)], ids="-".join
)
def test_every_figure_can_be_kept(
    chromium: Browser, real: Path, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        page = found.look("JSON.parse(document.getElementById('payload').textContent)")
        unfold(found)
        for number, (key, kind) in enumerate(product(page["figures"], kinds)):
            if number % 8 == 7:  # Chromium lets a page keep ten files.
                found.page.reload()
                found.page.wait_for_function("window.__report?.ready === true")
                unfold(found)
            with found.page.expect_download() as download:
                found.page.locator(f"[data-figure={key}] [data-save={kind}]").click()
            file = tmp_path / download.value.suggested_filename
            download.value.save_as(file)
            content = file.read_bytes()
            if kind == "csv":
                uses = page["figures"][file.stem]["uses"]
                sets = [unpacked(page["datasets"][name]) for name in uses]
                longest = max(map(len, sets))
                rows = sum(len(own) for own in sets if len(own) > 2 or len(own) == longest)
                assert len(list(csv.reader(io.StringIO(content.decode())))) == rows + 1
            else:
                assert content.startswith({"svg": b"<svg", "png": b"\x89PNG"}[kind])
                assert len(content) > 1000
                if kind == "svg":
                    title = page["figures"][file.stem]["title"]
                    texts = re.findall(r"<text[^>]*>([^<]*)</text>", content.decode())
                    assert html.unescape(" ".join(texts)).count(title) == 1


@pytest.mark.parametrize(
    "at", ["#open=__proto__", "#open=constructor", "#sel=<script>&open=x", "#%", "#sel=toString"]
)
def test_an_address_that_names_nothing_opens_nothing(
    chromium: Browser, real: Path, at: str
) -> None:
    with opened(chromium, real, at=at, viewport=WIDE) as found:
        assert found.said == []
        assert not found.page.locator("#drawer").is_visible()
        assert arms_of(found) == []


def test_an_address_is_followed_on_the_open_page_and_outlives_a_section(
    chromium: Browser, real: Path
) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        arm = found.page.locator("tr[data-arm]").first.get_attribute("data-arm")
        found.look("(arm) => { location.hash = `sel=${arm}`; }", arm)
        found.page.locator("#chip").wait_for()
        assert arms_of(found) == [arm]
        found.page.locator("nav a", has_text="Cost").click()
        found.look("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        found.page.locator("#chip [data-act=copy]").click()
        assert f"sel={arm}" in found.look("window.copied")


def test_a_choice_outlives_another_theme(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        figure = found.page.locator("[data-figure=severity]")
        figure.locator("button", has_text=re.compile("^Accuracy$")).click()
        found.page.locator("[data-act=theme]").click()
        found.page.wait_for_timeout(1500)
        assert figure.locator("svg", has_text="Accuracy").count() == 1
        assert found.said == []


def test_print_has_the_whole_table_and_ink_on_white(chromium: Browser, real: Path) -> None:
    for scheme in ("light", "dark"):
        with opened(chromium, real, viewport=WIDE, color_scheme=scheme) as found:
            assert len(found.page.pdf(format="A4", print_background=True)) > 50_000
            found.page.locator("[data-filter=configurations]").fill("positive")
            found.page.emulate_media(media="print")
            rows = found.page.locator("#configurations ~ .table tbody tr")
            assert rows.locator("visible=true").count() == rows.count() > 1
            body, ink = found.look(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            assert (body, ink) == ("rgb(255, 255, 255)", "rgb(28, 31, 35)")
            assert found.look(
                "document.querySelector('#configurations ~ .table table').scrollWidth"
                " <= document.querySelector('#configurations ~ .table').clientWidth"
            )


def test_the_keyboard_reaches_everything(chromium: Browser, real: Path) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        unfold(found)
        wanted = found.look(
            "[...document.querySelectorAll('main button, main input, main a')].filter((n) => n.offsetParent).length"
        )
        found.look(
            """() => { window.seen = new Set();
            document.addEventListener('focusin', (e) => e.target.matches('main button, main input, main a') && window.seen.add(e.target)); }"""
        )
        others = found.look("document.querySelectorAll('main summary, main [tabindex]').length")
        for _ in range(wanted + others + 30):
            found.page.keyboard.press("Tab")
        assert found.look("window.seen.size") == wanted
        found.page.locator("tr[data-arm] .tag").first.focus()
        found.page.keyboard.press("Enter")
        assert len(arms_of(found)) == 1


def test_a_page_is_small_and_ready_soon(
    chromium: Browser, real: Path, record_property: Any
) -> None:
    with opened(chromium, real, viewport=WIDE) as found:
        record_property("real", f"{real.stat().st_size / 1e6:.2f} MB, {found.seconds:.2f} s")
    assert real.stat().st_size < 3e6
