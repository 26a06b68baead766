"""What the page knows of one arm: figures, parameters, and how to have it again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl
import yaml

from analysis.data.run import Run
from analysis.data.search_space import command_of, flatten
from analysis.figures.context import FigureContext
from analysis.measures.columns import METRICS
from analysis.report import measures_table
from analysis.text import numbers
from analysis.verdict.schema import Arm, Mean, Verdict
from analysis.verdict.wording import BADGES, BASELINES, METHODS, join

REASONS: Final = {
    "enqueued": "the study's file enqueued it",
    "validation": "among the best of the search on validation data",
    "comparison": "the best of its method, for comparison",
}
SECTIONS: Final = ("backbone", "training", "regulariser", "params")


def names(verdict: Verdict) -> list[str]:
    """Return the names of the measures, in the order of every arm's."""
    return [name for name in METRICS if any(name in own for own in verdict.measures.values())]


def details(context: FigureContext, run: Run, verdict: Verdict) -> dict[str, dict[str, object]]:
    """Return arm -> label, verdict, lists of (name, value) pairs, measures, and texts to copy.

    Of predictions without a study there are no parameters and nothing to run again.
    """
    judged, labels = verdict.by_arm(), verdict.protocol.labels
    measured = context.measures.replicates.join(run.trials.select("trial", "spec"), on="trial")
    found = {}
    for arm in context.arms.to_dicts():
        own = measured.filter(pl.col("arm") == arm["arm"]).sort("replicate")
        if own.is_empty():
            continue
        spec = json.loads(own["spec"][0] or "{}")
        found[arm["arm"]] = {
            "label": arm["label"],
            "verdict": BADGES.get(arm["verdict"], "baseline"),
            "tone": arm["verdict"],
            "why": _why(arm, judged.get(arm["arm"])),
            "recovery": _recovery(judged.get(arm["arm"]), labels),
            "parameters": _parameters(spec),
            "measures": _measures(names(verdict), verdict.measures.get(arm["arm"], {})),
            "texts": _texts(context, run, arm, spec, own["trial"][0]),
        }
    return found


def _why(about: Mapping[str, Any], arm: Arm | None) -> list[list[str]]:
    """Return why the verdict is what it is, and where the configuration came from."""
    if arm is None:
        return [["Id", about["arm"]]]
    holm = None if arm.p_holm is None else f"{arm.p_holm:.3g}"
    found = [
        ("Undecided because", arm.detail or arm.label),
        ("p of an escape, after Holm", holm),
        ("Other tests", _others(arm)),
        *_lead(arm),
        ("Seeds needed", _needed(arm)),
        ("Confirmed because", arm.reason and REASONS.get(arm.reason, arm.reason)),
        ("Part of the space", arm.stratum),
        ("Id", arm.configuration),
    ]
    return [[name, value] for name, value in found if value]


def _others(arm: Arm) -> str | None:
    """Return how many of the other tests agree with the verdict, and which do not."""
    if arm.robustness is None:
        return None
    answers = arm.robustness.answers
    against = [METHODS[name] for name, answer in answers.items() if not answer.agrees]
    agree = f"{len(answers) - len(against)} of {len(answers)} agree"
    return f"{agree}; not {join(against)}" if against else agree


def _lead(arm: Arm) -> Iterator[tuple[str, str]]:
    """Yield what a lead in NLL is made of, against the tuned network and one with its values."""
    for against, of in arm.against.items():
        parts = (of.better_members, of.ensemble_gain)
        better, gain = (numbers.number(part, 3) for part in parts)
        yield f"Lead in NLL, of {BASELINES[against]}", f"members {better}, averaging {gain} nats"


def _needed(arm: Arm) -> str | None:
    """Return how many seeds would be needed, or what those that there are detect."""
    if (needed := arm.needed) and arm.verdict == "inconclusive":
        escape = _with_unlimited(needed.escape, needed.escape_on_these)
        track = _with_unlimited(needed.track, needed.track_on_these)
        return f"{escape} to show R = {needed.recovery:g}, {track} to show that it tracks"
    found = [effect.detectable for effect in arm.endpoints.values()]
    known = [value for value in found if value is not None]
    whole = known and len(known) == len(found)
    return f"these detect a recovery of {max(known):.2f}" if whole else None


def _with_unlimited(seeds: int | None, unlimited: int | None) -> str:
    """Return how many seeds would do, and where none would, how many with more test examples."""
    if seeds or not unlimited:
        return str(seeds or "very many")
    return f"no number ({unlimited} with unlimited test examples)"


def _recovery(arm: Arm | None, labels: Mapping[str, str]) -> list[list[str]]:
    if arm is None:
        return []
    sides = {"": arm.endpoints, ", own hyperparameters": arm.own.endpoints if arm.own else {}}
    for number, one in enumerate(arm.contenders, 1):
        sides[f", contender {number} ({one.source or one.single})"] = one.endpoints
    return [
        [labels[key] + side, f"{numbers.number(effect.recovery)} {numbers.interval(effect)}"]
        for side, effects in sides.items()
        for key, effect in effects.items()
        if effect.recovery is not None
    ]


def _parameters(spec: Mapping[str, Any]) -> list[list[str]]:
    known = flatten(json.dumps(spec)) if spec else {}
    return [[key, numbers.plain(value)] for key, value in known.items() if value is not None]


def _measures(every: Sequence[str], found: Mapping[str, Mean]) -> list[str | None]:
    cells = (measures_table.cell(found.get(name)) for name in every)
    return [" ± ".join(filter(None, cell)) if cell else None for cell in cells]


def _texts(
    context: FigureContext, run: Run, arm: Mapping[str, Any], spec: Mapping[str, Any], trial: str
) -> list[list[str]]:
    """Return what can be copied: title and text."""
    if run.given or not spec:
        return []
    unknown = f"python -m study.run --space SPACE.yaml --out runs/{run.folder.name}"
    command = command_of(run.folder) or unknown
    texts = [["Replay its first run", f"{command} --replay {trial}"]]
    if arm["role"] in ("candidate", "comparison"):
        texts.append(["A space of this configuration alone", _space(context, arm, spec)])
    return texts


def _space(context: FigureContext, arm: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """Return a search space, as YAML, in which nothing but this configuration is confirmed."""
    fixed = {
        section: {key: value for key, value in spec[section].items() if value is not None}
        for section in SECTIONS
    }
    document = {
        "name": f"only-{arm['arm']}",
        "dataset": spec["dataset"],
        "budget": {"trials": 1, "rescore": 1, "rescore_seeds": 0},
        "protocol": {"seeds": int(context.measures.replicates["replicate"].n_unique())},
        "method": spec["method"],
        "fixed": fixed,
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
