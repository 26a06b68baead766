"""What a study still lacks: its trials by stage and arm, against what was asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from analysis.data.protocol import Plan, PlannedArm
from analysis.data.roles import arm_key
from analysis.data.run import Run
from analysis.data.search_space import study_of
from analysis.text.names import title
from study.errors import StudyError

MOST_ARMS: Final = 5
"""Arms that are named for each stage."""


def lacking(run: Run) -> list[str]:
    """Return a line per stage that is not complete; nothing of what is not known.

    The search is known from ``study.json``, confirm from the plan; how a trial ended is no matter.

    Raises:
        StudyError: When ``study.json`` is not as the study writes it.
    """
    lines = []
    study = None if run.given else study_of(run.folder)
    try:
        lines += _tuning(run, study) if study is not None and "budget" in study else []
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{run.folder / 'study.json'}: must hold the study as study.run writes it, but reading "
            f"its budget ended with {type(error).__name__}: {error}; restore the file"
        ) from None
    if run.plan is None and study is not None:
        lines.append("confirm: not declared yet")
    if run.plan is not None and run.plan.protocol.seeds:
        lines += _confirm(run, run.plan, run.plan.protocol.seeds)
    if lines and run.begun:
        were = "1 trial is" if run.begun == 1 else f"{run.begun} trials are"
        lines.append(f"{were} under way or interrupted")
    return lines


def _tuning(run: Run, study: Mapping[str, Any]) -> list[str]:
    """Return what search and rescoring lack of the budget."""
    budget, lines = study["budget"], []
    methods = {
        own["method"]: int(budget["trials"]) if own["search"] else 1
        for part in ("candidates", "others")
        for own in study[part]
        if own["method"] != "deep_ensemble"
    }
    search = run.trials.filter(pl.col("stage") == "search")
    seen = Counter(search["method"].to_list())
    searched = all(seen[method] >= wanted for method, wanted in methods.items())
    wanted = [(title(method), seen[method], count) for method, count in methods.items()]
    lines += _line("search", wanted)
    if not searched and run.plan is None:
        return [*lines, "rescore: begins when the search has ended"]
    whole = search.filter(pl.col("status") == "complete")
    rescored = run.trials.filter(pl.col("stage") == "rescore")
    seen, wanted = Counter(rescored["method"].to_list()), []
    for method in methods:
        own = whole.filter(pl.col("method") == method)["configuration"].n_unique()
        count = min(own, int(budget["rescore"])) * int(budget["rescore_seeds"])
        wanted.append((title(method), seen[method], count))
    return lines + _line("rescore", wanted)


def _confirm(run: Run, plan: Plan, seeds: int) -> list[str]:
    """Return what the confirm stage lacks of the plan."""
    confirmed = run.trials.filter(pl.col("stage") == "confirm")
    seen = Counter(arm_key(*row) for row in confirmed.select("role", "configuration").iter_rows())
    keys = {arm_key(arm.role, arm.configuration): arm for arm in plan.arms}
    wanted = [  # Two arms may have one name.
        (_called(arm, key), seen[key], arm.seeds or seeds) for key, arm in keys.items()
    ]
    return _line("predictions" if run.given else "confirm", wanted)


def _called(arm: PlannedArm, key: str) -> str:
    if arm.role.startswith("matched"):
        return f"the matched {title(arm.method)} {arm.configuration[:6]}"
    return arm.name or f"{title(arm.method)} {key[:6]}"


def _line(stage: str, wanted: Sequence[tuple[str, int, int]]) -> list[str]:
    """Return one line on a stage, or nothing if it lacks nothing.

    Args:
        stage: Its name.
        wanted: Of each name, how many trials there are, and how many there should be.
    """
    lacks = [f"{count - done} of {count} of {name}" for name, done, count in wanted if done < count]
    if not lacks:
        return []
    total = sum(count for _, _, count in wanted)
    done = sum(min(there, count) for _, there, count in wanted)
    more = len(lacks) - MOST_ARMS
    named = ", ".join(lacks[:MOST_ARMS]) + (f", and of {more} more" if more > 0 else "")
    return [f"{stage}: {done} of {total} trials are there; missing: {named}"]
