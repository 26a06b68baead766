"""The last lines say what was found, how sure that is, and what would make it surer."""

from pathlib import Path

import pytest

from analysis.data.run import load
from analysis.measures.measure import measure
from analysis.verdict.closing import closing
from analysis.verdict.judge import judge
from analysis.verdict.schema import Verdict
from tests.analysis.make_run import DEEP_ENSEMBLE, NEGATIVE, POSITIVE, SINGLE, Arm, Data, make_run

SMALL = Data(test=400, shift=60, ood=20, severities=2)


def judged(folder: Path, *arms: Arm, seeds: int = 8, controls: bool = True) -> Verdict:
    beside = (POSITIVE, NEGATIVE) if controls else ()
    run = load(make_run(folder, (SINGLE, DEEP_ENSEMBLE, *arms, *beside), seeds=seeds, data=SMALL))
    return judge(measure(run), run.plan)


def told(verdict: Verdict) -> dict[str, str]:
    """Return the texts by their names, unfolded."""
    found: dict[str, str] = {}
    for line in closing(verdict, confirmed=True):
        name = line[:12].strip() or [*found][-1]
        found[name] = f"{found.get(name, '')} {line[12:].strip()}".strip()
    return found


def test_an_escape_is_to_be_repeated(tmp_path: Path) -> None:
    good = Arm("candidate", "batchensemble", name="good", diversity=0.95)
    found = told(judged(tmp_path / "run", good))
    assert found["found"].startswith("1 of 1 configurations escapes")
    assert "seeds each" in found["how sure"]
    assert "repeat it on data that nobody has looked at" in found["next"]


def test_what_is_undecided_has_the_seeds_that_would_decide(tmp_path: Path) -> None:
    some = Arm("candidate", "batchensemble", name="some", diversity=0.3)
    verdict = judged(tmp_path / "run", some)
    arm = verdict.by_arm()[some.key]
    assert arm.verdict == "inconclusive"
    assert arm.needed is not None
    seeds = min(n for n in (arm.needed.escape, arm.needed.track) if n and n > arm.seeds)
    found = told(verdict)
    assert f"--set protocol.seeds={seeds}" in found["next"]
    assert "would have been found with power" in found["how sure"]


def test_before_anything_is_confirmed_only_that_is_said(tmp_path: Path) -> None:
    verdict = judged(tmp_path / "run", seeds=2, controls=False)
    assert closing(verdict, confirmed=False) == [verdict.sentence]


@pytest.mark.parametrize("diversity", [0.3, 0.95])
def test_no_line_is_wide_and_no_number_is_broken(tmp_path: Path, diversity: float) -> None:
    name = "a configuration with a name of many words, as people give them"
    arm = Arm("candidate", "batchensemble", name=name, diversity=diversity)
    lines = closing(judged(tmp_path / "run", arm), confirmed=True)
    assert max(map(len, lines)) <= 100
    assert not any(line.strip().startswith("%") for line in lines)
