"""What speaks for a verdict, and what could overturn it, a line each."""

from collections.abc import Iterable, Iterator, Sequence
from math import hypot
from typing import Final, Literal

from analysis.text.numbers import number
from analysis.verdict.schema import SOME_ESCAPES, Arm, Effect, Tried, Verdict
from analysis.verdict.wording import BASELINES, join, names, winner
from study.thresholds import APART

State = Literal["yes", "no", "na"]
EXAMPLES: Final[dict[bool | None, tuple[State, str]]] = {
    True: ("yes", "its escape holds for other test examples like these, too"),
    False: ("no", "its escape is not shown for other test examples like these"),
    None: ("na", "it escapes on these test examples; whether on others is not known"),
}
MOST: Final = 3
"""Configurations that a line of doubt names."""


def doubts(verdict: Verdict) -> list[tuple[State, str]]:
    """Return what speaks for the verdict (yes), against it (no), or cannot be known, a line each.

    About the winner; where nothing escapes, about the best candidate.
    """
    arm = winner(verdict) or next((a for a in verdict.arms if a.role == "candidate"), None)
    lines = [*_about(arm, names(verdict.arms)[arm.arm])] if arm else []
    for name, control_ in verdict.controls:
        if control_ is None:
            lines.append(("na", f"no {name} control was run"))
        else:
            proved = control_.verdict == control_.expected
            known = any(gate.reason and gate.reason in control_.line for gate in verdict.gates)
            line = control_.line.partition(" (")[0] if known else control_.line
            lines.append(("yes" if proved else "na" if control_.ok else "no", line))
    lines += [("no", line) for line in _closed(verdict)]
    if asked := [(a.arm, a.robustness) for a in verdict.arms if a.robustness]:
        called = names(verdict.arms)
        differ = [
            f"\u201c{called[arm]}\u201d"
            for arm, found in asked
            if not all(answer.agrees for answer in found.answers.values())
        ]
        agree = "permutation and bootstrap agree with the tests"
        more = f" and {len(differ) - MOST} more" if differ[MOST:] else ""
        some = f"{', '.join(differ[:MOST])}{more}: another test says something else (see details)"
        lines.append(("na", some) if differ else ("yes", agree))
    plan = verdict.plan
    if plan and len(plan.tried) > 1:
        lines.append(_tried(plan.tried, verdict.arms))
    least = verdict.detectable_effect
    if least.worst is not None and verdict.verdict != SOME_ESCAPES:
        power = f"the study had a power of {least.power:g} to find a recovery of {least.worst:.2f}"
        lines.append(("na", f"{power} in every measure; a smaller one may be missed"))
    if plan and plan.note:
        lines.append(("na", f"the study's file says: {plan.note.strip().rstrip('.')}"))
    lines += [("no", why) for why in verdict.exploratory_reasons]
    told = " ".join([verdict.sentence, *(text for _, text in lines)])
    return lines + [("na", why) for why in verdict.reasons if not _told(why, told)]


def _closed(verdict: Verdict) -> Iterator[str]:
    """Say where no recovery can be measured, each reason once."""
    called, found = names(verdict.arms), dict[tuple[str, str], dict[str, None]]()
    for gate in verdict.gates:
        if gate.reason is None or gate.kind == "runs missing":
            continue
        if gate.against == "tuned":
            found.setdefault((gate.reason, ""), {})[f"{gate.members} members"] = None
        for arm in verdict.arms:
            ends = [one.single for one in arm.contenders] if gate.against == "contender" else []
            ends += [arm.own.single] if gate.against == "own" and arm.own else []
            if gate.single in ends and arm.members == gate.members:
                whose = f" against {BASELINES[gate.against]}"
                found.setdefault((gate.reason, whose), {})[f"\u201c{called[arm.arm]}\u201d"] = None
    for (why, whose), which in found.items():
        yield f"no recovery can be measured for {join(which)}{whose}: {why}"


