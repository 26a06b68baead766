"""Every sentence of a verdict, put to what was decided before.

Numbers are rounded here, where they are shown, and nowhere else.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Final

from analysis.data.protocol import Endpoint, Plan
from analysis.text.names import title
from analysis.verdict.arms import PlacedArm, runs_there
from analysis.verdict.decisions import EXPECTED, ControlName, Decided, Decision, Open, behaves
from analysis.verdict.placements import Reason
from analysis.verdict.schema import (
    ALL_TRACK,
    INCONCLUSIVE,
    SOME_ESCAPES,
    Arm,
    Verdict,
)
from study.thresholds import LEAST_SEEDS

SAID: Final = {
    "escapes": "escapes",
    "tracks": "tracks a single model",
    "worse": "is worse than a single model",
}
MEANING: Final = {
    "better trained": "better than the tuned single network by more than the margin, but not than "
    "a single network with its own hyperparameters: these are better, not the ensemble",
    "escapes its own hyperparameters only": "better than a single network with its own "
    "hyperparameters by more than the margin, but not than the tuned one",
    "escapes the chosen single network only": "better than the tuned single network by more than "
    "the margin, but not than each of those that validation cannot tell from it",
    "tracks the tuned network only": "like the tuned single network, but not shown to be like a "
    "single network with its own hyperparameters",
    "tracks its own hyperparameters only": "like a single network with its own hyperparameters, "
    "but not shown to be like the tuned one",
}
"""What it means to pass between one pair of anchors alone, by label."""
ONE: Final[dict[str, str]] = {
    "escapes": "escapes",
    "tracks": "behaves like a single network",
    "worse": "does worse than a single network",
    "inconclusive": "is undecided",
}
MANY: Final[dict[str, str]] = {
    "escapes": "escape",
    "tracks": "behave like a single network",
    "worse": "do worse than a single network",
    "inconclusive": "are undecided",
}
BADGES: Final[dict[str, str]] = {
    "escapes": "escapes",
    "tracks": "like a single network",
    "worse": "worse than one",
    "inconclusive": "undecided",
}
"""The verdicts in as few words as possible."""
BASELINES: Final = {
    "tuned": "the tuned baselines",
    "own": "baselines with its own hyperparameters",
    "contender": "a single network that validation cannot tell from the tuned one",
}
"""What the pairs of anchors are called."""
METHODS: Final = {
    "permutation": "permutation of labels",
    "bca": "BCa bootstrap over seeds",
}
"""What the methods of ``robustness`` are called."""


# --- the study


def sentence(verdict: Verdict) -> str:
    """Return the verdict in one or two short sentences; ``details`` has the figures."""
    return ("Exploratory: " if verdict.exploratory else "") + " ".join(headline(verdict))


def headline(verdict: Verdict) -> tuple[str, ...]:
    """Return the verdict as one or two short lines."""
    counts, best = verdict.counts, winner(verdict)
    first = next(iter(verdict.reasons), "nothing was tested")
    if verdict.unfinished:
        return (f"No verdict yet: {first}.",)
    if verdict.verdict == ALL_TRACK:
        n = counts.candidates
        which = f"All {n} tested configurations behave" if n > 1 else "The configuration behaves"
        # Upwards, so that none does.
        most = f"No interval reaches beyond {ceil(100 * _highest(verdict))} % of the way to a Deep"
        return f"{which} like a single network.", f"{most} Ensemble."
    if verdict.verdict == SOME_ESCAPES and best and best.least:
        efficient, (_, key, weakest) = counts.escapes - counts.dear, best.least
        return (
            f"{efficient} of {counts.candidates} configurations escape{'s' * (efficient == 1)} "
            "single-model behaviour.",
            f"The best, “{names(verdict.arms)[best.arm]}”, covers "
            f"{_percent(weakest.recovery or 0.0)} of the way from a single network to a Deep "
            f"Ensemble of {_size(best)} where it does worst, in {verdict.protocol.labels[key]}"
            f"{_price(best)}.",
        )
    if not verdict.withheld and counts.dear:
        subject = f"{counts.dear} configuration{'s' * (counts.dear > 1)}"
        one = "escapes, but costs more than the Deep Ensemble of its size"
        many = "escape, but cost more than the Deep Ensembles of their size"
        more = f"{subject} {one if counts.dear == 1 else many}."
        return "No efficient ensemble escapes single-model behaviour.", more
    if verdict.withheld or not counts.candidates:
        would = f"{counts.escapes} of {counts.candidates} configurations would escape otherwise."
        return f"No verdict: {first}.", *([would] if verdict.withheld and counts.escapes else [])
    return "No configuration is shown to escape single-model behaviour.", f"{tally(verdict)}."


def tally(verdict: Verdict) -> str:
    """Return how many candidates came out how."""
    said, number = "No configuration was tested", verdict.counts.candidates
    found = {kind: n for kind in ONE if (n := getattr(verdict.counts, kind))}
    if len(found) == 1:  # All alike.
        (kind,) = found
        every = f"All {number} configurations {MANY[kind]}"
        said = every if number > 1 else f"The tested configuration {ONE[kind]}"
    elif found:
        said = f"Of {number} configurations, {_numbers(found)}"
    return f"{said}, before a control withholds the verdict" if verdict.withheld else said


def _numbers(found: Mapping[str, int]) -> str:
    """Return how many came out in each way that some did."""
    each = {kind: found[kind] for kind in ONE if found.get(kind)}
    return join(f"{n} {(ONE if n == 1 else MANY)[kind]}" for kind, n in each.items())


def winner(verdict: Verdict) -> Arm | None:
    """Return the best candidate that escapes and is no dearer than a Deep Ensemble.

    None where the verdict is withheld, or not that some configuration escapes.
    """
    if verdict.verdict != SOME_ESCAPES:
        return None
    own = (arm for arm in verdict.arms if arm.role == "candidate" and arm.verdict == "escapes")
    return next((arm for arm in own if not arm.price.dearer), None)


def details(verdict: Verdict) -> tuple[str, ...]:
    """Return the figures that stand beneath the headline."""
    protocol, best, every = verdict.protocol, winner(verdict), f"{_seeds(verdict)} each"
    if verdict.verdict == SOME_ESCAPES and best and best.least and best.p_holm is not None:
        against, key, effect = best.least
        low, high = effect.low_wide, effect.high_wide
        reach = "unbounded" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        return (
            f"Its weakest measure: {protocol.labels[key]} against {BASELINES[against]}, recovery "
            f"{effect.recovery:.2f}, {100 * protocol.level_wide:g} % interval {reach}; "
            f"{_p(best.p_holm)} after Holm's correction; {every}.",
        )
    if verdict.verdict == ALL_TRACK:
        return (
            f"Recovery of less than {protocol.delta:g} counts as none; the largest upper end of "
            f"the {100 * protocol.level:g} % intervals is {_highest(verdict):.2f}; {every}.",
            "This is about what was tested, not about every configuration there is.",
        )
    return (f"{every[:1].upper()}{every[1:]}.",) if verdict.arms else ()


def _highest(verdict: Verdict) -> float:
    """Return the largest upper end of the intervals that tracking rests on.

    Gates bound all of them where an arm tracks.
    """
    return max(
        effect.high
        for arm in verdict.arms
        for against, effects in arm.between
        for effect in effects.values()
        if arm.role == "candidate" and against != "contender" and effect.high is not None
    )


def _size(arm: Arm) -> str:
    """Return the size of the Deep Ensemble that an arm is measured against."""
    return arm.reference.rpartition("-")[2]


def _price(arm: Arm) -> str:
    """Say what an arm costs, in units of the Deep Ensemble that it is measured against.

    Stored bytes are told where they are not as the parameters, as where weights have few bits.
    """
    price = arm.price
    costs = {"parameters": price.parameters, "inference FLOPs": price.infer_flops}
    stored, expected = price.stored_bytes, price.parameters
    if stored and expected and abs(stored - expected) > 0.01 * expected:
        costs = {"stored bytes": stored, **costs}
    known = [f"{_percent(times)} of its {name}" for name, times in costs.items() if times]
    return f", at {join(known)}" if known else ""


def _seeds(verdict: Verdict) -> str:
    return f"{verdict.seeds.span} seed{'s' * (verdict.seeds.most != 1)}"


def limits(decided: Decided) -> list[str]:
    """Say what keeps a study inconclusive, or goes with its verdict."""
    if decided.unfinished:
        done, total = runs_there(decided.study)
        return [f"the study is not finished: {done} of {total} runs are there"]
    candidates, controls = list(decided.candidates.values()), decided.controls
    present = {name: found for name, found in controls.items() if found}
    missing = [f"no {name} control was run" for name in controls if name not in present]
    withheld = [
        control(name, found, because=False)
        for name, found in present.items()
        if not behaves(name, found)
    ]
    if not candidates:
        return [*withheld, "no candidate was confirmed", *missing]
    if withheld or decided.verdict != INCONCLUSIVE:
        return withheld or missing
    unproven = [control(n, c) for n, c in present.items() if c.verdict != EXPECTED[n]]
    return [_none_escapes(candidates), *unproven, *missing]


def _none_escapes(decisions: Sequence[Decision]) -> str:
    """Say how many configurations came out how; and why they are open, if for one reason."""
    verdicts: Counter[str] = Counter(decision.verdict for decision in decisions)
    dear = verdicts["escapes"]
    if dear:
        subject = "1 configuration escapes" if dear == 1 else f"{dear} configurations escape"
        return (
            f"{subject}, but {'costs' if dear == 1 else 'each costs'} more than the Deep Ensemble "
            "of its size: no efficient ensemble escapes"
        )
    why_open = {detail(found) for found in decisions if found.verdict == "inconclusive"}
    because = f" ({why_open.pop()})" if len(why_open) == 1 else ""
    return f"no tested configuration escapes: {_numbers(verdicts)}{because}"


def undeclared(runs: int) -> list[str]:
    """Say what was left out."""
    if not runs:
        return []
    which = "1 run is" if runs == 1 else f"{runs} runs are"
    return [f"{which} of no arm of the plan and not judged"]


def exploratory(plan: Plan | None, more: Mapping[str, int]) -> list[str]:
    """Say why results under this plan explore rather than confirm; nothing if they confirm.

    Args:
        plan: What was declared.
        more: By arm, how many runs there are beyond those that were declared.
    """
    beyond = []
    if more:
        runs, arm = sum(more.values()), min(more)
        which = f"{arm} and others" if len(more) > 1 else arm
        beyond = [
            f"{'1 run' if runs == 1 else f'{runs} runs'} of {which} "
            f"{'is more than was' if runs == 1 else 'are more than were'} declared: seeds that are "
            "added after a look favour what was hoped for"
        ]
    if plan is None:
        return ["nothing was declared before the test set was opened (no plan.json)"]
    if plan.given:
        nothing = "nothing was declared before the predictions were seen (no protocol.json)"
        return beyond if plan.source else [nothing]
    reasons = beyond
    if plan.content_hash != plan.hash:
        reasons.append(
            f"plan.json was changed after it was declared: its hash is {plan.hash}, "
            f"but its content gives {plan.content_hash}"
        )
    if times := plan.revised:
        reasons.append(
            f"the plan was declared anew {times} time{'s' if times > 1 else ''} "
            "after the test set had been opened"
        )
    if plan.other_seeds:
        reasons.append(
            f"seeds are {plan.protocol.seeds}, but the protocol declares {plan.other_seeds}"
        )
    return reasons


# --- one arm


def control(name: ControlName, found: Decision, because: bool = True) -> str:
    """Say what a control did, and that it should have done something else."""
    called, verdict = f"the {name} control", found.verdict
    if verdict == EXPECTED[name]:
        return f"{called} {SAID[verdict]}, as it must"
    if name == "negative" and found.open and found.better:
        return (
            f"{called} is above {found.open.delta:g} on {_on(found.better)}, though nothing but "
            "identical members sets it apart"
        )
    if verdict == "inconclusive":
        known = "escape" if name == "positive" else "track a single model"
        why = detail(found) if because else None
        return f"{called} is not shown to {known}{f' ({why})' if why else ''}"
    if verdict == "worse":
        return f"{called} is worse than a single model: it neither escapes nor tracks"
    return f"{called} {SAID[verdict]}, which it must not"


def label(decision: Decision) -> str | None:
    """Return the sub-label of an inconclusive verdict."""
    if decision.on_examples is False:
        return "not for other test examples"
    if decision.lost_among:
        return "not after Holm"
    if decision.open:
        return decision.open.label
    if not decision.reasons:
        return None
    first = decision.reasons[0]
    if first.anchor is None and first.kind == "runs failed":
        return reason(first)
    own = first.anchor is None and first.kind in ("runs missing", "too few seeds")
    return first.kind if own else "not assessable"


def detail(decision: Decision) -> str | None:
    """Say why a verdict is inconclusive."""
    if decision.on_examples is False:
        return (
            f"passes on these test examples ({_p(decision.p_seeds or 0.0)} after Holm), but is not "
            f"shown to on others ({_p(decision.p_holm or 0.0)})"
        )
    if decision.lost_among:
        return (
            f"passes alone ({_p(decision.tests.p_escape)}), but not among {decision.lost_among} "
            f"tested ({_p(decision.p_holm or 0.0)} after Holm)"
        )
    if decision.open:
        return MEANING.get(decision.open.label) or _open(decision.open)
    return "; ".join(dict.fromkeys(map(reason, decision.reasons))) or None


def _open(found: Open) -> str:
    """Say on which endpoints an arm is shown to be above the margin, and on which it is not."""
    delta, parts = found.delta, []
    if found.unlike:
        return f"not shown to be within {delta:g} on {_on(found.unlike)}"
    if found.above:
        parts.append(f"above {delta:g} on {_on(found.above)}")
    parts.append(f"not shown to be above {delta:g} on {_on(found.not_above)}")
    if found.below:
        parts.append(f"below \u2212{delta:g} on {_on(found.below)}")
    if not found.above and not found.below:
        parts.append("nor to be like a single model")
    return ", ".join(parts)


def reason(found: Reason) -> str:
    """Say why an arm or an endpoint cannot be judged."""
    runs, of, anchor = found.found, found.of, found.anchor
    endpoint = found.endpoint.label if found.endpoint else ""
    of_single = anchor is not None and anchor.startswith(("single", "matched_single"))
    same = "this arm" if anchor is None else "single" if of_single else "the Deep Ensemble"
    # The configuration in the key of a matched anchor tells a reader nothing.
    anchor = re.sub("^matched_(single|deep_ensemble)-[^-]*", r"\1", anchor) if anchor else None
    share = f"in {runs} of {of} runs" if anchor else "in every run"
    said = {
        "runs failed": f"{runs} of {of} runs failed",
        "runs missing": f"{runs} of {of} runs are missing",
        "too few seeds": f"a verdict needs at least {LEAST_SEEDS} runs, but there are {runs}",
        "pool too small": "its pool has fewer members",
        "not measured": f"{endpoint} was not measured {share}",
        "copies": f"{of} runs gave {runs} different values of {endpoint}: "
        "a copy of a run is no replicate",
        "no noise": f"all {of} runs of {same} gave the same {endpoint}: were seeds used?",
        "no skill": "no better than chance",
        "gap not shown": f"{endpoint}: the Deep Ensemble is not shown to be better than single",
    }[found.kind]
    said = f"baseline {anchor}: {said}" if anchor and found.kind != "no noise" else said
    beside = {"tuned": "", "own": "with its own hyperparameters: ", "contender": "as a contender: "}
    return beside[found.against] + said


def disagreements(arms: Sequence[Arm]) -> list[str]:
    """Return a line on every verdict that a method of ``robustness`` does not share."""
    called = names(arms)
    return [
        f"{called[arm.arm]}: {SAID.get(arm.robustness.primary, 'is inconclusive')} by the primary "
        f"test, but {SAID.get(answer.verdict, 'is inconclusive')} by {METHODS[method]} "
        "(each on these test examples and before Holm)"
        for arm in arms
        if arm.robustness
        for method, answer in arm.robustness.answers.items()
        if not answer.agrees
    ]


# --- words


def names(arms: Sequence[Arm | PlacedArm]) -> dict[str, str]:
    """Return what to call each arm, by key.

    The method precedes the name of a comparison, and every name where candidates are of several
    methods.
    """
    several = len({arm.method for arm in arms if arm.role == "candidate"}) > 1
    found = {}
    for arm in arms:
        found[arm.arm] = arm.name or f"{title(arm.method)} {arm.configuration[:6]}"
        # Predictions without a study have no methods: an arm is called by its own folder.
        if arm.name and arm.name != arm.method and (several or arm.role == "comparison"):
            method = title(arm.method)
            whole = arm.name.replace("-", " ").lower().startswith(method.lower())
            found[arm.arm] = arm.name if whole else f"{method}: {arm.name}"
    return found


def counted(roles: Iterable[str]) -> str:
    """Return how many arms have which role; nothing for none."""
    found = Counter(role.partition("_")[2] or role for role in roles)
    names = {"configuration": "candidate", "comparison": "comparison", "control": "control"}
    words = [f"{n} {name}{'s' * (n > 1)}" for name, role in names.items() if (n := found[role])]
    return join(words) if words else ""


def join(words: Iterable[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _on(endpoints: Iterable[Endpoint]) -> str:
    return join(endpoint.label for endpoint in endpoints)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if abs(share) < 0.1 else f"{100 * share:.0f} %"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
