"""Several runs stand side by side on one page, each judged on its own."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from analysis.report import side_by_side
from analysis.report.__main__ import main
from study.errors import StudyError
from tests.analysis.make_run import DEEP_ENSEMBLE, NEGATIVE, POSITIVE, SINGLE, Arm, Data, make_run
from tests.analysis.report.test_report import Page, payload

SMALL = Data(test=60, shift=20, ood=20, severities=2)
OTHER = Data(test=80, shift=20, ood=20, severities=2, seed=1)
ANCHORS = (SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE)
EVIL = "<b>100 %20 #1?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("runs")
    good = Arm("candidate", NEGATIVE.method, name="good", diversity=1.0, quality=0.8)
    plain = Arm("candidate", NEGATIVE.method, name="plain")
    lora = Arm("candidate", "lora_ensemble", name="lora", diversity=0.5)
    make_run(place / "first", (*ANCHORS, good, plain), seeds=5, data=SMALL)
    make_run(place / EVIL, (*ANCHORS, lora), seeds=4, data=OTHER, delta=0.2)
    make_run(place / "searched", [SINGLE], seeds=0, search=6, declare=False)
    return [place / name for name in ("first", EVIL, "searched")]


@pytest.fixture(scope="module")
def out(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "all.html"
    assert main(["--runs", *map(str, folders), "--out", str(out)]) == 0
    return out


def test_each_run_keeps_its_own_verdict(folders: list[Path], out: Path) -> None:
    text = " ".join(Page(out.read_text()).text.split())
    for folder in folders:
        verdict = json.loads((folder / "verdict.json").read_text())
        assert " ".join(verdict["sentence"].split()) in text
        assert folder.name in text
    assert "Nothing is pooled" in text
    first = json.loads((folders[0] / "verdict.json").read_text())
    best = next(arm for arm in first["arms"] if arm["name"] == "good")
    for effect in best["endpoints"].values():
        assert f"{effect['recovery']:.2f}".replace("-", "−") in text


def test_each_run_is_linked_to_its_own_page(out: Path) -> None:
    links = [a["href"] for tag, a in Page(out.read_text()).tags if tag == "a" and a.get("href")]
    files = [link for link in links if link and not link.startswith("#")]
    assert len(set(files)) == 3
    for file in files:
        assert re.fullmatch(r"all_[\w.-]+\.html", file)
        assert "Does " in Page((out.parent / file).read_text()).text


def test_the_page_loads_nothing_and_names_are_text(out: Path) -> None:
    page = Page(out.read_text())
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert all("src" not in attributes for _, attributes in page.tags)
    assert [a for tag, a in page.tags if tag == "b" and a] == []
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_runs_of_other_margins_have_figures_of_their_own(out: Path) -> None:
    drawn = payload(out.read_text())
    assert set(drawn["figures"]) == {"studies", "runs", "runs1"}
    assert drawn["methods"]["lora_ensemble"] == [EVIL]
    for key, label in {"runs": "first", "runs1": EVIL}.items():
        rows = [r for use in drawn["figures"][key]["uses"] for r in drawn["datasets"][use]]
        assert {row["label"] for row in rows if "label" in row} == {label}


def test_what_differs_is_told(out: Path) -> None:
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th><td>(yes|no)</td>', out.read_text())
    told = dict(rows)
    assert told["Data"] == "yes"
    assert told["Margin δ"] == "no"
    assert told["Candidates"] == "no"


def test_an_unfinished_run_is_marked(folders: list[Path], tmp_path: Path) -> None:
    half = Path(shutil.copytree(folders[0], tmp_path / "half"))
    for trial in sorted(half.glob("trials/*"))[::2]:
        (trial / "trial.parquet").unlink()
    out = tmp_path / "out.html"
    assert main(["--runs", str(half), "--runs", str(folders[0]), "--out", str(out)]) == 0
    text = " ".join(Page(out.read_text()).text.split())
    assert "PARTIAL half: confirm: 15 of 30 trials are there" in text
    assert "PARTIAL first" not in text


def test_a_run_given_twice_is_refused(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = folders[0] / ".." / folders[0].name
    arguments = ["--runs", str(folders[0]), str(again), "--out", str(tmp_path / "out.html")]
    assert main(arguments) == 2
    assert "a folder may be given once" in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_one_bad_run_is_named_and_nothing_is_written(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--runs", str(folders[0]), str(tmp_path / "none")]
    assert main([*arguments, "--out", str(tmp_path / "out" / "a.html")]) == 2
    assert f"{tmp_path / 'none'}: a run folder must hold" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_of_one_name_are_called_by_their_paths() -> None:
    names = side_by_side.named([Path("a/be"), Path("b/be"), Path("b/sve")])
    assert list(names) == ["a/be", "b/be", "sve"]
    with pytest.raises(StudyError, match="once"):
        side_by_side.named([Path("a"), Path("b/../a")])


def test_pages_have_safe_names_of_their_own() -> None:
    found = side_by_side.links(["a/b", "a b", "..", "ü" * 9, "x" * 300], Path("o/all.html"))
    assert len(set(found.values())) == len(found)
    assert all(re.fullmatch(r"all_[A-Za-z0-9._-]{1,90}\.html", name) for name in found.values())


def test_browser_draws_the_comparison(chromium: Browser, out: Path) -> None:
    page = chromium.new_page()
    page.goto(out.as_uri())
    page.locator('[data-charts="drawn"]').wait_for()
    assert page.locator('[role="img"]').count() == 3
    page.close()
