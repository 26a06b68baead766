"""Published answers: ``python -m analysis.publication``.

    python -m analysis.publication --runs runs/be --name mnist1d   # to analysis/results/mnist1d/
    python -m analysis.publication                                # judge all of them again
    python -m analysis.publication --update                       # and write what is found now

A folder of ``analysis/results`` holds what a study found, small enough for git: plan, verdict,
table, figures, the measures of every replicate, and how they vary with the test examples. From
these the verdict is drawn again, up to rounding. What was published before examples were kept is
judged on its test examples alone.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import isclose
from pathlib import Path
from typing import Any, Final

import polars as pl
from pydantic import ValidationError

from analysis.data.files import write
from analysis.data.geometry import geometry
from analysis.data.protocol import read_plan
from analysis.data.roles import arm_key
from analysis.data.run import load
from analysis.figures.studies import studies_figure
from analysis.measures.costs import costs
from analysis.measures.measure import Measures
from analysis.measures.over_examples import Trio
from analysis.result import Result, recoveries_of, themed
from analysis.stats.contrasts import OverExamples
from analysis.verdict.arms import Study, runs_there, study_of
from analysis.verdict.judge import judge
from analysis.verdict.schema import Verdict
from study.errors import StudyError

RESULTS: Final = Path(__file__).parent / "results"
FRAMES: Final = ("replicates", "curve", "excluded")
"""What of the measures a verdict rests on."""
EXAMPLES: Final = "examples"
"""The frame of ``covariances``."""
SUPERSEDED: Final = "superseded.md"
FIGURES: Final = ("ruler", "members", "trajectory", "landscape", "cost")
BESIDE: Final = {"fairness", "measures"}
"""What the report adds to a verdict; it needs the trials."""


class PublishedCovariances:
    """The covariances over test examples that were published."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.known = {(endpoint, one, other): c for endpoint, one, other, c in frame.rows()}

    def of(self, arms: Trio, endpoint: str) -> OverExamples | None:
        """Return the covariance as it was found; None where it was not."""
        pairs = product(arms, arms)
        found = [self.known.get((endpoint, min(pair), max(pair))) for pair in pairs]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        return OverExamples(tuple(tuple(known[at : at + 3]) for at in (0, 3, 6)))


def covariances(study: Study) -> pl.DataFrame:
    """Return how all arms of a study vary together with the test examples.

    Returns:
        endpoint, one, other (arms in alphabetical order), covariance (of their means).
    """
    trios = {
        (pair.single, arm.arm, pair.deep_ensemble) for arm in study.arms for pair in arm.anchors
    }
    found: dict[tuple[str, ...], float] = {}
    for trio, endpoint in product(sorted(trios), study.protocol.endpoints):
        over = study.examples and study.examples.of(trio, endpoint.key)
        if not over:
            continue
        for (i, one), (j, other) in product(enumerate(trio), enumerate(trio)):
            if one <= other:
                found[endpoint.key, one, other] = over.covariance[i][j]
    rows = [(*key, value) for key, value in sorted(found.items())]
    names = dict.fromkeys(("endpoint", "one", "other"), pl.String)
    return pl.DataFrame(rows, schema=names | {"covariance": pl.Float64}, orient="row")


def publish(run: str, folder: Path) -> Verdict:
    """Write what a run found to ``folder`` and return its verdict.

    Raises:
        StudyError: When the folder is no finished run, or a file breaks the format.
    """
    found = Result(load(run))
    if found.run.plan is None or not (found.run.folder / "study.json").exists():
        raise StudyError(
            f"{run}: only a study with a plan is published, but there is none; run one"
        )
    measures, study = found.measures, study_of(found.measures, found.run.plan)
    done, total = runs_there(study)
    if done < total:
        raise StudyError(f"{run}: {done} of {total} runs are there; let the study end first")
    verdict = found.verdict
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "plan.json", (found.run.folder / "plan.json").read_text(encoding="utf-8"))
    asked_for = json.loads((found.run.folder / "study.json").read_text(encoding="utf-8"))
    commits = sorted(found.run.trials["commit"].drop_nulls().unique())
    origin = {"command": portable(asked_for["command"]), "commits": commits}
    write(folder / "origin.json", json.dumps(origin, indent=1) + "\n")
    write(folder / "verdict.json", as_text(verdict))
    covariances(study).write_parquet(folder / f"{EXAMPLES}.parquet")
    for name in FRAMES:
        _slim(getattr(measures, name)).write_parquet(folder / f"{name}.parquet")
    costs(found.run.trials, measures).write_parquet(folder / "costs.parquet")
    _geometry(found).write_csv(folder / "geometry.csv", float_precision=4)
    found.recoveries().write_csv(folder / "recoveries.csv", float_precision=4)
    for key in FIGURES:
        if key in found.figures:
            found.figure(key).save(folder / f"{key}.svg")
    return verdict


def portable(command: str) -> str:
    """Return a command with places of its reader's for those of its author's machine."""
    places = {"--out": lambda given: f"runs/{Path(given).name}", "--data-root": lambda _: "DATA"}
    words = shlex.split(command)
    for option, at in zip(words, range(1, len(words)), strict=False):
        if option in places:
            words[at] = places[option](words[at])
    return shlex.join(words)


