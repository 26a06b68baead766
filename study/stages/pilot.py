"""Stage 0: how many seeds the confirmation needs, from the spread that is seen beforehand.

The tuned single network and its Deep Ensemble are trained on seeds of their own and looked at on
validation data; the test set stays closed. These runs are used for nothing else. How much a
candidate varies is known from the stages before.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance
from typing import Final

from study.errors import StudyError
from study.jobs import Job, Rows
from study.parquet_format import Role, TrialRow
from study.run_folder.store import RunFolder
from study.space.settings import Study
from study.spec import derive_seed
from study.stages.analysis_interface import CALIBRATED, Aim, Analysis, PlannedPair, PlannedSpread
from study.stages.matched_anchors import MORE, pool_seeds, single_seeds
from study.stages.plan import Arm, read
from study.stages.single_network import as_single

LEAST, MOST = 10, 60
"""Bounds of the number of seeds: fewer are fragile, more are seldom paid for."""
RECOVERY, POWER = 0.5, 0.8
"""The recovery, on every endpoint, that is to be found, and the chance with which it is."""
FEW: Final = 5
"""Runs, or degrees of freedom, below which a deviation is not known."""
SEEN_AS: Final = {
    "nll": "val_nll",
    "shift_nll": "val_shift_nll",
    "gain": "val_gain",
}
"""Column of a trial's row that stands for an endpoint before the test set is opened."""


def pilot_jobs(study: Study, arms: list[Arm]) -> list[Job]:
    """Return the runs of the single model and of the Deep Ensemble of the candidates' common size.

    Args:
        study: Its seed and budget.
        arms: Those of the plan; the positive control is such a Deep Ensemble. Long runs come first.
    """
    jobs = []
    sources: dict[Role, Role] = {"deep_ensemble": "positive_control", "single": "single"}
    for role, source in sources.items():
        arm = next(arm for arm in arms if arm.role == source)
        for replicate in range(study.budget.pilot_seeds):
            seed = derive_seed(study.seed, "pilot", role, arm.spec.configuration, replicate)
            jobs.append(Job(arm.spec.trial_of(role, "pilot", replicate, seed)))
    return jobs


def seeds_declared(
    study: Study, arms_of: Callable[[int], Iterable[Arm]], store: RunFolder
) -> tuple[int, str] | None:
    """Return the seeds of the plan that is there, and the reason, if it would be declared again.

    So a study that is resumed by another version keeps its number.

    Args:
        study: Its protocol.
        arms_of: The arms of the plan, given the seeds of each.
        store: Where the plan lies.
    """
    content, plan = store.read_json(store.plan), read(store)
    if content is None or plan is None:
        return None
    again = {"protocol": study.protocol, "arms": tuple(arms_of(plan.seeds))}
    same = plan.model_copy(update=again).hash == content["hash"]
    return (plan.seeds, plan.seeds_because) if same else None


