"""The protocol applied: from measures and plan to the verdict.

Nothing here or below rounds or prints, and every draw has its own seed: same study, same numbers.
"""

from collections import Counter
from collections.abc import Mapping
from math import inf
from statistics import median
from typing import Final, Literal, get_args

import polars as pl

from analysis.data.protocol import Endpoint, Plan, Protocol
from analysis.data.roles import CONTROLS, FAMILIES
from analysis.measures.measure import Measures
from analysis.measures.over_examples import ExampleCovariances
from analysis.measures.selection import UNDECLARED
from analysis.stats.contrasts import Recovery, detectable_effect, fieller
from analysis.stats.power import POWER
from analysis.stats.resampling import PERMUTATIONS, RESAMPLES, SEED
from analysis.verdict import schema, wording
from analysis.verdict.arms import count, failed, more_than_declared, study_of
from analysis.verdict.decisions import (
    EXPECTED,
    ControlName,
    Decided,
    Decision,
    behaves,
    decide,
    joint_between,
    tests_of,
    verdict_of,
)
from analysis.verdict.deep_ensemble_equivalent import Equivalents
from analysis.verdict.placements import Case, Gate, Placement
from analysis.verdict.robustness import check
from analysis.verdict.schema import Kind, Verdict
from analysis.verdict.seeds_needed import needed_of

DE_LIKE: Final = 0.75


def judge(
    measures: Measures,
    plan: Plan | None,
    spent: pl.DataFrame | None = None,
    examples: ExampleCovariances | None = None,
) -> Verdict:
    """Return the verdicts on a study: decided first, then put into words.

    ``decisions.decide`` alone is quick; what costs time here is what stands beside its verdicts:
    other ways to ask, seeds that would be needed, Deep Ensemble equivalents.

    Args:
        measures: The confirm stage, measured.
        plan: The declaration, or None: then all is judged by the default protocol, and the result
            is marked as exploratory.
        spent: What every arm cost, as ``analysis.measures.costs`` counts it.
        examples: How arms vary with the test examples; by default taken from the measures.
    """
    study = study_of(measures, plan, spent, examples)
    decided, protocol, equivalents = decide(study), study.protocol, Equivalents(measures)
    losses = _mean_losses(measures)
    sources = {f"matched_single-{t.configuration}": t.source for t in plan.tried} if plan else {}
    placed = (_arm(decided, case, equivalents, losses, sources) for case in decided.cases)
    arms = tuple(sorted(placed, key=_order))
    anchors = _anchors(decided)
    seeds = [anchor.seeds for anchor in anchors] + [arm.seeds for arm in arms]
    undeclared = measures.excluded.filter(pl.col("reason") == UNDECLARED).height
    exploratory = tuple(wording.exploratory(plan, more_than_declared(study)))
    found = Verdict(
        format=4,
        sentence="",
        verdict=decided.verdict,
        withheld=decided.withheld,
        unfinished=decided.unfinished,
        reasons=(*wording.limits(decided), *wording.undeclared(undeclared)),
        exploratory=bool(exploratory),
        exploratory_reasons=exploratory,
        plan=_plan(plan),
        protocol=_protocol(protocol),
        seeds=schema.Seeds(planned=protocol.seeds, fewest=min(seeds), most=max(seeds)),
        counts=_counts(decided, undeclared),
        anchors=anchors,
        gates=tuple(map(_gate, decided.gates.values())),
        arms=arms,
        controls=schema.Controls(
            **{name: _control(name, found) for name, found in decided.controls.items()}
        ),
        robustness=schema.Agreement(
            permutations=PERMUTATIONS,
            resamples=RESAMPLES,
            seed=SEED,
            disagreements=tuple(wording.disagreements(arms)),
        ),
        sensitivity=tuple(_margin(decided, delta) for delta in protocol.sensitivity),
        detectable_effect=_detectable(decided),
    )
    beyond = plan.limits if plan else ()
    sentence = wording.sentence(found)
    return found.model_copy(update={"sentence": sentence, "reasons": found.reasons + beyond})


def _gate(gate: Gate) -> schema.Gate:
    return schema.Gate(
        members=gate.anchors.members,
        against=gate.anchors.against,
        single=gate.anchors.single,
        endpoint=gate.endpoint.key,
        open=gate.reason is None,
        gap_shown=gate.shown,
        gap=gate.gap.estimate if gate.gap else None,
        ratio=gate.ratio,
        p=gate.gap.p_positive if gate.gap else None,
        kind=gate.reason.kind if gate.reason else None,
        reason=wording.reason(gate.reason) if gate.reason else None,
    )


