"""What each arm cost, and how it was trained: counted from the trials, in absolute numbers."""

import json
from fractions import Fraction
from typing import Any, Final

import polars as pl

from analysis.measures.measure import Measures

COUNTED: Final = ("parameters", "stored_bytes", "train_flops", "infer_flops")
COSTS: Final = (*COUNTED, "total_train_flops", "train_seconds")
CONDITIONS: Final = ("epochs", "batch_size", "augment", "share")
"""What must be the single model's for an arm to be epoch-matched."""


def costs(trials: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """Return what each arm cost and how it was trained: arm, ``COSTS`` and ``CONDITIONS``.

    A Deep Ensemble's trial is a pool of members; its arm is charged for its own. The column
    ``examples`` may be null: then ``total_train_flops`` is per training example.
    """
    rows = measures.replicates.select("arm", "trial", "members").join(
        trials.select("trial", *COUNTED, "train_seconds", "epochs", "spec", pool="members"),
        on="trial",
        maintain_order="left",
    )
    own = pl.col("members") / pl.col("pool")
    mean = (
        rows.with_columns(pl.col(*COUNTED, "train_seconds") * own)
        .group_by("arm", maintain_order=True)
        .agg(pl.col(*COUNTED, "train_seconds", "epochs").mean(), pl.col("spec").first())
    )
    given = [_conditions(spec) for spec in mean["spec"]]
    schema = {
        "examples": pl.Int64,
        "batch_size": pl.Int64,
        "augment": pl.String,
        "share": pl.String,
    }
    found = pl.DataFrame(given, schema=schema, orient="row")
    total = pl.col("train_flops") * pl.col("epochs")
    return pl.concat([mean.drop("spec"), found], how="horizontal").with_columns(
        total_train_flops=total * pl.col("examples").fill_null(1)
    )


def multiples(spent: pl.DataFrame) -> pl.DataFrame:
    """Return arm and its costs as multiples of the single model's; no row without one."""
    base = spent.filter(pl.col("arm") == "single")
    kept = spent.select("arm", *COSTS)
    if base.is_empty():
        return kept.clear()
    return kept.with_columns(
        pl.when(base[name].item() != 0).then(pl.col(name) / base[name].item()).alias(name)
        for name in COSTS
    )


def _conditions(spec: str | None) -> dict[str, Any]:
    """Return what a spec says about the data that each member sees.

    ``share``: how often, in the mean, it sees each example of a batch.
    """
    known: dict[str, Any] = json.loads(spec or "{}")
    training, params = known.get("training", {}), known.get("params", {})
    members = params.get("members", 1) if params.get("batch") == "split" else 1
    return {
        "examples": known.get("dataset", {}).get("train_size"),
        "batch_size": training.get("batch_size"),
        "augment": training.get("augment"),
        "share": str(Fraction(params.get("batch_repetition", 1), members)) if known else None,
    }
