"""Pages that are hard to lay out, in a real browser: one arm, a hundred, none, odd names, parts."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from analysis.report.__main__ import main
from tests.analysis.browser import PHONE, WIDE, arms_of, opened, sound, violations
from tests.analysis.make_predictions import ARMS, make_predictions
from tests.analysis.make_run import DEEP_ENSEMBLE, SINGLE, Arm, Data, default_arms, make_run

SMALL = Data(test=60, shift=12, ood=20, classes=4, severities=2)
MARKUP = "<img src=x onerror=alert(1)><b>be</b> & 'co' \"x\" </script>"
LONG = "a configuration whose name goes on and on " * 4 + "without_any_space_" * 8


def written(run: Path, *more: str) -> Path:
    assert main(["--runs", str(run), "--out", str(run / "report.html"), *more]) == 0
    return run / "report.html"


def hard_runs(folder: Path) -> dict[str, Path]:
    """Write runs that are hard to show."""
    one = (SINGLE, DEEP_ENSEMBLE, Arm("candidate", "batchensemble", name="only", diversity=0.9))
    hundred = tuple(
        Arm("candidate", "batchensemble", init_std=0.1 + 0.002 * n, diversity=n / 100)
        for n in range(100)
    )
    nothing = (SINGLE, Arm("deep_ensemble", "deep_ensemble", diversity=0.0), one[2])
    names = tuple(
        Arm("candidate", "batchensemble", name=name, diversity=0.5) for name in (LONG, MARKUP)
    )
    made = {
        "one": make_run(folder / "one", one, seeds=4, data=SMALL),
        "hundred": make_run(folder / "hundred", (*one[:2], *hundred), seeds=4, data=SMALL),
        "nothing": make_run(folder / "nothing", nothing, seeds=4, data=SMALL),
        "names": make_run(folder / "names", (*default_arms(), *names), seeds=3, data=SMALL),
    }
    partial = make_run(folder / "partial", default_arms(), seeds=4, data=SMALL)
    for row in sorted(partial.glob("trials/*/trial.parquet"))[::3]:
        row.unlink()
    return made | {"partial": partial}


HARD = ("one", "hundred", "nothing", "names", "partial")


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hard")
    runs = {name: written(run) for name, run in hard_runs(folder).items()}
    given = make_predictions(folder / "given", ARMS, seeds=4, data=SMALL, splits=("test", "ood"))
    page = folder / "given.html"
    assert main(["--predictions", str(given), "--out", str(page)]) == 0
    return runs | {"given": page}


@pytest.mark.parametrize("name", [*HARD, "given"])
@pytest.mark.parametrize("how", [{"viewport": WIDE}, PHONE], ids=["wide", "phone"])
def test_a_hard_report(
    chromium: Browser, hard: dict[str, Path], how: dict[str, Any], name: str
) -> None:
    with opened(chromium, hard[name], **how) as found:
        sound(found)
        figures = found.page.locator("[data-chart]").count()
        assert (figures == 0) == (name == "nothing")
        if name == "names":
            assert MARKUP in found.page.locator("#configurations ~ .table").inner_text()
        if name == "partial":
            assert "PARTIAL" in " ".join(found.page.locator(".banner").all_inner_texts())


def test_axe_finds_no_violation_without_a_study(chromium: Browser, hard: dict[str, Path]) -> None:
    with opened(chromium, hard["given"], color_scheme="light", viewport=WIDE) as found:
        assert violations(found) == []


def test_any_name_of_an_arm_survives_its_address(chromium: Browser, tmp_path: Path) -> None:
    names = ["x,y", "p+q", "a&b", "50%25", "=1+1"]
    arms = {"single": ARMS["single"], "deep_ensemble": ARMS["deep_ensemble"]}
    arms |= dict.fromkeys(names, (4, 0.8))
    given = make_predictions(tmp_path / "given", arms, seeds=3, data=SMALL)
    page = tmp_path / "given.html"
    assert main(["--predictions", str(given), "--out", str(page)]) == 0
    with opened(chromium, page, viewport=WIDE) as found:
        for button in found.page.locator("tr[data-arm] .tag").all():
            button.click()
        chosen = arms_of(found)
        assert set(names) <= set(chosen)
        with opened(chromium, page, at=found.page.url.partition("html")[2]) as again:
            assert arms_of(again) == chosen


def test_a_page_of_a_hundred_is_small(hard: dict[str, Path]) -> None:
    assert hard["hundred"].stat().st_size < 3e6


def test_the_payload_is_json_without_an_end_of_script(hard: dict[str, Path]) -> None:
    text = hard["names"].read_text()
    payload = re.search(r'<script type="application/json" id="payload">(.*?)</script>', text, re.S)
    assert MARKUP in json.dumps(json.loads(payload[1]), ensure_ascii=False).replace('\\"', '"')
    assert io.StringIO(text).read().count("onerror=alert") == payload[1].count(
        "onerror=alert"
    ) + text.count("&lt;img src=x onerror=alert")
