"""A result as a notebook has it: lazy, typed, in frames and charts, and shown as a table."""

import math
import os
import subprocess
import sys
from html import escape
from pathlib import Path

import numpy as np
import pytest
import vl_convert

import analysis
from analysis.data.predictions import predictions
from analysis.data.run import Run
from analysis.figures import theme
from analysis.report.html import VEGA_LITE
from analysis.result import NOTHING_YET, Result
from analysis.verdict.schema import Verdict
from study.errors import StudyError
from study.run_folder.paths import any_path
from tests.analysis.make_predictions import make_predictions
from tests.analysis.make_run import (
    DEEP_ENSEMBLE,
    NEGATIVE,
    SINGLE,
    Arm,
    Data,
    make_run,
    write_search,
)
from tests.object_store import ObjectStore

ROOT = Path(__file__).parents[2]
SMALL = Data(test=60, shift=20, ood=20, severities=2)
EVIL = "<script>alert('x')</script> & more"


@pytest.fixture(scope="module")
def result(study: Path) -> Result:
    return analysis.open(study)


def test_nothing_is_measured_before_it_is_asked_for(study: Path) -> None:
    opened = analysis.open(str(study))
    assert set(vars(opened)) == {"run", "workers"}
    assert str(study) in repr(opened)
    assert set(vars(opened)) == {"run", "workers"}


def test_the_verdict_draws_no_figure_and_is_kept(study: Path) -> None:
    opened = analysis.open(study)
    assert isinstance(opened.verdict, Verdict)
    assert opened.verdict is opened.verdict
    assert set(vars(opened)) == {"run", "workers", "measures", "verdict"}


def test_recoveries_are_those_of_the_verdict(result: Result) -> None:
    frame, verdict = result.recoveries(), result.verdict
    assert len(frame) == len(verdict.arms) * len(verdict.protocol.endpoints)
    for row in frame.iter_rows(named=True):
        arm = verdict.by_arm()[row["arm"]]
        effect = arm.endpoints[row["endpoint"]]
        assert (row["verdict"], row["label"], row["seeds"]) == (arm.verdict, arm.label, arm.seeds)
        found = (row["recovery"], row["low"], row["high"], row["low_wide"], row["high_wide"])
        assert found == (
            effect.recovery, effect.low, effect.high, effect.low_wide, effect.high_wide
        )  # fmt: skip
    assert frame["name"][0] == "be-sign"


def test_an_endpoint_that_cannot_be_assessed_has_a_row_without_recovery(tmp_path: Path) -> None:
    alike = (SINGLE, Arm("deep_ensemble", "deep_ensemble", diversity=0.0), NEGATIVE)
    arms = (*alike, Arm("candidate", NEGATIVE.method, name="be", diversity=0.5))
    frame = analysis.open(make_run(tmp_path / "run", arms, seeds=3, data=SMALL)).recoveries()
    gain = frame.filter(endpoint="gain")
    assert gain["name"].to_list() == ["be", "Negative control"]
    assert gain["recovery"].to_list() == [None, None]


def test_trials_are_all_that_were_committed(result: Result, run: Run) -> None:
    assert set(result.trials()["stage"]) == {"search", "confirm"}
    assert result.trials().equals(run.trials)


def test_members_are_the_stored_predictions_of_every_replicate(result: Result) -> None:
    frame = result.members("be-sign")
    assert frame.columns == ["replicate", "member", "example", "label", "logits", "probabilities"]
    confirmed = result.trials().filter(name="be-sign", stage="confirm", status="complete")
    assert len(confirmed) == frame["replicate"].n_unique() == 6
    for trial, replicate in confirmed.select("trial", "replicate").iter_rows():
        stored = predictions(result.run, trial, "test")
        own = frame.filter(replicate=replicate)
        np.testing.assert_array_equal(own["logits"].to_numpy(), stored.logits.reshape(-1, 10))
        np.testing.assert_array_equal(own["label"], np.tile(stored.labels, 4))
    p = frame["probabilities"].to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.log(p[:, 1] / p[:, 0]), np.diff(frame["logits"].to_numpy())[:, 0], atol=1e-4
    )


