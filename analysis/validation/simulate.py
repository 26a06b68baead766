"""A study of known truth, drawn and judged: cases, gates, tests, Holm, controls, global verdict.

Nothing of the rules is repeated here: a drawn study is the ``Study`` that a run folder gives, and
``analysis.verdict.arms`` and ``analysis.verdict.decisions`` decide on it. Only the numbers of seeds
of unequal arms are those of ``study.stages``, which the analysis cannot ask.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, sqrt
from typing import Any, Literal

import numpy as np
import polars as pl

from analysis.data.protocol import ENDPOINTS, Protocol
from analysis.data.roles import CONTROLS, arm_key
from analysis.measures.over_examples import MeasuredCovariances
from analysis.measures.per_example import ExampleValues
from analysis.stats.contrasts import FloatArray
from analysis.verdict.arms import Anchors, PlacedArm, Study, price
from analysis.verdict.decisions import decide
from analysis.verdict.schema import ALL_TRACK, SOME_ESCAPES, Role

Errors = Literal["normal", "t3", "lognormal"]
Outcome = dict[str, float]

MEMBERS = 4
DEEP = f"deep_ensemble-{MEMBERS}"
SKEW = 0.75
"""Standard deviation of the logarithm of log-normal errors: their skewness is 3.3."""
TIE = 1e-6
"""What sets units that are drawn twice apart, in standard deviations over units."""


@dataclass(frozen=True)
class Gaussian:
    """Replicates around a known recovery, in units of the gap.

    Attributes:
        recovery: By endpoint: 0 is the single model, 1 the Deep Ensemble.
        sd: Standard deviation over seeds, by endpoint.
        correlation: Of any two endpoints' errors in one replicate.
        errors: ``t3`` has heavy tails, ``lognormal`` a long tail of large losses; both are scaled
            to the same standard deviation.
    """

    recovery: tuple[float, ...]
    sd: tuple[float, ...]
    correlation: float = 0.0
    errors: Errors = "normal"

    def draw(self, rng: np.random.Generator, seeds: int) -> FloatArray:
        """Return losses, (seeds, endpoints)."""
        shared = rng.standard_normal((seeds, 1))
        own = rng.standard_normal((seeds, len(self.sd)))
        z = self.correlation**0.5 * shared + (1 - self.correlation) ** 0.5 * own
        if self.errors == "t3":
            z /= rng.chisquare(3, (seeds, 1)) ** 0.5  # t3 / sqrt(3), so of variance 1
        elif self.errors == "lognormal":
            mean = np.exp(SKEW**2 / 2)
            z = (np.exp(SKEW * z) - mean) / (mean * np.expm1(SKEW**2) ** 0.5)
        return np.asarray(np.array(self.sd) * z - np.array(self.recovery))


@dataclass(frozen=True, eq=False)
class Units:
    """Replicates that were measured once and are drawn with replacement.

    So the truth is known exactly: it is the mean of ``losses``, (units, endpoints). A unit that is
    drawn twice differs by ``TIE`` of a standard deviation: copied replicates are not judged.
    """

    losses: FloatArray

    @cached_property
    def mean(self) -> FloatArray:
        """Return the true loss by endpoint."""
        return np.asarray(self.losses.mean(0))

    def draw(self, rng: np.random.Generator, seeds: int) -> FloatArray:
        """Return losses, (seeds, endpoints)."""
        drawn = self.losses[rng.integers(len(self.losses), size=seeds)]
        return drawn + TIE * self._sd * rng.standard_normal(drawn.shape)

    @cached_property
    def _sd(self) -> FloatArray:
        return np.asarray(self.losses.std(0))


@dataclass(frozen=True, eq=False)
class Blend:
    """A share of the replicates comes from one population, the others from another."""

    share: float
    one: "Population"
    other: "Population"

    def draw(self, rng: np.random.Generator, seeds: int) -> FloatArray:
        """Return losses, (seeds, endpoints)."""
        chosen = rng.random((seeds, 1)) < self.share
        return np.where(chosen, self.one.draw(rng, seeds), self.other.draw(rng, seeds))


Population = Gaussian | Units | Blend


@dataclass(frozen=True, eq=False)
class Pair:
    """Anchors that are trained with one candidate's own values."""

    single: Population
    deep: Population


@dataclass(frozen=True)
class Examples:
    """Test examples that are drawn, too: other ones would have given other losses.

    What all arms find hard stands in no contrast, so only what is an arm's own is drawn.

    Attributes:
        count: How many.
        sd: Standard deviation over examples of an arm's loss, in gaps, independent between arms.
    """

    count: int
    sd: float


