"""Every sentence of a verdict. Numbers are rounded here, where they are shown, and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from analysis.protocol import Endpoint
from analysis.titles import name, several

Json = dict[str, Any]

SOME_ESCAPES: Final = "some configuration escapes"
ALL_TRACK: Final = "all tested track a single model"
INCONCLUSIVE: Final = "inconclusive"

SAID: Final = {
    "escapes": "escapes",
    "tracks": "tracks a single model",
    "worse": "is worse than a single model",
}


def sentence(judgement: Json) -> str:
    """Return the verdict in one sentence, with its figures."""
    if judgement["verdict"] == SOME_ESCAPES:
        said = _some_escape(judgement)
    elif judgement["verdict"] == ALL_TRACK:
        said = _all_track(judgement)
    else:
        said = f"Inconclusive: {'; '.join(judgement['reasons'])} ({_seeds(judgement)})."
    if judgement["exploratory"]:
        return f"Exploratory, as {judgement['exploratory_reasons'][0]}. {said}"
    return said


def _some_escape(judgement: Json) -> str:
    counts, own = judgement["counts"], judgement["arms"]
    best = next(arm for arm in own if arm["verdict"] == "escapes" and arm["role"] == "candidate")
    weakest = best["endpoints"][best["weakest"]]
    n, escapes = counts["candidates"], counts["escapes"]
    verb = "escapes a single model: it recovers" if escapes == 1 else "escape: they recover"
    return (
        f"{escapes} of {n} tested configurations {verb} more than "
        f"{_percent(judgement['protocol']['delta'])} of the way from a single model to a Deep "
        f"Ensemble on {_labels(judgement)} (best: {name(best, several(own))}, whose "
        f"weakest is {judgement['protocol']['labels'][best['weakest']]} with recovery "
        f"{weakest['recovery']:.2f}, {100 * judgement['protocol']['level_wide']:g} % interval "
        f"{interval(weakest['low_wide'], weakest['high_wide'])}; "
        f"{_p(best['p_holm'])} after Holm; {_seeds(judgement)})."
    )


def _all_track(judgement: Json) -> str:
    n = judgement["counts"]["candidates"]
    own = [arm for arm in judgement["arms"] if arm["role"] == "candidate"]
    highs = [effect["high"] for arm in own for effect in arm["endpoints"].values()]
    which = f"All {n} tested configurations track" if n > 1 else "The tested configuration tracks"
    return (
        f"{which} a single model: recovery stays within "
        f"±{_percent(judgement['protocol']['delta'])} of the way to a Deep Ensemble on "
        f"{_labels(judgement)} (largest upper "
        f"{100 * judgement['protocol']['level']:g} % bound {max(highs):.2f}; {_seeds(judgement)}); "
        "this is about what was tested, not about every configuration there is."
    )


def _labels(judgement: Json) -> str:
    return join(judgement["protocol"]["labels"].values())


def _seeds(judgement: Json) -> str:
    fewest, most = judgement["seeds"]["fewest"], judgement["seeds"]["most"]
    span = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{span} seed{'s' * (most != 1)}"


def disagreement(arm: Json, called: str, method: str, said: str) -> str:
    """Return the line on a verdict that a method of ``robustness`` does not share."""
    return (
        f"{called}: {SAID.get(arm['alone'], 'is inconclusive')} by the primary test, "
        f"but {SAID.get(said, 'is inconclusive')} by {method} (each before Holm)"
    )


def join(words: Any) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else str(last)


def interval(low: float | None, high: float | None) -> str:
    """Return ``low to high``, or that there is no bound."""
    return "unbounded" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def lost_to_holm(p: float, p_holm: float, tested: int) -> str:
    """Say that an arm passes alone, but not among so many."""
    return f"passes alone ({_p(p)}), but not among {tested} tested ({_p(p_holm)} after Holm)"


def open_question(
    passed: Sequence[Endpoint], failed: Sequence[Endpoint], worse: Sequence[Endpoint], delta: float
) -> str:
    """Say on which endpoints an arm is shown to be above the margin, and on which it is not."""
    parts = []
    if passed:
        parts.append(f"above {delta:g} on {join(e.label for e in passed)}")
    parts.append(f"not shown to be above {delta:g} on {join(e.label for e in failed)}")
    if worse:
        parts.append(f"below {-delta:g} on {join(e.label for e in worse)}")
    if not passed and not worse:
        parts.append("nor to be like a single model")
    return ", ".join(parts)


def not_tracking(unlike: Sequence[Endpoint], delta: float) -> str:
    """Say on which endpoints an arm that must track is not shown to."""
    return f"not shown to be within {delta:g} on {join(e.label for e in unlike)}"


def control(name: str, expected: str, verdict: str, detail: str | None) -> str:
    """Say what a control did, and that it should have done something else."""
    if verdict == expected:
        return f"the {name} control {SAID[verdict]}, as it must"
    because = f" ({detail})" if detail else ""
    if verdict == "inconclusive":
        known = {"escapes": "escape", "tracks": "track a single model"}[expected]
        return f"the {name} control is not shown to {known}{because}"
    if verdict == "worse":
        return f"the {name} control is worse than a single model: it neither escapes nor tracks"
    return f"the {name} control {SAID[verdict]}, which it must not"


def no_escape(verdicts: Mapping[Any, int], why_open: set[str | None]) -> str:
    """Say how many configurations came out how, when none escapes; and why if for one reason."""
    said = {"tracks": "track a single model", "worse": "worse than it", "inconclusive": "open"}
    parts = [f"{verdicts[kind]} {said[kind]}" for kind in said if verdicts.get(kind)]
    because = f" ({reason})" if len(why_open) == 1 and (reason := next(iter(why_open))) else ""
    total = sum(verdicts.values())
    tested = (
        "the tested configuration does not escape"
        if total == 1
        else (f"none of {total} tested configurations escapes")
    )
    return f"{tested}: {join(parts)}{because}"


def limits(undeclared: int) -> list[str]:
    """Say what was left out."""
    if not undeclared:
        return []
    runs = "1 run is" if undeclared == 1 else f"{undeclared} runs are"
    return [f"{runs} of no arm of the plan and not judged"]
