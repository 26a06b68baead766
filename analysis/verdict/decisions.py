"""From effects to verdicts: intersection-union tests, Holm, the global rule.

What is decided here is facts, which ``analysis.verdict.wording`` puts into words. The endpoints are
``analysis.data.protocol.ENDPOINTS``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from analysis.data.protocol import Endpoint, Protocol
from analysis.data.roles import FAMILIES
from analysis.stats.contrasts import Recovery, holm
from analysis.verdict.arms import Study, price, runs_there
from analysis.verdict.placements import Case, Gates, Placement, Reason, case_of, gates_of
from analysis.verdict.schema import (
    ALL_TRACK,
    INCONCLUSIVE,
    SOME_ESCAPES,
    Global,
    Kind,
    Price,
    Tests,
)

Label = (
    Literal["better but not diverse", "diverse but not better"]
    | Literal["better in part", "worse in part", "nothing shown"]
    | Literal["better trained", "escapes its own hyperparameters only"]
    | Literal["escapes the chosen single network only"]
    | Literal["tracks the tuned network only", "tracks its own hyperparameters only"]
)
ControlName = Literal["positive", "negative"]
EXPECTED: Final[dict[ControlName, Literal["escapes", "tracks"]]] = {
    "positive": "escapes",
    "negative": "tracks",
}
NOTHING_SHOWN: Final = Tests(p_escape=1.0, p_track=1.0, p_worse=1.0)


@dataclass(frozen=True)
class Open:
    """What an arm shows that neither escapes nor tracks: the endpoints above the margin, and so on.

    ``unlike`` are those on which a negative control, which must track, is not shown to. All are
    between the tuned anchors; a label may be about the arm's own.
    """

    label: Label
    above: tuple[Endpoint, ...]
    not_above: tuple[Endpoint, ...]
    below: tuple[Endpoint, ...]
    delta: float
    unlike: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class Decision:
    """One arm's verdict at one margin, and why it is inconclusive: the last three fields.

    ``tests`` are those of all endpoints and anchors together; ``tuned`` and ``own`` are the
    verdicts between the tuned anchors, and between the arm's own, alone; ``p_holm`` is the p of
    escape, adjusted within the arm's family, and ``p_seeds`` the same on these test examples;
    ``lost_among`` so many arms it would escape without that correction.
    ``on_examples`` tells of an escape on these test examples whether it holds for others, too; None
    where that is not known, or there is none.
    """

    verdict: Kind
    tests: Tests = NOTHING_SHOWN
    tuned: Kind = "inconclusive"
    own: Kind = "inconclusive"
    on_examples: bool | None = None
    p_holm: float | None = None
    p_seeds: float | None = None
    reasons: tuple[Reason, ...] = ()
    open: Open | None = None
    lost_among: int | None = None

    @property
    def better(self) -> tuple[Endpoint, ...]:
        """The endpoints of performance on which it is above the margin, where it does not escape.

        Each is tested by itself.
        """
        above = self.open.above if self.open else ()
        return tuple(endpoint for endpoint in above if endpoint.kind == "performance")


@dataclass(frozen=True)
class Decided:
    """A study with the verdict on every arm, and on all of them."""

    study: Study
    gates: Gates
    cases: Sequence[Case]
    decisions: Mapping[str, Decision]

    @property
    def candidates(self) -> dict[str, Decision]:
        """The decisions that the study is about."""
        own = (case.arm for case in self.cases if case.arm.role == "candidate")
        return {arm.arm: self.decisions[arm.arm] for arm in own}

    @property
    def controls(self) -> dict[ControlName, Decision | None]:
        """What the controls did, None where one was not run."""
        return {name: self.decisions.get(f"{name}_control") for name in EXPECTED}

    @property
    def unfinished(self) -> bool:
        """Whether runs are missing that were declared: before the last a verdict would be a peek.

        Those that failed are not missing.
        """
        done, total = runs_there(self.study)
        return done < total

    @property
    def withheld(self) -> bool:
        """Whether a control misbehaved, so that nothing is claimed of any arm.

        Before its last run that is not known.
        """
        controls = self.controls.items()
        wrong = any(found and not behaves(name, found) for name, found in controls)
        return wrong and not self.unfinished

    def price(self, arm: str) -> Price:
        """Return what an arm costs beside the Deep Ensemble of its size."""
        return self.study.prices.get(arm, price())

    @property
    def escaping(self) -> dict[str, Decision]:
        """The candidates that escape and are no dearer than a Deep Ensemble."""
        found = self.candidates.items()
        return {a: d for a, d in found if d.verdict == "escapes" and not self.price(a).dearer}

    @property
    def verdict(self) -> Global:
        """What candidates and controls say together.

        A control that misbehaves withholds any verdict; "all track" needs both controls to be shown
        to do what they must.
        What escapes at a higher price than a Deep Ensemble is no efficient ensemble that does.
        """
        verdicts = {decision.verdict for decision in self.candidates.values()}
        if self.unfinished or self.withheld:
            return INCONCLUSIVE
        if self.escaping:
            return SOME_ESCAPES
        proved = all(c and c.verdict == EXPECTED[name] for name, c in self.controls.items())
        return ALL_TRACK if verdicts == {"tracks"} and proved else INCONCLUSIVE

    def at_margin(self, delta: float) -> "Decided":
        """Return what would be decided at another margin."""
        study = replace(self.study, protocol=replace(self.study.protocol, delta=delta))
        decisions = decide_all(self.cases, study.protocol)
        return Decided(study, self.gates, self.cases, decisions)


def decide(study: Study) -> Decided:
    """Return the verdict on every arm and on the study, with nothing that goes beside them."""
    gates = {(gate.anchors, gate.endpoint.key): gate for gate in gates_of(study)}
    cases = [case_of(study, arm, gates) for arm in study.arms]
    return Decided(study, gates, cases, decide_all(cases, study.protocol))


def behaves(control: ControlName, found: Decision) -> bool:
    """Tell whether a control did what it must; a negative one may stay open.

    Identical members gain nothing, so such a control cannot escape on every endpoint. It misbehaves
    where it is better or worse than a single network in performance: then a candidate is, too, for
    reasons that have nothing to do with its members.
    """
    if control == "positive":
        return found.verdict == "escapes"
    return found.verdict not in ("escapes", "worse") and not found.better


def tests_of(endpoint: Endpoint, effect: Recovery, protocol: Protocol) -> Tests:
    """Return the tests of R > delta, of |R| < delta (diversity: R < delta) and of R < -delta.

    Where other test examples might give anchors in the other order, nothing is shown of these.
    """
    delta = protocol.delta
    if effect.examples and effect.gap.p_positive >= protocol.gate_level:
        return NOTHING_SHOWN
    above, below = effect.at(delta), effect.at(-delta)
    track = above.p_negative
    if endpoint.kind == "performance":
        track = max(track, below.p_positive)
    return Tests(p_escape=above.p_positive, p_track=track, p_worse=below.p_negative)


def joint_of(tests: Mapping[str, Tests], protocol: Protocol) -> Tests:
    """Return the tests of all endpoints together: each claim needs every one (the largest p).

    Being worse is a claim about the endpoints of performance alone.
    """
    performance = [tests[e.key] for e in protocol.endpoints if e.kind == "performance"]
    return Tests(
        p_escape=max(test.p_escape for test in tests.values()),
        p_track=max(test.p_track for test in tests.values()),
        p_worse=max(test.p_worse for test in performance),
    )


def verdict_of(joint: Tests, alpha: float) -> Kind:
    """Return what an arm's joint tests say, before any correction for the other arms."""
    if joint.p_escape <= alpha:
        return "escapes"
    if joint.p_track <= alpha:
        return "tracks"
    return "worse" if joint.p_worse <= alpha else "inconclusive"