def test_a_measure_of_the_members_is_that_of_the_report(result: Result) -> None:
    frame = result.members("deep_ensemble-4").filter(replicate=0)
    p = frame["probabilities"].to_numpy().reshape(4, -1, 10).mean(0)
    labels = frame.filter(member=0)["label"].to_numpy()
    nll = -np.log(p[np.arange(len(labels)), labels]).mean()
    own = result.measures.replicates.filter(arm="deep_ensemble-4", replicate=0)
    assert math.isclose(nll, own["nll"].item(), rel_tol=1e-4)


def test_members_of_a_pool_are_the_first_of_it(tmp_path: Path) -> None:
    arms = (
        SINGLE,
        Arm("deep_ensemble", "deep_ensemble", members=5, diversity=1.0),
        Arm("candidate", NEGATIVE.method, members=3, name="be", diversity=0.5),
    )
    opened = analysis.open(make_run(tmp_path / "run", arms, seeds=3, data=SMALL))
    assert opened.members("deep_ensemble-3")["member"].unique().to_list() == [0, 1, 2]


def test_members_of_a_matched_pool_are_those_of_one_size(tmp_path: Path) -> None:
    matched = Arm("matched_deep_ensemble", "deep_ensemble", members=5, diversity=1.0)
    arms = (
        SINGLE,
        Arm("deep_ensemble", "deep_ensemble", members=4, diversity=0.9),
        matched,
        *(Arm("candidate", NEGATIVE.method, members=m, name=f"be {m}") for m in (2, 3)),
    )
    opened = analysis.open(make_run(tmp_path / "run", arms, seeds=3, data=SMALL))
    configuration = matched.spec(0, "confirm")["configuration"]
    for size in (2, 3):
        frame = opened.members(f"matched_deep_ensemble-{configuration}-{size}")
        assert frame["member"].unique().to_list() == list(range(size))
        assert not frame.select("replicate", "member", "example").is_duplicated().any()


def test_members_have_the_columns_of_their_split(result: Result) -> None:
    shift, ood = result.members("single", "shift"), result.members("single", "ood")
    assert set(shift["condition"]) == {"gaussian_noise", "rotation"}
    assert set(shift["severity"]) == {1, 2, 3}
    assert set(ood["condition"]) == {"letters"}
    assert ood["label"].null_count() == len(ood)
    assert "severity" not in ood.columns


def test_figures_are_altair_charts_in_the_light_theme(result: Result) -> None:
    assert result.figures[:2] == ["ruler", "recovery"]
    for key in result.figures:
        spec = result.figure(key).to_dict(validate=False)  # That is for test_all_figures.py.
        assert spec["config"]["background"] == theme.colours()["card"]
        assert spec["config"]["axis"]["labelColor"] == theme.colours()["soft"]
        assert "{metric}" not in str(spec)
    svg = vl_convert.vegalite_to_svg(result.figure("recovery").to_dict(), vl_version=VEGA_LITE)
    assert "be-sign" in svg


def test_a_figure_shows_the_metric_that_was_asked_for(result: Result) -> None:
    spec = result.figure("severity", metric="accuracy").to_dict()
    values = {param["name"]: param.get("value") for param in spec["params"]}
    assert values["metric"] == "accuracy"
    assert "Accuracy − single" in vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)


def test_a_figure_leaves_the_page_as_it_was(result: Result) -> None:
    (severity,) = (figure for figure in result.drawn if figure.key == "severity")
    before = severity.chart.to_dict()
    result.figure("severity", metric="accuracy")
    assert severity.chart.to_dict() == before


@pytest.mark.parametrize(
    ("ask", "listed"),
    [
        (lambda r: r.figure("forest"), "figure must be one of ruler, recovery, diversity"),
        (lambda r: r.figure("severity", metric="loss"), "metric of severity must be one of nll"),
        (lambda r: r.members("be-sing"), "single"),
        (lambda r: r.members("single", "train"), "split must be one of test, shift, ood"),
    ],
)
def test_what_is_unknown_is_answered_by_what_there_is(result: Result, ask, listed) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StudyError, match=listed):
        ask(result)


