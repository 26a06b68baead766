"""How many seeds does a verdict need? ``python -m analysis.plan --runs FOLDER``.

Takes the spread over seeds and test examples from the confirm stage of a run, and plans for each of
its configurations, between all the anchors that it is held against; or takes one spread from
``--sd-single``, ``--sd-arm`` and ``--sd-ensemble``. Prints the seeds that each verdict needs, and
what the seeds at hand can find. For ``escapes`` every configuration is given the strictest level of
Holm's procedure, the declared one over the number of configurations: enough whatever the others do.
Where costs are known, the least training with the same power is sought: most configurations are
compared with the same anchors, the single model and the Deep Ensemble, so more seeds of these serve
all.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isinf, prod
from statistics import fmean
from typing import Final

import polars as pl

from analysis.data.protocol import gate_level
from analysis.data.run import load
from analysis.measures.measure import measure
from analysis.stats.power import (
    MOST_SEEDS,
    POWER,
    VERDICTS,
    Aim,
    Costs,
    Pair,
    Replicates,
    Seeds,
    Spread,
    Verdict,
    cheapest_seeds,
    least_permutation_p,
    least_sign_flip_p,
    power_between,
    power_gate,
    recovery_found,
    seeds_needed,
)
from analysis.verdict import wording
from analysis.verdict.arms import Study, count, study_of
from analysis.verdict.decisions import decide
from analysis.verdict.schema import Against
from analysis.verdict.seeds_needed import pairs_of
from study.errors import StudyError
from study.run_folder.paths import AnyPath, any_path
from study.thresholds import ALPHA, DELTA, LEAST_SEEDS

SEEDS: Final = (5, 10, 20, 30, 50)
PAIRS: Final[dict[Against, str]] = {
    "tuned": "the tuned anchors",
    "own": "its own",
    "contender": "a contender",
}
CONFIGURATIONS: Final = 8
Needs = Mapping[Verdict, Sequence[int | None]]
"""Seeds of each configuration, in order; None where no number does."""


@dataclass(frozen=True)
class RunCosts:
    """Seconds of training of one run: of each anchor, of a configuration, and what goes with it.

    ``beside`` is what comparisons, controls and matched anchors cost for each seed of the
    configurations.
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
class Planned:
    """A configuration, and the pairs of anchors between which it must escape, or track.

    The tuned pair comes first; ``against`` says which pair each of ``escape`` is.
    """

    name: str
    escape: Sequence[Pair]
    track: Sequence[Pair]
    against: Sequence[Against]

    def pairs(self, verdict: Verdict) -> Sequence[Pair]:
        """Return those between which this verdict must be shown."""
        return self.escape if verdict == "escape" else self.track

    @property
    def over_seeds(self) -> "Planned":
        """The same about these test examples."""
        escape, track = ([one.over_seeds for one in own] for own in (self.escape, self.track))
        return replace(self, escape=escape, track=track)