def _mean_losses(measures: Measures) -> dict[str, tuple[float, float]]:
    """Return mean NLL on test of every arm and of its members, where they are known."""
    known = measures.replicates.drop_nulls(["nll", "member_nll"]).sort("arm", "replicate")
    # Not by Polars' mean of groups, whose last digit depends on its threads.
    return {
        str(arm): (float(own["nll"].to_numpy().mean()), float(own["member_nll"].to_numpy().mean()))
        for (arm,), own in known.group_by("arm", maintain_order=True)
    }


def _against(
    case: Case, losses: Mapping[str, tuple[float, float]]
) -> dict[Literal["tuned", "own"], schema.Decomposition]:
    """Return why an arm's NLL is below that of each single network that it is compared with."""
    names: dict[Literal["tuned", "own"], str] = {"tuned": case.tuned.anchors.single}
    if case.own:
        names["own"] = case.own.anchors.single
    if case.arm.arm not in losses:
        return {}
    nll, members = losses[case.arm.arm]
    return {
        key: schema.Decomposition(
            total=losses[name][0] - nll,
            better_members=losses[name][0] - members,
            ensemble_gain=members - nll,
        )
        for key, name in names.items()
        if name in losses
    }


def _own(case: Case, verdict: Kind, protocol: Protocol) -> schema.Own | None:
    if case.own is None or case.arm.matched is None:
        return None
    return schema.Own(
        single=case.own.anchors.single,
        deep_ensemble=case.own.anchors.deep_ensemble,
        dropped=case.arm.matched.dropped,
        verdict=verdict,
        endpoints=_effects(case.own.effects, protocol),
    )


def _effects(effects: Mapping[str, Recovery], protocol: Protocol) -> dict[str, schema.Effect]:
    there = [e for e in protocol.endpoints if e.key in effects]
    return {e.key: _effect(e, effects[e.key], protocol) for e in there}


def _arm(
    decided: Decided,
    case: Case,
    equivalents: Equivalents,
    losses: Mapping[str, tuple[float, float]],
    sources: Mapping[str, str],
) -> schema.Arm:
    protocol, arm = decided.study.protocol, case.arm
    decision = decided.decisions[arm.arm]
    effects = _effects(case.tuned.effects, protocol)
    every = [effect for one in case.placements for effect in one.effects.values()]
    lows = [fieller(effect, protocol.level)[0] for effect in every]
    whole = all(low is not None and low >= DE_LIKE for low in lows)
    family = sum(case.arm.role == arm.role for case in decided.cases) if arm.role in FAMILIES else 1
    return schema.Arm(
        arm=arm.arm,
        role=arm.role,
        method=arm.method,
        configuration=arm.configuration,
        name=arm.name,
        members=arm.members,
        reference=arm.reference,
        reason=arm.reason,
        stratum=arm.stratum,
        seeds=count(decided.study, arm.arm),
        failed=failed(decided.study, arm.arm),
        verdict=decision.verdict,
        by_tuned=decision.tuned,
        on_examples=decision.on_examples,
        label=wording.label(decision),
        detail=wording.detail(decision),
        p_holm=decision.p_holm,
        p_seeds=decision.p_seeds,
        **dict(decision.tests),
        de_like=decision.verdict == "escapes" and whole,
        endpoints=effects,
        own=_own(case, decision.own, protocol),
        contenders=tuple(_contender(one, sources, protocol) for one in case.contenders),
        price=decided.price(arm.arm),
        against=_against(case, losses),
        needed=needed_of(decided.study, case, family),
        equivalent=equivalents.of(arm.arm, protocol.level),
        robustness=check(case, protocol),
    )


def _contender(
    placement: Placement, sources: Mapping[str, str], protocol: Protocol
) -> schema.Contender:
    single = placement.anchors.single
    return schema.Contender(
        single=single,
        source=sources.get(single),
        verdict=verdict_of(joint_between(placement, protocol), protocol.alpha),
        endpoints=_effects(placement.effects, protocol),
    )


def _effect(endpoint: Endpoint, effect: Recovery, protocol: Protocol) -> schema.Effect:
    low, high = fieller(effect, protocol.level)
    low_wide, high_wide = fieller(effect, protocol.level_wide)
    own_unit = {"mean": effect.arm, "single": effect.single, "deep_ensemble": effect.deep_ensemble}
    return schema.Effect(
        recovery=effect.recovery,
        low=low,
        high=high,
        low_wide=low_wide,
        high_wide=high_wide,
        **dict(tests_of(endpoint, effect, protocol)),
        **{name: endpoint.sign * of.mean + 0.0 for name, of in own_unit.items()},
        sd=effect.arm.variance**0.5,
        detectable=detectable_effect(effect, protocol.delta, protocol.alpha, POWER),
        by_examples=_by_examples(effect, protocol.delta),
    )


