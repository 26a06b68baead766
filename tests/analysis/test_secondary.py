"""Every measure of every arm is told, and none is made up."""

from typing import Any

import polars as pl
import pytest

from analysis.columns import METRICS
from analysis.measure import Measures
from analysis.secondary import secondary


def test_means_and_deviations_are_those_over_seeds(measures: Measures) -> None:
    found = secondary(measures)

    own = measures.replicates.filter(pl.col("arm") == "single")
    assert found["single"]["nll"] == {
        "mean": pytest.approx(own["nll"].mean()),
        "sd": pytest.approx(own["nll"].std()),
        "n": len(own),
    }


def test_what_is_undefined_is_left_out(measures: Measures) -> None:
    found = secondary(measures)

    assert "disagreement" not in found["single"]
    assert "disagreement" in found["deep_ensemble-4"]
    assert all(set(values) <= set(METRICS) for values in found.values())


def test_one_run_has_no_deviation() -> None:
    frame = pl.DataFrame([{"arm": "x", "replicate": 0, "nll": 0.5}])
    rest: Any = (pl.DataFrame(),) * 4

    assert secondary(Measures(frame, *rest)) == {"x": {"nll": {"mean": 0.5, "sd": None, "n": 1}}}