@dataclass(frozen=True, eq=False)
class Design:
    """A study to draw: anchors, arms, controls.

    Attributes:
        endpoints: Keys, in the order of the populations' columns.
        single: Population of the single model.
        deep: Population of the Deep Ensemble, and of the positive control.
        arms: Populations of the candidates.
        seeds: Replicates of every arm.
        negative: Population of the negative control; without one there are no controls.
        diverged: Chance that a candidate's run fails.
        worst: Loss to write down for a failed run; None leaves it out as failed, as a study does.
        own: Matched anchors of each candidate; without any, there are the tuned ones alone.
        contenders: Single networks that validation could not tell from the tuned one.
        price: What a candidate costs, in Deep Ensembles of its size.
        examples: Where the truth is that of all examples, those that a study has; None where it is
            that of the examples at hand.
    """

    endpoints: tuple[str, ...]
    single: Population
    deep: Population
    arms: tuple[Population, ...]
    seeds: int
    negative: Population | None = None
    diverged: float = 0.0
    worst: float | None = None
    own: tuple[Pair, ...] = ()
    contenders: tuple[Population, ...] = ()
    price: float = 0.3
    examples: Examples | None = None

    @property
    def single_seeds(self) -> int:
        """Replicates of the tuned single network: see ``study.stages.arms``."""
        return ceil(self.seeds * sqrt(len(self.arms))) if self.own else self.seeds

    @property
    def pool_seeds(self) -> int:
        """Replicates of a matched Deep Ensemble: see ``study.stages.matched_anchors``."""
        return min(self.seeds, max(5, self.seeds // 2))

    def run(self, rng: np.random.Generator) -> Outcome:
        """Draw one study and judge it; see ``judged``."""
        drawn = [population.draw(rng, self.seeds) for population in self.arms]
        failed = [rng.random(self.seeds) < self.diverged if self.diverged else None for _ in drawn]
        if self.worst is not None:
            drawn = [
                np.where(np.asarray(lost)[:, None], self.worst, losses)
                for lost, losses in zip(failed, drawn, strict=True)
            ]
            failed = [None] * len(drawn)
        study = draw_study(self, rng, drawn, failed)
        return judged(with_examples(study, self.examples, rng) if self.examples else study)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A search that chooses among copies of one population, then a study of the chosen.

    Attributes:
        design: The study; its one arm is the population of every configuration.
        configurations: How many are searched.
        search_seeds: Runs of each in the search, whose mean on the first endpoint is its score.
        shortlist: How many of the best are confirmed on fresh seeds.
        scores: Population of a run in the search.
        anchors: True losses of single model and Deep Ensemble in the search.
    """

    design: Design
    configurations: int
    search_seeds: int
    scores: Population
    anchors: tuple[float, float]
    shortlist: int = 8

    def run(self, rng: np.random.Generator) -> Outcome:
        """Return the outcome of the confirmation, and what the search alone would have said.

        ``apparent`` is the best recovery that the search saw; ``escape_on_search`` whether any of
        the shortlist escapes when it is judged on the very runs that chose it.
        """
        design, shape = self.design, (self.configurations, self.search_seeds, -1)
        runs = self.scores.draw(rng, self.configurations * self.search_seeds).reshape(shape)
        score = runs[:, :, 0].mean(1)
        chosen = np.argsort(score, kind="stable")[: self.shortlist]
        fresh = [design.arms[0].draw(rng, design.seeds) for _ in chosen]
        found = judged(draw_study(design, rng, fresh))
        single, deep = self.anchors
        found["apparent"] = float((single - score[chosen[0]]) / (single - deep))
        if self.search_seeds > 1 and runs.shape[2] == len(design.endpoints):
            again = judged(draw_study(design, rng, [runs[i] for i in chosen]))
            found["escape_on_search"] = again["any_escapes"]
        return found


def draw_study(
    design: Design,
    rng: np.random.Generator,
    candidates: Sequence[FloatArray],
    failed: Sequence[Any] | None = None,
) -> Study:
    """Return a study of these candidates beside freshly drawn anchors and controls.

    Args:
        design: Anchors, controls, endpoints, seeds.
        rng: Source of the anchors' and controls' draws.
        candidates: Losses of each, (its replicates, endpoints).
        failed: For each, None or which of its replicates failed.
    """
    losses = {
        "single": design.single.draw(rng, design.single_seeds),
        DEEP: design.deep.draw(rng, design.seeds),
    }
    if design.negative is not None:
        losses["positive_control"] = design.deep.draw(rng, design.seeds)
        losses["negative_control"] = design.negative.draw(rng, design.seeds)
    roles: dict[str, Role] = {name: name for name in CONTROLS if name in losses}
    lost: Counter[str] = Counter()
    for i, own in enumerate(candidates):
        name = f"candidate{i}"
        roles[name] = "candidate"
        gone = None if failed is None else failed[i]
        losses[name] = own if gone is None else own[~gone]
        if gone is not None and gone.any():
            lost[name] = int(gone.sum())
    tuned = Anchors("single", "deep_ensemble", MEMBERS)
    matched: dict[str, Anchors] = {}
    for i, own_pair in enumerate(design.own):
        single, pool = (arm_key(f"matched_{role}", str(i)) for role in ("single", "deep_ensemble"))
        matched[f"candidate{i}"] = anchors = Anchors(single, pool, MEMBERS)
        losses[anchors.single] = own_pair.single.draw(rng, 2 * design.seeds)
        losses[anchors.deep_ensemble] = own_pair.deep.draw(rng, design.pool_seeds)
    close = tuple(
        replace(tuned, single=arm_key("matched_single", f"close{i}"))
        for i in range(len(design.contenders))
    )
    for pair, population in zip(close, design.contenders, strict=True):
        losses[pair.single] = population.draw(rng, 2 * design.seeds)
    arms = tuple(
        PlacedArm(
            *(role, name, name, name, MEMBERS),
            arm=name,
            tuned=tuned,
            own=matched.get(name),
            contenders=close if role == "candidate" else (),
        )
        for name, role in roles.items()
    )
    columns = {
        (name, key): own[:, column]
        for name, own in losses.items()
        for column, key in enumerate(design.endpoints)
    }
    protocol = Protocol(endpoints=tuple(ENDPOINTS[key] for key in design.endpoints))
    counts = {name: len(own) for name, own in losses.items()}
    seen = frozenset(["single", "deep_ensemble"])
    prices = {f"candidate{i}": price(infer_flops=design.price) for i in range(len(candidates))}
    return Study(protocol, arms, columns, counts, seen, lost, prices=prices)


def with_examples(study: Study, examples: Examples, rng: np.random.Generator) -> Study:
    """Return the study on a drawn test set, with its losses example by example.

    What has no noise over seeds, as the gain of a single network has none, has none over examples.
    """
    error = {
        key: examples.sd * bool(np.ptp(own)) * rng.standard_normal(examples.count)
        for key, own in study.losses.items()
    }
    losses = {key: own + error[key].mean() for key, own in study.losses.items()}

    def values(arm: str) -> ExampleValues:
        keys = [endpoint.key for endpoint in study.protocol.endpoints]
        found = {
            key: ENDPOINTS[key].sign * (study.losses[arm, key][:, None] + error[arm, key])
            for key in keys
        }
        ones = np.ones(examples.count, np.float32)
        replicates = list(range(study.counts[arm]))
        single = {key: own.astype(np.float32) for key, own in found.items()}
        return ExampleValues(replicates, single, dict.fromkeys(keys, ones))

    return replace(study, losses=losses, examples=MeasuredCovariances(values))


def judged(study: Study) -> Outcome:
    """Decide on a study; return what happened as numbers, mostly 0 or 1.

    ``first_*`` are about the first candidate, ``any_*`` and ``all_*`` about all of them, and
    ``some_escape`` and ``all_track`` are the global verdicts, which controls may withhold.
    ``assessed``: the gate of every endpoint opened; ``escapes_if_assessed`` is NaN where not.
    """
    decided = decide(study)
    own = [decision.verdict for decision in decided.candidates.values()]
    assessed = all(gate.reason is None for gate in decided.gates.values())
    escapes = "escapes" in own
    found = {f"first_{kind}": own[0] == kind for kind in ("escapes", "tracks", "worse")}
    found |= {"any_escapes": escapes, "all_tracks": {*own} == {"tracks"}}
    found |= {"some_escape": decided.verdict == SOME_ESCAPES, "assessed": assessed}
    found |= {"all_track": decided.verdict == ALL_TRACK}
    return {
        **{name: float(happened) for name, happened in found.items()},
        "escapes_if_assessed": float(escapes) if assessed else float("nan"),
    }


def tally(design: Design | Pipeline, times: int, rng: np.random.Generator) -> pl.DataFrame:
    """Draw and judge a design ``times`` times; return a row per study, a column per event."""
    return pl.DataFrame([design.run(rng) for _ in range(times)])
