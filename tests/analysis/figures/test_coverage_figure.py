"""The page's figure of what the search tried: made of the declared space."""

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from analysis.figures import search
from analysis.report.write import write_report
from analysis.result import judge_folder
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
    write_report(judge_folder(run), place / "report.html", NOW)
    return payload((place / "report.html").read_text())


def rows(page: Any, figure: str) -> list[dict[str, Any]]:
    """Return the rows of a figure's largest data set."""
    return max((page["datasets"][use] for use in page["figures"][figure]["uses"]), key=len)


def test_coverage_reads_fields_that_exist(page: Any) -> None:
    known = {name for row in rows(page, "coverage") for name in row}
    made = {"_from", "_to", "_middle", "_end"}

    assert set(fields(page["figures"]["coverage"]["spec"])) <= known | made


def test_the_search_is_shown_by_its_history_and_its_coverage_alone(page: Any) -> None:
    drawn = set(page["figures"])
    assert {"history", "coverage"} <= drawn
    assert not drawn & {"importance", "slices", "parallel"}


def test_coverage_says_what_was_not_tried(page: Any) -> None:
    claim = page["figures"]["coverage"]["title"]

    assert claim.endswith("least of init: 2 of 3")
    drawn = [row for row in rows(page, "coverage") if row.get("what") == "ones"]
    assert {row["trials"] for row in drawn} == {0}


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
