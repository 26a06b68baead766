"""The scores that tell examples out of distribution from others."""

import numpy as np
import pytest

from analysis import metrics
from analysis.measures.columns import SCORES


def test_each_is_higher_where_the_ensemble_is_less_certain() -> None:
    logq_NC = np.log([[0.98, 0.01, 0.01], [0.6, 0.3, 0.1], [0.34, 0.33, 0.33]])
    scores = metrics.ood_scores(logq_NC, np.array([0.0, 0.1, 0.2]))
    for score_N in scores.values():
        assert (np.diff(score_N) > 0).all()
    assert scores["msp"] == pytest.approx(-np.log([0.98, 0.6, 0.34]))
    assert scores["entropy"][2] == pytest.approx(np.log(3), abs=1e-3)


def test_all_have_a_meaning_and_of_one_member_there_is_no_disagreement() -> None:
    logq_NC = np.log(np.full((2, 4), 0.25))
    assert metrics.ood_scores(logq_NC, np.zeros(2)).keys() == SCORES.keys()
    assert metrics.ood_scores(logq_NC).keys() == SCORES.keys() - {"mi"}
