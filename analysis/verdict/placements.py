"""Each arm between its anchors, or why it cannot be placed there.

Where two anchors do not differ, there is nothing to measure with: that is what the gates are about.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from analysis.data.protocol import Endpoint
from analysis.stats.contrasts import Contrast, FloatArray, Recovery, Summary
from analysis.verdict.arms import Anchors, PlacedArm, Study, count, failed
from analysis.verdict.schema import Against
from study.thresholds import LEAST_SEEDS

OfRuns = Literal["runs failed", "runs missing", "too few seeds", "pool too small", "not measured"]
OfLosses = Literal["copies", "no noise", "no skill", "gap not shown"]


@dataclass(frozen=True)
class Reason:
    """Why an arm, or an endpoint of all arms, cannot be judged.

    ``found`` of so many runs are concerned (of ``copies``: distinct values); ``anchor`` is None
    where it is about the arm itself, or the gap; ``against`` says between which anchors.
    """

    kind: OfRuns | OfLosses
    found: int = 0
    of: int = 0
    endpoint: Endpoint | None = None
    anchor: str | None = None
    against: Against = "tuned"


@dataclass(frozen=True)
class Gate:
    """Whether an endpoint can be assessed between two anchors: nothing may stand against it.

    ``shown`` says whether the runs that there are show a ``gap``; ``ratio`` is the gap over the
    pooled SD over seeds.
    """

    anchors: Anchors
    endpoint: Endpoint
    reason: Reason | None = None
    shown: bool = False
    gap: Contrast | None = None
    ratio: float | None = None


Gates = Mapping[tuple[Anchors, str], Gate]
"""By anchors and endpoint."""


@dataclass(frozen=True)
class Placement:
    """An arm between two anchors: its effect on each endpoint, or the reasons why it has none.

    The first reason names the verdict; ``values`` are the losses of single, arm, Deep Ensemble.
    """

    anchors: Anchors
    effects: Mapping[str, Recovery]
    reasons: tuple[Reason, ...] = ()
    values: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]] = field(default_factory=dict)

    @property
    def over_seeds(self) -> "Placement":
        """The same about these test examples."""
        return replace(self, effects={key: e.over_seeds for key, e in self.effects.items()})


@dataclass(frozen=True)
class Case:
    """One arm between the tuned anchors, between its own where there are any, and the contenders'.

    ``contenders`` are in the order of ``arm.contenders``.
    """

    arm: PlacedArm
    tuned: Placement
    own: Placement | None = None
    contenders: tuple[Placement, ...] = ()

    @property
    def baselines(self) -> tuple[Placement, ...]:
        """Between the tuned anchors, and between its own where these are others."""
        if self.own is None or self.own.anchors == self.tuned.anchors:
            return (self.tuned,)
        return self.tuned, self.own

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Every one, each once."""
        return *self.baselines, *self.contenders

    @property
    def examples_known(self) -> bool:
        """Whether every effect is about other test examples, too."""
        effects = [effect for placement in self.placements for effect in placement.effects.values()]
        return bool(effects) and all(effect.examples for effect in effects)

    @property
    def over_seeds(self) -> "Case":
        """The same about these test examples."""
        own = self.own and self.own.over_seeds
        rest = tuple(placement.over_seeds for placement in self.contenders)
        return Case(self.arm, self.tuned.over_seeds, own, rest)


# --- the gate: is there a gap between the anchors at all?


def gates_of(study: Study) -> Iterator[Gate]:
    """Yield the gate of every pair of anchors and endpoint, the tuned pairs first."""
    pairs = {pair for arm in study.arms for pair in arm.anchors}
    for pair in sorted(pairs, key=lambda p: (not p.tuned, p.members, p.single, p.pool)):
        for endpoint in study.protocol.endpoints:
            gate = _gap(study, Gate(pair, endpoint))
            # Whatever stands against an anchor's runs goes before what these runs show.
            found = [_unusable(study, name, endpoint) for name in (pair.single, pair.deep_ensemble)]
            yield replace(gate, reason=found[0] or found[1] or gate.reason)


