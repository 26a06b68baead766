"""The protocol applied: from measures and plan to one plain dict of verdicts.

Nothing here or below rounds or prints, and every draw has its own seed: same study, same numbers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, Final

import polars as pl

from analysis import titles, wording
from analysis.cases import (
    CONTROLS,
    FAMILIES,
    Case,
    Study,
    case_of,
    count,
    failed,
    gates_of,
    study_of,
    unfinished,
)
from analysis.equivalent import Equivalents
from analysis.measure import UNDECLARED, Measures
from analysis.power import POWER, Spread, seeds_needed
from analysis.protocol import (
    GATE_LEVEL,
    GATE_RATIO,
    Endpoint,
    Protocol,
    exploratory_reasons,
    plan_hash,
)
from analysis.robustness import METHODS, PERMUTATIONS, RESAMPLES, SEED, Crossed, check
from analysis.rules import Decision, Kind, conclude, controls_of, decide_all, tests_of
from analysis.stats import Anchored, detectable_effect, fieller

Json = dict[str, Any]

FORMAT: Final = 1
DE_LIKE: Final = 0.75
WANTED: Final = 0.5
"""The recovery for which the seeds that would be needed are told."""


def judge(measures: Measures, plan: Mapping[str, Any] | None) -> Json:
    """Return the verdicts on a study, as a plain dict in the format of ``analysis.verdict``.

    Args:
        measures: The confirm stage, measured.
        plan: The declaration, or None: then all is judged by the default protocol, and the result
            is marked as exploratory.

    Raises:
        StudyError: When the plan's protocol is not usable.
    """
    study = study_of(measures, plan)
    gates = {(g["members"], g["endpoint"]): g for g in gates_of(study)}
    cases = [case_of(study, arm, gates) for arm in study.arms]
    protocol = study.protocol
    decisions = decide_all(cases, protocol)
    candidates = sum(case.arm["role"] == "candidate" for case in cases)
    crossed, equivalents = Crossed(measures.examples), Equivalents(measures)
    entries = []
    for case in cases:
        decision = decisions[case.arm["arm"]]
        more = {
            "needed": _needed(case, protocol, candidates),
            "equivalent": equivalents.of(case.arm["arm"], protocol.level),
            "robustness": check(case, protocol, decision.alone, crossed),
        }
        entries.append(_arm_entry(study, case, decision) | more)
    arms = sorted(entries, key=_order)
    controls = controls_of(cases, decisions)
    verdict, reasons = _conclude(study, cases, decisions)
    undeclared = measures.excluded.filter(pl.col("reason") == UNDECLARED).height
    exploratory = exploratory_reasons(plan)
    judgement: Json = {
        "verdict": verdict,
        "withheld": any(control and not control["ok"] for control in controls.values()),
        "reasons": reasons + wording.limits(undeclared),
        "exploratory": bool(exploratory),
        "exploratory_reasons": exploratory,
        "plan": _plan_entry(plan),
        "protocol": _protocol_entry(protocol),
        "seeds": _seeds(study),
        "counts": _counts(study, cases, decisions) | {"undeclared_runs": undeclared},
        "anchors": _anchors(study),
        "gates": list(gates.values()),
        "arms": arms,
        "controls": controls,
        "robustness": {
            "permutations": PERMUTATIONS,
            "resamples": RESAMPLES,
            "seed": SEED,
            "disagreements": _disagreements(arms),
        },
        "sensitivity": [_at_margin(study, cases, delta) for delta in protocol.sensitivity],
        "detectable_effect": _detectable(cases, protocol),
    }
    return {"format": FORMAT, "sentence": wording.sentence(judgement)} | judgement


def _needed(case: Case, protocol: Protocol, candidates: int) -> Json | None:
    """Return how many seeds would show an escape, or that the arm tracks, by the spread seen."""
    if case.reasons:
        return None
    spreads = [
        Spread(
            effect.single.variance**0.5,
            effect.arm.variance**0.5,
            effect.deep_ensemble.variance**0.5,
            gap=effect.gap.estimate,
            two_sided=endpoint.kind == "performance",
        )
        for endpoint in protocol.endpoints
        for effect in [case.effects[endpoint.key]]
    ]
    needed = partial(seeds_needed, spreads, delta=protocol.delta, alpha=protocol.alpha)
    family = candidates if case.arm["role"] == "candidate" else 1
    return {
        "power": POWER,
        "recovery": WANTED,
        "escape": needed("escape", WANTED, configurations=family),
        "track": needed("track", 0.0),
    }


def _disagreements(arms: Sequence[Json]) -> list[str]:
    return [
        wording.disagreement(arm, called, words, arm["robustness"][method]["verdict"])
        for arm in arms
        for called in [titles.name(arm, titles.several(arms))]
        for method, words in METHODS.items()
        if arm["robustness"] and arm["robustness"][method]
        if not arm["robustness"][method]["agrees"]
    ]


def _conclude(
    study: Study, cases: Sequence[Case], decisions: Mapping[str, Decision]
) -> tuple[str, list[str]]:
    open_line = unfinished(study)
    if open_line:
        return wording.INCONCLUSIVE, [open_line]
    return conclude(cases, decisions, controls_of(cases, decisions))


def _at_margin(study: Study, cases: Sequence[Case], delta: float) -> Json:
    """Return the verdicts at another margin."""
    decisions = decide_all(cases, replace(study.protocol, delta=delta))
    verdict, _ = _conclude(study, cases, decisions)
    own = sorted(case.arm["arm"] for case in cases if case.arm["role"] == "candidate")
    return {
        "delta": delta,
        "verdict": verdict,
        "escapes": [arm for arm in own if decisions[arm].verdict == "escapes"],
        "tracks": [arm for arm in own if decisions[arm].verdict == "tracks"],
    }


def _arm_entry(study: Study, case: Case, decision: Decision) -> Json:
    protocol, arm = study.protocol, case.arm
    effects = {
        e.key: _effect_entry(e, case.effects[e.key], protocol)
        for e in protocol.endpoints
        if e.key in case.effects
    }
    recoveries = {key: effect["recovery"] for key, effect in effects.items()}
    lows = [effect["low"] for effect in effects.values()]
    keys = ("arm", "role", "method", "configuration", "name", "members", "reference", "reason")
    return {
        **{key: arm.get(key) for key in (*keys, "stratum")},
        "seeds": count(study, arm["arm"]),
        "failed": failed(study, arm["arm"]),
        "verdict": decision.verdict,
        "alone": decision.alone,
        "label": decision.label,
        "detail": decision.detail,
        "p_escape": decision.p_escape,
        "p_holm": decision.p_holm,
        "p_track": decision.p_track,
        "p_worse": decision.p_worse,
        "de_like": decision.verdict == "escapes"
        and all(low is not None and low >= DE_LIKE for low in lows),
        "weakest": min(recoveries, key=recoveries.__getitem__) if recoveries else None,
        "endpoints": effects,
    }


def _effect_entry(endpoint: Endpoint, effect: Anchored, protocol: Protocol) -> Json:
    tests = tests_of(endpoint, effect, protocol.delta)
    low, high = fieller(effect, protocol.level)
    low_wide, high_wide = fieller(effect, protocol.level_wide)
    own_unit = {"mean": effect.arm, "single": effect.single, "deep_ensemble": effect.deep_ensemble}
    return {
        "recovery": effect.recovery,
        "low": low,
        "high": high,
        "low_wide": low_wide,
        "high_wide": high_wide,
        "p_escape": tests.escape,
        "p_track": tests.track,
        "p_worse": tests.worse,
        **{name: endpoint.sign * of.mean + 0.0 for name, of in own_unit.items()},
        "sd": effect.arm.variance**0.5,
        "detectable": detectable_effect(effect, protocol.delta, protocol.alpha, POWER),
    }


def _order(entry: Json) -> tuple[int, float, str]:
    roles = (*FAMILIES, *CONTROLS)
    weakest = entry["endpoints"][entry["weakest"]]["recovery"] if entry["weakest"] else -1e9
    return roles.index(entry["role"]), -weakest, entry["arm"]


def _plan_entry(plan: Mapping[str, Any] | None) -> Json | None:
    if plan is None:
        return None
    known = {key: plan.get(key) for key in ("study", "declared", "tuning")}
    return known | {"hash": plan["hash"], "content_hash": plan_hash(plan)}


def _protocol_entry(protocol: Protocol) -> Json:
    return {
        "delta": protocol.delta,
        "alpha": protocol.alpha,
        "endpoints": [e.key for e in protocol.endpoints],
        "labels": {e.key: e.label for e in protocol.endpoints},
        "kinds": {e.key: e.kind for e in protocol.endpoints},
        "sensitivity": list(protocol.sensitivity),
        "level": protocol.level,
        "level_wide": protocol.level_wide,
        "gate_level": GATE_LEVEL,
        "gate_ratio": GATE_RATIO,
        "de_like": DE_LIKE,
    }


def _anchors(study: Study) -> list[Json]:
    sizes = sorted({arm["reference_members"] for arm in study.arms})
    keys = [("single", "single", 1)]
    keys += [(f"deep_ensemble-{size}", "deep_ensemble", size) for size in sizes]
    return [
        {
            "arm": arm,
            "role": role,
            "members": members,
            "seeds": count(study, arm),
            "failed": failed(study, arm),
        }
        for arm, role, members in keys
    ]


def _seeds(study: Study) -> Json:
    counts = [anchor["seeds"] for anchor in _anchors(study)]
    counts += [count(study, arm["arm"]) for arm in study.arms]
    return {"planned": study.protocol.seeds, "fewest": min(counts), "most": max(counts)}


def _counts(study: Study, cases: Sequence[Case], decisions: Mapping[str, Decision]) -> Json:
    own = [decisions[c.arm["arm"]] for c in cases if c.arm["role"] == "candidate"]
    verdicts = Counter(decision.verdict for decision in own)
    kinds: tuple[Kind, ...] = ("escapes", "tracks", "worse", "inconclusive")
    labels = Counter(decision.label for decision in own if decision.label)
    return {
        "candidates": len(own),
        **{kind: verdicts[kind] for kind in kinds},
        "labels": dict(sorted(labels.items())),
        "failed_runs": study.failed.total(),
    }


def _detectable(cases: Sequence[Case], protocol: Protocol) -> Json:
    """Return the least recovery that the median candidate would have shown, by endpoint."""
    own = [case for case in cases if case.arm["role"] == "candidate"]
    alpha = protocol.alpha / max(1, len(own))
    found: dict[str, float | None] = {}
    for endpoint in protocol.endpoints:
        effects = [c.effects[endpoint.key] for c in own if endpoint.key in c.effects]
        each = [detectable_effect(effect, protocol.delta, alpha, POWER) for effect in effects]
        known = [value for value in each if value is not None]
        found[endpoint.key] = median(known) if known else None
    all_known = [value for value in found.values() if value is not None]
    worst = max(all_known) if len(all_known) == len(found) else None
    return {"power": POWER, "alpha": alpha, "endpoints": found, "worst": worst}