def _told(why: str, told: str) -> bool:
    """Tell whether a reason was said before; how many came out how stands in the sentence."""
    return why in told or (why.startswith("no tested configuration escapes") and "(" not in why)


def _about(arm: Arm, name: str) -> Iterator[tuple[State, str]]:
    """Say where a configuration came from, and what it was compared with."""
    called = f"“{name}”"
    if arm.reason == "enqueued":
        yield "na", f"{called} was enqueued by the study's file: the search did not find it"
    elif arm.reason == "validation":
        yield "yes", f"the search found {called}, by validation data alone"
    if arm.own is None:
        text = "no baselines with a configuration's own hyperparameters were declared: a lead may "
        yield "no", text + "come from better hyperparameters"
    elif arm.own.single == "single":
        yield "yes", f"{called} is trained with the values of the tuned single network"
    else:
        tuned, own = (_least(of.values()) for of in (arm.endpoints, arm.own.endpoints))
        differ = arm.own.verdict != arm.by_tuned
        without = f" (without {join(arm.own.dropped)})" if arm.own.dropped else ""
        yield (
            ("no" if differ else "yes" if arm.by_tuned == "escapes" else "na"),
            f"weakest recovery of {called}: {tuned} against the tuned baselines, {own} against "
            f"baselines with its own hyperparameters{without}",
        )
    if arm.contenders:
        effects = [effect for one in arm.contenders for effect in one.endpoints.values()]
        passes = all(one.verdict == "escapes" for one in arm.contenders)
        many = len(arm.contenders)
        which = f"{many} single networks" if many > 1 else "a single network"
        yield (
            "yes" if passes else "no" if arm.by_tuned == "escapes" else "na",
            f"weakest recovery of {called} against {which} that validation cannot tell from the "
            f"tuned one: {_least(effects)}",
        )
    if parts := arm.against.get("own") or arm.against.get("tuned"):
        total, better, gain = (
            one or 0.0 for one in (parts.total, parts.better_members, parts.ensemble_gain)
        )
        yield (
            "no" if better > max(gain, 0.0) else "na",
            f"in NLL it is {abs(total):.3f} nats {'better' if total > 0 else 'worse'} than the "
            f"single network{' with its values' if 'own' in arm.against else ''}: its members are "
            f"{abs(better):.3f} {'better' if better > 0 else 'worse'}, averaging gains {gain:.3f}",
        )
    if arm.verdict == "escapes" and None in (arm.price.parameters, arm.price.infer_flops):
        yield "na", f"what {called} costs is not known, so neither whether it is efficient"
    if arm.verdict == "escapes" or arm.on_examples is not None:
        yield EXAMPLES[arm.on_examples]


def _least(effects: Iterable[Effect]) -> str:
    known = [effect.recovery for effect in effects if effect.recovery is not None]
    return number(min(known)) if known else "none measurable"


def _tried(tried: Sequence[Tried], arms: Sequence[Arm]) -> tuple[State, str]:
    """Say how sure the choice of the single network was."""
    first, second, source = tried[0], tried[1], tried[0].source
    for arm in arms:  # Where it has no name, the plan has an id.
        source = source.replace(f"{arm.method} {arm.configuration[:6]}", names(arms)[arm.arm])
    text = f"the single network is the best of {len(tried)} on validation data ({source})"
    if first.mean is None or second.mean is None or first.se is None or second.se is None:
        return "na", text
    gap, se = second.mean - first.mean, hypot(first.se, second.se)
    if second.seeds < first.seeds:  # Then it comes second, however good it is.
        return "na", f"{text}; runs of the next one failed"
    if gap < 0:
        return "na", (
            f"the single network is one of {len(tried)} ({source}): of those that clean validation "
            "data cannot tell apart, the best under validation shift; another is "
            f"{-gap:.4f} nats better on clean data, with a standard error of {se:.4f}"
        )
    text += f"; the next is {gap:.4f} nats behind, with a standard error of {se:.4f}"
    return ("yes" if gap > APART * se else "na"), text
