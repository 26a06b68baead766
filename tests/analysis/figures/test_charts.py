"""Charts are valid Vega-Lite, hold JSON alone, and show what the rows say."""

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.figures import (
    averaged_members,
    calibration,
    cost,
    diversity,
    encodings,
    members,
    recovery,
    search,
    shift,
)

METHODS = ["deep_ensemble", "single", "batch_ensemble"]


def rows(**columns: Any) -> pl.DataFrame:
    arm = {"arm": ["a", "b"], "tag": ["A", "B"], "label": ["A · x", "B · y"]}
    return pl.DataFrame(arm | {"method": ["batch_ensemble"] * 2, "panel": ["one", "two"]} | columns)


LEVELS = ("90 %", "95 %")
RECOVERY = {
    "estimate": [0.4, math.nan],
    **{f"low{level}": [0.2, None] for level in ("", "_wide")},
    **{f"high{level}": [0.6, math.inf] for level in ("", "_wide")},
}
BAND = {"low": [0.1, math.nan], "high": [0.3, None]}
DRAWN = {
    "recovery": lambda: recovery.recovery_chart(rows(kind="tuned", **RECOVERY), 0.25, METHODS, LEVELS),
    "diversity": lambda: diversity.diversity_chart(
        rows(disagreement=[0.1, 0.2], **RECOVERY), 0.25, METHODS, "R", "90 %"
    ),
    "evidence": lambda: members.evidence_chart(
        rows(mean=[0.1, 0.2], low=[0.1, 0.1], high=[0.2, 0.3], chance=[0.0, 0.1], same=[0.3, 0.4]),
        METHODS,
    ),
    "cost": lambda: cost.cost_chart(rows(cost=[1.0, 4.0], front=[True, False], **RECOVERY), 0.25, METHODS, "R"),
    "collapsed": lambda: averaged_members.collapsed_chart(
        rows(kind=["full", "collapsed"], nll=[0.1, 0.2], other=[None, 0.1], **BAND), METHODS
    ),
    "severity": lambda: shift.severity_chart(
        rows(metric="nll", severity=[1, 2], difference=[0.1, 0.2], anchor=[True, False], **BAND),
        METHODS,
        "nll",
    ),
    "reliability": lambda: calibration.reliability_chart(
        rows(bin=[0, 1], confidence=[0.1, 0.2], accuracy=[0.1, 0.2], share=[0.5, 0.5], **BAND),
        METHODS,
    ),
    "members": lambda: members.members_chart(rows(i=[0, 0], j=[0, 1], disagreement=[None, 0.1])),
    "history": lambda: search.history_chart(
        rows(
            trial=["t", "u"], order=[1, 2], val_nll=[0.3, None], best=[0.3, 0.3],
            shown=[0.3, 0.5], kind=["complete", "pruned"],
        ),
        METHODS,
        0.5,
    ),
    "trajectory": lambda: members.trajectory_chart(
        rows(epoch=[0, 4], mean=[0.5, 0.4], end=[False, True], at=[None, 0.4], **BAND), METHODS
    ),
    "landscape": lambda: members.landscape_chart(
        rows(mean=[0.5, 0.4], mark=[0.1, None], **BAND), METHODS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_is_valid_and_holds_no_nan(name: str) -> None:
    chart = DRAWN[name]()

    text = json.dumps(chart.to_dict(validate=True), allow_nan=False)

    assert "sel" in {param["name"] for param in json.loads(text)["params"]}


@pytest.mark.parametrize("name", DRAWN)
def test_is_the_same_whenever_it_is_drawn(name: str) -> None:
    first, second = (DRAWN[name]().to_dict(validate=False) for _ in range(2))

    assert first == second


def test_tidy_rounds_and_drops_what_json_cannot_hold() -> None:
    frame = pl.DataFrame({"x": [1.23456789, math.nan, -math.inf, None], "n": [1, 2, 3, 4]})

    assert encodings.tidy(frame).to_dict(as_series=False) == {
        "x": [1.2346, None, None, None],
        "n": [1, 2, 3, 4],
    }


def placed(spec: dict[str, Any]) -> tuple[list[dict[str, Any]], tuple[float, float]]:
    """Return the rows of a figure of recoveries, and the ends of its frame."""
    (data,) = [d for d in spec["datasets"].values() if "_estimate" in d[0]]
    scales = find(spec, "scale")
    low, high = next(s["domain"] for s in scales if s.get("nice") is False and "domain" in s)
    return data, (low, high)


def test_nothing_lies_outside_the_frame_and_far_values_keep_their_order() -> None:
    far = {"estimate": [20.2, -7.0], "low": [9.0, -800.0], "high": [21.0, -6.0]}
    far |= {"low_wide": far["low"], "high_wide": [1e6, -5.0]}

    data, (low, high) = placed(
        recovery.recovery_chart(rows(kind="tuned", **far), 0.25, METHODS, LEVELS).to_dict()
    )

    places = [row[f"_{name}"] for row in data for name in ("low", "estimate", "high", "high_wide")]
    assert all(low < place < high for place in places)
    assert places[:4] == sorted(places[:4])
    assert places[4:] == sorted(places[4:])


def test_recovery_is_linear_between_its_baselines() -> None:
    frame = pl.DataFrame({"x": [-0.5, 0.0, 0.3, 1.0, 1.5]})

    assert frame.select(encodings.at(pl.col("x"))).to_series().to_list() == frame["x"].to_list()


def test_an_unbounded_interval_is_drawn_across_the_frame_and_stays_unbounded_in_the_data() -> None:
    lost = RECOVERY | {"estimate": [0.4, 0.7], "high": [0.6, None], "high_wide": [0.6, None]}

    data, (low, high) = placed(
        recovery.recovery_chart(rows(kind="tuned", **lost), 0.25, METHODS, LEVELS).to_dict()
    )

    assert data[1]["low"] is None
    assert (data[1]["_low"], data[1]["_high"]) == (low, high)
    assert [row["_unbounded"] for row in data] == [False, True]


def test_tags_of_points_in_one_place_take_different_sides() -> None:
    frame = pl.DataFrame(
        {"tag": ["A", "B", "C", "D"], "x": [0.0, 0.0, 0.0, 1.0], "estimate": [0.5, 0.5, 0.5, 0.0]}
    )

    assert encodings.placed(frame, "x", (0.0, 1.0), (350, 330))["_place"].head(3).n_unique() == 3


def test_all_charts_share_one_domain_of_methods() -> None:
    for draw in (DRAWN["recovery"], DRAWN["cost"], DRAWN["history"], DRAWN["reliability"]):
        assert json.dumps(METHODS) in json.dumps(draw().to_dict(validate=False))


def test_no_chart_brings_a_look_of_its_own() -> None:
    for draw in DRAWN.values():
        scales = find(draw().to_dict(validate=False), "scale")
        assert not [s for s in scales if s.get("domain") == METHODS and "range" in s]


def find(value: Any, key: str) -> list[Any]:
    """Return every value of ``key`` at any depth."""
    if isinstance(value, dict):
        own = [value[key]] if isinstance(value.get(key), dict) else []
        return own + [hit for inner in value.values() for hit in find(inner, key)]
    if isinstance(value, list):
        return [hit for inner in value for hit in find(inner, key)]
    return []


def test_frame_holds_both_anchors_and_the_band() -> None:
    low, high = encodings.frame(rows(**RECOVERY), 0.25)

    assert low <= -0.25
    assert high >= 1
    assert np.isfinite([low, high]).all()
