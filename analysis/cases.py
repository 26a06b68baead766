"""What there is to judge: arms, their replicates, and whether the anchors leave room to judge.

Every arm is placed between two anchors: the single model (recovery 0) and the Deep Ensemble of the
arm's own size (recovery 1). Where the anchors do not differ, there is nothing to measure with.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from analysis.measure import Measures, arm_key
from analysis.protocol import GATE_LEVEL, GATE_RATIO, Endpoint, Protocol, protocol_of
from analysis.stats import Anchored, FloatArray, Summary, summary

Json = dict[str, Any]

FAMILIES: Final = ("candidate", "comparison")
CONTROLS: Final = ("positive_control", "negative_control")
NOTHING: Final[FloatArray] = np.empty(0)


@dataclass(frozen=True)
class Study:
    """What the judgement reads: protocol, arms, replicates, failures.

    ``losses`` has, by arm and endpoint, one number per replicate in which it was measured, in the
    order of replicates and turned so that lower is better; ``counts`` the replicates of each arm.
    """

    protocol: Protocol
    arms: list[Json]
    losses: Mapping[tuple[str, str], FloatArray]
    counts: Mapping[str, int]
    roles: set[str]
    failed: Counter[str]
    blind: frozenset[str] = frozenset()

    @cached_property
    def summaries(self) -> dict[tuple[str, str], Summary]:
        """Summary of every arm and endpoint with at least two losses."""
        return {key: summary(own) for key, own in self.losses.items() if len(own) >= 2}


@dataclass(frozen=True)
class Case:
    """One arm with its effect on each endpoint, or with the reasons why it has none.

    Attributes:
        arm: Its declaration.
        effects: By endpoint.
        reasons: A short label and a line each; the first label names the verdict's.
        values: By endpoint, the losses of the replicates of single, arm and Deep Ensemble.
    """

    arm: Json
    effects: dict[str, Anchored]
    reasons: list[tuple[str, str]]
    values: dict[str, tuple[FloatArray, FloatArray, FloatArray]] = field(default_factory=dict)


def study_of(measures: Measures, plan: Mapping[str, Any] | None) -> Study:
    """Gather the arms that are to be judged: those of the plan, or without one those measured.

    One member alone has no Deep Ensemble of its size, so it is placed beside the one of the
    candidates' most common size.
    """
    frame, protocol = measures.replicates, protocol_of(plan)
    counts: dict[str, int] = {}
    losses = {}
    for (arm,), own in frame.sort("replicate").group_by("arm", maintain_order=True):
        counts[str(arm)] = own.height
        for endpoint in protocol.endpoints:
            numbers = own[endpoint.key].drop_nulls().to_numpy()
            losses[str(arm), endpoint.key] = endpoint.sign * numbers
    seen = frame.select("arm", "role", "method", "configuration", "name", "members").unique(
        subset="arm", maintain_order=True
    )
    rows: list[Json] = seen.to_dicts()
    if plan is not None:
        keys = ("role", "method", "configuration", "name", "members", "reason", "stratum")
        rows = [{key: declared.get(key) for key in keys} for declared in plan["arms"]]
    arms = [
        row | {"arm": arm_key(row["role"], row["configuration"])}
        for row in rows
        if row["role"] in FAMILIES + CONTROLS
    ]
    sizes = Counter(arm["members"] for arm in arms if arm["role"] == "candidate")
    sizes = sizes or Counter(arm["members"] for arm in arms)
    pools = frame.filter(pl.col("role") == "deep_ensemble")["members"].to_list()
    several = [size for size in sizes if size > 1]
    common = max(several, key=lambda s: (sizes[s], -s), default=max(pools, default=1))
    for row in arms:
        size = row["members"] if row["members"] > 1 else common
        row |= {"reference": f"deep_ensemble-{size}", "reference_members": size}
    incomplete = measures.excluded.filter(
        pl.col("stage") == "confirm", pl.col("status") != "complete"
    )
    lost = Counter(incomplete["arm"].to_list())
    declared = [] if plan is None else [arm["role"] for arm in plan["arms"]]
    roles = {*frame["role"].to_list(), *declared}
    return Study(protocol, arms, losses, counts, roles, lost, _blind(frame))


def _blind(frame: pl.DataFrame) -> frozenset[str]:
    """Return the arms that are no better than guessing by the labels' frequencies.

    By calibrated NLL: a network may be over-confident and still know something.
    """
    means = frame.group_by("arm").agg(pl.col("cll", "chance_nll").mean())
    return frozenset(means.filter(pl.col("cll") >= pl.col("chance_nll"))["arm"].to_list())


def _numbers(study: Study, arm: str, endpoint: Endpoint) -> FloatArray:
    return study.losses.get((arm, endpoint.key), NOTHING)


def count(study: Study, arm: str) -> int:
    """Return how many replicates of an arm were measured."""
    return study.counts.get(arm, 0)


def failed(study: Study, arm: str) -> int:
    """Return how many confirm runs of an arm did not complete; a failed pool counts at any size."""
    return study.failed["deep_ensemble" if arm.startswith("deep_ensemble-") else arm]


def _not_whole(study: Study, arm: str) -> tuple[str, str] | None:
    """Return why an arm's runs do not suffice: failed, missing, or fewer than two."""
    done, lost, planned = count(study, arm), failed(study, arm), study.protocol.seeds
    if lost:
        line = f"{lost} of {max(done + lost, planned or 0)} runs failed"
        return line, line
    if not done and arm.startswith("deep_ensemble-") and "deep_ensemble" in study.roles:
        return "not assessable", "its pool has fewer members"
    if planned and done < planned:
        return "runs missing", f"{planned - done} of {planned} runs are missing"
    if done < 2:
        return "too few seeds", f"a verdict needs at least 2 runs, but there are {done}"
    return None


