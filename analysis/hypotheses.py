"""The protocol applied: from measures and plan to one plain dict of verdicts.

Nothing here or below rounds, draws random numbers or prints: same study, same numbers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final

import polars as pl

from analysis import wording
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
from analysis.measure import UNDECLARED, Measures
from analysis.protocol import (
    GATE_LEVEL,
    GATE_RATIO,
    Endpoint,
    Protocol,
    exploratory_reasons,
    plan_hash,
)
from analysis.rules import Decision, Kind, conclude, controls_of, decide_all, tests_of
from analysis.stats import Anchored, detectable_effect, fieller

Json = dict[str, Any]

DE_LIKE: Final = 0.75
POWER: Final = 0.8


def judge(measures: Measures, plan: Mapping[str, Any] | None) -> Json:
    """Return the verdicts on a study, as a plain dict for JSON.

    Args:
        measures: The confirm stage, measured.
        plan: The declaration, or None: then all is judged by the default protocol, and the result
            is marked as exploratory.

    Returns:
        A dict with the keys (p-values are one-sided; ``null`` where something is undefined):

        * ``sentence``: the verdict in one sentence, with its figures.
        * ``verdict``: ``some configuration escapes`` | ``all tested track a single model`` |
          ``inconclusive``.
        * ``reasons``: lines that say why it is inconclusive or what limits it.
        * ``exploratory``: bool; ``exploratory_reasons``: lines.
        * ``plan``: ``study``, ``hash``, ``declared``, ``tuning``; null without a plan.
        * ``protocol``: ``delta``, ``alpha``, ``endpoints`` (keys in order), ``labels`` (by key),
          ``kinds`` (by key), ``sensitivity``, ``level`` and ``level_wide`` (of the intervals: 1 - 2
          alpha, which decides, and 1 - alpha), ``gate_level``, ``gate_ratio``, ``de_like``.
        * ``seeds``: ``planned`` (or null), ``fewest``, ``most`` over anchors and arms.
        * ``counts``: ``candidates``, then how many of them ``escapes``, ``tracks``, ``worse``,
          ``inconclusive``; ``labels`` (sub-label -> number of candidates); ``failed_runs`` and
          ``undeclared_runs`` of the whole confirm stage.
        * ``anchors``: ``arm``, ``role``, ``members``, ``seeds``, ``failed``.
        * ``gates``: per size and endpoint: ``members``, ``endpoint``, ``open``, ``gap_shown`` (by
          the runs there are), ``gap`` (of the losses, S - DE), ``ratio`` (gap / pooled SD), ``p``,
          ``reason`` (null if open).
        * ``arms``: candidates (largest weakest recovery first), comparisons, controls: ``arm``,
          ``role``, ``method``, ``configuration``, ``name``, ``members``, ``reference`` (arm of the
          Deep Ensemble), ``reason`` and ``stratum`` from the plan, ``seeds``, ``failed``,
          ``verdict`` (``escapes`` | ``tracks`` | ``worse`` | ``inconclusive``), ``label`` (the
          sub-label of an inconclusive one), ``detail`` (a line), ``p_escape``, ``p_holm`` (null
          for controls), ``p_track``, ``p_worse``, ``de_like``, ``weakest`` (endpoint with the
          least recovery), and ``endpoints`` (those whose gap is shown): key -> ``recovery``,
          ``low``, ``high``, ``low_wide``, ``high_wide`` (Fieller; null if unbounded),
          ``p_escape``, ``p_track``, ``p_worse``, ``mean``, ``sd``, ``single``,
          ``deep_ensemble`` (means, in the endpoint's own unit), ``detectable`` (recovery found
          with power 0.8 at level alpha).
        * ``controls``: ``positive`` and ``negative``, each null or ``arm``, ``expected``,
          ``verdict``, ``ok`` (nothing is withheld because of it), ``line``.
        * ``sensitivity``: per margin: ``delta``, ``verdict``, ``escapes`` (arms), ``tracks``
          (arms).
        * ``detectable_effect``: ``power``, ``alpha`` (Bonferroni's bound on Holm's), ``endpoints``
          (key -> the median over the candidates), ``worst`` (the largest of these).

    Raises:
        StudyError: When the plan's protocol is not usable.
    """
    study = study_of(measures, plan)
    gates = {(g["members"], g["endpoint"]): g for g in gates_of(study)}
    cases = [case_of(study, arm, gates) for arm in study.arms]
    protocol = study.protocol
    decisions = decide_all(cases, protocol)
    arms = sorted((_arm_entry(study, c, decisions[c.arm["arm"]]) for c in cases), key=_order)
    controls = controls_of(cases, decisions)
    verdict, reasons = _conclude(study, cases, decisions)
    undeclared = measures.excluded.filter(pl.col("reason") == UNDECLARED).height
    exploratory = exploratory_reasons(plan)
    judgement: Json = {
        "verdict": verdict,
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
        "sensitivity": [_at_margin(study, cases, delta) for delta in protocol.sensitivity],
        "detectable_effect": _detectable(cases, protocol),
    }
    return {"sentence": wording.sentence(judgement)} | judgement


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
