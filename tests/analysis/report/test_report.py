"""The report is one whole, safe, offline file that says what the judgement says."""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.report.__main__ import main
from analysis.report.html import embed, pack
from analysis.report.write import write_report
from analysis.result import judge_folder
from tests.analysis.browser import unpacked
from tests.analysis.make_run import DEEP_ENSEMBLE, NEGATIVE, POSITIVE, SINGLE, Arm, Data, make_run
from tests.analysis.printed import told

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVIL = '</script><script>alert(1)</script>"&'
SMALL = Data(test=60, shift=20, ood=20, severities=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = (
        *(SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE),
        Arm("candidate", NEGATIVE.method, name=EVIL, diversity=0.8),
        Arm("candidate", NEGATIVE.method, init_std=0.31, diversity=0.1, failed={1: "diverged"}),
        Arm("comparison", "mc_dropout", members=2, diversity=0.1),
    )
    place = tmp_path_factory.mktemp("evil")
    return make_run(place / "run", arms=arms, seeds=4, data=SMALL, search=52)


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    out = folder.parent / "report.html"
    write_report(judge_folder(folder), out, NOW)
    return out.read_text()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose search alone is there."""
    run = make_run(tmp_path_factory.mktemp("searched") / "run", seeds=1, data=SMALL, search=12)
    for trial in [file.parent for file in run.glob("trials/*/test.parquet")]:
        shutil.rmtree(trial)
    return run


def payload(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', html, re.S)
    assert found
    page = json.loads(found.group(1), parse_constant=pytest.fail)
    return page | {"datasets": {name: unpacked(own) for name, own in page["datasets"].items()}}


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.raw = False

    def handle_data(self, data: str) -> None:
        if not self.raw:
            self.text += data


def fields(spec: Any) -> Iterator[str]:
    """Yield every field that an encoding or facet of a spec reads."""
    if isinstance(spec, dict):
        if isinstance(spec.get("field"), str):
            yield spec["field"]
        for value in spec.values():
            yield from fields(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from fields(value)


def test_every_figure_is_there_and_reads_fields_that_exist(html: str) -> None:
    page = payload(html)

    assert set(page["figures"]) == {
        *("recovery", "diversity", "collapsed", "severity", "reliability", "members"),
        *("ruler", "growth", "scores", "roc", "auroc"),
        *("trajectory", "landscape", "evidence", "cost", "history"),
        *("curves", "pareto"),
    }
    for key, figure in page["figures"].items():
        known = {name for use in figure["uses"] for row in page["datasets"][use] for name in row}
        assert set(fields(figure["spec"])) <= known, key
        assert "config" not in figure["spec"]


def test_page_is_one_small_file_that_loads_nothing(html: str) -> None:
    page = Page(html)

    assert len(html.encode()) < 3_000_000
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "#").startswith(("#", "data:")), attributes
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe-eval" not in policy


def test_names_are_text_and_never_markup(html: str) -> None:
    page = Page(html)

    assert EVIL in page.text
    assert "alert(1)</script>" not in html
    assert [tag for tag, _ in page.tags].count("script") == 4
    labels = [row.get("label") for rows in payload(html)["datasets"].values() for row in rows]
    assert f"A · {EVIL}" in labels


def test_page_says_what_the_verdict_says(folder: Path, html: str) -> None:
    verdict = json.loads((folder / "verdict.json").read_text(), parse_constant=pytest.fail)
    text = " ".join(Page(html).text.split())

    said = verdict["sentence"].removeprefix("Exploratory: ").replace(" %", "\u00a0%")
    assert " ".join(said.split()) in text
    for arm in verdict["arms"]:
        for effect in arm["endpoints"].values():
            assert f"{effect['recovery']:.2f}".replace("-", "−") in text
    assert verdict["plan"]["hash"] in text


def test_failed_runs_are_listed_with_their_reason(html: str) -> None:
    text = " ".join(Page(html).text.split())

    assert "loss is not finite in epoch 3" in text
    assert "diverged" in text


def test_same_run_gives_the_same_bytes(folder: Path, html: str, tmp_path: Path) -> None:
    write_report(judge_folder(folder), tmp_path / "again.html", NOW)

    assert (tmp_path / "again.html").read_text() == html


def test_prints_the_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--runs", str(folder), "--out", str(tmp_path / "deep" / "er" / "report.html")])

    assert status == 0
    sentence = json.loads((folder / "verdict.json").read_text())["sentence"]
    assert told(capsys.readouterr().out)["found"] == sentence


def test_missing_runs_are_said_to_be_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=2, data=SMALL)
    for trial in sorted(run.glob("trials/*"))[::9]:
        (trial / "trial.parquet").unlink()

    write_report(judge_folder(run), tmp_path / "report.html", NOW)

    assert "PARTIAL" in Page((tmp_path / "report.html").read_text()).text


def test_before_anything_is_confirmed_there_is_a_page_and_no_verdict(
    searched: Path, tmp_path: Path
) -> None:
    own = judge_folder(searched)
    write_report(own, tmp_path / "report.html", NOW)

    html = (tmp_path / "report.html").read_text()
    assert own.verdict.verdict == "inconclusive"
    assert own.verdict.sentence == "No verdict yet: nothing has been confirmed."
    assert "PARTIAL" in Page(html).text
    assert set(payload(html)["figures"]) == {"curves", "history", "pareto"}


def test_without_a_plan_the_page_is_marked_as_exploratory(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=2, data=SMALL, declare=False)

    write_report(judge_folder(run), tmp_path / "report.html", NOW)

    assert "exploratory" in Page((tmp_path / "report.html").read_text()).text


@pytest.mark.parametrize("content", [None, "empty", "text", "cut"])
def test_what_is_no_run_is_one_line_and_status_2(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    if content == "cut":
        make_run(folder, seeds=1, data=SMALL)
        file = next(folder.glob("trials/*/trial.parquet"))
        file.write_bytes(file.read_bytes()[:200])
    elif content:
        (folder / "trials" / "x").mkdir(parents=True)
    if content == "text":
        (folder / "trials" / "x" / "trial.parquet").write_text("not parquet")

    status = main(["--runs", str(folder), "--out", str(tmp_path / "report.html")])

    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_an_unwritable_place_is_one_line_and_status_2(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    status = main(["--runs", str(searched), "--out", str(tmp_path / "file" / "report.html")])

    assert status == 2
    assert "must be writable" in capsys.readouterr().err


def test_embedded_json_cannot_end_its_script() -> None:
    text = embed({"a": EVIL})

    assert "<" not in text
    assert json.loads(text) == {"a": EVIL}


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": 1.5, "b": "x"}],
        [{"a": 1.5, "b": "x"}, {"a": 1.5, "b": None}, {"a": 2, "b": "x"}],
        [{"a": None}, {"b": True, "a": 0}, {"b": False}],
        [{"a": "y"}, {"a": "y"}],
    ],
)
def test_packed_rows_are_the_rows(rows: list[dict[str, Any]]) -> None:
    names = {name for row in rows for name in row}
    packed = json.loads(json.dumps(pack(rows)))

    assert unpacked(packed) == [dict.fromkeys(names) | row for row in rows]


def test_embedding_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        embed({"a": float("nan")})
