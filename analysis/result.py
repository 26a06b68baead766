"""A run with all that is said of it: measured once, for notebooks, the page and the export."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from analysis import metrics
from analysis.data.predictions import predictions
from analysis.data.protocol import Plan
from analysis.data.roles import SPLITS, arm_key
from analysis.data.run import Run, load, vanished
from analysis.figures import all_figures, encodings, theme
from analysis.figures.context import OTHERS, Figure, FigureContext, figure_context
from analysis.measures.costs import costs
from analysis.measures.fairness import fairness
from analysis.measures.measure import Measures, measure
from analysis.measures.selection import confirmed, replicates_by_arm
from analysis.measures.summary import summarise_measures
from analysis.text.names import apart
from analysis.text.numbers import interval, number
from analysis.verdict.judge import judge
from analysis.verdict.schema import BOUNDS, Effect, Verdict
from analysis.verdict.wording import names
from study.errors import StudyError
from study.run_folder.paths import AnyPath

NOTHING_YET: Final = "No verdict yet: nothing has been confirmed."
TIMES: Final = 3
"""How often a run is read again when the study takes trials away meanwhile."""
WIDTH: Final = 560
"""Of a figure of one panel in a notebook, px."""
LONGEST_LABEL: Final = 210
LONGEST_HEADER: Final = 300


@dataclass(frozen=True)
class Result:
    """What a run found; made by :func:`analysis.open`, and shown as a table in a notebook.

    Whatever is computed is computed when it is first asked for, and kept.

    Attributes:
        run: The run as it was when it was opened.
        workers: Processes to measure it with.
    """

    run: Run
    workers: int = 1

    @cached_property
    def measures(self) -> Measures:
        """Every metric of the confirm stage; ``measures.replicates`` has a row per arm and seed.

        Raises:
            StudyError: When a file breaks the format.
        """
        return measure(self.run, self.workers)

    @cached_property
    def verdict(self) -> Verdict:
        """What was decided, as ``verdict.json`` has it; no figure is drawn for it.

        Raises:
            StudyError: When a file breaks the format.
        """
        measures = self.measures
        beside = {
            "fairness": fairness(self.run, measures),
            "measures": summarise_measures(measures),
        }
        said = {} if "confirm" in self.run.trials["stage"] else {"sentence": NOTHING_YET}
        spent = costs(self.run.trials, measures)
        return judge(*_named(self.run, measures), spent).model_copy(update=beside | said)

    def recoveries(self) -> pl.DataFrame:
        """Return one row per judged arm and endpoint, in the order of the verdict.

        Returns:
            arm, name, method, role, members, seeds, verdict, label (why an arm is inconclusive, or
            null), endpoint, recovery (0: the single model, 1: the Deep Ensemble), low, high (the
            interval that decides), low_wide, high_wide. Recovery is null where it could not be
            assessed, a bound where the interval has none.
        """
        return recoveries_of(self.verdict)

    def trials(self) -> pl.DataFrame:
        """Return every committed trial, of every stage: columns of ``parquet_format.TRIAL``."""
        return self.run.trials

    def members(self, arm: str, split: str = "test") -> pl.DataFrame:
        """Return what each member of an arm predicted in every replicate.

        Args:
            arm: Key or name of an arm, as in :meth:`recoveries`; or ``single``, or
                ``deep_ensemble-M``.
            split: ``test``, ``shift`` or ``ood``.

        Returns:
            replicate, member, example, condition (but for ``test``), severity (of ``shift``),
            label (null out of distribution), logits and probabilities (one value per class);
            sorted by replicate and member.

        Raises:
            StudyError: For an unknown arm or split, and when a file breaks the format.
        """
        key = self._keys.get(arm, arm)
        _check_known("arm", key, self._confirmed)
        _check_known("split", split, self._splits)
        return pl.concat(
            _members_of(self.run, trial, split, size).select(
                pl.lit(replicate, pl.Int64).alias("replicate"), pl.all()
            )
            for replicate, trial, size in self._confirmed[key]
        )

    @property
    def figures(self) -> list[str]:
        """Keys of the figures that this run can fill, in the order of the report."""
        return [figure.key for figure in self.drawn]

    def figure(self, key: str, metric: str | None = None) -> alt.TopLevelMixin:
        """Return a figure of the report as an Altair chart, in the report's light colours.

        Args:
            key: One of :attr:`figures`.
            metric: What to show, in a figure that leaves the choice; by default its first.

        Raises:
            StudyError: For an unknown figure or metric, with those that there are.
        """
        known = {figure.key: figure for figure in self.drawn}
        _check_known("figure", key, known)
        return themed(known[key], metric)

    def _repr_html_(self) -> str:
        """Return the verdict, and a table of recoveries with a row per arm."""
        verdict = self.verdict
        labels, called = verdict.protocol.labels, _called(verdict)
        rows = [
            [called[arm.arm], arm.role, arm.verdict]
            + [_effect(arm.endpoints.get(key)) for key in verdict.protocol.endpoints]
            for arm in verdict.arms
        ]
        titles = ["Configuration", "Role", "Verdict"]
        titles += [f"Recovery, {labels[key]}" for key in verdict.protocol.endpoints]
        sentence = f"<p><strong>{escape(verdict.sentence)}</strong></p>"
        return sentence + (_table(titles, rows) if rows else "")

    def __repr__(self) -> str:
        return f"Result({str(self.run.folder)!r}, {len(self.run.trials)} trials)"

    @cached_property
    def context(self) -> FigureContext:
        """What figures and tables are made of."""
        return figure_context(self.run, self.measures, self.verdict)

    @cached_property
    def drawn(self) -> Sequence[Figure]:
        """The figures themselves, as the report has them."""
        return all_figures.draw(self.context)

    @cached_property
    def _confirmed(self) -> dict[str, list[tuple[int, str, int]]]:
        return replicates_by_arm(self.run)

    @cached_property
    def _splits(self) -> list[str]:
        _, tasks = confirmed(self.run)
        return [split for split in SPLITS if any(split in task.splits for task in tasks)]

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Key of each arm that was given a name, by that name."""
        rows, _ = confirmed(self.run)
        return {row["name"]: arm_key(row["role"], row["configuration"]) for row in rows}


