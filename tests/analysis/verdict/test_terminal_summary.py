"""The last lines say what was found, how sure that is, and what would make it surer."""

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.data.run import load
from analysis.figures.studies import studies_figure
from analysis.measures.measure import measure
from analysis.verdict.judge import judge
from analysis.verdict.schema import Verdict
from analysis.verdict.terminal_summary import terminal_summary
from tests.analysis import printed
from tests.analysis.make_run import DEEP_ENSEMBLE, NEGATIVE, POSITIVE, SINGLE, Arm, Data, make_run

SMALL = Data(test=400, shift=60, ood=20, severities=2)


def judged(folder: Path, *arms: Arm, seeds: int = 8, controls: bool = True) -> Verdict:
    beside = (POSITIVE, NEGATIVE) if controls else ()
    run = load(make_run(folder, (SINGLE, DEEP_ENSEMBLE, *arms, *beside), seeds=seeds, data=SMALL))
    return judge(measure(run), run.plan)


def told(verdict: Verdict) -> dict[str, str]:
    return printed.told("\n".join(terminal_summary(verdict, confirmed=True)))


def test_an_escape_is_to_be_repeated(tmp_path: Path) -> None:
    good = Arm("candidate", "batchensemble", name="good", diversity=0.95)
    found = told(judged(tmp_path / "run", good))
    assert found["found"].startswith("1 of 1 configurations escapes")
    assert "seeds each" in found["how sure"]
    assert "on test data that nobody has looked at" in found["next"]


def test_what_is_undecided_has_the_seeds_that_would_decide(tmp_path: Path) -> None:
    some = Arm("candidate", "batchensemble", name="some", diversity=0.2)
    verdict = judged(tmp_path / "run", some)
    arm = verdict.by_arm()[some.key]
    assert arm.verdict == "inconclusive"
    assert arm.needed is not None
    known = [n for n in (arm.needed.escape, arm.needed.track) if n and n > arm.seeds]
    found = told(verdict)
    assert f"--set protocol.seeds={max(known)}" in found["next"]
    assert "seeds if its recovery is" in found["next"]
    assert "The study had a power of 0.8 to find a recovery of" in found["how sure"]


def test_before_anything_is_confirmed_only_that_is_said(tmp_path: Path) -> None:
    verdict = judged(tmp_path / "run", seeds=2, controls=False)
    assert terminal_summary(verdict, confirmed=False) == [verdict.sentence]


def test_a_withheld_verdict_is_not_to_be_repeated(tmp_path: Path) -> None:
    good = Arm("candidate", "batchensemble", name="good", diversity=0.95)
    like_single = replace(POSITIVE, diversity=0.0)
    run = load(
        make_run(tmp_path / "run", (SINGLE, DEEP_ENSEMBLE, good, like_single), seeds=8, data=SMALL)
    )
    verdict = judge(measure(run), run.plan)
    assert verdict.withheld
    assert verdict.by_arm()[good.key].verdict == "escapes"
    assert "why a control did not do as it must" in told(verdict)["next"]
    figure = studies_figure({"withheld": verdict})
    assert figure is not None
    assert figure.claim == "In 0 of 1 studies a configuration escapes"


def test_of_predictions_alone_no_command_is_told(tmp_path: Path) -> None:
    verdict = judged(tmp_path / "run", Arm("candidate", "batchensemble", name="a", diversity=0.3))
    assert not any(line.startswith("next") for line in terminal_summary(verdict, True, given=True))


@pytest.mark.parametrize("diversity", [0.3, 0.95])
def test_no_line_is_wide_and_no_number_is_broken(tmp_path: Path, diversity: float) -> None:
    name = "a configuration with a name of many words, as people give them"
    arm = Arm("candidate", "batchensemble", name=name, diversity=diversity)
    lines = terminal_summary(judged(tmp_path / "run", arm), confirmed=True)
    assert max(map(len, lines)) <= 100
    assert not any(line.strip().startswith("%") for line in lines)