def test_a_notebook_shows_sentence_and_recoveries(result: Result) -> None:
    shown = result._repr_html_()
    assert shown.count("<tr>") == 1 + len(result.verdict.arms)
    assert escape(result.verdict.sentence) in shown
    assert "Recovery, calibrated NLL" in shown
    assert "Positive control" in shown


def test_a_notebook_shows_names_escaped(tmp_path: Path) -> None:
    arms = (SINGLE, DEEP_ENSEMBLE, Arm("candidate", NEGATIVE.method, name=EVIL, diversity=0.8))
    shown = analysis.open(make_run(tmp_path / "run", arms, seeds=3, data=SMALL))._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; more" in shown


def test_a_search_that_is_under_way_can_be_looked_at(tmp_path: Path) -> None:
    write_search(tmp_path / "run", 12)
    opened = analysis.open(tmp_path / "run")
    assert opened.verdict.sentence == NOTHING_YET
    assert opened.recoveries().is_empty()
    assert opened.figures == ["curves", "history", "pareto"]
    assert NOTHING_YET in opened._repr_html_()
    with pytest.raises(StudyError, match="none yet"):
        opened.members("single")


def test_own_predictions_are_opened(tmp_path: Path) -> None:
    opened = analysis.open(predictions=make_predictions(tmp_path / "mine"))
    verdicts = dict(opened.recoveries().select("name", "verdict").iter_rows())
    assert verdicts["escaping"] == "escapes"
    assert set(opened.members("escaping")["member"]) == {0, 1, 2, 3}
    assert "escaping" in opened._repr_html_()
    assert opened.figure("recovery").to_dict()["config"]["background"]


def test_a_run_in_an_object_store_is_opened(object_store: ObjectStore, tmp_path: Path) -> None:
    arms = (SINGLE, DEEP_ENSEMBLE, Arm("candidate", NEGATIVE.method, name="be", diversity=0.8))
    local = make_run(tmp_path / "run", arms, seeds=3, data=SMALL)
    object_store.bucket("notebook")
    for file in local.rglob("*.*"):
        there = any_path(f"s3://notebook/run/{file.relative_to(local)}")
        there.write_bytes(file.read_bytes())
    here, there = analysis.open(local), analysis.open("s3://notebook/run")
    assert there.recoveries().equals(here.recoveries())
    assert there.members("be").equals(here.members("be"))


def test_exactly_one_source_is_given(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="either a run or predictions"):
        analysis.open()
    with pytest.raises(TypeError, match="either a run or predictions"):
        analysis.open(tmp_path, predictions=tmp_path)


def test_a_folder_without_a_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"trial\.parquet, but none is there"):
        analysis.open(tmp_path)


SCRIPT = """
import sys
import analysis
from analysis.measures import measure

measure.WORTH_A_PROCESS = 1e-9
print(analysis.open(sys.argv[1], workers=int(sys.argv[2])).verdict.sentence)
"""
DEFAULTS = """
import shutil
import sys
import analysis
from analysis.measures import measure
from analysis.result import judge_folder
from study.run_folder.paths import any_path

measure.WORTH_A_PROCESS = 1e-9
print(analysis.open(sys.argv[1]).verdict.sentence)
shutil.rmtree(any_path(sys.argv[1]) / "features")
print(judge_folder(any_path(sys.argv[1])).verdict.sentence)
"""


def run_script(folder: Path, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    arms = (SINGLE, DEEP_ENSEMBLE, Arm("candidate", NEGATIVE.method, name="be", diversity=0.8))
    run = make_run(tmp_path / "run", arms, seeds=3, data=SMALL)
    with_pool = run_script(tmp_path, SCRIPT, str(run), "2")
    assert "bootstrapping phase" in with_pool.stderr, "the run is too small to need a pool"
    done = run_script(tmp_path, DEFAULTS, str(run))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [analysis.open(run).verdict.sentence] * 2