def decide_all(cases: Sequence[Case], protocol: Protocol) -> dict[str, Decision]:
    """Return every arm's decision: Holm within candidates and within comparisons, not controls.

    What would not escape with other test examples does not escape; whether it would on these is
    decided by the same rules, with the seeds as the only source of error.
    """
    decided = {case.arm.arm: _decide(case, protocol) for case in cases}
    known = {case.arm.arm for case in cases if case.examples_known}
    for family in FAMILIES:
        own = [case for case in cases if case.arm.role == family]
        adjusted, on_these = (
            holm({case.arm.arm: p for case, p in zip(own, of, strict=True)})
            for of in (
                [decided[case.arm.arm].tests.p_escape for case in own],
                [_decide(case.over_seeds, protocol).tests.p_escape for case in own],
            )
        )
        for arm, p_holm in adjusted.items():
            found = replace(decided[arm], p_holm=p_holm, p_seeds=on_these[arm])
            if found.verdict == "escapes" and p_holm > protocol.alpha:
                found = replace(found, verdict="inconclusive", lost_among=len(own))
            if arm in known and on_these[arm] <= protocol.alpha:
                found = replace(found, on_examples=found.verdict == "escapes")
            decided[arm] = found
    return decided


def _decide(case: Case, protocol: Protocol) -> Decision:
    """Return the decision on one arm for itself, before any correction for the others.

    To escape, it must do so between all pairs of anchors, and to track between the tuned ones and
    its own (intersection-union); to be worse is to be worse than the tuned single network.
    """
    if case.tuned.reasons:
        return Decision("inconclusive", reasons=case.tuned.reasons)
    tests = tests_between(case.tuned, protocol)
    tuned = joint_of(tests, protocol)
    own = joint_between(case.own, protocol) if case.own else None
    contenders = [joint_between(placement, protocol) for placement in case.contenders]
    both = [tuned, own] if own else [tuned]
    joint = Tests(
        p_escape=max(found.p_escape for found in (*both, *contenders)),
        p_track=max(found.p_track for found in both),
        p_worse=tuned.p_worse,
    )
    verdict, by_tuned, by_own = (
        verdict_of(found or NOTHING_SHOWN, protocol.alpha) for found in (joint, tuned, own)
    )
    decision = Decision(verdict, joint, by_tuned, by_own)
    if verdict != "inconclusive":
        return decision
    others = [case.own, *case.contenders] if case.own else case.contenders
    unknown = tuple(reason for placement in others for reason in placement.reasons)
    if unknown and by_tuned != "inconclusive":
        return replace(decision, reasons=unknown)
    found = _open(tests, protocol)
    if own and (label := _by_anchors(by_tuned, by_own)):
        found = replace(found, label=label)
    if case.arm.role == "negative_control":
        unlike = (e for e in protocol.endpoints if tests[e.key].p_track > protocol.alpha)
        found = replace(found, unlike=tuple(unlike))
    return replace(decision, open=found)


