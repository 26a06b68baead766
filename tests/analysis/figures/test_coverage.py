"""The declared space, and what of it was tried, by hand."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.data.search_space import Domain, Space, spaces
from analysis.figures.search import coverage, declared, seen
from study.errors import StudyError

BLANK: dict[str, Any] = {"float": None, "int": None, "choice": None, "log": False, "when": {}}


def choice(*values: Any, **when: Any) -> dict[str, Any]:
    return BLANK | {"choice": list(values), "when": when}


def study(search: dict[str, Any], fixed: dict[str, Any] | None = None) -> dict[str, Any]:
    own = {"method": "be", "fixed": fixed or {}, "search": search}
    lone = {"method": "deep_ensemble", "fixed": {}, "search": {}}
    return {"candidates": [own], "others": [lone]}


def space(tmp_path: Path, search: dict[str, Any], **fixed: Any) -> Space:
    """Return the one searched space of a ``study.json``."""
    (tmp_path / "study.json").write_text(json.dumps(study(search, fixed)))
    (found,) = spaces(tmp_path)
    return found


def trials(points: list[dict[str, Any]], **objectives: list[float | None]) -> pl.DataFrame:
    rows = [
        {"trial": f"t{n:03}", "method": "be", "spec": json.dumps({"params": point})}
        for n, point in enumerate(points)
    ]
    return pl.DataFrame(rows).with_columns(**{k: pl.Series(v) for k, v in objectives.items()})


# --- domains


def test_a_logarithmic_range_has_equal_parts_in_its_logarithm() -> None:
    domain = Domain((), (0.01, 1.0), True, False, {})

    assert domain.position(0.1) == pytest.approx(0.5)
    # tenths of two decades: 0.01, 0.0158, 0.0251, 0.0398, 0.0631, 0.1, ...
    assert [domain.slot(v) for v in (0.01, 0.015, 0.016, 0.09, 0.11, 1.0)] == [0, 0, 1, 4, 5, 9]
    assert domain.at(0.5) == pytest.approx(0.1)


def test_a_range_has_ten_parts_and_its_top_lies_in_the_last() -> None:
    domain = Domain((), (0.0, 0.3), False, False, {})

    assert [domain.slot(v) for v in (0.0, 0.029, 0.031, 0.3)] == [0, 0, 1, 9]


def test_few_whole_numbers_and_choices_have_a_part_each() -> None:
    whole, options = (
        Domain((), (2, 4), False, True, {}),
        Domain((1, 4, "full"), (0, 0), False, False, {}),
    )

    assert [whole.slot(v) for v in (2, 3, 4)] == [0, 1, 2]
    assert [options.slot(v) for v in (1, 4, "full")] == [0, 1, 2]
    assert options.position("full") == pytest.approx(2.5 / 3)
    assert Domain((), (1, 64), True, True, {}).slots == 10


@pytest.mark.parametrize("value", [1.5, 0.001])
def test_what_lies_outside_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not within"):
        Domain((), (0.01, 1.0), True, False, {}).position(value)


# --- what was searched


def test_without_a_study_nothing_is_known(tmp_path: Path) -> None:
    assert spaces(tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"candidates": [{"method": "be"}]}'])
def test_a_damaged_study_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)

    with pytest.raises(StudyError, match=r"study\.json: must hold the study") as caught:
        spaces(tmp_path)
    assert "\n" not in str(caught.value)


def test_methods_that_were_not_searched_are_left_out(tmp_path: Path) -> None:
    assert space(tmp_path, {"params.init": [choice("sign", "ones")]}).candidate


def test_a_conditional_parameter_counts_where_it_was_active(tmp_path: Path) -> None:
    own = space(
        tmp_path,
        {
            "params.init": [choice("normal", "ones")],
            "params.std": [BLANK | {"float": [0.0, 1.0], "when": {"params.init": ["normal"]}}],
        },
    )
    # The second trial's std is a default that the spec was filled with: it was not searched.
    points = [{"init": "normal", "std": 0.05}, {"init": "ones", "std": 0.5}]

    init, std = seen([own], trials(points))

    assert init.values == ["normal", "ones"]
    assert std.values == [0.05]


def test_a_condition_on_what_is_inactive_does_not_hold(tmp_path: Path) -> None:
    own = space(
        tmp_path,
        {
            "params.a": [choice("on", "off")],
            "params.b": [choice("x", "y", **{"params.a": ["on"]})],
            "params.c": [choice(1, 2, **{"params.b": ["x"]})],
        },
    )

    *_, c = seen([own], trials([{"a": "off", "b": "x", "c": 1}, {"a": "on", "b": "x", "c": 2}]))

    assert c.values == [2]


def test_a_condition_may_ask_what_was_fixed(tmp_path: Path) -> None:
    search = {"params.rank": [choice(1, 2, **{"params.init": ["sign"]})]}

    (rank,) = seen([space(tmp_path, search, **{"params.init": "sign"})], trials([{"rank": 2}]))

    assert rank.values == [2]


def test_alternatives_that_are_choices_are_one_and_ranges_stand_alone(tmp_path: Path) -> None:
    search = {
        "params.init": [choice("ones", "normal")],
        "params.rate": [
            choice(1.0, 0.0, **{"params.init": ["ones"]}),
            BLANK | {"float": [0.1, 10.0], "log": True, "when": {"params.init": ["normal"]}},
        ],
    }
    points = [{"init": "ones", "rate": 0.0}, {"init": "normal", "rate": 1.0}]

    _, choices, rate = seen([space(tmp_path, search)], trials(points))

    assert (choices.parameter, choices.values) == ("rate (choice)", [0.0])
    assert (rate.parameter, rate.values) == ("rate", [1.0])


def test_a_trial_outside_of_the_space_is_one_line(tmp_path: Path) -> None:
    own = space(tmp_path, {"params.init": [choice("ones", "normal")]})

    with pytest.raises(StudyError, match="trial t000 of be is not within its space"):
        seen([own], trials([{"init": "sign"}]))


# --- coverage


def test_coverage_by_hand(tmp_path: Path) -> None:
    search = {
        "params.init": [choice("ones", "normal", "sign")],
        "params.std": [
            BLANK | {"float": [0.01, 1.0], "log": True, "when": {"params.init": ["normal"]}}
        ],
    }
    points = [{"init": "ones", "std": None}]
    points += [{"init": "normal", "std": std} for std in (0.011, 0.012, 0.09, 1.0)]

    found = seen([space(tmp_path, search)], trials(points))
    rows = coverage(found)

    assert [len(one.values) for one in found] == [5, 4]
    init, std = (rows.filter(pl.col("parameter") == name) for name in ("init", "std"))
    assert init["trials"].to_list() == [1, 4, 0]
    assert init.select("covered", "slots").row(0) == (2, 3)
    assert std["trials"].to_list() == [2, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert std.select("covered", "slots").row(0) == (3, 10)
    assert std["what"].to_list()[:2] == ["0.01 to 0.0158", "0.0158 to 0.0251"]


def test_domains_in_words() -> None:
    assert declared(Domain((), (0.01, 1.0), True, False, {})) == "0.01 to 1 (log)"
    assert (
        declared(Domain((1, "full", None, True), (0, 0), False, False, {})) == "1, full, none, yes"
    )
