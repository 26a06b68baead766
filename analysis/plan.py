"""How many seeds does a verdict need? ``python -m analysis.plan --runs FOLDER``.

Takes the spread over seeds from the confirm stage of a run, or from ``--sd-single``, ``--sd-arm``
and ``--sd-ensemble``. Prints the seeds per arm that each verdict needs, and what the seeds at hand
can find. For ``escapes`` every configuration is given the strictest level of Holm's procedure, the
declared one over the number of configurations: enough whatever the other configurations do. Where
costs are known, the least training with the same power is sought: every configuration is compared
with the same anchors, the single model and the Deep Ensemble, so more seeds of these serve all.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import fmean
from typing import Final

import polars as pl

from analysis.data.protocol import ALPHA, DELTA
from analysis.data.run import load
from analysis.measures.measure import measure
from analysis.stats.power import (
    MOST_SEEDS,
    POWER,
    Costs,
    Replicates,
    Spread,
    Verdict,
    cheapest_seeds,
    least_permutation_p,
    least_sign_flip_p,
    power_all,
    power_gate,
    recovery_found,
    seeds_needed,
)
from analysis.verdict.arms import Study, count, study_of
from study.errors import StudyError
from study.run_folder.paths import AnyPath, any_path

SEEDS: Final = (5, 10, 20, 30, 50)
CONFIGURATIONS: Final = 8
ALL: Final = "all endpoints"


@dataclass(frozen=True)
class RunCosts:
    """Seconds of training of one run: of each anchor, of a configuration, and what goes with it.

    ``beside`` is what controls and matched anchors cost for each seed of the configurations.
    """

    single: float
    arm: float
    deep_ensemble: float
    beside: float = 0.0

    def of_study(self, configurations: int) -> Costs:
        """Return what a seed costs."""
        arms = configurations * self.arm + self.beside
        return Costs(arms, self.single + self.deep_ensemble)


@dataclass(frozen=True)
class Question:
    """What is asked: spreads by endpoint, the wanted recovery and power, margin, level, arms.

    ``least`` has the smallest deviation of a configuration by endpoint; spreads have the largest.
    """

    spreads: Mapping[str, Spread]
    least: Mapping[str, float]
    costs: RunCosts | None
    configurations: int
    recovery: float
    power: float
    delta: float
    alpha: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; return the exit status."""
    given = parser().parse_args(arguments)
    try:
        question, at_hand = _question(given)
        seeds = given.n or sorted({*SEEDS, *at_hand})
        for n in seeds:
            if n < 2:
                raise StudyError(f"--n must be at least 2, but is {n}; a spread needs two runs")
        print("\n".join(report(question, seeds)))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m analysis.plan", description=__doc__)
    add = found.add_argument
    add("--runs", help="run folder (or s3://...) whose confirm stage shows the spread over seeds")
    add("--sd-single", type=float, help="standard deviation over seeds of the single model")
    add("--sd-arm", type=float, help="of a configuration (default: the single model's)")
    add("--sd-ensemble", type=float, help="of the Deep Ensemble")
    add("--gap", type=float, default=1.0, help="single model - Deep Ensemble, in the same unit")
    add(
        "--costs",
        type=float,
        nargs=3,
        metavar=("SINGLE", "ARM", "ENSEMBLE"),
        help="seconds of training of one run of each (default: means of the run's)",
    )
    add("--n", type=int, nargs="+", help="seeds per arm to say something about")
    add("--configurations", type=int, help="how many share Holm's correction")
    add("--recovery", type=float, default=0.5, help="true recovery that should be found")
    add("--power", type=float, default=POWER, help="wanted chance of a right verdict")
    add("--delta", type=float, help=f"margin (default: the run's, or {DELTA:g})")
    add("--alpha", type=float, help=f"one-sided level (default: the run's, or {ALPHA:g})")
    return found


