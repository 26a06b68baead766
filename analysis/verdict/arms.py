"""What there is to judge: arms, their replicates, and whether the anchors leave room to judge.

Every arm is placed between two anchors: the single model (recovery 0) and the Deep Ensemble of the
arm's own size (recovery 1). Where the anchors do not differ, there is nothing to measure with.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
import polars as pl

from analysis.data.protocol import (
    GATE_LEVEL,
    GATE_RATIO,
    Endpoint,
    Plan,
    PlannedArm,
    Protocol,
    protocol_of,
)
from analysis.data.roles import FAMILIES, arm_key
from analysis.measures.measure import Measures
from analysis.stats.contrasts import Contrast, FloatArray, Recovery, Summary, summary
from analysis.verdict.schema import Role

CONTROLS: Final = ("positive_control", "negative_control")
NOTHING: Final[FloatArray] = np.empty(0)

OfRuns = Literal["runs failed", "runs missing", "too few seeds", "pool too small", "not measured"]
OfLosses = Literal["copies", "no noise", "no skill", "gap not shown", "gap below noise"]


@dataclass(frozen=True)
class Reason:
    """Why an arm, or an endpoint of all arms, cannot be judged.

    ``found`` of so many runs are concerned (of ``copies``: distinct values); ``anchor`` is None
    where it is about the arm itself, or the gap.
    """

    kind: OfRuns | OfLosses
    found: int = 0
    of: int = 0
    endpoint: Endpoint | None = None
    anchor: str | None = None


@dataclass(frozen=True)
class PlacedArm(PlannedArm):
    """An arm that is to be judged, with its key and the size of the Deep Ensemble beside it."""

    role: Role
    arm: str = ""
    beside: int = 1

    @property
    def reference(self) -> str:
        """Key of that Deep Ensemble's arm."""
        return f"deep_ensemble-{self.beside}"


@dataclass(frozen=True)
class Gate:
    """Whether an endpoint can be assessed at one ensemble size: nothing may stand against it.

    ``shown`` says whether the runs that there are show a ``gap``; ``ratio`` is the gap over the
    pooled SD over seeds.
    """

    members: int
    endpoint: Endpoint
    reason: Reason | None = None
    shown: bool = False
    gap: Contrast | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Study:
    """What the judgement reads: protocol, arms, replicates, failures.

    ``losses`` has, by arm and endpoint, one number per replicate in which it was measured, in the
    order of replicates and turned so that lower is better; ``counts`` the replicates of each arm.
    """

    protocol: Protocol
    arms: tuple[PlacedArm, ...]
    losses: Mapping[tuple[str, str], FloatArray]
    counts: Mapping[str, int]
    roles: frozenset[str]
    failed: Counter[str]
    blind: frozenset[str] = frozenset()

    @cached_property
    def summaries(self) -> dict[tuple[str, str], Summary]:
        """Summary of every arm and endpoint with at least two losses."""
        return {key: summary(own) for key, own in self.losses.items() if len(own) >= 2}


@dataclass(frozen=True)
class Case:
    """One arm with its effect on each endpoint, or with the reasons why it has none.

    The first reason names the verdict; ``values`` are the losses of single, arm, Deep Ensemble.
    """

    arm: PlacedArm
    effects: Mapping[str, Recovery]
    reasons: tuple[Reason, ...] = ()
    values: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]] = field(default_factory=dict)


def study_of(measures: Measures, plan: Plan | None) -> Study:
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
    if plan is None:
        seen = frame.unique(subset="arm", maintain_order=True)
        keys = ("role", "method", "configuration", "name", "members")
        declared = tuple(PlannedArm(*row) for row in seen.select(keys).iter_rows())
    else:
        declared = plan.arms
    arms = [arm for arm in declared if arm.role in FAMILIES + CONTROLS]
    sizes = Counter(arm.members for arm in arms if arm.role == "candidate")
    sizes = sizes or Counter(arm.members for arm in arms)
    pools = frame.filter(pl.col("role") == "deep_ensemble")["members"].to_list()
    several = [size for size in sizes if size > 1]
    common = max(several, key=lambda s: (sizes[s], -s), default=max(pools, default=1))
    placed = tuple(
        PlacedArm(
            **vars(arm),
            arm=arm_key(arm.role, arm.configuration),
            beside=arm.members if arm.members > 1 else common,
        )
        for arm in arms
    )
    incomplete = measures.excluded.filter(
        pl.col("stage") == "confirm", pl.col("status") != "complete"
    )
    lost = Counter(incomplete["arm"].to_list())
    roles = frozenset([*frame["role"].to_list(), *(arm.role for arm in declared)])
    return Study(protocol, placed, losses, counts, roles, lost, _blind(frame))


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


def _not_whole(study: Study, arm: str) -> Reason | None:
    """Return why an arm's runs do not suffice: failed, missing, or fewer than two."""
    done, lost, planned = count(study, arm), failed(study, arm), study.protocol.seeds
    if lost:
        return Reason("runs failed", lost, max(done + lost, planned or 0))
    if not done and arm.startswith("deep_ensemble-") and "deep_ensemble" in study.roles:
        return Reason("pool too small")
    if planned and done < planned:
        return Reason("runs missing", planned - done, planned)
    return Reason("too few seeds", done) if done < 2 else None


