"""Whether the arms were compared on equal terms: what each cost, and what each method was given.

Two comparisons are kept apart. *Epoch-matched*: every member is trained on as many examples as the
single model is. *Compute-matched*: an arm beside the Deep Ensemble that its compute would buy.
Equal tuning budgets are checked here, not assumed. Nothing here feeds a verdict.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np
import polars as pl
from scipy.special import stdtrit

from analysis.data.protocol import protocol_of
from analysis.data.run import Run
from analysis.measures.costs import CONDITIONS, COSTS, costs, multiples
from analysis.measures.measure import Measures
from analysis.stats.contrasts import contrast, summary
from analysis.verdict.schema import (
    Amount,
    Budget,
    ComputeMatched,
    Cost,
    EpochMatched,
    Fairness,
    Tuning,
)

SPENT: Final[dict[Budget, str]] = {"train": "total_train_flops", "infer": "infer_flops"}
"""What a Deep Ensemble of equal compute is to equal."""
LEAST_COMPLETE: Final = 0.5
"""Share of complete search trials below which a method was hardly tuned."""
ROUNDING: Final = 1e-6


def fairness(run: Run, measures: Measures) -> Fairness:
    """Return the terms on which the arms were compared."""
    spent = costs(run.trials, measures)
    arms, level = _between(measures), protocol_of(run.plan).level_wide
    budgets = _tuning(run)
    warnings = (*_uneven(budgets, arms), *_odd_anchors(run, measures))
    return Fairness(
        costs=_cost_entries(spent),
        epoch_matched=_epoch_matched(spent, arms),
        compute_matched=tuple(_compute_matched(spent, arms, measures, level)),
        level=level,
        tuning=budgets,
        equal=not warnings if budgets else None,
        notes=tuple(_notes(budgets, measures)),
        warnings=warnings,
    )


def _between(measures: Measures) -> list[str]:
    """Return the arms that stand between the anchors."""
    anchors = pl.col("role").is_in(["single", "deep_ensemble"])
    return measures.replicates.filter(~anchors)["arm"].unique(maintain_order=True).to_list()


def _cost_entries(spent: pl.DataFrame) -> tuple[Cost, ...]:
    times = {row["arm"]: row for row in multiples(spent).to_dicts()}
    entries = []
    for row in spent.to_dicts():
        # Without the number of examples the total is per example: only its multiple is known.
        whole = row | ({} if row["examples"] else {"total_train_flops": None})
        known = times.get(row["arm"], {})
        amounts = {c: Amount(value=whole[c], multiple=known.get(c)) for c in COSTS}
        keys = {key: row[key] for key in ("arm", "epochs", "examples")}
        entries.append(Cost(**(keys | amounts)))
    return tuple(entries)


# --- epoch-matched


def _epoch_matched(spent: pl.DataFrame, arms: list[str]) -> tuple[EpochMatched, ...]:
    by_arm = {row["arm"]: row for row in spent.to_dicts()}
    base = by_arm.get("single")
    if base is None or base["epochs"] is None:
        return ()
    found = [(arm, tuple(_differences(by_arm[arm], base))) for arm in arms]
    return tuple(EpochMatched(arm=a, matched=not lines, differences=lines) for a, lines in found)


def _differences(own: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each condition in which an arm is not trained as the single model is."""
    words = {
        "epochs": "{:g} epochs, the single model {:g}",
        "batch_size": "batches of {}, the single model {}",
        "augment": "augmentation {}, the single model {}",
        "share": "each member sees {} of every batch, the single model {}",
    }
    for name in CONDITIONS:
        if own[name] != base[name]:
            values = (own[name], base[name])
            yield words[name].format(*map(_share, values) if name == "share" else values)


def _share(value: str | None) -> str:
    """Say how much of every batch a member sees: all, a part, or all of it several times."""
    if value is None:
        return "an unknown part"
    times = Fraction(value)
    return "all" if times == 1 else value if times < 1 else f"{times} times all"


# --- compute-matched


def _compute_matched(
    spent: pl.DataFrame, arms: list[str], measures: Measures, level: float
) -> Iterator[ComputeMatched]:
    """Yield each arm beside the Deep Ensemble that its training, or its inference, would buy."""
    curve = measures.curve.drop_nulls("cll").sort("replicate", "members")
    times = {row["arm"]: row for row in multiples(spent).to_dicts()}
    if curve.is_empty() or not times:
        return
    for arm in arms:
        losses = measures.replicates.filter(pl.col("arm") == arm)["cll"].drop_nulls().to_numpy()
        for kind, cost in SPENT.items():
            members = times[arm][cost]
            if members is not None:
                yield against(arm, kind, losses, curve, members, level)