def _question(given: argparse.Namespace) -> tuple[Question, list[int]]:
    """Return what is asked, and the numbers of seeds at hand."""
    if given.runs is not None:
        found, at_hand = _of_run(any_path(given.runs))
    else:
        found, at_hand = _of_options(given), []
    delta = found.delta if given.delta is None else given.delta
    alpha = found.alpha if given.alpha is None else given.alpha
    many = found.configurations if given.configurations is None else given.configurations
    _within("--delta", delta, 1)
    _within("--alpha", alpha, 0.5)
    _within("--power", given.power, 1)
    if not given.recovery > delta:
        raise StudyError(
            f"--recovery must be above the margin {delta:g}, but is {given.recovery:g}; "
            "nothing below the margin escapes"
        )
    if many < 1:
        raise StudyError(f"--configurations must be at least 1, but is {many}; give their number")
    costs = found.costs
    if given.costs is not None:
        if not all(0 < cost < float("inf") for cost in given.costs):
            said = ", ".join(f"{cost:g}" for cost in given.costs)
            raise StudyError(f"--costs must be above 0, but are {said}; give seconds of training")
        costs = RunCosts(*given.costs)
    changed = {"recovery": given.recovery, "power": given.power, "delta": delta, "alpha": alpha}
    return replace(found, configurations=many, costs=costs, **changed), at_hand


def _of_options(given: argparse.Namespace) -> Question:
    if given.sd_single is None or given.sd_ensemble is None:
        raise StudyError(
            "a plan needs the spread over seeds, but none is given; give --runs FOLDER, or "
            "--sd-single and --sd-ensemble"
        )
    arm = given.sd_single if given.sd_arm is None else given.sd_arm
    values = {"sd-single": given.sd_single, "sd-arm": arm, "sd-ensemble": given.sd_ensemble}
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise StudyError(f"--{name} must be at least 0, but is {value:g}; give a deviation")
    if not 0 < given.gap < float("inf"):
        raise StudyError(
            f"--gap must be above 0, but is {given.gap:g}; without one no number of seeds suffices"
        )
    spread = Spread(given.sd_single, arm, given.sd_ensemble, given.gap)
    name = "this endpoint"
    return Question({name: spread}, {name: arm}, None, CONFIGURATIONS, 0.5, POWER, DELTA, ALPHA)


def _within(name: str, value: float, high: float) -> None:
    if not 0 < value < high:
        raise StudyError(
            f"{name} must be above 0 and below {high:g}, but is {value:g}; give another"
        )


def _of_run(folder: AnyPath) -> tuple[Question, list[int]]:
    run = load(folder)
    if "confirm" not in run.trials["stage"]:
        raise StudyError(
            f"{folder}: a plan needs runs of the confirm stage, but there are none; let the study "
            "reach it, or give --sd-single and --sd-ensemble"
        )
    study = study_of(measure(run), run.plan)
    many = sum(arm.role == "candidate" for arm in study.arms) or CONFIGURATIONS
    spreads, level = spreads_of(study), study.protocol
    least = {name: min(found) for name, found in deviations_of(study).items()}
    costs = costs_of(run.trials)
    asked = Question(spreads, least, costs, many, 0.5, POWER, level.delta, level.alpha)
    return asked, [count(study, "single")]