@dataclass(frozen=True)
class Question:
    """What is asked: configurations, endpoints, costs, and what is to be shown.

    ``unplaced`` are those that cannot be planned for, as two of their anchors do not differ.
    """

    planned: Sequence[Planned]
    endpoints: Sequence[str]
    costs: RunCosts | None
    aim: Aim
    unplaced: Sequence[str] = ()

    def seeds(self, own: Planned, verdict: Verdict) -> int | None:
        """Return the seeds that a configuration needs; None where no number does."""
        return seeds_needed(own.pairs(verdict), replace(self.aim, verdict=verdict))

    def chance(self, own: Planned, verdict: Verdict, seeds: int) -> float:
        """Return how often so many seeds show a verdict."""
        return power_between(own.pairs(verdict), replace(self.aim, verdict=verdict), seeds)

    def judged(self, own: Planned, seeds: int) -> float:
        """Return the chance that every gap is shown, between every pair."""
        tests = [(spread, pair.numbers(seeds)) for pair in own.escape for spread in pair.spreads]
        level = gate_level(self.aim.alpha)
        return prod(power_gate(spread, numbers, level) for spread, numbers in tests)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; return the exit status."""
    given = parser().parse_args(arguments)
    try:
        question, at_hand = _question(given)
        seeds = given.n or sorted({*SEEDS, *at_hand})
        for n in seeds:
            if n < LEAST_SEEDS:
                raise StudyError(
                    f"--n must be at least {LEAST_SEEDS}, but is {n}; fewer seeds are not judged"
                )
        print("\n".join(report(question, seeds)))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m analysis.plan", description=__doc__)
    add = found.add_argument
    add("--runs", help="run folder (or s3://...) whose confirm stage shows the spread")
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
    delta = found.aim.delta if given.delta is None else given.delta
    alpha = found.aim.alpha if given.alpha is None else given.alpha
    many = found.aim.configurations if given.configurations is None else given.configurations
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
    aim = Aim("escape", given.recovery, given.power, delta, alpha, many)
    return replace(found, costs=costs, aim=aim), at_hand


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
    pairs = [Pair([spread])]
    planned = [Planned("this spread", pairs, pairs, ["tuned"])]
    return Question(planned, ["this endpoint"], None, Aim(configurations=CONFIGURATIONS))


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
    level, (planned, unplaced) = study.protocol, planned_of(study)
    many = sum(arm.role == "candidate" for arm in study.arms) or CONFIGURATIONS
    names = [endpoint.label for endpoint in level.endpoints]
    aim = Aim(delta=level.delta, alpha=level.alpha, configurations=many)
    asked = Question(planned, names, costs_of(run.trials), aim, unplaced)
    return asked, [max(count(study, arm.arm) for arm in study.arms)]


def planned_of(study: Study) -> tuple[list[Planned], list[str]]:
    """Return the candidates between their anchors, and the names of those that have no gap.

    Where there are no candidates, all that was judged.

    Raises:
        StudyError: When none can be placed between its anchors.
    """
    decided = decide(study)
    names = wording.names(study.arms)
    own = [case for case in decided.cases if case.arm.role == "candidate"] or decided.cases
    found, unplaced = [], []
    for case in own:
        name = names[case.arm.arm]
        escape, track = (pairs_of(study, case, verdict) for verdict in VERDICTS)
        if escape and track:
            against = [placement.anchors.against for placement in case.placements]
            found.append(Planned(name, escape, track, against))
        else:
            unplaced.append(name)
    if not found:
        reasons = [reason for case in own for one in case.placements for reason in one.reasons]
        why = wording.reason(reasons[0]) if reasons else "nothing was judged"
        raise StudyError(
            f"a plan needs a configuration between two anchors, but {why}; let the study go on, or "
            "give --sd-single and --sd-ensemble"
        )
    return found, unplaced


def report(question: Question, seeds: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the plan."""
    q, aim, many = question, question.aim, question.aim.configurations
    yield (
        f"Margin {aim.delta:g}, one-sided level {aim.alpha:g}; {many} configurations, each at "
        f"{aim.alpha:g}/{many} to escape (Holm's strictest step); wanted power {aim.power:g}."
    )
    yield ""
    yield from _spreads(q)
    yield ""
    needs = {verdict: [q.seeds(own, verdict) for own in q.planned] for verdict in VERDICTS}
    yield from _needed(q, needs, max(seeds))
    if q.costs is not None:
        yield from _cheapest(q, needs, q.costs.of_study(many))
    yield ""
    yield from _at(q, seeds)
    yield ""
    yield from _floors(q, min(seeds))


def _spreads(question: Question) -> Iterator[str]:
    """Yield the deviations between the tuned anchors, by endpoint."""
    width = max(map(len, question.endpoints)) + 2
    yield "Standard deviation over seeds, and of the means over test examples, in gaps between"
    yield "single model and Deep Ensemble"
    heads = "single", "arm", "ensemble", "examples"
    yield f"{'':{width}}" + "".join(f"{head:>16}" for head in heads)
    weights = 1 - question.aim.delta, -1.0, question.aim.delta
    for i, name in enumerate(question.endpoints):
        spreads = [own.escape[0].spreads[i] for own in question.planned]
        columns = [
            [spread.single / spread.gap for spread in spreads],
            [spread.arm / spread.gap for spread in spreads],
            [spread.deep_ensemble / spread.gap for spread in spreads],
            [s.examples.variance(weights) ** 0.5 / s.gap for s in spreads if s.examples],
        ]
        yield f"{name:{width}}" + "".join(f"{_range(numbers):>16}" for numbers in columns)


def _range(numbers: Sequence[float]) -> str:
    if not numbers:
        return ""
    least, most = f"{min(numbers):.2f}", f"{max(numbers):.2f}"
    return most if least == most else f"{least} to {most}"


def _needed(question: Question, needs: Needs, most: int) -> Iterator[str]:
    """Yield the seeds that each configuration needs, and what it fails at with ``most``."""
    q = question
    several = len(q.endpoints) > 1
    yield "Seeds of a configuration needed"
    heads = f"escapes at R = {q.aim.recovery:g}", "tracks at R = 0"
    yield "".join(f"{head:>20}" for head in heads) + (
        f"   configuration (where it escapes least often with {most})" if several else ""
    )
    unlimited = False
    for own, *seeds in zip(q.planned, *(needs[verdict] for verdict in VERDICTS), strict=True):
        found = [_seeds(q, own, *of) for of in zip(VERDICTS, seeds, strict=True)]
        unlimited |= any("(" in text for text in found)
        limit = f"   {own.name} ({_hardest(q, own, most)})" if several else ""
        yield "".join(f"{text:>20}" for text in found) + limit
    if unlimited:
        yield (
            f"over {MOST_SEEDS} (N): there are too few test examples; with unlimited ones N seeds "
            "would do."
        )
    if q.unplaced:
        yield f"Without a gap between anchors: {wording.join(q.unplaced)}."


def _seeds(question: Question, own: Planned, verdict: Verdict, needed: int | None) -> str:
    if needed:
        return str(needed)
    unlimited = question.seeds(own.over_seeds, verdict)
    return f"over {MOST_SEEDS}" + (f" ({unlimited})" if unlimited else "")