def against(
    arm: str,
    kind: Budget,
    losses: np.ndarray[Any, Any],
    curve: pl.DataFrame,
    members: float,
    level: float,
) -> ComputeMatched:
    """Return an arm's calibrated NLL beside that of a Deep Ensemble of ``members``, in nats.

    Between whole numbers of members each replicate of the Deep Ensemble is interpolated on a line,
    so that the t-interval (over seeds of both) knows what its sizes have in common.

    Args:
        arm: Its key.
        kind: What is to be equal.
        losses: One number per replicate of the arm.
        curve: replicate, members (sorted, from 1), cll.
        members: Of equal compute; outside of the curve its nearest end is compared.
        level: Of the two-sided interval.
    """
    most = int(curve["members"].to_numpy().max())
    compared = min(max(members, 1.0), float(most))
    note = None
    if members < 1 - ROUNDING:
        note = "costs less than one single model, compared with that"
    elif members > most + ROUNDING:
        note = f"costs more than the pool of {most} members, compared with all of them"
    result = ComputeMatched(arm=arm, kind=kind, members=members, compared=compared, note=note)
    whole = [own for _, own in curve.group_by("replicate", maintain_order=True)]
    deep = np.array(
        [np.interp(compared, own["members"], own["cll"]) for own in whole if len(own) == most]
    )
    if len(losses) < 2 or len(deep) < 2:
        return result
    gap = contrast([(1.0, summary(losses)), (-1.0, summary(deep))])
    half = float(stdtrit(gap.df, (1 + level) / 2)) * gap.se if gap.se else 0.0
    low, high = gap.estimate - half, gap.estimate + half
    return result.model_copy(
        update={
            "cll": float(losses.mean()),
            "deep_ensemble": float(deep.mean()),
            "difference": gap.estimate,
            "low": low,
            "high": high,
            "finding": "better" if high < 0 else "worse" if low > 0 else "open",
        }
    )


# --- tuning


def _tuning(run: Run) -> tuple[Tuning, ...]:
    """Return what each method was to get and got of the search; empty if nothing is known."""
    planned = (run.plan and run.plan.tuning) or {}
    search = run.trials.filter(pl.col("stage") == "search")
    found = []
    for method in sorted({*planned, *search["method"].to_list()}):
        own = search.filter(pl.col("method") == method)
        budget, done = planned.get(method, {}).get("trials"), len(own)
        found.append(
            Tuning(
                method=method,
                planned=budget,
                done=done,
                complete=own.filter(pl.col("status") == "complete").height,
                tuned=max(budget or 0, done) > 1,
            )
        )
    return tuple(found)


def _uneven(budgets: Sequence[Tuning], arms: list[str]) -> Iterator[str]:
    """Yield a line for each way in which the methods were not tuned alike."""
    tuned = [b for b in budgets if b.tuned]
    planned = {b.method: b.planned for b in tuned if b.planned is not None}
    if len(set(planned.values())) > 1:
        shown = ", ".join(f"{method} {trials}" for method, trials in planned.items())
        yield f"the planned tuning budgets differ: {shown} trials"
    for b in budgets:
        if b.planned is not None and b.done != b.planned:
            yield f"{b.method} did {b.done} of its {b.planned} planned search trials"
        if b.done and b.complete < LEAST_COMPLETE * b.done:
            yield (
                f"only {b.complete} of {b.done} search trials of {b.method} are complete, "
                "so it was hardly tuned"
            )
    if tuned and arms and not any(b.method == "single" for b in tuned):
        others = ", ".join(b.method for b in tuned)
        yield (
            f"the single model was not tuned, but {others} {'was' if len(tuned) == 1 else 'were'}: "
            "a weak single model makes every recovery look larger"
        )


def _odd_anchors(run: Run, measures: Measures) -> Iterator[str]:
    """Yield a line if the Deep Ensemble is no copies of the single model, or data differ."""
    roles = ("single", "deep_ensemble", "positive_control")
    specs = _specs(run, measures)
    known = {role: specs[role] for role in roles if role in specs}
    for role in roles[1:]:
        if {"single", role} <= known.keys():
            odd = [k for k in ("backbone", "training", "regulariser", "dataset")
                   if known[role].get(k) != known["single"].get(k)]  # fmt: skip
            if odd:
                yield (
                    f"the {role.replace('_', ' ')} must be copies of the single model, but its "
                    f"{' and '.join(odd)} differ{'s' * (len(odd) == 1)}"
                )
    data = run.trials.filter(pl.col("stage") == "confirm")["data"].drop_nulls().unique()
    if len(data) > 1:
        yield f"confirmed trials were run on {len(data)} different data sets"


def _specs(run: Run, measures: Measures) -> dict[str, dict[str, Any]]:
    """Return one spec by role of the confirm stage."""
    rows = measures.replicates.select("role", "trial").join(
        run.trials.select("trial", "spec"), on="trial", maintain_order="left"
    )
    first = rows.drop_nulls("spec").unique("role", keep="first", maintain_order=True)
    return {role: json.loads(spec) for role, spec in first.select("role", "spec").iter_rows()}


def _notes(budgets: Sequence[Tuning], measures: Measures) -> list[str]:
    """Return a line on each method that had no tuning of its own."""
    if not budgets:
        return ["No search trials are recorded: whether tuning was equal cannot be checked."]
    confirmed = set(measures.replicates["method"].to_list())
    tuned = {b.method for b in budgets if b.tuned}
    alone = sorted({*confirmed, *(b.method for b in budgets)} - tuned - {"deep_ensemble"})
    lines = [f"{method} was not tuned: one configuration was given." for method in alone]
    if "deep_ensemble" in confirmed:
        lines.append("The deep ensemble was not tuned: its members are the tuned single model.")
    return lines