def report(question: Question, seeds: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the plan."""
    q = question
    groups = {name: [spread] for name, spread in q.spreads.items()}
    if len(groups) > 1:
        groups[ALL] = list(q.spreads.values())
    width = max(len(name) for name in groups) + 2
    yield (
        f"Margin {q.delta:g}, one-sided level {q.alpha:g}; {q.configurations} configurations, each "
        f"at {q.alpha:g}/{q.configurations} to escape (Holm's strictest step); wanted power "
        f"{q.power:g}."
    )
    yield ""
    yield "Standard deviation over seeds, in gaps between single model and Deep Ensemble"
    yield f"{'':{width}}{'single':>10}{'arm':>16}{'ensemble':>10}"
    for name, spread in q.spreads.items():
        single, arm, ensemble, least = (
            f"{part / spread.gap:.2f}"
            for part in (spread.single, spread.arm, spread.deep_ensemble, q.least[name])
        )
        arms = arm if arm == least else f"{least} to {arm}"
        yield f"{name:{width}}{single:>10}{arms:>16}{ensemble:>10}"
    if dict(q.least) != {name: spread.arm for name, spread in q.spreads.items()}:
        yield "Planned for the arm that varies most on each endpoint."
    yield ""
    yield "Seeds per arm needed"
    yield f"{'':{width}}{f'escapes at R = {q.recovery:g}':>20}{'tracks at R = 0':>20}"
    for name, spreads in groups.items():
        needed = _seeds(q, spreads, "escape"), _seeds(q, spreads, "track")
        yield f"{name:{width}}" + "".join(f"{number:>20}" for number in needed)
    if q.costs is not None:
        yield ""
        yield from _cheapest(q, q.costs.of_study(q.configurations), list(q.spreads.values()))
    for name, spreads in groups.items():
        yield ""
        yield f"With so many seeds: {name}"
        yield from _at(q, spreads, seeds)
    yield ""
    yield from _floors(q, min(seeds))


def _seeds(question: Question, spreads: Sequence[Spread], verdict: Verdict) -> str:
    q, truth = question, 0.0 if verdict == "track" else question.recovery
    found = seeds_needed(spreads, verdict, truth, q.power, q.delta, q.alpha, q.configurations)
    return f"over {MOST_SEEDS}" if found is None else str(found)


def _cheapest(question: Question, costs: Costs, spreads: Sequence[Spread]) -> Iterator[str]:
    """Yield the cheapest seeds for each verdict, and beside them the same number for all."""
    q = question
    yield f"Seeds with the least training{', all endpoints' if len(spreads) > 1 else ''}"
    yield f"{'':28}{'of an arm':>12}{'of an anchor':>14}{'hours':>10}"
    asked: tuple[tuple[Verdict, float], ...] = ("escape", q.recovery), ("track", 0.0)
    for verdict, recovery in asked:
        limits = recovery, q.power, q.delta, q.alpha, q.configurations
        same = seeds_needed(spreads, verdict, *limits)
        found = cheapest_seeds(spreads, costs, verdict, *limits)
        for name, seeds in (
            (f"{verdict}s at R = {recovery:g}", found),
            ("  the same for all", same),
        ):
            if seeds is None:
                yield f"{name:28}{f'over {MOST_SEEDS}':>12}"
                continue
            numbers = Replicates.of(seeds)
            hours = f"{costs.total(numbers) / 3600:.3g}"
            yield f"{name:28}{numbers.arm:>12}{numbers.single:>14}{hours:>10}"


def _at(question: Question, spreads: Sequence[Spread], seeds: Sequence[int]) -> Iterator[str]:
    q = question
    level = q.alpha / q.configurations
    heads = (f"least R found, {q.power:g}", f"escapes at {q.recovery:g}", "tracks at 0", "judged")
    yield f"{'seeds':>7}" + "".join(f"{head:>22}" for head in heads)
    for n in seeds:
        least = recovery_found(spreads, n, q.power, q.delta, q.alpha, q.configurations)
        escape = power_all(spreads, "escape", q.recovery, n, q.delta, level)
        track = power_all(spreads, "track", 0.0, n, q.delta, q.alpha)
        gate = prod(power_gate(spread, n) for spread in spreads)
        yield f"{n:7}" + "".join(f"{value:22.2f}" for value in (least, escape, track, gate))


def _floors(question: Question, fewest: int) -> Iterator[str]:
    level = question.alpha / question.configurations
    yield "least R found: the least recovery that escapes with the wanted power."
    yield "judged: the chance that the anchors are shown to differ; else nothing is judged."
    yield f"{ALL}: products of chances, too low where endpoints go up and down together."
    yield (
        f"The t-tests have no floor; but with {fewest} seeds a permutation of two arms' labels "
        f"cannot give p below {least_permutation_p(fewest):.2g},"
    )
    yield (
        f"nor a flip of paired signs below {least_sign_flip_p(fewest):.2g}, and "
        f"{question.configurations} configurations ask for {level:.2g}."
    )


def costs_of(trials: pl.DataFrame) -> RunCosts | None:
    """Return the mean seconds of training of the confirmed runs; None where they are not known.

    A Deep Ensemble costs its whole pool, whatever size an arm is placed beside.
    """
    done = trials.filter(pl.col("stage") == "confirm", pl.col("status") == "complete")
    means = done.group_by("role", "configuration").agg(pl.col("train_seconds").mean())
    by_role = {role: own["train_seconds"].to_list() for (role,), own in means.group_by("role")}
    single, arms, deep = (by_role.get(r, [0.0]) for r in ("single", "candidate", "deep_ensemble"))
    # What has, of its own, a share of a configuration's seeds: see ``study.stages.anchors``.
    shares = {"positive_control": 1.0, "negative_control": 1.0}
    shares |= {"matched_single": 2.0, "matched_deep_ensemble": 0.5}
    beside = sum(share * sum(by_role.get(role, [])) for role, share in shares.items())
    found = RunCosts(max(single), fmean(arms), max(deep), beside)
    return found if min(found.single, found.arm, found.deep_ensemble) > 0 else None


def deviations_of(study: Study) -> dict[str, list[float]]:
    """Return the candidates' standard deviations over seeds, by the endpoint's label.

    Without candidates, that of the single model.
    """
    own = [arm.arm for arm in study.arms if arm.role == "candidate"]
    found = {}
    for endpoint in study.protocol.endpoints:
        keys = [(arm, endpoint.key) for arm in own if (arm, endpoint.key) in study.summaries]
        keys = keys or [("single", endpoint.key)]
        if keys[0] in study.summaries:
            found[endpoint.label] = [study.summaries[key].variance ** 0.5 for key in keys]
    return found


def spreads_of(study: Study) -> dict[str, Spread]:
    """Return the spread of every measured endpoint, by its label.

    An arm's deviation is the largest of ``deviations_of``, so that the seeds suffice for every
    candidate: of K samples it is a little too large, while a mean is too small for half of them.
    The Deep Ensemble is the one that most candidates are placed beside.

    Raises:
        StudyError: When an anchor has fewer than two runs, or the anchors are in the wrong order.
    """
    own = [arm for arm in study.arms if arm.role == "candidate"]
    pools = sorted(name for name in study.counts if name.startswith("deep_ensemble-"))
    sizes = Counter(arm.reference for arm in own) or Counter(pools)
    deep = max(sorted(sizes), key=lambda name: sizes[name], default="deep_ensemble")
    for anchor in ("single", deep):
        if count(study, anchor) < 2:
            raise StudyError(
                f"a spread needs at least 2 confirmed runs of {anchor}, but there are "
                f"{count(study, anchor)}; let the study go on, or give --sd-single and "
                "--sd-ensemble"
            )
    spreads, deviations = {}, deviations_of(study)
    for endpoint in study.protocol.endpoints:
        single, ensemble = (study.summaries.get((a, endpoint.key)) for a in ("single", deep))
        if single is None or ensemble is None:
            continue
        gap = single.mean - ensemble.mean
        if gap <= 0:
            raise StudyError(
                f"the Deep Ensemble must be better than the single model, but its {endpoint.label} "
                f"is {'worse by ' + format(-gap, '.3g') if gap else 'the same'}; without a gap no "
                "number of seeds suffices"
            )
        spreads[endpoint.label] = Spread(
            single.variance**0.5,
            max(deviations[endpoint.label]),
            ensemble.variance**0.5,
            gap,
            endpoint.kind == "performance",
        )
    return spreads


if __name__ == "__main__":
    sys.exit(main())