def _by_examples(effect: Recovery, delta: float) -> float | None:
    if effect.examples is None:
        return None
    whole, seeds = effect.at(delta).se, effect.over_seeds.at(delta).se
    return 1 - (seeds / whole) ** 2 if whole else 0.0


def _order(arm: schema.Arm) -> tuple[int, float, str]:
    least = arm.least[2].recovery if arm.least else None
    return (*FAMILIES, *CONTROLS).index(arm.role), inf if least is None else -least, arm.arm


def _plan(plan: Plan | None) -> schema.Plan | None:
    if plan is None or (plan.given and not plan.source):
        return None
    return schema.Plan.model_validate(plan, from_attributes=True)


def _protocol(protocol: Protocol) -> schema.Protocol:
    return schema.Protocol(
        delta=protocol.delta,
        alpha=protocol.alpha,
        endpoints=tuple(e.key for e in protocol.endpoints),
        labels={e.key: e.label for e in protocol.endpoints},
        kinds={e.key: e.kind for e in protocol.endpoints},
        sensitivity=protocol.sensitivity,
        level=protocol.level,
        level_wide=protocol.level_wide,
        gate_level=protocol.gate_level,
        de_like=DE_LIKE,
    )


def _anchors(decided: Decided) -> tuple[schema.Anchor, ...]:
    study = decided.study
    sizes = sorted({arm.tuned.members for arm in study.arms})
    found: dict[str, tuple[schema.AnchorRole, int]] = {"single": ("single", 1)}
    found |= {f"deep_ensemble-{size}": ("deep_ensemble", size) for size in sizes}
    return tuple(
        schema.Anchor(
            arm=arm, role=role, members=size, seeds=count(study, arm), failed=failed(study, arm)
        )
        for arm, (role, size) in found.items()
    )


def _control(name: ControlName, found: Decision | None) -> schema.Control | None:
    if found is None:
        return None
    return schema.Control(
        arm=f"{name}_control",
        expected=EXPECTED[name],
        verdict=found.verdict,
        ok=behaves(name, found),
        line=wording.control(name, found),
    )


def _counts(decided: Decided, undeclared: int) -> schema.Counts:
    own = decided.candidates.values()
    verdicts = Counter(decision.verdict for decision in own)
    dear = verdicts["escapes"] - len(decided.escaping)
    labels = Counter(label for label in map(wording.label, own) if label)
    return schema.Counts(
        candidates=len(own),
        dear=dear,
        **{kind: verdicts[kind] for kind in get_args(Kind)},
        labels=dict(sorted(labels.items())),
        failed_runs=decided.study.failed.total(),
        undeclared_runs=undeclared,
    )


def _margin(decided: Decided, delta: float) -> schema.Margin:
    """Return the verdicts at another margin."""
    found = decided.at_margin(delta)
    own = sorted(found.candidates.items())
    escapes, tracks = (
        tuple(arm for arm, decision in own if decision.verdict == kind)
        for kind in ("escapes", "tracks")
    )
    return schema.Margin(delta=delta, verdict=found.verdict, escapes=escapes, tracks=tracks)


def _detectable(decided: Decided) -> schema.Detectable:
    """Return the least recovery that the median candidate would have shown, by endpoint."""
    protocol, own = decided.study.protocol, decided.candidates
    alpha = protocol.alpha / max(1, len(own))
    found: dict[str, list[float]] = {e.key: [] for e in protocol.endpoints}
    worst: list[float] = []
    for case in decided.cases:
        if case.arm.arm not in own:
            continue
        power = POWER ** (1 / (len(protocol.endpoints) * len(case.placements)))
        least = {key: _least_found(case, key, protocol.delta, alpha, power) for key in found}
        for key, value in least.items():
            found[key].append(value)
        worst.append(max(least.values()))
    return schema.Detectable(
        power=POWER,
        alpha=alpha,
        endpoints={key: median(values or [inf]) for key, values in found.items()},
        worst=median(worst or [inf]),
    )


def _least_found(case: Case, key: str, delta: float, alpha: float, power: float) -> float:
    """Return the least recovery that would have been found between each pair; inf for none."""
    effects = [placement.effects.get(key) for placement in case.placements]
    found = [None if e is None else detectable_effect(e, delta, alpha, power) for e in effects]
    return max(inf if value is None else value for value in found)
