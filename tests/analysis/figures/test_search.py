"""The search's history and importances say what was planted, and nothing where nothing is."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from analysis.data.search_space import flatten
from analysis.figures.importance import encode, importances
from analysis.figures.search import history

START = datetime(2026, 1, 1, tzinfo=UTC)


def trials(losses: list[float | None], status: list[str] | None = None) -> pl.DataFrame:
    n = len(losses)
    return pl.DataFrame(
        {
            "trial": [f"t{i:03}" for i in range(n)],
            "method": "be",
            "stage": "search",
            "status": status or ["complete"] * n,
            "val_nll": losses,
            "finished": [START + timedelta(seconds=i) for i in range(n)],
        },
        schema_overrides={"val_nll": pl.Float64},
    )


def test_best_so_far_never_rises_and_skips_what_is_not_complete() -> None:
    frame = trials([0.5, 0.1, 0.4, None], ["complete", "pruned", "complete", "failed"])

    rows, _ = history(frame)

    assert rows["best"].to_list() == [0.5, 0.5, 0.4, 0.4]
    assert rows["order"].to_list() == [1, 2, 3, 4]


def test_a_far_trial_stands_at_the_top_of_the_frame() -> None:
    rows, top = history(trials([0.5, 0.6, 0.7, 0.8, 99.0]))

    assert rows["shown"].to_list()[-1] == top < 99
    assert rows["kind"].to_list()[-1] == "beyond the frame"


def test_no_complete_trial_gives_no_history() -> None:
    assert history(trials([None, None], ["pruned", "failed"]))[0].is_empty()


def test_flatten_names_leaves_and_drops_what_tells_replicates_apart() -> None:
    spec = {"params": {"init": {"std": 0.5}}, "training": {"lr": 0.1}, "seed": 3, "role": "single"}

    assert flatten(json.dumps(spec)) == {"init.std": 0.5, "lr": 0.1}


def test_what_is_absent_lies_below_all_numbers() -> None:
    assert encode([2.0, None, 1.0]).argmin() == 1
    assert encode(["sign", None, "sign"])[0] == encode(["sign", None, "sign"])[2]


def test_importance_finds_the_planted_parameter() -> None:
    rng = np.random.default_rng(0)
    std, lr = rng.uniform(size=80), rng.uniform(size=80)
    specs = [
        json.dumps({"params": {"std": s, "fixed": 1}, "training": {"lr": r}})
        for s, r in zip(std.tolist(), lr.tolist(), strict=True)
    ]

    ranked, fit = importances(pl.DataFrame({"spec": specs, "loss": -std}), "loss")

    assert ranked["parameter"].to_list() == ["std", "lr"]
    assert fit > 0.8
    assert (ranked["low"] <= ranked["mean"]).all()


def test_importance_of_noise_fits_nothing() -> None:
    rng = np.random.default_rng(1)
    specs = [json.dumps({"params": {"std": s}}) for s in rng.uniform(size=60).tolist()]

    _, fit = importances(pl.DataFrame({"spec": specs, "loss": rng.uniform(size=60)}), "loss")

    assert fit < 0.1


def test_importance_without_a_varying_parameter_is_empty() -> None:
    specs = [json.dumps({"params": {"std": 1.0}})] * 40

    trials = pl.DataFrame({"spec": specs, "loss": np.linspace(0, 1, 40)})

    ranked, fit = importances(trials, "loss")

    assert ranked.is_empty()
    assert fit == 0


def test_importance_of_an_objective_that_never_varies_is_empty() -> None:
    specs = [json.dumps({"params": {"std": s}}) for s in range(40)]

    ranked, _ = importances(pl.DataFrame({"spec": specs, "gain": [0.0] * 40}), "gain")

    assert ranked.is_empty()