def _hardest(question: Question, own: Planned, seeds: int) -> str:
    """Return on which endpoint, and against which anchors, it escapes least often."""
    tests = [
        (
            question.chance(
                replace(own, escape=[replace(pair, spreads=[spread])]), "escape", seeds
            ),
            name,
            against,
        )
        for pair, against in zip(own.escape, own.against, strict=True)
        for name, spread in zip(question.endpoints, pair.spreads, strict=True)
    ]
    _, name, against = min(tests, key=lambda test: test[0])
    return f"{name}, {PAIRS[against]}"


def _cheapest(question: Question, needs: Needs, costs: Costs) -> Iterator[str]:
    """Yield the cheapest seeds for each verdict, and beside them the same number for all."""
    q = question
    yield ""
    yield "Seeds with the least training, for the configuration that needs the most seeds of those"
    yield f"that need no more than {MOST_SEEDS}"
    yield f"{'':28}{'of an arm':>12}{'of an anchor':>14}{'hours':>10}"
    for verdict in VERDICTS:
        # What no number decides needs 0 here, and so is only planned for where all do.
        _, own = max(zip(needs[verdict], q.planned, strict=True), key=lambda need: need[0] or 0)
        pairs, aim = own.pairs(verdict), replace(q.aim, verdict=verdict)
        equal = [replace(pair, seeds=Replicates.of) if pair.shared else pair for pair in pairs]
        found, same = cheapest_seeds(pairs, costs, aim), seeds_needed(equal, aim)
        rows: tuple[tuple[str, Seeds | None], ...] = (
            (f"{verdict}s at R = {aim.truth:g}", found),
            ("  the same for all", same),
        )
        for name, split in rows:
            if split is None:
                yield f"{name:28}{f'over {MOST_SEEDS}':>12}"
                continue
            numbers = Replicates.of(split)
            hours = f"{costs.total(numbers) / 3600:.3g}"
            yield f"{name:28}{numbers.arm:>12}{numbers.single:>14}{hours:>10}"


def _at(question: Question, seeds: Sequence[int]) -> Iterator[str]:
    """Yield what numbers of seeds show, on average over the configurations."""
    q, aim = question, question.aim
    yield "With so many seeds, the mean of all configurations"
    heads = f"least R found, {aim.power:g}", f"escapes at {aim.recovery:g}", "tracks at 0", "judged"
    yield f"{'seeds':>7}" + "".join(f"{head:>22}" for head in heads)
    for n in seeds:
        least_found = [recovery_found(own.escape, n, aim) for own in q.planned]
        found = fmean(inf if least is None else least for least in least_found)
        columns = (
            fmean(q.chance(own, "escape", n) for own in q.planned),
            fmean(q.chance(own, "track", n) for own in q.planned),
            fmean(q.judged(own, n) for own in q.planned),
        )
        least = "none" if isinf(found) else f"{found:.2f}"
        yield f"{n:7}{least:>22}" + "".join(f"{value:22.2f}" for value in columns)


def _floors(question: Question, fewest: int) -> Iterator[str]:
    yield "least R found: the least recovery that escapes with the wanted power; none: no recovery"
    yield "of some configuration does, as its anchors are not shown to differ so often."
    yield "judged: the chance that the anchors are shown to differ; else nothing is judged."
    yield (
        "Chances are products over endpoints and anchors, too low where these go up and down "
        "together."
    )
    yield (
        f"The t-tests have no floor; but with {fewest} seeds a permutation of two arms' labels "
        f"cannot give p below {least_permutation_p(fewest):.2g},"
    )
    yield (
        f"nor a flip of paired signs below {least_sign_flip_p(fewest):.2g}, and "
        f"{question.aim.configurations} configurations ask for {question.aim.level:.2g}."
    )


def costs_of(trials: pl.DataFrame) -> RunCosts | None:
    """Return the mean seconds of training of the confirmed runs; None where they are not known.

    A Deep Ensemble costs its whole pool, whatever size an arm is placed beside.
    """
    done = trials.filter(pl.col("stage") == "confirm", pl.col("status") == "complete")
    means = done.group_by("role", "configuration").agg(pl.col("train_seconds").mean())
    by_role = {role: own["train_seconds"].to_list() for (role,), own in means.group_by("role")}
    single, arms, deep = (by_role.get(r, [0.0]) for r in ("single", "candidate", "deep_ensemble"))
    # What has a share of a configuration's seeds of its own: see study.stages.matched_anchors.
    shares = {"comparison": 1.0, "positive_control": 1.0, "negative_control": 1.0}
    shares |= {"matched_single": 2.0, "matched_deep_ensemble": 0.5}
    beside = sum(share * sum(by_role.get(role, [])) for role, share in shares.items())
    found = RunCosts(max(single), fmean(arms), max(deep), beside)
    return found if min(found.single, found.arm, found.deep_ensemble) > 0 else None


if __name__ == "__main__":
    sys.exit(main())