def _named(run: Run, measures: Measures) -> tuple[Measures, Plan | None]:
    """Give every configuration without a name of its own what sets it apart from the others."""
    confirm = run.trials.filter(
        pl.col("stage") == "confirm", pl.col("role").is_in(["candidate", "comparison"])
    ).unique("configuration", keep="first", maintain_order=True)
    called: dict[str, str] = {}
    nameless = confirm.filter(pl.col("name").is_null()).sort("configuration")
    for _, own in nameless.group_by("method", maintain_order=True):
        words = apart([json.loads(text or "{}") for text in own["spec"]])
        known = zip(own["configuration"], words, strict=True)
        called |= {key: word for key, word in known if word}
    names = pl.col("configuration").replace_strict(called, default=None, return_dtype=pl.String)
    if run.plan is None:
        frame = measures.replicates.with_columns(name=pl.coalesce("name", names))
        return replace(measures, replicates=frame), None
    arms = (replace(arm, name=arm.name or called.get(arm.configuration)) for arm in run.plan.arms)
    return measures, replace(run.plan, arms=tuple(arms))


def recoveries_of(verdict: Verdict) -> pl.DataFrame:
    """Return the table of :meth:`Result.recoveries` of a verdict."""
    called = _called(verdict)
    rows: list[tuple[Any, ...]] = []
    for arm in verdict.arms:
        about = (arm.arm, called[arm.arm], arm.method, arm.role, arm.members, arm.seeds)
        for key in verdict.protocol.endpoints:
            effect = arm.endpoints.get(key)
            values = [getattr(effect, name, None) for name in ("recovery", *BOUNDS)]
            rows.append((*about, arm.verdict, arm.label, key, *values))
    columns: dict[str, Any] = dict.fromkeys(("arm", "name", "method", "role"), pl.String)
    columns |= dict.fromkeys(("members", "seeds"), pl.Int64)
    columns |= dict.fromkeys(("verdict", "label", "endpoint"), pl.String)
    columns |= dict.fromkeys(("recovery", *BOUNDS), pl.Float64)
    return pl.DataFrame(rows, schema=columns, orient="row")


