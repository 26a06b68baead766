"""``verdict.json`` keeps to its documented format, whatever the study is like."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from analysis.data.run import load
from analysis.measures.measure import Measures, measure
from analysis.report.write import write_report
from analysis.result import judge_folder
from analysis.verdict.judge import judge
from analysis.verdict.schema import Amount, Verdict
from tests.analysis.make_run import DEEP_ENSEMBLE, NEGATIVE, NOW, POSITIVE, SINGLE, Arm, make_run

BE = "batchensemble"
STUDIES: dict[str, dict[str, Any]] = {
    "without a plan": {"declare": False},
    "one seed": {"seeds": 1},
    "two seeds": {"seeds": 2},
    "no candidate": {"arms": (SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE)},
    "no controls": {"arms": (SINGLE, DEEP_ENSEMBLE, Arm("candidate", BE, diversity=0.5))},
    "failed runs": {"arms": (SINGLE, DEEP_ENSEMBLE, Arm("candidate", BE, failed={0: "diverged"}))},
    "no gap": {"arms": (SINGLE, Arm("deep_ensemble", "deep_ensemble"), Arm("candidate", BE))},
}


def test_what_the_report_writes_keeps_to_the_format(study: Path, tmp_path: Path) -> None:
    own = judge_folder(study)
    write_report(own, tmp_path / "report.html", NOW)

    written = (study / "verdict.json").read_text()
    assert Verdict.model_validate_json(written) == own.verdict
    assert own.verdict.fairness is not None
    assert own.verdict.measures


def test_a_whole_study_keeps_to_the_format(measures: Measures, run: Any) -> None:
    verdict = judge(measures, run.plan)

    judged = [arm for arm in verdict.arms if arm.robustness]
    assert judged
    assert any(arm.robustness.bca for arm in judged if arm.robustness)
    assert all(arm.needed for arm in judged)


@pytest.mark.parametrize("name", STUDIES)
def test_every_kind_of_study_keeps_to_the_format(name: str, tmp_path: Path) -> None:
    made = load(make_run(tmp_path, **({"seeds": 3} | STUDIES[name])))

    verdict = judge(measure(made), made.plan)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_key_too_many_or_too_few_is_noticed(measures: Measures, run: Any) -> None:
    verdict = dict(judge(measures, run.plan))
    with pytest.raises(ValidationError, match="extra"):
        Verdict(**verdict, extra=1)
    del verdict["sentence"]
    with pytest.raises(ValidationError, match="sentence"):
        Verdict(**verdict)


def test_a_verdict_cannot_be_changed(measures: Measures, run: Any) -> None:
    verdict = judge(measures, run.plan)
    with pytest.raises(ValidationError, match="frozen"):
        verdict.verdict = "all tested track a single model"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_not_finite_is_null(value: float | None) -> None:
    assert Amount(value=value, multiple=1.0).model_dump_json() == '{"value":null,"multiple":1.0}'


def test_the_same_study_gives_the_same_numbers_to_the_last_digit(
    measures: Measures, run: Any
) -> None:
    assert judge(measures, run.plan) == judge(measures, run.plan)


def test_the_format_is_printed_as_json_schema() -> None:
    command = [sys.executable, "-m", "analysis.verdict"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed)["properties"]["withheld"]["description"]
