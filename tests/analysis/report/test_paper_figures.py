"""What is exported for a paper is whole, as wide as asked for, and says what the verdict says."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.figures import theme
from analysis.report import paper_figures, paper_tables
from analysis.report.__main__ import main
from analysis.result import Result, judge_folder
from tests.analysis.make_run import DEEP_ENSEMBLE, NEGATIVE, POSITIVE, SINGLE, Arm, Data, make_run

EVIL = '</script><b>100%_$&#{x}~^\\ | `[a](b)` "q" \n*'
SMALL = Data(test=60, shift=20, ood=20, severities=2)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Result:
    arms = (
        *(SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE),
        Arm("candidate", NEGATIVE.method, name=EVIL, diversity=0.8),
        Arm("candidate", NEGATIVE.method, name="a configuration with a rather long name"),
        Arm("comparison", "mc_dropout", members=2, diversity=0.1),
    )
    folder = make_run(tmp_path_factory.mktemp("run"), arms, seeds=5, data=SMALL, search=12)
    return judge_folder(folder)


def figures(own: Result, *keys: str) -> Result:
    found = replace(own)
    chosen = [figure for figure in own.drawn if figure.key in keys]
    vars(found).update(vars(own), drawn=chosen)
    return found


def size(svg: str) -> tuple[float, float]:
    """Return width and height in points."""
    found = re.search(r'<svg[^>]* width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert found
    return float(found[1]), float(found[2])


def box(pdf: bytes) -> tuple[float, float]:
    """Return width and height in points."""
    found = re.search(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert found
    return float(found[1]), float(found[2])


def words(svg: str) -> str:
    """Return all text; lines of one text are joined by a space."""
    found = ET.fromstring(svg).iter(f"{SVG}text")
    return " ".join(" ".join(line for line in node.itertext()) for node in found)


@pytest.fixture(scope="module")
def place(own: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    paper_figures.write_paper(figures(own, "recovery", "severity"), folder)
    return folder


def test_every_choice_and_width_is_there_as_svg_and_pdf(own: Result, place: Path) -> None:
    severity = next(figure for figure in own.drawn if figure.key == "severity")
    assert len(severity.choices) >= 3
    names = ["recovery", *(f"severity_{value}" for value, _ in severity.choices)]
    wanted = {f"{n}_{w}.{k}" for n in names for w in ("column", "page") for k in ("svg", "pdf")}
    wanted |= {f"{n}.{k}" for n in ("configurations", "measures") for k in ("csv", "tex", "md")}
    wanted |= {"costs.tex", "costs.md", "captions.md"}
    assert {path.name for path in place.iterdir()} == wanted


@pytest.mark.parametrize(("width", "inches"), [("column", 3.3), ("page", 6.8)])
def test_figures_fill_the_width_and_not_more(width: str, inches: float, place: Path) -> None:
    for file in place.glob(f"*_{width}.svg"):
        wide, high = size(file.read_text())
        assert 0.97 * inches <= wide / 72 <= inches + 0.01, file.name
        assert high / 72 <= 9, file.name
        assert box(file.with_suffix(".pdf").read_bytes()) == pytest.approx((wide, high), abs=0.1)


def test_methods_have_a_legend_and_choices_a_title(place: Path) -> None:
    assert "BatchEnsemble MC dropout" in words((place / "recovery_page.svg").read_text())
    assert "Accuracy" in words((place / "severity_accuracy_page.svg").read_text())
    assert "Accuracy" not in words((place / "severity_ece_page.svg").read_text())
    assert not [file.name for file in place.glob("*.svg") if "{metric}" in file.read_text()]


def test_names_are_text_in_a_picture(place: Path) -> None:
    root = ET.fromstring((place / "recovery_page.svg").read_text())
    assert {node.tag for node in root.iter()} <= {f"{SVG}{n}" for n in ("svg", "g", "rect", "path", "text", "line", "defs", "clipPath", "tspan")}  # fmt: skip
    assert "</script><b>" in words((place / "recovery_page.svg").read_text())


def test_before_anything_is_confirmed_there_is_the_search_alone(
    own: Result, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", [SINGLE], seeds=0, data=SMALL, search=12, declare=False)
    place = tmp_path / "out"
    status = main(["--runs", str(run), "--out", str(tmp_path / "r.html"), "--export", str(place)])
    assert status == 0
    found = {path.name.partition("_")[0] for path in place.iterdir()}
    assert found == {"curves", "history", "pareto", "captions.md"}


def test_an_export_that_cannot_be_written_is_one_line(
    own: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--runs", str(own.run.folder), "--out", str(tmp_path / "r.html")]
    assert main([*arguments, "--export", str(tmp_path / "file")]) == 2
    assert re.fullmatch(r"error: .*must be writable, but .*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_all_figures_of_a_report_are_exported(own: Result, tmp_path: Path) -> None:
    paper_figures.write_paper(own, tmp_path)
    for figure in own.drawn:
        assert list(tmp_path.glob(f"{figure.key}_*page.pdf")), figure.key
    for file in tmp_path.glob("*.svg"):
        wide, high = size(file.read_text())
        assert wide / 72 <= (3.31 if "_column" in file.name else 6.81), file.name
        assert high / 72 <= 9.5, file.name


# --- the look


def test_colours_are_those_of_the_light_page() -> None:
    style = theme.COLOURS.read_text()
    light = style[style.index(":root {") : style.index(":root.dark")]
    known = theme.colours()
    assert {"ink", "soft", "grid", "hues", "single", "ramp", "band"} <= set(known)
    assert all(value in light for value in known.values())


def test_every_colour_of_the_look_has_a_value_in_light_and_dark() -> None:
    style = theme.COLOURS.read_text()
    dark = style[style.index(":root.dark") :].partition("}")[0]
    for name in set(re.findall(r'"--([\w-]+)"', json.dumps(theme.LOOK))):
        assert name in theme.colours()
        assert f"--{name}:" in dark
    config = json.dumps(theme.config(100, 100))
    assert "--" not in config
    assert theme.config(100, 100)["range"]["category"][2:8] == theme.colours()["hues"].split()


# --- tables


def test_csv_holds_the_verdict_unrounded(own: Result, place: Path) -> None:
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO((place / "configurations.csv").read_text()))}  # fmt: skip
    assert len(rows) == 8  # 5 judged, single, Deep Ensembles of 2 and 4
    for arm in own.verdict.arms:
        row = rows[arm.arm]
        assert row["verdict"] == arm.verdict
        for key, effect in arm.endpoints.items():
            assert float(row[f"{key}_recovery"]) == effect.recovery
        assert float(row["nll_mean"]) == own.verdict.measures[arm.arm]["nll"].mean
        assert float(row["train_flops_multiple"]) > 0
    measures = list(csv.DictReader(io.StringIO((place / "measures.csv").read_text())))
    assert {row["arm"] for row in measures} == set(rows)


@pytest.mark.parametrize("name", ["configurations", "costs", "measures"])
def test_latex_is_whole(name: str, place: Path) -> None:
    text = (place / f"{name}.tex").read_text()
    bare = re.sub(r"\\textbackslash\{\}|\\[{}&%$#_]", "", text)
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert bare.count("%") == bare.count("% needs")
    for table in text.split(r"\begin{table*}")[1:]:
        columns = re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", table)
        assert columns
        rows = re.findall(r"^\{.*\\\\$", table, re.MULTILINE)
        assert len(rows) > 1
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns[1]) - 1


@pytest.mark.parametrize("name", ["configurations", "costs", "measures"])
def test_markdown_is_whole(name: str, place: Path) -> None:
    text = (place / f"{name}.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if row}
    assert len(rows) > 2
    if name != "measures":
        assert len(counts) == 1
    assert "</script>" not in text


def test_what_latex_would_take_for_commands_is_text() -> None:
    assert paper_tables.tex("a_b & 5 % of $x$ #1 {y} ~ ^ \\ −1 × 2\n<|>") == (
        r"a\_b \& 5 \% of \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{} $-$1 $\times$ 2 \textless{}\textbar{}\textgreater{}"
    )


def test_what_markdown_would_take_for_marks_is_text() -> None:
    assert paper_tables.plain("*a* | _b_ `c` <d> [e](f)\n#") == (
        r"\*a\* \| \_b\_ \`c\` \<d\> \[e\]\(f\) \#"
    )
