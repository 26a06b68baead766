"""From effects to verdicts: intersection-union tests, Holm, the global rule."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from analysis import wording
from analysis.cases import CONTROLS, FAMILIES, Case
from analysis.protocol import Endpoint, Protocol
from analysis.stats import Anchored, holm

Json = dict[str, Any]
Kind = Literal["escapes", "tracks", "worse", "inconclusive"]

LOST_TO_HOLM: Final = "not after Holm"


@dataclass(frozen=True)
class Decision:
    """One arm's verdict at one margin; the p-values are 1 where it cannot be assessed."""

    verdict: Kind
    label: str | None
    detail: str | None
    p_escape: float = 1.0
    p_track: float = 1.0
    p_worse: float = 1.0
    p_holm: float | None = None

    @property
    def alone(self) -> Kind:
        """The verdict before the correction for the other arms."""
        return "escapes" if self.label == LOST_TO_HOLM else self.verdict


@dataclass(frozen=True)
class Tests:
    """One-sided p-values of one effect at one margin."""

    escape: float
    track: float
    worse: float


def tests_of(endpoint: Endpoint, effect: Anchored, delta: float) -> Tests:
    """Return the tests of R > delta, of |R| < delta (diversity: R < delta) and of R < -delta."""
    above, below = effect.at(delta), effect.at(-delta)
    track = above.p_negative
    if endpoint.kind == "performance":
        track = max(track, below.p_positive)
    return Tests(above.p_positive, track, below.p_negative)


def joint_of(tests: Mapping[str, Tests], protocol: Protocol) -> Tests:
    """Return the tests of all endpoints together: each claim needs every one (the largest p).

    Being worse is a claim about the endpoints of performance alone.
    """
    performance = [tests[e.key] for e in protocol.endpoints if e.kind == "performance"]
    return Tests(
        max(test.escape for test in tests.values()),
        max(test.track for test in tests.values()),
        max(test.worse for test in performance),
    )


def verdict_of(tests: Mapping[str, Tests], protocol: Protocol) -> Kind:
    """Return what the tests of one arm say, before any correction for the other arms."""
    joint = joint_of(tests, protocol)
    if joint.escape <= protocol.alpha:
        return "escapes"
    if joint.track <= protocol.alpha:
        return "tracks"
    return "worse" if joint.worse <= protocol.alpha else "inconclusive"


def decide_all(cases: Sequence[Case], protocol: Protocol) -> dict[str, Decision]:
    """Return every arm's decision: Holm within candidates and within comparisons, not controls."""
    raw = {case.arm["arm"]: _decide(case, protocol) for case in cases}
    decided = dict(raw)
    for family in FAMILIES:
        own = [case.arm["arm"] for case in cases if case.arm["role"] == family]
        adjusted = holm({arm: raw[arm].p_escape for arm in own})
        for arm, p_holm in adjusted.items():
            decided[arm] = replace(raw[arm], p_holm=p_holm)
            if raw[arm].verdict == "escapes" and p_holm > protocol.alpha:
                decided[arm] = replace(
                    decided[arm],
                    verdict="inconclusive",
                    label=LOST_TO_HOLM,
                    detail=wording.lost_to_holm(raw[arm].p_escape, p_holm, len(own)),
                )
    return decided


def _decide(case: Case, protocol: Protocol) -> Decision:
    """Return the decision on one arm for itself, before any correction for the others."""
    if case.reasons:
        label = case.reasons[0][0]
        lines = dict.fromkeys(line for _, line in case.reasons)
        return Decision("inconclusive", label, "; ".join(lines))
    tests = {e.key: tests_of(e, case.effects[e.key], protocol.delta) for e in protocol.endpoints}
    joint = joint_of(tests, protocol)
    values = {"p_escape": joint.escape, "p_track": joint.track, "p_worse": joint.worse}
    verdict = verdict_of(tests, protocol)
    if verdict != "inconclusive":
        return Decision(verdict, None, None, **values)
    label, detail = _open_question(tests, protocol)
    if case.arm["role"] == "negative_control":
        unlike = [e for e in protocol.endpoints if tests[e.key].track > protocol.alpha]
        detail = wording.not_tracking(unlike, protocol.delta)
    return Decision("inconclusive", label, detail, **values)


def _open_question(tests: Mapping[str, Tests], protocol: Protocol) -> tuple[str, str]:
    """Return the sub-label of an arm that neither escapes nor tracks, and a line that says why."""
    alpha, endpoints = protocol.alpha, protocol.endpoints
    passed = [e for e in endpoints if tests[e.key].escape <= alpha]
    failed = [e for e in endpoints if e not in passed]
    worse = [e for e in endpoints if e.kind == "performance" and tests[e.key].worse <= alpha]
    better, diverse = (
        {e in passed for e in endpoints if e.kind == kind} for kind in ("performance", "diversity")
    )
    if better == {True}:
        label = "better but not diverse"
    elif diverse == {True} and better == {False}:
        label = "diverse but not better"
    elif worse:
        label = "worse in part"
    elif passed:
        label = "better in part"
    else:
        label = "too few seeds"
    return label, wording.open_question(passed, failed, worse, protocol.delta)


def conclude(
    cases: Sequence[Case], decisions: Mapping[str, Decision], controls: Json
) -> tuple[str, list[str]]:
    """Return the global verdict and the lines that go with it; only candidates and controls count.

    A control that misbehaves withholds any verdict; "all track" needs both controls besides.
    """
    verdicts = Counter(
        decisions[c.arm["arm"]].verdict for c in cases if c.arm["role"] == "candidate"
    )
    present = [control for control in controls.values() if control]
    withheld = [
        f"withheld: {wording.control(name, control['expected'], control['verdict'], None)}"
        for name, control in controls.items()
        if control and not control["ok"]
    ]
    missing = [f"no {name} control was run" for name in controls if controls[name] is None]
    if not verdicts:
        return wording.INCONCLUSIVE, [*withheld, "no candidate was confirmed", *missing]
    if withheld:
        return wording.INCONCLUSIVE, withheld
    if verdicts["escapes"]:
        return wording.SOME_ESCAPES, missing
    unproven = [c["line"] for c in present if c["verdict"] != c["expected"]]
    if verdicts["tracks"] == verdicts.total() and not missing and not unproven:
        return wording.ALL_TRACK, []
    own = [decisions[case.arm["arm"]] for case in cases if case.arm["role"] == "candidate"]
    why_open = {found.detail for found in own if found.verdict == "inconclusive"}
    return wording.INCONCLUSIVE, [wording.no_escape(verdicts, why_open), *unproven, *missing]


def controls_of(cases: Sequence[Case], decisions: Mapping[str, Decision]) -> Json:
    """Return what each control did and should have done, by ``positive`` and ``negative``."""
    found: Json = {"positive": None, "negative": None}
    for case in cases:
        if case.arm["role"] not in CONTROLS:
            continue
        name = case.arm["role"].removesuffix("_control")
        decision = decisions[case.arm["arm"]]
        escapes = decision.verdict == "escapes"
        expected = "escapes" if name == "positive" else "tracks"
        found[name] = {
            "arm": case.arm["arm"],
            "expected": expected,
            "verdict": decision.verdict,
            "ok": escapes if name == "positive" else not escapes,
            "line": wording.control(name, expected, decision.verdict, decision.detail),
        }
    return found
