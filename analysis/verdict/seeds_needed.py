"""How many seeds a verdict would need, by the spread over seeds and examples that a study saw."""

from collections.abc import Callable
from typing import Final

from analysis.data.protocol import Endpoint
from analysis.stats.contrasts import Recovery
from analysis.stats.power import (
    POWER,
    VERDICTS,
    Aim,
    Pair,
    Replicates,
    Spread,
    Verdict,
    seeds_needed,
)
from analysis.verdict.arms import Anchors, Study, count
from analysis.verdict.placements import Case, Placement
from analysis.verdict.schema import Needed
from study.thresholds import LEAST_SEEDS

WANTED: Final = 0.5
"""The recovery for which the seeds are told."""


def needed_of(study: Study, case: Case, family: int) -> Needed | None:
    """Return how many seeds would show that an arm escapes, or that it tracks.

    Args:
        study: With protocol and numbers of seeds.
        case: The arm.
        family: How many share Holm's correction of an escape with it; 1 for a control.
    """
    if case.tuned.reasons:
        return None
    protocol = study.protocol
    found: dict[str, int | None] = {}
    for verdict in VERDICTS:
        aim = Aim(verdict, WANTED, POWER, protocol.delta, protocol.alpha, family)
        pairs = pairs_of(study, case, verdict)
        on_these = [pair.over_seeds for pair in pairs or ()]
        found[f"{verdict}_on_these"] = seeds_needed(on_these, aim) if pairs else None
        known = any(spread.examples for pair in pairs or () for spread in pair.spreads)
        found[verdict] = (
            seeds_needed(pairs, aim) if pairs and known else found[f"{verdict}_on_these"]
        )
    return Needed(power=POWER, recovery=WANTED, **found)


def pairs_of(study: Study, case: Case, verdict: Verdict) -> list[Pair] | None:
    """Return the pairs of anchors between which an arm must escape, or track; the tuned one first.

    The spread is what was seen, and anchors have their seeds in the proportions of the study.

    Args:
        study: With the numbers of seeds.
        case: The arm.
        verdict: To track, contenders do not matter: see ``analysis.verdict.decisions``.

    Returns:
        None where an endpoint has no gap to measure with between one of the pairs.
    """
    asked = case.placements if verdict == "escape" else case.baselines
    endpoints = study.protocol.endpoints
    if any(endpoint.key not in one.effects for one in asked for endpoint in endpoints):
        return None
    return [_pair(study, case.arm.arm, placement) for placement in asked]


def _pair(study: Study, arm: str, placement: Placement) -> Pair:
    spreads = [spread_of(e, placement.effects[e.key]) for e in study.protocol.endpoints]
    seeds = _in_proportion(study, arm, placement.anchors)
    return Pair(spreads, seeds, shared=placement.anchors.against != "own")


def spread_of(endpoint: Endpoint, effect: Recovery) -> Spread:
    """Return the spread that an effect was measured with."""
    arms = effect.single, effect.arm, effect.deep_ensemble
    single, own, deep = (arm.variance**0.5 for arm in arms)
    two_sided = endpoint.kind == "performance"
    return Spread(single, own, deep, effect.gap.estimate, two_sided, effect.examples)


def _in_proportion(study: Study, arm: str, anchors: Anchors) -> Callable[[int], Replicates]:
    names = arm, anchors.single, anchors.deep_ensemble
    own, single, deep = (study.planned(name) or count(study, name) for name in names)

    def seeds(n: int) -> Replicates:
        of_anchors = (max(LEAST_SEEDS, round(n * number / own)) for number in (single, deep))
        return Replicates(n, *of_anchors)

    return seeds