def unfinished(study: Study) -> str | None:
    """Say how many declared runs are yet to come; a verdict before the last would be a peek."""
    planned = study.protocol.seeds
    if not planned:
        return None
    sizes = {arm["reference"] for arm in study.arms}
    pool = max(sizes, key=lambda arm: count(study, arm), default="deep_ensemble-1")
    arms = ["single", pool, *(arm["arm"] for arm in study.arms)]
    done = sum(min(planned, count(study, arm) + failed(study, arm)) for arm in arms)
    total = planned * len(arms)
    return f"the study is not finished: {done} of {total} runs are there" if done < total else None


# --- the gate: is there a gap between the anchors at all?


def gates_of(study: Study) -> Iterable[Json]:
    """Yield the gate of every ensemble size and endpoint."""
    for size in sorted({arm["reference_members"] for arm in study.arms}):
        for endpoint in study.protocol.endpoints:
            yield _gate(study, size, endpoint)


def _gate(study: Study, size: int, endpoint: Endpoint) -> Json:
    """Return whether the Deep Ensemble is better than the single model by enough to measure.

    ``gap_shown`` says so of the runs that there are; ``open`` needs all of them.
    """
    gate: Json = {"members": size, "endpoint": endpoint.key, "open": False, "gap_shown": False}
    gate |= dict.fromkeys(("gap", "ratio", "p", "reason"))
    names = ("single", f"deep_ensemble-{size}")
    single, deep = (study.summaries.get((name, endpoint.key)) for name in names)
    if single and deep:
        gate |= _gap(endpoint, single, deep, [name for name in names if name in study.blind])
        gate["gap_shown"] = gate["reason"] is None
    for name in reversed(names):
        done, measured = count(study, name), len(_numbers(study, name, endpoint))
        if done > measured:
            missing = f"{done - measured} of {done} runs"
            line = f"anchor {name}: {endpoint.label} was not measured in {missing}"
            gate["reason"] = line
        copied = _copies(endpoint, _numbers(study, name, endpoint)) if measured else None
        gate["reason"] = f"anchor {name}: {copied}" if copied else gate["reason"]
        trouble = _not_whole(study, name)
        gate["reason"] = f"anchor {name}: {trouble[1]}" if trouble else gate["reason"]
    return gate | {"open": gate["reason"] is None}


def _gap(endpoint: Endpoint, single: Summary, deep: Summary, blind: list[str]) -> Json:
    """Return gap, its ratio to the pooled SD over seeds, p, and why it does not suffice."""
    gap = Anchored(single, single, deep).gap
    pooled = ((single.n - 1) * single.variance + (deep.n - 1) * deep.variance) ** 0.5
    pooled /= (single.n + deep.n - 2) ** 0.5
    ratio = gap.estimate / pooled if pooled else None
    reason = _same_everywhere(endpoint, {"single": single, "the Deep Ensemble": deep})
    if reason is None and blind:
        reason = f"anchor {blind[0]}: no better than chance"
    elif reason is None and gap.p_positive >= GATE_LEVEL:
        reason = f"{endpoint.label}: the Deep Ensemble is not shown to be better than single"
    elif reason is None and ratio is not None and ratio < GATE_RATIO:
        reason = f"{endpoint.label}: the gap between the anchors is below one SD over seeds"
    return {"gap": gap.estimate, "ratio": ratio, "p": gap.p_positive, "reason": reason}


def _same_everywhere(endpoint: Endpoint, arms: Mapping[str, Summary]) -> str | None:
    """Say so when all seeds of an arm gave one number: no noise to measure an effect against.

    An ensemble gain of exactly 0 is what a single model, or members that are equal, must have.
    """
    for arm, found in arms.items():
        if found.variance == 0 and not (endpoint.kind == "diversity" and found.mean == 0):
            return f"all {found.n} runs of {arm} gave the same {endpoint.label}: were seeds used?"
    return None


def _copies(endpoint: Endpoint, losses: FloatArray) -> str | None:
    """Say so when some seeds of an arm gave one number to the last digit: copies are no runs."""
    distinct = len(np.unique(losses))
    if endpoint.kind == "diversity" or distinct in (1, len(losses)):
        return None
    return (
        f"{len(losses)} runs gave {distinct} different values of {endpoint.label}: "
        "a copy of a run is no replicate"
    )


def case_of(study: Study, arm: Json, gates: Mapping[tuple[int, str], Json]) -> Case:
    """Return the effects of an arm, with every reason against judging it.

    An effect is there wherever the gap is shown, so that an unfinished study has estimates too.
    """
    key, size = arm["arm"], arm["reference_members"]
    trouble = _not_whole(study, key)
    reasons = [trouble] if trouble else []
    effects, values = {}, {}
    for endpoint in study.protocol.endpoints:
        gate = gates[size, endpoint.key]
        numbers = _numbers(study, key, endpoint)
        if not gate["open"]:
            reasons.append(("not assessable", gate["reason"]))
        elif len(numbers) < count(study, key):
            reasons.append(("not assessable", f"{endpoint.label} was not measured in every run"))
        found = study.summaries.get((key, endpoint.key))
        if gate["gap_shown"] and found:
            same = _same_everywhere(endpoint, {"this arm": found})
            copied = _copies(endpoint, numbers)
            reasons += [("not assessable", line) for line in (same, copied) if line]
            single, deep = (_numbers(study, a, endpoint) for a in ("single", arm["reference"]))
            anchors = [study.summaries[a, endpoint.key] for a in ("single", arm["reference"])]
            effects[endpoint.key] = Anchored(anchors[0], found, anchors[1])
            values[endpoint.key] = np.array(single), np.array(numbers), np.array(deep)
    return Case(arm, effects, reasons, values)
