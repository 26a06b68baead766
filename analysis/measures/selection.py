"""Which trials of a run are measured, and at what sizes: complete, declared, one of each."""

from typing import Any, Final

import polars as pl

from analysis.data.predictions import predictions_file
from analysis.data.roles import ANCHORS, CONTROLS, POOLS, SPLITS, arm_key, ensemble_key
from analysis.data.run import Run
from analysis.measures.trial import Task
from study.errors import StudyError
from study.parquet_format import MATCHED

UNDECLARED: Final = "not an arm of the plan"


def confirmed(run: Run) -> tuple[list[dict[str, Any]], list[Task]]:
    """Return the rows of the trials to measure, by role, configuration, replicate, and the tasks.

    Raises:
        StudyError: When a split is missing in some trials only, or two trials claim the same arm
            and replicate.
    """
    trials = run.trials.with_columns(declared=_declared(run))
    complete = trials.filter("declared", stage="confirm", status="complete")
    rows = complete.sort("role", "configuration", "replicate", "trial").to_dicts()
    _refuse_twins(run, rows)
    return rows, _tasks(rows, _splits(run, rows))


def replicates_by_arm(run: Run) -> dict[str, list[tuple[int, str, int]]]:
    """Return replicate, trial and number of members of each ensemble, by arm."""
    arms: dict[str, list[tuple[int, str, int]]] = {}
    for row, task in zip(*confirmed(run), strict=True):
        for size in task.sizes:
            key = arm_key(row["role"], row["configuration"])
            key = ensemble_key(key, size) if row["role"] in POOLS else key
            arms.setdefault(key, []).append((row["replicate"], task.trial, size))
    return arms


def _declared(run: Run) -> pl.Series:
    """Return of each trial whether it is of the plan; all are without one, or before confirm."""
    arms = None if run.plan is None else {(a.role, a.configuration) for a in run.plan.arms}
    keys = run.trials.select("stage", "role", "configuration").iter_rows()
    known = [arms is None or stage != "confirm" or (role, c) in arms for stage, role, c in keys]
    return pl.Series(known, dtype=pl.Boolean)


def excluded(run: Run) -> pl.DataFrame:
    """Return which trials are not measured, and why (see ``Measures.excluded``)."""
    trials = run.trials.with_columns(declared=_declared(run))
    own_key = pl.col("role").is_in([*ANCHORS, *CONTROLS, *MATCHED]) & pl.col("declared")
    keys = [arm_key(*row) for row in trials.select("role", "configuration").iter_rows()]
    undeclared = (pl.col("status") == "complete") & ~pl.col("declared")
    return (
        trials.with_columns(key=pl.Series(keys, dtype=pl.String))
        .filter((pl.col("status") != "complete") | undeclared)
        .select(
            "trial",
            pl.when(own_key).then("key").otherwise("configuration").alias("arm"),
            "stage",
            "status",
            pl.when(undeclared).then(pl.lit(UNDECLARED)).otherwise("reason").alias("reason"),
        )
        .sort("stage", "arm", "trial")
    )


def _refuse_twins(run: Run, rows: list[dict[str, Any]]) -> None:
    """Refuse two trials of one arm and replicate, and two configurations of one arm."""
    seen: dict[tuple[str, int], str] = {}
    configurations: dict[str, str] = {}
    for row in rows:
        arm = arm_key(row["role"], row["configuration"])
        other = configurations.setdefault(arm, row["configuration"])
        if other != row["configuration"]:
            raise StudyError(
                f"{run.folder}: {arm} must be one configuration, but is both {other} and "
                f"{row['configuration']}; keep studies with other anchors in folders of their own"
            )
        twin = seen.setdefault((arm, row["replicate"]), row["trial"])
        if twin != row["trial"]:
            raise StudyError(
                f"{run.folder}: arm {arm} must have one trial of replicate {row['replicate']}, but "
                f"has {twin} and {row['trial']}; remove the one that does not belong to the study"
            )


def _splits(run: Run, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the splits that were stored; a split must be there for all trials or for none."""
    stored = []
    for split in SPLITS:
        files = [predictions_file(run, row["trial"], split) for row in rows]
        missing = [file for file in files if not file.exists()]
        if missing and (split == "test" or len(missing) < len(files)):
            raise StudyError(
                f"{missing[0]}: must exist, as the trial is complete"
                f"{'' if split == 'test' else ' and others have it'}, but does not; "
                "delete the trial's folder and give the command of the study again"
            )
        if files and not missing:
            stored.append(split)
    return tuple(stored)


def _tasks(rows: list[dict[str, Any]], splits: tuple[str, ...]) -> list[Task]:
    """Return what to measure of each trial; a pool at every size that it can give."""
    needed = _sizes(rows)
    found = []
    for row in rows:
        pool, members = row["role"] in POOLS, row["members"]
        sizes = tuple(s for s in needed if s <= members) if pool else (members,)
        found.append(Task(row["trial"], members, sizes, splits, row["role"] == "deep_ensemble"))
    return found


def _sizes(rows: list[dict[str, Any]]) -> list[int]:
    """Return the sizes at which a Deep Ensemble is needed: those of the judged arms above 1.

    One member alone is the single model itself. With nothing else to judge, the whole pool.
    """
    anchors = {*ANCHORS, *MATCHED}
    judged = {row["members"] for row in rows if row["role"] not in anchors} - {1}
    pools = {row["members"] for row in rows if row["role"] == "deep_ensemble"}
    return sorted(judged or pools)