def _geometry(found: Result) -> pl.DataFrame:
    """Return where the members lie, of the whole network and over pairs: means over seeds."""
    names = found.recoveries().select("arm", "name").unique()
    whole = pl.col("layer").is_null(), pl.col("i").is_null()
    rows = geometry(found.run).filter(*whole).group_by("arm", "role", "quantity", "epoch")
    means = rows.agg(mean=pl.col("value").mean(), sd=pl.col("value").std(), seeds=pl.len())
    return means.join(names, on="arm", how="left").sort("role", "arm", "quantity", "epoch")


def _slim(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame without columns that hold nothing."""
    return frame.select(s for s in frame if s.null_count() < len(s) or not len(s))


def as_text(verdict: Verdict) -> str:
    """Return what ``verdict.json`` of a published result holds."""
    content = verdict.model_dump(mode="json", exclude=BESIDE)
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def judge_again(folder: Path) -> Verdict:
    """Return the verdict that today's code draws from what a folder holds.

    Raises:
        StudyError: When a file is missing or not as :func:`publish` writes it.
    """
    frames: dict[str, Any] = {name: read_frame(folder, name) for name in FRAMES}
    spent = read_frame(folder, "costs")
    known = (folder / f"{EXAMPLES}.parquet").exists()
    examples = read_frame(folder, EXAMPLES) if known else pl.DataFrame()
    try:
        published = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_as_published(folder, error) from None
    frames |= {name: pl.DataFrame() for name in ("severities", "reliability", "pairs")}
    # What sets a configuration apart is said of all together; here the names are as published.
    called = {arm["arm"]: arm["name"] for arm in published["arms"]}
    plan = read_plan(folder / "plan.json")
    if plan is not None:
        named = (
            replace(arm, name=called.get(arm_key(arm.role, arm.configuration), arm.name))
            for arm in plan.arms
        )
        plan = replace(plan, arms=tuple(named))
    return judge(Measures(**frames), plan, spent, PublishedCovariances(examples))


def read_frame(folder: Path, name: str) -> pl.DataFrame:
    """Return a frame of a published result.

    Raises:
        StudyError: When it is not as :func:`publish` writes it.
    """
    try:
        return pl.read_parquet(folder / f"{name}.parquet")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _not_as_published(folder, error) from None


def _not_as_published(folder: Path, error: Exception) -> StudyError:
    said = " ".join(str(error).split())
    return StudyError(f"{folder}: must be as it was published, but {said:.200}")


def changed(folder: Path) -> list[str]:
    """Return the keys of a published verdict that today's code no longer gives."""
    published = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    now = json.loads(as_text(judge_again(folder)))
    return list(_differences(published, now, ""))


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{path}.{k}")]
    if isinstance(old, float) and isinstance(new, float) and isclose(old, new, rel_tol=1e-9):
        return []  # Another machine may sum in another order.
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (a, b) in pairs for d in _differences(a, b, f"{path}[{i}]")]
    return (
        []
        if old == new
        else [f"{path.removeprefix('.')}: {old!r:.60} was published, now {new!r:.60}"]
    )


def update(folder: Path) -> Verdict:
    """Write the verdict that today's code draws from what a folder holds, and return it."""
    verdict = judge_again(folder)
    write(folder / "verdict.json", as_text(verdict))
    recoveries_of(verdict).write_csv(folder / "recoveries.csv", float_precision=4)
    return verdict


def picture(results: Path) -> None:
    """Draw the best configuration of every published study in one picture.

    Without studies that another has superseded: their folder says by which, and why.
    """
    every = sorted(results.glob("*/verdict.json"))
    files = [file for file in every if not (file.parent / SUPERSEDED).exists()]
    verdicts = {file.parent.name: _published(file) for file in files}
    if (figure := studies_figure(verdicts)) is not None:
        themed(figure).save(results / "studies.svg")


def _published(file: Path) -> Verdict:
    try:
        return Verdict.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise StudyError(
            f"{file}: must be as this version writes it, but: {why}; write it with --update"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish a run, or judge what is published again; return the exit status."""
    given = parser().parse_args(arguments)
    try:
        if given.runs or given.name:
            if not (given.runs and given.name):
                raise StudyError("--runs and --name go together; give both, or neither")
            print(publish(given.runs, RESULTS / given.name).sentence)
            picture(RESULTS)
            return 0
        folders = sorted(file.parent for file in RESULTS.glob("*/verdict.json"))
        if given.update:
            for folder in folders:
                print(f"{folder.name}: {update(folder).sentence}")
            picture(RESULTS)
            return 0
        wrong = 0
        for folder in folders:
            found = changed(folder)
            wrong += bool(found)
            state = f"{len(found)} numbers differ, first {found[0]}" if found else "as published"
            print(f"{folder.name}: {state}")
    except (StudyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m analysis.publication",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--runs", metavar="FOLDER", help="run to publish; without it, judge again")
    found.add_argument("--name", help="its folder in analysis/results")
    found.add_argument(
        "--update", action="store_true", help="write what today's code finds, after it has changed"
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