def _called(verdict: Verdict) -> dict[str, str]:
    """Return what the report calls each judged arm."""
    controls = {key: name for key, (_, name) in OTHERS.items()}
    return {key: controls.get(key, name) for key, name in names(verdict.arms).items()}


def _check_known(what: str, value: str, known: Sequence[str] | dict[str, Any]) -> None:
    if value not in known:
        listed = ", ".join(known) or "none yet"
        raise StudyError(f"{what} must be one of {listed}, but is {value!r}")


def _members_of(run: Run, trial: str, split: str, size: int) -> pl.DataFrame:
    """Return the predictions of a trial's first ``size`` members."""
    found = predictions(run, trial, split)
    logits_MNC = found.logits[:size]
    _, rows, classes = logits_MNC.shape
    names_of = (*found.conditions, None)  # The last stands for -1: none.
    columns = {
        "member": pl.Series(np.repeat(np.arange(size), rows)),
        "example": pl.Series(np.tile(found.example, size)),
        "condition": pl.Series([names_of[at] for at in found.condition] * size, dtype=pl.String),
        "severity": pl.Series(np.tile(found.severity, size)).replace(0, None),
        "label": pl.Series(np.tile(found.labels, size)).replace(-1, None),
        "logits": logits_MNC.reshape(-1, classes),
        "probabilities": np.exp(metrics.log_softmax(logits_MNC)).reshape(-1, classes),
    }
    absent = {"test": ["condition", "severity"], "ood": ["severity"]}.get(split, [])
    return pl.DataFrame(columns).drop(absent)


def themed(figure: Figure, metric: str | None = None) -> alt.TopLevelMixin:
    """Return a chart with the report's look and, in place of the page's controls, its own."""
    spec = figure.spec()
    choices = dict(figure.choices)
    if metric is not None:
        _check_known(f"metric of {figure.key}", metric, choices)
    if choices:
        metric = metric or next(iter(choices))
        said = choices[metric]
        spec = json.loads(json.dumps(spec).replace(encodings.CHOSEN, json.dumps(said)[1:-1]))
        spec["title"] = said
    for param in spec.get("params", []):
        if param["name"] == "metric":
            param["value"] = metric
    theme.add_legend(spec, WIDTH)
    config = theme.config(LONGEST_LABEL, LONGEST_HEADER)
    spacing = config.pop("facet")["spacing"]  # Altair takes two numbers of the chart alone.
    spec |= {"config": config} | ({"spacing": spacing} if "facet" in spec else {"width": WIDTH})
    return type(figure.chart).from_dict(spec)


def _effect(effect: Effect | None) -> str:
    if effect is None or effect.recovery is None:
        return "–"
    return f"{number(effect.recovery)} {interval(effect)}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(titles, 'th')}</thead><tbody>{body}</tbody></table>"


# --- what the report writes


def judge_run(run: Run, workers: int = 1) -> Result:
    """Measure, judge and draw a run at once.

    Args:
        run: The run.
        workers: See :func:`analysis.open`.

    Raises:
        StudyError: When a file breaks the format.
    """
    found = Result(run, workers)
    _ = found.drawn
    return found


def judge_folder(folder: AnyPath, workers: int = 1) -> Result:
    """Judge a run, at which the study may be at work.

    Raises:
        StudyError: When the folder is no run, or a file breaks the format.
    """
    for _ in range(TIMES - 1):
        run = load(folder)
        try:
            return judge_run(run, workers)
        except (StudyError, FileNotFoundError):
            if not vanished(run):
                raise
    return judge_run(load(folder), workers)
