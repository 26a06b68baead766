"""Every figure of the report, in the order of the page.

Claims are computed from the same rows as the marks, so that a title cannot outlive its data.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from altair.utils.schemapi import debug_mode

from analysis.figures.averaged_members import collapsed_figure
from analysis.figures.calibration import reliability_figure
from analysis.figures.context import Figure, FigureContext
from analysis.figures.cost import cost_figure
from analysis.figures.curves import curves_figure
from analysis.figures.deep_ensemble_equivalent import growth_figure
from analysis.figures.diversity import diversity_figure
from analysis.figures.members import (
    evidence_figure,
    landscape_figure,
    members_figure,
    trajectory_figure,
)
from analysis.figures.ood_detection import areas_figure, roc_figure, scores_figure
from analysis.figures.pareto import pareto_figure
from analysis.figures.recovery import recovery_figure
from analysis.figures.ruler import ruler_figure
from analysis.figures.search import coverage_figure, history_figure
from analysis.figures.shift import severity_figure


def draw(context: FigureContext) -> list[Figure]:
    """Return every figure that the data can fill, in the order of the page.

    Altair checks none of them against its schema, which takes seconds: the tests do.
    """
    with debug_mode(False):
        return _draw(context)


def _draw(context: FigureContext) -> list[Figure]:
    confirmed: list[Callable[[FigureContext], Figure | None]] = [
        ruler_figure, recovery_figure, diversity_figure, growth_figure, collapsed_figure,
        severity_figure, reliability_figure, areas_figure, scores_figure, roc_figure,
        members_figure, trajectory_figure, landscape_figure, evidence_figure, cost_figure,
    ]  # fmt: skip
    ready = len(context.recovery) > 0
    drawn = [figure(context) for figure in confirmed if ready]
    descriptive = (curves_figure, history_figure, pareto_figure, coverage_figure)
    drawn += [figure(context) for figure in descriptive]
    found = [figure for figure in drawn if figure is not None]
    narrow = Counter(figure.section for figure in found if not (figure.wide or figure.folded))
    # A narrow figure without a neighbour takes the whole width.
    return [replace(figure, wide=figure.wide or narrow[figure.section] == 1) for figure in found]
