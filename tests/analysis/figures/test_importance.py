"""The page's figures of the search: made of the declared space, silent where nothing is known."""

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from analysis.data.search_space import Domain
from analysis.figures import search
from analysis.figures.importance import OBJECTIVES, _panel
from analysis.figures.parallel_coordinates import axis_ticks, beside
from analysis.figures.search import SearchedParameter
from analysis.report.write import report
from tests.analysis.make_run import Data, make_run
from tests.analysis.report.test_report import fields, payload

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = Data(test=60, shift=20, ood=20, severities=2)
RANGE = {"float": [0.02, 1.0], "int": None, "choice": None, "log": True, "when": {}}
CHOICE = {
    "float": None,
    "int": None,
    "choice": ["normal", "sign", "ones"],
    "log": False,
    "when": {},
}
STUDY = {
    "candidates": [
        {
            "method": "batchensemble",
            "fixed": {},
            "search": {"params.init": [CHOICE], "params.init_std": [RANGE]},
        },
        {"method": "never_run", "fixed": {}, "search": {"params.init": [CHOICE]}},
    ],
    "others": [],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("searched")
    run = make_run(place / "run", seeds=2, data=SMALL, search=52)
    (run / "study.json").write_text(json.dumps(STUDY))
    report(run, place / "report.html", NOW)
    return payload((place / "report.html").read_text())


def rows(page: Any, figure: str) -> list[dict[str, Any]]:
    """Return the rows of a figure's largest data set."""
    return max((page["datasets"][use] for use in page["figures"][figure]["uses"]), key=len)


@pytest.mark.parametrize("figure", ["importance", "slices", "coverage", "parallel"])
def test_figures_read_fields_that_exist(page: Any, figure: str) -> None:
    known = {name for row in rows(page, figure) for name in row}
    made = {"_from", "_to", "_middle", "_end", "_shown", "good"}

    assert set(fields(page["figures"][figure]["spec"])) <= known | made


def test_importance_stands_for_both_objectives(page: Any) -> None:
    panels = {row["panel"].split("\n")[0] for row in rows(page, "importance")}

    assert panels == {f"BatchEnsemble, {name}" for name in OBJECTIVES.values()}


def test_coverage_says_what_was_not_tried(page: Any) -> None:
    claim = page["figures"]["coverage"]["title"]

    assert claim.endswith("least of init: 2 of 3")
    drawn = [row for row in rows(page, "coverage") if row.get("what") == "ones"]
    assert {row["trials"] for row in drawn} == {0}


def test_slices_have_both_objectives_of_every_trial(page: Any) -> None:
    trials = [row for row in rows(page, "slices") if row["kind"] == "trial"]

    assert {row["panel"].split("\n")[0] for row in trials} == {"init", "init_std"}
    assert all(row["val_nll"] is not None and row["val_gain"] is not None for row in trials)
    assert all(0 <= row["at"] <= 1 for row in trials)
    assert "adjusted p" in page["figures"]["slices"]["title"]


def test_medians_of_parts_by_hand() -> None:
    one = SearchedParameter("be", "init", Domain(("a", "b"), (0, 0), False, False, {}))
    one.values, one.trials = ["a", "a", "a", "b", "b"], list("tuvwx")
    losses = dict(zip("tuvwx", (0.1, 0.5, 0.2, 9.0, 9.0), strict=True))
    by_trial = {t: {"val_nll": loss, "val_gain": None} for t, loss in losses.items()}

    medians = [row for row in _panel(one, by_trial) if row["kind"] == "median"]

    # Two trials of "b" are too few for a median, and the gain is not known.
    assert medians == [{"kind": "median", "at": 0.0, "high": 0.5, "val_nll": 0.2}]


def test_values_of_a_choice_keep_to_their_column() -> None:
    one = SearchedParameter("be", "init", Domain(("a", "b"), (0, 0), False, False, {}))

    places = [beside(one, "b", number) for number in range(100)]

    assert 0.5 < min(places) < max(places) < 1
    assert len(set(places)) == 100


def test_ticks_are_the_choices_or_the_ends_and_the_middle() -> None:
    options = Domain(("none", "jensen_shannon", "c", "d", "e"), (0, 0), False, False, {})
    domain = Domain((), (0.01, 1.0), True, False, {})

    assert [t["value"] for t in axis_ticks(SearchedParameter("be", "x", options))] == [
        "none",
        "jensen_…",
        "c",
        "d",
        "e",
    ]
    assert [t["value"] for t in axis_ticks(SearchedParameter("be", "x", domain))] == [
        "0.01",
        "0.1",
        "1",
    ]


def test_panels_of_coverage_have_as_many_rows() -> None:
    names = [("one", "a"), ("one", "b"), ("two", "a")]
    frame = pl.DataFrame(
        [
            {"panel": panel, "parameter": name, "declared": "", "what": "", "trials": 1,
             "low": 0.0, "high": 1.0, "share": "1/1"}
            for panel, name in names
        ]
    )  # fmt: skip

    spec = search.coverage_chart(frame).to_dict()

    (data,) = spec["datasets"].values()
    assert len({row["_row"] for row in data}) == 4
    assert [row["panel"] for row in data].count("two") == 2


def test_every_trial_is_one_line_with_gaps_where_a_parameter_was_not_active(page: Any) -> None:
    lines = pl.DataFrame(rows(page, "parallel"), infer_schema_length=None)
    lines = lines.filter(pl.col("kind") == "trial")
    assert set(lines.group_by("trial").len()["len"]) == {lines["axis"].n_unique()}
    first = lines.filter(pl.col("row") == 0).sort("share")
    assert first["val_nll"].is_sorted()
    assert first["share"].to_list()[-1] == 1
    assert lines["at"].drop_nulls().is_between(0, 1).all()
