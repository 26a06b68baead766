"""The list of all trials has each, and says where it is cut."""

import pytest

from analysis.data.run import Run
from analysis.figures.context import FigureContext, figure_context
from analysis.measures.measure import Measures
from analysis.report import trial_list
from analysis.verdict.judge import judge
from tests.analysis.browser import unpacked


@pytest.fixture(scope="module")
def context(run: Run, measures: Measures) -> FigureContext:
    return figure_context(run, measures, judge(measures, run.plan))


def test_every_trial_is_there_with_its_curve(context: FigureContext) -> None:
    found = trial_list.trial_list(context)
    rows = unpacked(found["rows"])
    assert {row["Trial"] for row in rows} == set(context.trials["trial"])
    assert set(found["curves"]) == set(context.curves["trial"])
    assert found["note"] == f"{len(rows)} trials of every stage."


def test_a_list_that_is_cut_says_so_and_keeps_what_was_confirmed(
    context: FigureContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_list, "MOST", 5)
    found = trial_list.trial_list(context)
    rows = unpacked(found["rows"])
    assert [row["Stage"].partition(",")[0] for row in rows] == ["confirm"] * 5
    total = len(context.trials)
    assert found["note"] == f"{total} trials of every stage. The first 5 of {total}."