def seeds_for(
    study: Study, arms: Sequence[Arm], seen: "Seen", analysis: Analysis
) -> tuple[int, str]:
    """Return the number of seeds of a candidate and the reason for it, in a sentence.

    A candidate must be found between the tuned anchors, between its own where it has any, and
    between each contender and the tuned Deep Ensemble. Of its own Deep Ensemble nothing has been
    trained yet: spread and gap are the tuned one's. What other test examples would change is left
    out, as the test set is not opened yet; the page tells how much that is.

    Args:
        study: Endpoints, margin and level.
        arms: Those of the plan.
        seen: What the stages before saw of them.
        analysis: What knows the tests.
    """
    protocol, judged = study.protocol, [arm for arm in arms if arm.role == "candidate"]
    configurations = max(1, len(judged))
    aim = (
        f"power {POWER:g} for recovery {RECOVERY:g} on {', '.join(protocol.endpoints)} "
        f"with {configurations} configuration{'s' if configurations > 1 else ''}"
    )
    gaps: dict[str, float] = {
        e: fmean(seen.single[e]) - fmean(seen.deep_ensemble[e]) for e in protocol.endpoints
    }
    if closed := [endpoint for endpoint, gap in gaps.items() if gap <= 0]:
        return MOST, (
            f"the most ({MOST}), as the pilot's Deep Ensemble was not better than its single "
            f"model on {', '.join(closed)}"
        )
    ahead = (e for gaps in seen.gaps_to_contenders for e, gap in gaps.items() if gap <= 0)
    if closed := sorted(set(ahead)):
        return MOST, (
            f"the most ({MOST}), as the pilot's Deep Ensemble was not better than a contender "
            f"on {', '.join(closed)}"
        )
    asked = Aim(RECOVERY, POWER, protocol.delta, protocol.alpha, configurations)
    needed = analysis.seeds_needed(_pairs(study, arms, seen, gaps), asked)
    said = f"{needed or 'too many'} seeds give {aim}, by {study.budget.pilot_seeds} pilot runs each"
    return min(MOST, max(LEAST, needed or MOST)), f"{said} (bounded by {LEAST} and {MOST})"


def _pairs(
    study: Study, arms: Sequence[Arm], seen: "Seen", gaps: Mapping[str, float]
) -> list[PlannedPair]:
    """Return what a candidate is held against; ``gaps`` are those of the endpoints."""
    single = {endpoint: stdev(seen.single[endpoint]) for endpoint in gaps}
    matched = {e: deviation(seen.matched[e], single[e]) for e in gaps}
    tuned = _spreads(seen, single, gaps)
    if study.protocol.anchors == "tuned":
        return [PlannedPair(tuned, lambda n: (n, n, n))]
    many = sum(arm.role in ("candidate", "comparison") for arm in arms)
    return [
        PlannedPair(tuned, lambda n: (n, single_seeds(study, many, n), n)),
        PlannedPair(_spreads(seen, matched, gaps), lambda n: (n, MORE * n, pool_seeds(n))),
        *(
            PlannedPair(_spreads(seen, single, own), lambda n: (n, MORE * n, n))
            for own in seen.gaps_to_contenders
        ),
    ]


def _spreads(
    seen: "Seen", single: Mapping[str, float], gaps: Mapping[str, float]
) -> tuple[PlannedSpread, ...]:
    """Return a candidate's spread by endpoint beside a single network of this deviation and gap."""
    found = []
    for endpoint, gap in gaps.items():
        deep = stdev(seen.deep_ensemble[endpoint])
        arm = deviation(seen.candidates[endpoint], max(stdev(seen.single[endpoint]), deep))
        found.append(PlannedSpread(single[endpoint], arm, deep, gap, endpoint != "gain"))
    return tuple(found)


Groups = dict[str, list[list[float]]]
"""By endpoint, the losses of each configuration."""