def runs_there(study: Study) -> tuple[int, int]:
    """Return how many of the declared runs are there, and how many there are to be.

    A verdict before the last would be a peek. Both are 0 where no number was declared.
    """
    planned = study.protocol.seeds or 0
    sizes = {arm.reference for arm in study.arms}
    pool = max(sizes, key=lambda arm: count(study, arm), default="deep_ensemble-1")
    arms = ["single", pool, *(arm.arm for arm in study.arms)]
    done = sum(min(planned, count(study, arm) + failed(study, arm)) for arm in arms)
    return done, planned * len(arms)


# --- the gate: is there a gap between the anchors at all?


def gates_of(study: Study) -> Iterator[Gate]:
    """Yield the gate of every ensemble size and endpoint."""
    for size in sorted({arm.beside for arm in study.arms}):
        for endpoint in study.protocol.endpoints:
            gate = _gap(study, Gate(size, endpoint))
            # Whatever stands against an anchor's runs goes before what these runs show.
            anchors = ("single", f"deep_ensemble-{size}")
            found = [_unusable(study, name, endpoint) for name in anchors]
            yield replace(gate, reason=found[0] or found[1] or gate.reason)


def _unusable(study: Study, anchor: str, endpoint: Endpoint) -> Reason | None:
    """Return why an anchor's runs do not do on an endpoint."""
    losses, done = _numbers(study, anchor, endpoint), count(study, anchor)
    found = _not_whole(study, anchor) or _copies(endpoint, losses)
    if found is None and len(losses) < done:
        found = Reason("not measured", done - len(losses), done, endpoint)
    return found and replace(found, anchor=anchor)


def _gap(study: Study, gate: Gate) -> Gate:
    """Return the gate with the gap, and why it does not suffice.

    The Deep Ensemble must be better than the single model by enough to measure with.
    """
    names, endpoint = ("single", f"deep_ensemble-{gate.members}"), gate.endpoint
    single, deep = (study.summaries.get((name, endpoint.key)) for name in names)
    if single is None or deep is None:
        return gate
    gap = Recovery(single, single, deep).gap
    pooled = ((single.n - 1) * single.variance + (deep.n - 1) * deep.variance) ** 0.5
    pooled /= (single.n + deep.n - 2) ** 0.5
    ratio = gap.estimate / pooled if pooled else None
    blind = next((name for name in names if name in study.blind), None)
    reason = _no_noise(endpoint, single, names[0]) or _no_noise(endpoint, deep, names[1])
    if reason is None and blind:
        reason = Reason("no skill", anchor=blind)
    elif reason is None and gap.p_positive >= GATE_LEVEL:
        reason = Reason("gap not shown", endpoint=endpoint)
    elif reason is None and ratio is not None and ratio < GATE_RATIO:
        reason = Reason("gap below noise", endpoint=endpoint)
    return replace(gate, reason=reason, shown=reason is None, gap=gap, ratio=ratio)


def _no_noise(endpoint: Endpoint, found: Summary, anchor: str | None = None) -> Reason | None:
    """Say so when all seeds of an arm gave one number: no noise to measure an effect against.

    An ensemble gain of exactly 0 is what a single model, or members that are equal, must have.
    """
    if found.variance or (endpoint.kind == "diversity" and found.mean == 0):
        return None
    return Reason("no noise", of=found.n, endpoint=endpoint, anchor=anchor)


def _copies(endpoint: Endpoint, losses: FloatArray) -> Reason | None:
    """Say so when some seeds of an arm gave one number to the last digit: copies are no runs."""
    distinct = len(np.unique(losses))
    # Where all are one number, the lack of noise says more.
    if endpoint.kind == "diversity" or distinct <= 1 or distinct == len(losses):
        return None
    return Reason("copies", distinct, len(losses), endpoint)


def case_of(study: Study, arm: PlacedArm, gates: Mapping[tuple[int, str], Gate]) -> Case:
    """Return the effects of an arm, with every reason against judging it.

    An effect is there wherever the gap is shown, so that an unfinished study has estimates too.
    """
    reasons: list[Reason | None] = [_not_whole(study, arm.arm)]
    effects, values = {}, {}
    for endpoint in study.protocol.endpoints:
        gate = gates[arm.beside, endpoint.key]
        numbers = _numbers(study, arm.arm, endpoint)
        if gate.reason:
            reasons.append(gate.reason)
        elif len(numbers) < count(study, arm.arm):
            reasons.append(Reason("not measured", endpoint=endpoint))
        found = study.summaries.get((arm.arm, endpoint.key))
        if gate.shown and found:
            reasons += _no_noise(endpoint, found), _copies(endpoint, numbers)
            anchors = ("single", arm.reference)
            single, deep = (study.summaries[name, endpoint.key] for name in anchors)
            effects[endpoint.key] = Recovery(single, found, deep)
            losses_S, losses_D = (_numbers(study, name, endpoint) for name in anchors)
            values[endpoint.key] = losses_S, numbers, losses_D
    return Case(arm, effects, tuple(filter(None, reasons)), values)
