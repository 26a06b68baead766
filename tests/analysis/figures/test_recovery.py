"""Every configuration that was judged has its mark, within the frame, however odd the study."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import vl_convert

from analysis.data.run import Run
from analysis.figures.context import Figure, FigureContext, figure_context
from analysis.figures.recovery import recovery_figure
from analysis.measures.measure import Measures
from analysis.report.html import VEGA_LITE
from analysis.verdict.judge import judge
from analysis.verdict.schema import Effect, Verdict
from tests.analysis.verdict.test_judge import measured
from tests.analysis.verdict.test_matched_anchors import plan_of, with_own

MIDDLE = (0.5, 0.6, 0.7)


def context_of(found: Measures, verdict: Verdict) -> FigureContext:
    keys = ("trial", "method", "role", "configuration", "replicate")
    trials = found.replicates.select(*keys, spec=pl.lit("{}")).with_columns(
        stage=pl.lit("search"), status=pl.lit("complete")
    )
    return figure_context(Run(Path("nowhere"), trials, None, given=True), found, verdict)


def many(number: int) -> tuple[Measures, Verdict]:
    """Return a study of so many arms, each of which did as the one that was judged."""
    found = measured({"candidate0": MIDDLE}, seeds=4)
    verdict = judge(found, None)
    one = verdict.arms[0]
    arms = tuple(
        one.model_copy(update={"arm": f"candidate{n}", "name": f"c{n}"}) for n in range(number)
    )
    own = found.replicates.filter(pl.col("arm") == "candidate0")
    copies = [own.with_columns(arm=pl.lit(arm.arm)) for arm in arms[1:]]
    frame = pl.concat([found.replicates, *copies])
    more = verdict.model_copy(update={"arms": arms + verdict.arms[1:]})
    return replace(found, replicates=frame), more


def judged(**truth: Any) -> tuple[Measures, Verdict]:
    found = measured(truth)
    return found, judge(found, None)


def unbounded() -> tuple[Measures, Verdict]:
    found, verdict = judged(candidate1=MIDDLE)
    one = verdict.arms[0]
    lost = dict.fromkeys(("low", "high", "low_wide", "high_wide"))
    effects: dict[str, Effect] = one.endpoints | {
        "cll": one.endpoints["cll"].model_copy(update=lost)
    }
    arms = (one.model_copy(update={"endpoints": effects}), *verdict.arms[1:])
    return found, verdict.model_copy(update={"arms": arms})


def matched() -> tuple[Measures, Verdict]:
    found = with_own(MIDDLE, (0.2, 0.2, 0), (1.2, 1.2, 1))
    return found, judge(found, plan_of(found))


def half_closed() -> tuple[Measures, Verdict]:
    """Return a study in which the Deep Ensemble is better on one endpoint alone."""
    found = measured({"candidate1": MIDDLE, "deep_ensemble-4": (1, 0, 1)})
    return found, judge(found, None)


HARD: dict[str, Callable[[], tuple[Measures, Verdict]]] = {
    "one": lambda: judged(candidate1=MIDDLE),
    "far": lambda: judged(candidate1=(20, 3, -900), candidate2=(-15, 0, 1)),
    "unbounded": unbounded,
    "matched": matched,
    "half closed": half_closed,
    "three hundred": lambda: many(300),
}


@cache
def hard(name: str) -> tuple[Measures, Verdict]:
    return HARD[name]()


def marks(value: Any, x: float = 0.0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and item of every mark of data in a scene graph."""
    if isinstance(value, dict):
        if value.get("role") == "mark" and value.get("marktype") != "group":
            yield from ((value["marktype"], item) for item in value["items"])
        for inner in value.values():
            yield from marks(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from marks(inner)


def drawn(figure: Figure) -> list[tuple[str, dict[str, Any]]]:
    spec = figure.chart.to_dict()
    unused = ("usermeta", "config")
    spec = {key: inner for key, inner in spec.items() if key not in unused}
    if "spec" not in spec:
        spec["width"] = 600
    return list(marks(vl_convert.vegalite_to_scenegraph(spec, vl_version=VEGA_LITE)))


@pytest.mark.parametrize("name", HARD)
def test_every_arm_has_a_mark_in_every_measure(name: str) -> None:
    found, verdict = hard(name)
    context = context_of(found, verdict)
    figure = recovery_figure(context)
    items = drawn(figure)
    seen = {
        (item["description"].partition("Configuration: ")[2].partition(";")[0], measure)
        for kind, item in items
        if kind in ("symbol", "text") and "Measure: " in item.get("description", "")
        for measure in verdict.protocol.labels.values()
        if f"Measure: {measure}" in item["description"]
    }
    labels = context.judged_all()["label"].to_list()
    assert len(labels) == len(verdict.arms)
    assert seen == {(label, m) for label in labels for m in verdict.protocol.labels.values()}
    width = figure.chart.to_dict()["spec"]["width"]
    places = [item[end] for _, item in items for end in ("x", "x2") if end in item]
    assert 0 <= min(places) <= max(places) <= width


def test_the_seeds_of_an_arm_have_its_recovery_as_their_mean() -> None:
    found, verdict = matched()
    figure = recovery_figure(context_of(found, verdict))
    (data,) = [d for d in figure.chart.to_dict()["datasets"].values() if "kind" in d[0]]
    rows = pl.DataFrame(data, infer_schema_length=None)
    for kind, effects in (
        ("seed", verdict.arms[0].endpoints),
        ("own seed", verdict.arms[0].own.endpoints if verdict.arms[0].own else {}),
    ):
        seeds = rows.filter(pl.col("kind") == kind, pl.col("arm") == "candidate1")
        assert len(seeds) == 30
        for key, label in verdict.protocol.labels.items():
            mean = seeds.filter(panel=label)["estimate"].mean()
            assert mean == pytest.approx(effects[key].recovery, abs=1e-3)
    single = rows.filter(kind="seed", arm="single", panel="calibrated NLL")["estimate"]
    assert single.mean() == pytest.approx(0, abs=1e-3)
    assert single.std() == pytest.approx(0.1, abs=0.01)


def test_rows_of_hundreds_are_low_and_without_seeds() -> None:
    figure = recovery_figure(context_of(*many(300)))
    spec = figure.chart.to_dict()
    assert spec["spec"]["height"] < 2000
    (data,) = [d for d in spec["datasets"].values() if "kind" in d[0]]
    assert {row["kind"] for row in data} == {"tuned", "baseline"}