def _unusable(study: Study, anchor: str, endpoint: Endpoint) -> Reason | None:
    """Return why an anchor's runs do not do on an endpoint."""
    losses, done = study.numbers(anchor, endpoint), count(study, anchor)
    found = _not_whole(study, anchor) or _copies(endpoint, losses)
    if found is None and len(losses) < done:
        found = Reason("not measured", done - len(losses), done, endpoint)
    return found and replace(found, anchor=anchor)


def _gap(study: Study, gate: Gate) -> Gate:
    """Return the gate with the gap, and why it does not suffice.

    The Deep Ensemble must be better than the single model by enough to measure with.
    """
    names, endpoint = (gate.anchors.single, gate.anchors.deep_ensemble), gate.endpoint
    single, deep = (study.summaries.get((name, endpoint.key)) for name in names)
    if single is None or deep is None:
        return gate
    # Without examples, so of these: that is what the arms are held to.
    gap = Recovery(single, single, deep).gap
    squares = (single.n - 1) * single.variance + (deep.n - 1) * deep.variance
    pooled = (squares / (single.n + deep.n - 2)) ** 0.5
    ratio = gap.estimate / pooled if pooled else None
    blind = next((name for name in names if name in study.blind), None)
    reason = _no_noise(endpoint, single, names[0]) or _no_noise(endpoint, deep, names[1])
    if reason is None and blind:
        reason = Reason("no skill", anchor=blind)
    elif reason is None and gap.p_positive >= study.protocol.gate_level:
        reason = Reason("gap not shown", endpoint=endpoint)
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


def _not_whole(study: Study, arm: str) -> Reason | None:
    """Return why an arm's runs do not suffice: failed, missing, or too few to know their spread."""
    done, lost, planned = count(study, arm), failed(study, arm), study.planned(arm)
    if lost:
        return Reason("runs failed", lost, max(done + lost, planned or 0))
    if not done and arm.startswith("deep_ensemble-") and "deep_ensemble" in study.roles:
        return Reason("pool too small")
    if planned and done < planned:
        return Reason("runs missing", planned - done, planned)
    return Reason("too few seeds", done) if done < LEAST_SEEDS else None


# --- the arm between them


def case_of(study: Study, arm: PlacedArm, gates: Gates) -> Case:
    """Return an arm between its anchors."""
    found = {pair: _placement(study, arm, pair, gates) for pair in arm.anchors}
    contenders = tuple(found[pair] for pair in arm.contenders)
    return Case(arm, found[arm.tuned], found[arm.own] if arm.own else None, contenders)


def _placement(study: Study, arm: PlacedArm, pair: Anchors, gates: Gates) -> Placement:
    """Return the effects of an arm, with every reason against judging it.

    An effect is there wherever the gap is shown, so that an unfinished study has estimates too.
    """
    reasons: list[Reason | None] = [_not_whole(study, arm.arm)]
    effects, values = {}, {}
    for endpoint in study.protocol.endpoints:
        gate = gates[pair, endpoint.key]
        numbers = study.numbers(arm.arm, endpoint)
        if gate.reason:
            reasons.append(gate.reason)
        elif len(numbers) < count(study, arm.arm):
            reasons.append(Reason("not measured", endpoint=endpoint))
        found = study.summaries.get((arm.arm, endpoint.key))
        if gate.shown and found:
            reasons += _no_noise(endpoint, found), _copies(endpoint, numbers)
            if effect := study.recovery(pair, arm.arm, endpoint):
                effects[endpoint.key] = effect
            anchors = (pair.single, pair.deep_ensemble)
            losses_S, losses_D = (study.numbers(name, endpoint) for name in anchors)
            values[endpoint.key] = losses_S, numbers, losses_D
    known = (replace(found, against=pair.against) for found in reasons if found)
    return Placement(pair, effects, tuple(known), values)
