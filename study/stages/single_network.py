"""Which single network everything is held against.

A method's search may find hyperparameters that suit a single network better than what the single
network's own search found; an escape from an anchor that is trained worse would be no escape. So
those of every arm are tried as a single network before that is chosen. Where validation cannot tell
which is the best, an arm must escape from each of these contenders.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import hypot, inf, sqrt
from statistics import fmean, stdev
from typing import Final

from study.errors import StudyError
from study.jobs import Job, Rows
from study.parquet_format import Role, TrialRow
from study.space.settings import Study
from study.spec import Configuration, Regularisation, Strict, derive_seed
from study.stages.plan import Arm, Tried
from study.thresholds import APART

OWN: Final = 5
"""Configurations of the single network's own search that are tried again."""

Losses = Mapping[str, float]
"""Validation loss by trial, of the complete trials that count: see ``validation_losses``."""


class Candidate(Strict):
    """A configuration of the single network that may become the anchor, and where it is from."""

    spec: Configuration
    source: str


def as_single(configuration: Configuration, single: Configuration) -> Configuration:
    """Return the single network with another configuration's backbone and hyperparameters."""
    own = {"backbone": configuration.backbone, "training": configuration.training}
    return single.model_copy(update={**own, "regulariser": Regularisation()})


def candidates_for_single(own: Sequence[Configuration], arms: Iterable[Arm]) -> list[Candidate]:
    """Return what is tried: the best of the own search, then the values of every other arm.

    Args:
        own: Configurations of the single network from best to worst.
        arms: Candidates and comparisons.
    """
    found = {spec.configuration: (spec, "its own search") for spec in own[:OWN]}
    for arm in arms:
        spec = as_single(arm.spec, own[0])
        source = f"values of {arm.name or f'{arm.spec.method} {arm.spec.configuration[:6]}'}"
        found.setdefault(spec.configuration, (spec, source))
    return [Candidate(spec=spec, source=source) for spec, source in found.values()]


def anchor_jobs(study: Study, candidates: Iterable[Candidate]) -> list[Job]:
    """Return the runs of each on fresh seeds, as many for all: none of them was chosen by these."""
    return [
        anchor_job(study, one.spec, "single", replicate)
        for one in candidates
        for replicate in range(study.budget.anchor_seeds)
    ]


def anchor_job(study: Study, spec: Configuration, role: Role, replicate: int) -> Job:
    """Return a run of the stage ``anchor``; its seed does not depend on the role."""
    seed = derive_seed(study.seed, "anchor", spec.configuration, replicate)
    return Job(spec.trial_of(role, "anchor", replicate, seed))


def tried(candidates: Iterable[Candidate], rows: Rows, losses: Losses) -> list[Tried]:
    """Return how each with two complete runs did on validation data, the best first.

    One of which a run failed comes after all of which none did: as an anchor it would fail again.

    Args:
        candidates: What was tried.
        rows: All rows.
        losses: See :func:`validation_losses`.

    Raises:
        StudyError: When none has two complete runs.
    """
    found = [
        outcome(one.spec, one.source, anchor_rows(one.spec, rows), losses) for one in candidates
    ]
    usable = [one for one in found if one.mean is not None]
    if not usable:
        raise StudyError(
            f"none of the {len(found)} configurations of the single network that were tried again "
            "has two complete runs; fix the space and choose another --out"
        )
    return sorted(usable, key=merit)


def contenders(choice: Sequence[Tried]) -> list[str]:
    """Return the configurations that may be better than the chosen one, for all validation says.

    They are behind by at most ``APART`` standard errors of the difference, with as many runs.

    Args:
        choice: What :func:`tried` returned.
    """
    best, *others = choice
    return [
        one.configuration
        for one in others
        if one.seeds == best.seeds
        and None not in (one.mean, one.se, best.mean, best.se)
        and (one.mean or 0.0) - (best.mean or 0.0) <= APART * hypot(one.se or 0.0, best.se or 0.0)
    ]


def robust_first(choice: Sequence[Tried], rows: Rows, losses: Losses) -> list[Tried]:
    """Return what was tried, the tuned single network first: the most robust of those that tie.

    On clean data one network may win by a hair that is far behind under shift. Then a contender may
    do better there than the Deep Ensemble of the winner, and no recovery can be told. So a
    contender takes the winner's place that is ahead of it under validation shift by more than
    ``APART`` standard errors of the difference; of several, the one with the lowest loss.

    Args:
        choice: What :func:`tried` returned.
        rows: All rows.
        losses: See :func:`validation_losses`; runs without one do not count.
    """
    best = choice[0]
    tied = {best.configuration, *contenders(choice)}
    shifted = {c: own for c in tied if len(own := _shift_losses(c, rows, losses)) > 1}
    known = [
        one.model_copy(update={"shift_nll": fmean(shifted[one.configuration])})
        if one.configuration in shifted
        else one
        for one in choice
    ]
    if best.configuration not in shifted:
        return list(choice)
    winners = shifted[best.configuration]
    ahead = {
        c: fmean(own)
        for c, own in shifted.items()
        if fmean(winners) - fmean(own) > APART * hypot(_se(winners), _se(own))
    }
    first = min(ahead, key=lambda c: (ahead[c], c), default=best.configuration)
    return sorted(known, key=lambda one: one.configuration != first)


def _shift_losses(configuration: str, rows: Rows, losses: Losses) -> list[float]:
    """Return the NLL on shifted validation data of each run of the stage ``anchor``."""
    return [
        row.val_shift_nll
        for row in rows.values()
        if row.stage == "anchor" and row.configuration == configuration
        if row.trial in losses and row.val_shift_nll is not None
    ]


def _se(values: Sequence[float]) -> float:
    return stdev(values) / sqrt(len(values))


def merit(one: Tried) -> tuple[int, float, str]:
    """Return what sorts the best first: the most complete runs, then the lowest loss."""
    return -one.seeds, inf if one.mean is None else one.mean, one.configuration


def outcome(spec: Configuration, source: str, rows: Iterable[TrialRow], losses: Losses) -> Tried:
    """Return how a configuration did in its complete runs among ``rows``."""
    ordered = sorted(rows, key=lambda row: row.replicate)
    known = [losses[row.trial] for row in ordered if row.trial in losses]
    several = len(known) > 1
    return Tried(
        configuration=spec.configuration,
        source=source,
        seeds=len(known),
        mean=fmean(known) if several else None,
        se=_se(known) if several else None,
    )


def anchor_rows(spec: Configuration, rows: Rows) -> list[TrialRow]:
    """Return the runs of a configuration in the stage ``anchor``."""
    own = spec.configuration
    return [r for r in rows.values() if r.stage == "anchor" and r.configuration == own]
