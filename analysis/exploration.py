"""What the search says about its parameters: how much of the space it saw, what went with what.

Descriptive: the trials were proposed from one another's results, on one seed and validation data.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl
from scipy import stats

from analysis.declared import Domain, Space
from study.schema import StudyError

OBJECTIVES: Final = {"val_nll": "validation NLL", "val_gain": "ensemble gain on validation"}
LEAST_TRIALS: Final = 10
"""A parameter with fewer active trials is not tested."""
LEAST_GROUP: Final = 5
"""Of a choice, values with fewer trials are left out of its test."""


@dataclass
class Seen:
    """One parameter of one method as the search saw it: its domain and each active trial's value.

    Alternatives of a parameter that are all choices are one domain of all their choices; each
    range stands for itself.
    """

    method: str
    parameter: str
    domain: Domain
    values: list[Any] = field(default_factory=list)
    trials: list[str] = field(default_factory=list)


def seen(spaces: Sequence[Space], trials: pl.DataFrame) -> list[Seen]:
    """Return every parameter that could vary, in the order of the file.

    Args:
        spaces: As declared.
        trials: Complete search trials: trial, method, spec.
    """
    found: list[Seen] = []
    for space in spaces:
        own = {(key, n): Seen(space.method, *each) for key, n, each in _domains(space)}
        rows = trials.filter(pl.col("method") == space.method).select("trial", "spec")
        for trial, spec in rows.iter_rows():
            for key, (domain, value) in _active(space, trial, json.loads(spec)).items():
                at = (key, -1 if domain.choices else space.search[key].index(domain))
                if at in own:
                    own[at].values.append(value)
                    own[at].trials.append(trial)
        found += own.values()
    return found


def _active(space: Space, trial: str, spec: dict[str, Any]) -> dict[str, tuple[Domain, Any]]:
    """Return domain and value of what is active in a trial, all of them within the domain."""
    try:
        found = space.active(spec)
        for domain, value in found.values():
            domain.position(value)
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"study.json: must be the study of the trials beside it, but trial {trial} of "
            f"{space.method} is not within its space ({error}); restore the file"
        ) from None
    return found


def _domains(space: Space) -> Iterator[tuple[str, int, tuple[str, Domain]]]:
    """Yield key, number (-1 for the choices) and name with domain, of all that can vary."""
    for key, domains in space.search.items():
        name = key.removeprefix("params.").removeprefix("training.")
        choices = tuple(dict.fromkeys(c for d in domains for c in d.choices))
        ranges = [(n, domain) for n, domain in enumerate(domains) if not domain.choices]
        if len(choices) > 1:
            label = f"{name} (choice)" if ranges else name
            yield key, -1, (label, Domain(choices, (0, 0), False, False, {}))
        for n, domain in ranges:
            yield key, n, (name if len(ranges) == 1 else f"{name} ({n + 1})", domain)


def coverage(parameters: Sequence[Seen]) -> pl.DataFrame:
    """Return how many trials fell into each slot of each parameter's declared domain.

    Returns:
        method, parameter, declared (range or choices in words), slot, what (the slot in words),
        trials, covered (slots with a trial), slots (of the domain), active (complete trials in
        which the parameter was active).
    """
    rows = []
    for one in parameters:
        counts: dict[int, int] = defaultdict(int)
        for value in one.values:
            counts[one.domain.slot(value)] += 1
        common = {
            "method": one.method,
            "parameter": one.parameter,
            "declared": declared(one.domain),
            "covered": len(counts),
            "slots": one.domain.slots,
            "active": len(one.values),
        }
        rows += [
            common | {"slot": slot, "what": _slot_text(one.domain, slot), "trials": counts[slot]}
            for slot in range(one.domain.slots)
        ]
    schema: dict[str, Any] = dict.fromkeys(("method", "parameter", "declared", "what"), pl.String)
    schema |= dict.fromkeys(("slot", "trials", "covered", "slots", "active"), pl.Int64)
    return pl.DataFrame(rows, schema=schema)


def declared(domain: Domain) -> str:
    """Return a domain in words."""
    if domain.choices:
        return ", ".join(map(_text, domain.choices))
    low, high = map(_text, domain.bounds)
    return f"{low} to {high}{' (log)' if domain.log else ''}"


def _slot_text(domain: Domain, slot: int) -> str:
    if domain.choices:
        return _text(domain.choices[slot])
    if domain.stepped:
        return _text(domain.bounds[0] + slot)
    ends = (domain.at(slot / domain.slots), domain.at((slot + 1) / domain.slots))
    return " to ".join(f"{end:.3g}" for end in ends)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def associations(parameters: Sequence[Seen], trials: pl.DataFrame) -> pl.DataFrame:
    """Return how each parameter goes with each objective, adjusted over all pairs.

    A range by Spearman's rank correlation, a choice by Kruskal's and Wallis's test of its values
    with at least ``LEAST_GROUP`` trials. ``adjusted`` is the p-value of Benjamini and Hochberg
    (1995) over all pairs of parameter and objective, of all methods. Descriptive.

    Args:
        parameters: As seen.
        trials: trial, and a column per objective.

    Returns:
        method, parameter, objective, n, rho (null for a choice), p, adjusted.
    """
    known = {row["trial"]: row for row in trials.select("trial", *OBJECTIVES).to_dicts()}
    rows = []
    for one in parameters:
        for objective in OBJECTIVES:
            pairs = [
                (value, known[trial][objective])
                for trial, value in zip(one.trials, one.values, strict=True)
                if known[trial][objective] is not None
            ]
            tested = _test(one.domain, pairs)
            if tested is not None:
                keys = {"method": one.method, "parameter": one.parameter, "objective": objective}
                rows.append(keys | {"n": len(pairs), "rho": tested[0], "p": tested[1]})
    schema: dict[str, Any] = dict.fromkeys(("method", "parameter", "objective"), pl.String)
    schema |= {"n": pl.Int64, "rho": pl.Float64, "p": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema)
    adjusted = stats.false_discovery_control(frame["p"].to_numpy()) if rows else []
    return frame.with_columns(adjusted=pl.Series(adjusted, dtype=pl.Float64))


def _test(domain: Domain, pairs: list[tuple[Any, float]]) -> tuple[float | None, float] | None:
    """Return rank correlation (null for a choice) and p-value, None where nothing can be tested."""
    if len(pairs) < LEAST_TRIALS or np.ptp([loss for _, loss in pairs]) == 0:
        return None
    if not domain.choices:
        values, losses = zip(*pairs, strict=True)
        if np.ptp(values) == 0:
            return None
        found = stats.spearmanr(values, losses)
        return float(found.statistic), float(found.pvalue)
    groups: dict[int, list[float]] = defaultdict(list)
    for value, loss in pairs:
        groups[domain.slot(value)].append(loss)
    large = [losses for losses in groups.values() if len(losses) >= LEAST_GROUP]
    if len(large) < 2 or np.ptp(np.concatenate(large)) == 0:
        return None
    return None, float(stats.kruskal(*large).pvalue)
