"""The first picture has every configuration, its weakest result, its name and its verdict."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import vl_convert

from analysis.figures import encodings
from analysis.figures.context import Figure
from analysis.figures.ruler import FULL, ruler_figure
from analysis.report.html import VEGA_LITE
from tests.analysis.figures.test_recovery import HARD, context_of, hard, marks

WIDTH = 600


@cache
def ruler(name: str) -> tuple[Figure, list[dict[str, Any]]]:
    """Return the figure of a hard study and its rows."""
    figure = ruler_figure(context_of(*hard(name)))
    assert figure is not None
    (rows,) = [d for d in figure.chart.to_dict()["datasets"].values() if "_row" in d[0]]
    return figure, rows


@cache
def scene(name: str, room: float) -> Any:
    """Return the scene graph of a study's figure as the page draws it with so much room."""
    spec = ruler(name)[0].chart.to_dict() | {"width": WIDTH}
    (param,) = [param for param in spec["params"] if param["name"] == "room"]
    param["value"] = room
    return vl_convert.vegalite_to_scenegraph(spec, vl_version=VEGA_LITE)


def labels(value: Any) -> Iterator[str]:
    """Yield the labels of all axes, each in one line."""
    if isinstance(value, dict):
        if value.get("role") == "axis-label":
            texts = (item["text"] for item in value["items"])
            yield from (text if isinstance(text, str) else " ".join(text) for text in texts)
        for inner in value.values():
            yield from labels(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from labels(inner)


def texts(value: Any) -> set[str]:
    """Return what stands within the frame."""
    return {item["text"] for kind, item in marks(value) if kind == "text"}


@pytest.mark.parametrize("name", HARD)
def test_every_arm_is_on_the_ruler_with_its_least_recovery(name: str) -> None:
    found, verdict = hard(name)
    context = context_of(found, verdict)
    _, rows = ruler(name)
    assert [row["arm"] for row in rows] == context.judged_all()["arm"].to_list()
    for row in rows:
        least = verdict.by_arm()[row["arm"]].least
        assert row["estimate"] == (
            None if least is None else pytest.approx(least[2].recovery, rel=1e-4)
        )
    points = [item for kind, item in marks(scene(name, WIDTH)) if kind == "symbol"]
    assert len(points) == sum(row["estimate"] is not None for row in rows)
    assert all(0 <= item["x"] <= WIDTH for item in points)
    heights = sorted(row["_row"] for row in rows)
    assert all(b - a > 4 for a, b in pairwise(heights))


@pytest.mark.parametrize("name", HARD)
def test_names_stand_beside_their_lines_or_above_them_in_a_narrow_page(name: str) -> None:
    _, rows = ruler(name)
    named = {row["name"] for row in rows if row.get("name")}
    wide, narrow = scene(name, encodings.ABREAST), scene(name, encodings.ABREAST - 1)
    assert named
    assert named <= set(labels(wide))
    assert not named & texts(wide)
    assert named <= texts(narrow)
    assert not named & set(labels(narrow))
    assert "null" not in {*texts(wide), *texts(narrow), *labels(wide), *labels(narrow)}


@pytest.mark.parametrize("name", HARD)
def test_every_name_has_its_recovery_and_where_there_is_room_its_verdict(name: str) -> None:
    _, verdict = hard(name)
    _, rows = ruler(name)
    full, short = ([*labels(scene(name, room))] for room in (FULL, FULL - 1))
    for row in rows:
        if row.get("name"):
            arm = verdict.by_arm()[row["arm"]]
            open_ = arm.label if arm.verdict == "inconclusive" else None
            (said,) = {text for text in full if text == f"{row['said']} \u00b7 {row['why']}"}
            assert row["said"] in short
            assert open_ is None or said.endswith(f"undecided: {open_}")


@pytest.mark.parametrize("name", HARD)
def test_both_ends_have_names_and_no_two_numbers_of_the_axis_touch(name: str) -> None:
    figure, _ = ruler(name)
    assert {"0 single network", "1 Deep Ensemble"} <= set(labels(scene(name, WIDTH)))
    layers = figure.chart.to_dict()["layer"]
    (axis,) = {
        str(own["axis"]["values"])
        for layer in layers
        if "axis" in (own := layer["encoding"].get("x", {}))
    }
    low, high = layers[0]["encoding"]["x"]["scale"]["domain"]
    values = [float(at) for at in axis.strip("[]").split(",")]
    assert all((b - a) / (high - low) > 0.09 for a, b in pairwise(values))
