"""What there is to judge: arms, their anchors and replicates.

Every arm is placed between two anchors: the single model (recovery 0) and the Deep Ensemble of the
arm's own size (recovery 1). There are several pairs of them: the tuned ones, those that are trained
with the arm's own backbone and hyperparameters, and the tuned Deep Ensemble with each single
network that may be better than the tuned one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl

from analysis.data.protocol import (
    Endpoint,
    Plan,
    PlannedArm,
    Protocol,
    protocol_of,
)
from analysis.data.roles import CONTROLS, FAMILIES, arm_key, ensemble_key
from analysis.measures.measure import Measures
from analysis.measures.over_examples import ExampleCovariances, MeasuredCovariances
from analysis.stats.contrasts import FloatArray, Recovery, Summary, summary
from analysis.verdict.schema import Against, Price, Role

PRICED: Final = ("parameters", "stored_bytes", "infer_flops")
NOTHING: Final[FloatArray] = np.empty(0)
DEARER: Final = 1.01
"""Multiple of a Deep Ensemble's cost above which an arm counts as dearer."""


@dataclass(frozen=True)
class Anchors:
    """The ends of the scale that an arm is placed on.

    Attributes:
        single: Key of the single network's arm.
        pool: Key of the pool that Deep Ensembles of any size are made of.
        members: Size of the Deep Ensemble.
    """

    single: str
    pool: str
    members: int

    @property
    def deep_ensemble(self) -> str:
        """Key of the Deep Ensemble's arm."""
        return ensemble_key(self.pool, self.members)

    @property
    def tuned(self) -> bool:
        """Whether they are those that the search found, which all arms share."""
        return self.against == "tuned"

    @property
    def against(self) -> Against:
        """Which pair of an arm's it is."""
        if self.single == "single":
            return "tuned"
        return "contender" if self.pool == "deep_ensemble" else "own"


@dataclass(frozen=True)
class PlacedArm(PlannedArm):
    """An arm that is to be judged, with its key and its anchors.

    ``own`` are the matched anchors; those of an arm that is trained with the tuned single network's
    values are the tuned ones. None where nothing was declared to be matched. ``contenders`` have
    the single networks that validation could not tell from the tuned one.
    """

    role: Role
    arm: str = ""
    tuned: Anchors = Anchors("single", "deep_ensemble", 1)
    own: Anchors | None = None
    contenders: tuple[Anchors, ...] = ()

    @property
    def reference(self) -> str:
        """Key of the tuned Deep Ensemble's arm."""
        return self.tuned.deep_ensemble

    @property
    def anchors(self) -> tuple[Anchors, ...]:
        """Every pair, each once."""
        own = () if self.own in (None, self.tuned) else (self.own,)
        return self.tuned, *own, *self.contenders


@dataclass(frozen=True)
class Study:
    """What the judgement reads: protocol, arms, replicates, failures, prices.

    ``losses`` has, by arm and endpoint, one number per replicate in which it was measured, in the
    order of replicates and turned so that lower is better; ``counts`` the replicates of each arm;
    ``seeds`` how many were declared, of trials that have a number of their own; ``prices`` what
    arms cost, in units of the Deep Ensemble beside them, as far as that is known; ``examples`` what
    other test examples would change.
    """

    protocol: Protocol
    arms: tuple[PlacedArm, ...]
    losses: Mapping[tuple[str, str], FloatArray]
    counts: Mapping[str, int]
    roles: frozenset[str]
    failed: Counter[str]
    blind: frozenset[str] = frozenset()
    seeds: Mapping[str, int] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)
    examples: ExampleCovariances | None = None

    def planned(self, arm: str) -> int | None:
        """Return how many replicates of an arm were declared, if that is known."""
        return self.seeds.get(pool_of(arm), self.protocol.seeds)

    def recovery(self, pair: "Anchors", arm: str, endpoint: Endpoint) -> Recovery | None:
        """Return the effect of an arm between two anchors; None where one has too few runs."""
        names = pair.single, arm, pair.deep_ensemble
        single, own, deep = (self.summaries.get((name, endpoint.key)) for name in names)
        if single is None or own is None or deep is None:
            return None
        over = self.examples.of(names, endpoint.key) if self.examples else None
        return Recovery(single, own, deep, over)

    def numbers(self, arm: str, endpoint: Endpoint) -> FloatArray:
        """Return the losses of an arm's replicates; none where there are none."""
        return self.losses.get((arm, endpoint.key), NOTHING)

    @cached_property
    def summaries(self) -> dict[tuple[str, str], Summary]:
        """Summary of every arm and endpoint with at least two losses."""
        return {key: summary(own) for key, own in self.losses.items() if len(own) >= 2}


def pool_of(arm: str) -> str:
    """Return the arm whose runs an arm is made of: a pool, of a Deep Ensemble; else itself."""
    return arm.rpartition("-")[0] if "deep_ensemble-" in arm else arm


