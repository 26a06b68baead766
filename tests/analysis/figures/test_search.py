"""The search's history says what was there, and nothing where nothing is."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl

from analysis.data.search_space import flatten
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