@dataclass(frozen=True)
class Seen:
    """Losses on validation data by endpoint, lower is better.

    Attributes:
        single: Of the pilot's runs of the tuned single network.
        deep_ensemble: Of its Deep Ensemble's.
        candidates: Of the candidates' runs on the fresh seeds of rescore and anchor, by
            configuration.
        matched: Of single networks that are trained as the candidates are, by configuration.
        contenders: Of those that may be better than the tuned one, by configuration.
    """

    single: dict[str, list[float]]
    deep_ensemble: dict[str, list[float]]
    candidates: Groups
    matched: Groups
    contenders: Groups

    @property
    def gaps_to_contenders(self) -> list[dict[str, float]]:
        """By contender and endpoint, its mean loss minus that of the Deep Ensemble."""
        means = {endpoint: fmean(losses) for endpoint, losses in self.deep_ensemble.items()}
        by_endpoint = [
            [(endpoint, fmean(losses) - means[endpoint]) for losses in groups if losses]
            for endpoint, groups in self.contenders.items()
        ]
        return [dict(gaps) for gaps in zip(*by_endpoint, strict=True)]

    @classmethod
    def of(
        cls,
        study: Study,
        arms: Sequence[Arm],
        pilot: set[str],
        rows: Rows,
        store: RunFolder,
        analysis: Analysis,
    ) -> "Seen":
        """Return what the stages before the confirmation saw of these arms.

        Args:
            study: Its endpoints.
            arms: Those of the plan.
            pilot: The pilot's trials.
            rows: All rows.
            store: Where the predictions lie.
            analysis: What knows calibrated NLL.

        Raises:
            StudyError: When fewer than two runs of an anchor are complete.
        """
        single = next(arm.spec for arm in arms if arm.role == "single")
        own = [arm.spec for arm in arms if arm.role == "candidate"]
        as_singles = {as_single(spec, single).configuration for spec in own}
        close = {arm.spec.configuration for arm in arms if arm.reason == "contender"}
        ordered = sorted(rows.values(), key=lambda row: (row.replicate, row.trial))
        whole = [row for row in ordered if row.status == "complete"]
        anchors: list[list[TrialRow]] = []
        for role in ("single", "deep_ensemble"):
            every = [row for row in ordered if row.trial in pilot and row.role == role]
            anchors.append([row for row in every if row.status == "complete"])
            if len(anchors[-1]) < 2:
                raise StudyError(
                    f"protocol.seeds=auto needs at least 2 complete pilot runs of {role}, but "
                    f"{len(anchors[-1])} of {len(every)} are; give protocol.seeds a number"
                )
        groups = [
            # An arm that took the single network's values was never rescored with these.
            _by_configuration(whole, ("rescore", "anchor"), {spec.configuration for spec in own}),
            _by_configuration(whole, ("anchor",), as_singles),
            _by_configuration(whole, ("anchor",), close),
        ]
        calibrated: dict[str, float] = {}
        if CALIBRATED in study.protocol.endpoints:
            used = [row.trial for runs in (anchors, *groups) for one in runs for row in one]
            calibrated = analysis.calibrated_nll(store, used)

        def losses(runs: Iterable[TrialRow], endpoint: str) -> list[float]:
            return [_loss(row, endpoint, calibrated) for row in runs]

        endpoints: list[str] = list(study.protocol.endpoints)
        single_losses, deep_losses = ({e: losses(runs, e) for e in endpoints} for runs in anchors)
        others = ({e: [losses(runs, e) for runs in group] for e in endpoints} for group in groups)
        return cls(single_losses, deep_losses, *others)


def _by_configuration(
    rows: Iterable[TrialRow], stages: Container[str], configurations: Iterable[str]
) -> list[list[TrialRow]]:
    found: dict[str, list[TrialRow]] = {c: [] for c in sorted(configurations)}
    for row in rows:
        if row.stage in stages and row.configuration in found:
            found[row.configuration].append(row)
    return list(found.values())


def _loss(row: TrialRow, endpoint: str, calibrated: dict[str, float]) -> float:
    if endpoint == CALIBRATED:
        return calibrated[row.trial]
    sign = -1 if endpoint == "gain" else 1
    return float(sign * getattr(row, SEEN_AS[endpoint]))


def deviation(groups: Iterable[Sequence[float]], otherwise: float) -> float:
    """Return the standard deviation over seeds to plan with.

    The largest of all configurations, where each has ``FEW`` runs; else the pooled one, as the
    largest of deviations of two runs each is mere luck. Of less than ``FEW`` degrees of freedom in
    all nothing is known, and it is ``otherwise``.
    """
    several = [group for group in groups if len(group) > 1]
    if several and min(map(len, several)) >= FEW:
        return max(map(stdev, several))
    freedom = sum(len(group) - 1 for group in several)
    if freedom < FEW:
        return otherwise
    squares = sum(variance(group) * (len(group) - 1) for group in several)
    return float((squares / freedom) ** 0.5)