def study_of(
    measures: Measures,
    plan: Plan | None,
    spent: pl.DataFrame | None = None,
    examples: ExampleCovariances | None = None,
) -> Study:
    """Gather the arms that are to be judged: those of the plan, or without one those measured.

    One member alone has no Deep Ensemble of its size, so it is placed beside the one of the
    candidates' most common size.

    Args:
        measures: The confirm stage, measured.
        plan: The declaration, if any.
        spent: What every arm cost, as ``analysis.measures.costs`` counts it.
        examples: How arms vary with the test examples; by default taken from the measures.
    """
    frame, protocol = measures.replicates, protocol_of(plan)
    counts: dict[str, int] = {}
    losses = {}
    for (arm,), own in frame.sort("replicate").group_by("arm", maintain_order=True):
        counts[str(arm)] = own.height
        for endpoint in protocol.endpoints:
            numbers = own[endpoint.key].drop_nulls().to_numpy()
            losses[str(arm), endpoint.key] = endpoint.sign * numbers
    if plan is None:
        seen = frame.unique(subset="arm", maintain_order=True)
        keys = ("role", "method", "configuration", "name", "members")
        declared = tuple(PlannedArm(*row) for row in seen.select(keys).iter_rows())
    else:
        declared = plan.arms
    arms = [arm for arm in declared if arm.role in FAMILIES + CONTROLS]
    sizes = Counter(arm.members for arm in arms if arm.role == "candidate")
    sizes = sizes or Counter(arm.members for arm in arms)
    pools = frame.filter(pl.col("role") == "deep_ensemble")["members"].to_list()
    several = [size for size in sizes if size > 1]
    common = max(several, key=lambda s: (sizes[s], -s), default=max(pools, default=1))
    single = next((arm.configuration for arm in declared if arm.role == "single"), None)
    close = [arm_key(a.role, a.configuration) for a in declared if a.reason == "contender"]
    placed = tuple(_placed(arm, common, single, close) for arm in arms)
    own_seeds = {arm_key(a.role, a.configuration): a.seeds for a in declared if a.seeds is not None}
    incomplete = measures.excluded.filter(
        pl.col("stage") == "confirm", pl.col("status") != "complete"
    )
    lost = Counter(incomplete["arm"].to_list())
    roles = frozenset([*frame["role"].to_list(), *(arm.role for arm in declared)])
    blind, prices = _blind(frame), {} if spent is None else _prices(placed, spent)
    examples = examples or MeasuredCovariances(measures.examples)
    return Study(protocol, placed, losses, counts, roles, lost, blind, own_seeds, prices, examples)


def price(**times: float | None) -> Price:
    """Return a price of so many times the Deep Ensemble's; what is not given is not known."""
    known = {name: times.get(name) for name in PRICED}
    dearer = tuple(name for name, own in known.items() if own and own > DEARER)
    return Price(**known, dearer=dearer)


def _prices(arms: Iterable[PlacedArm], spent: pl.DataFrame) -> dict[str, Price]:
    costs = {row["arm"]: row for row in spent.to_dicts()}
    pairs = (
        (a.arm, costs[a.arm], costs[a.reference])
        for a in arms
        if {a.arm, a.reference} <= costs.keys()
    )
    return {
        arm: price(**{n: own[n] / deep[n] if own[n] and deep[n] else None for n in PRICED})
        for arm, own, deep in pairs
    }


def _placed(
    arm: PlannedArm, common: int, single: str | None, contenders: Sequence[str]
) -> PlacedArm:
    """Return an arm with its anchors.

    A negative control that cannot be trained as the tuned single network is, as it has no dropout,
    is held against the network that is trained as it is.

    Args:
        arm: As it was declared.
        common: The size of a Deep Ensemble beside one member.
        single: The tuned network's configuration.
        contenders: Keys of the single networks that may be better.
    """
    tuned = Anchors("single", "deep_ensemble", arm.members if arm.members > 1 else common)
    own = tuned if arm.matched else None
    if arm.matched and arm.matched.single != single:
        own = Anchors(
            arm_key("matched_single", arm.matched.single),
            arm_key("matched_deep_ensemble", arm.matched.deep_ensemble),
            tuned.members,
        )
    if arm.role == "negative_control" and own:
        tuned, own = own, None
    close = tuple(replace(tuned, single=name) for name in contenders if arm.role in FAMILIES)
    key = arm_key(arm.role, arm.configuration)
    return PlacedArm(**vars(arm), arm=key, tuned=tuned, own=own, contenders=close)


def _blind(frame: pl.DataFrame) -> frozenset[str]:
    """Return the arms that are no better than guessing by the labels' frequencies.

    By calibrated NLL: a network may be over-confident and still know something.
    """
    means = frame.group_by("arm").agg(pl.col("cll", "chance_nll").mean())
    return frozenset(means.filter(pl.col("cll") >= pl.col("chance_nll"))["arm"].to_list())


def count(study: Study, arm: str) -> int:
    """Return how many replicates of an arm were measured."""
    return study.counts.get(arm, 0)


def failed(study: Study, arm: str) -> int:
    """Return how many confirm runs of an arm did not complete; a failed pool counts at any size."""
    return study.failed[pool_of(arm)]


def runs_there(study: Study) -> tuple[int, int]:
    """Return how many of the declared runs are there, and how many there are to be.

    A verdict before the last would be a peek. Both are 0 where no number was declared.
    """
    pairs = {pair for arm in study.arms for pair in arm.anchors}
    pairs |= {Anchors("single", "deep_ensemble", 1)} if not pairs else set()
    # A pool has been run where any of the Deep Ensembles that are made of it was measured.
    pools = {pair.pool: pair.deep_ensemble for pair in sorted(pairs, key=lambda p: -p.members)}
    arms = {*(pair.single for pair in pairs), *(arm.arm for arm in study.arms), *pools.values()}
    planned = {arm: study.planned(arm) or 0 for arm in arms}
    done = sum(min(n, count(study, arm) + failed(study, arm)) for arm, n in planned.items())
    return done, sum(planned.values())


def more_than_declared(study: Study) -> dict[str, int]:
    """Return by arm how many runs there are beyond those that were declared.

    Deep Ensembles of several sizes that are made of one pool are one arm here.
    """
    beyond: dict[str, int] = {}
    for arm in sorted(study.counts):
        planned, pool = study.planned(arm), pool_of(arm)
        if planned is not None and (more := count(study, arm) - planned) > 0:
            beyond[pool] = max(beyond.get(pool, 0), more)
    return beyond