def joint_between(placement: Placement, protocol: Protocol) -> Tests:
    """Return the joint tests between other anchors; nothing is shown where they cannot be used."""
    if placement.reasons:
        return NOTHING_SHOWN
    return joint_of(tests_between(placement, protocol), protocol)


def tests_between(placement: Placement, protocol: Protocol) -> dict[str, Tests]:
    """Return the tests of every endpoint between two anchors."""
    effects = placement.effects
    return {e.key: tests_of(e, effects[e.key], protocol) for e in protocol.endpoints}


def _by_anchors(tuned: Kind, own: Kind) -> Label | None:
    """Return the label of an arm that escapes, or tracks, between some pairs of anchors only."""
    if tuned == own == "escapes":
        return "escapes the chosen single network only"
    if tuned == "escapes":
        return "better trained"
    if own == "escapes":
        return "escapes its own hyperparameters only"
    if tuned == "tracks":
        return "tracks the tuned network only"
    return "tracks its own hyperparameters only" if own == "tracks" else None


def _open(tests: Mapping[str, Tests], protocol: Protocol) -> Open:
    """Return what an arm shows that neither escapes nor tracks."""
    alpha, endpoints = protocol.alpha, protocol.endpoints
    above = tuple(e for e in endpoints if tests[e.key].p_escape <= alpha)
    below = tuple(e for e in endpoints if e.kind == "performance" and tests[e.key].p_worse <= alpha)
    # Per kind: {True} where all its endpoints are above, {False} where none is, else both.
    better, diverse = (
        {e in above for e in endpoints if e.kind == kind} for kind in ("performance", "diversity")
    )
    label: Label
    if better == {True}:
        label = "better but not diverse"
    elif diverse == {True} and better == {False}:
        label = "diverse but not better"
    else:
        label = "worse in part" if below else "better in part" if above else "nothing shown"
    not_above = tuple(e for e in endpoints if e not in above)
    return Open(label, above, not_above, below, protocol.delta)
