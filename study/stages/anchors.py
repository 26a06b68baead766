"""The networks that everything is held against: the tuned single network, and matched ones.

A method's search may find hyperparameters that suit a single network better than what the single
network's own search found; an escape from an anchor that is trained worse would be no escape. So
the values of every arm are tried as a single network before that is chosen, and each arm is held
against the networks that are trained with its own values, too. The other way round, a method with
many parameters may miss values that the single network's search found: so every arm is tried with
these as well, and keeps whichever are better. If an arm thereby gets values that have not been
tried, a single network is trained with these as well. Where validation cannot tell which single
network is the best, an arm must escape from each of these contenders.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import ceil, hypot, inf, sqrt
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any, Final

from study.errors import StudyError
from study.jobs import Job, Rows
from study.run_folder.store import RunFolder
from study.schema import APART, Role, TrialRow
from study.space.settings import Study
from study.spec import Configuration, Regularisation, Strict, Training, TrialSpec, derive_seed
from study.stages.analysis_interface import CALIBRATED, Analysis
from study.stages.plan import Arm, Matched, Tried

OWN: Final = 5
"""Configurations of the single network's own search that are tried again."""
WITH_SINGLES: Final = "with the single network's values"
EXCHANGED: Final = 5
"""Fresh seeds on which an arm is tried with its own values, and with the single network's."""
MORE: Final = 2
"""Seeds of a matched single network for each of the arm: it costs little and weighs 1 - delta."""
FEWEST: Final = 5
"""Seeds of a matched Deep Ensemble at least: it weighs delta in the tests, its variance delta²."""

Losses = Mapping[str, float]
"""Validation loss by trial, of complete trials alone."""
Refusal = Callable[[TrialSpec], str | None]
"""Why a method refuses a spec, as far as that is known before the training; None: it does not."""


class Candidate(Strict):
    """A configuration of the single network that may become the anchor, and where it is from."""

    spec: Configuration
    source: str


def as_single(configuration: Configuration, single: Configuration) -> Configuration:
    """Return the single network with another configuration's backbone and hyperparameters."""
    own = {"backbone": configuration.backbone, "training": configuration.training}
    return single.model_copy(update={**own, "regulariser": Regularisation()})


def as_deep_ensemble(single: Configuration, members: int) -> Configuration:
    """Return the Deep Ensemble of so many networks that are trained as ``single`` is."""
    return single.model_copy(update={"method": "deep_ensemble", "params": {"members": members}})


# --- the tuned single network


def candidates_for_single(own: Sequence[Configuration], arms: Iterable[Arm]) -> list[Candidate]:
    """Return what is tried: the best of the own search, then the values of every other arm.

    Args:
        own: Configurations of the single network from best to worst.
        arms: Candidates and comparisons.
    """
    found = {spec.configuration: (spec, "its own search") for spec in own[:OWN]}
    for arm in arms:
        spec = as_single(arm.spec, own[0])
        source = f"values of {arm.name or f'{arm.spec.method} {arm.spec.configuration[:6]}'}"
        found.setdefault(spec.configuration, (spec, source))
    return [Candidate(spec=spec, source=source) for spec, source in found.values()]


def anchor_jobs(study: Study, candidates: Iterable[Candidate]) -> list[Job]:
    """Return the runs of each on fresh seeds, as many for all: none of them was chosen by these."""
    return [
        Job(one.spec.trial_of("single", "anchor", replicate, _seed(study, one.spec, replicate)))
        for one in candidates
        for replicate in range(study.budget.anchor_seeds)
    ]


def _seed(study: Study, spec: Configuration, replicate: int) -> int:
    return derive_seed(study.seed, "anchor", spec.configuration, replicate)


def validation_losses(
    study: Study, rows: Rows, store: RunFolder, analysis: Analysis | None
) -> Losses:
    """Return the loss on validation data by which anchors and values are chosen, in nats.

    It is what the verdict rests on: calibrated NLL where that is an endpoint, else NLL. By NLL an
    over-confident network would lose to a worse one, and be the better anchor all the same; that is
    how it was before anchors could be contended.

    Args:
        study: Its endpoints.
        rows: All rows; those of the stage ``anchor`` count.
        store: Where the predictions lie.
        analysis: What knows calibrated NLL.
    """
    complete = [r for r in rows.values() if r.stage == "anchor" and r.status == "complete"]
    calibrated = CALIBRATED in study.protocol.endpoints and study.protocol.anchors == "contended"
    if calibrated and analysis is not None:
        return analysis.calibrated_nll(store, [row.trial for row in complete])
    return {row.trial: row.val_nll for row in complete if row.val_nll is not None}


def tried(candidates: Iterable[Candidate], rows: Rows, losses: Losses) -> list[Tried]:
    """Return how each with two complete runs did on validation data, the best first.

    One of which a run failed comes after all of which none did: as an anchor it would fail again.

    Args:
        candidates: What was tried.
        rows: All rows.
        losses: See :func:`validation_losses`.

    Raises:
        StudyError: When none has two complete runs.
    """
    found = [_tried(one, _anchor_rows(rows, one.spec), losses) for one in candidates]
    usable = [one for one in found if one.mean is not None]
    if not usable:
        raise StudyError(
            f"none of the {len(found)} configurations of the single network that were tried again "
            "has two complete runs; fix the space and choose another --out"
        )
    return sorted(usable, key=_merit)


def _merit(one: Tried) -> tuple[int, float, str]:
    """Return what sorts the best first: the most complete runs, then the lowest loss."""
    return -one.seeds, inf if one.mean is None else one.mean, one.configuration


def contenders(choice: Sequence[Tried]) -> list[str]:
    """Return the configurations that may be better than the chosen one, for all validation says.

    They are behind by at most ``APART`` standard errors of the difference, with as many runs.

    Args:
        choice: What :func:`tried` returned.
    """
    best, *others = choice
    return [
        one.configuration
        for one in others
        if one.seeds == best.seeds
        and None not in (one.mean, one.se, best.mean, best.se)
        and (one.mean or 0.0) - (best.mean or 0.0) <= APART * hypot(one.se or 0.0, best.se or 0.0)
    ]


def _tried(candidate: Candidate, rows: Iterable[TrialRow], known: Losses) -> Tried:
    ordered = sorted(rows, key=lambda row: row.replicate)
    losses = [known[row.trial] for row in ordered if row.trial in known]
    several = len(losses) > 1
    return Tried(
        configuration=candidate.spec.configuration,
        source=candidate.source,
        seeds=len(losses),
        mean=fmean(losses) if several else None,
        se=stdev(losses) / sqrt(len(losses)) if several else None,
    )


# --- every arm with the values of the tuned single network


def with_values_of(study: Study, arm: Arm, single: Configuration) -> Arm:
    """Return the arm with the backbone and hyperparameters of the tuned single network.

    What the arm's method has a range of its own for, as the dropout of MC Dropout, stays; so does,
    where anchors may be contended, what its space fixes.
    """
    contended = study.protocol.anchors == "contended"
    own = study.space(arm.spec.method)
    theirs = study.space("single")
    values = {}
    for section in ("backbone", "training"):
        mine: dict[str, Any] = dict(getattr(arm.spec, section))
        given: dict[str, Any] = dict(getattr(single, section))
        kept = {
            name
            for name, key in ((name, f"{section}.{name}") for name in mine)
            if own.search.get(key) != theirs.search.get(key)
            or own.fixed.get(key) != theirs.fixed.get(key)
            or (contended and own.fixed.get(key, given.get(name)) != given.get(name))
        }
        values[section] = given | {name: mine[name] for name in kept}
    spec = arm.spec.model_copy(
        update={"backbone": values["backbone"], "training": Training(**values["training"])}
    )
    name = arm.name and f"{arm.name}, trained as the single network"
    return arm if spec == arm.spec else arm.model_copy(update={"spec": spec, "name": name})


def refusals(
    study: Study, arms: Iterable[Arm], single: Configuration, refusal: Refusal
) -> dict[str, str]:
    """Return why an arm's method refuses the single network's values, by configuration with these.

    A wider network, for instance, may exceed a budget of bytes. Such arms keep their own values.
    """
    moved = (with_values_of(study, arm, single) for arm in arms)
    found = {
        arm.spec.configuration: refusal(arm.spec.trial_of(arm.role, "anchor", 0, 0))
        for arm in moved
    }
    return {configuration: why for configuration, why in found.items() if why is not None}


def exchange_jobs(
    study: Study,
    arms: Iterable[Arm],
    single: Configuration,
    refused: Collection[str] = (),
) -> list[Job]:
    """Return the runs of every arm with its own values and with the single network's.

    Args:
        study: Its spaces and seed.
        arms: What is on the shortlist.
        single: The tuned single network.
        refused: Configurations that are not to be run, nor what they would be compared with.
    """
    pairs = ((arm, with_values_of(study, arm, single)) for arm in arms)
    specs = {
        one.spec.configuration: (one.spec, one.role)
        for arm, other in pairs
        if arm != other and other.spec.configuration not in refused
        for one in (arm, other)
    }
    return [
        Job(spec.trial_of(role, "anchor", replicate, _seed(study, spec, replicate)))
        for spec, role in specs.values()
        for replicate in range(EXCHANGED)
    ]


def exchanged(
    study: Study,
    arms: Iterable[Arm],
    single: Configuration,
    rows: Rows,
    losses: Losses,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Arm], list[Tried]]:
    """Return the arms with the better values, and how all did on validation data.

    Values with which a run failed are not the better ones; those that ``refused`` gives a reason
    for are named with it, without a run. Arms that differed in their values alone become one.
    """
    chosen: dict[str, Arm] = {}
    seen: list[Tried] = []
    for arm in arms:
        other = with_values_of(study, arm, single)
        called = arm.name or f"{arm.spec.method} {arm.spec.configuration[:6]}"
        if (why := refused.get(other.spec.configuration)) is not None:
            source = f"{called} {WITH_SINGLES}: not run, as the method refuses them ({why})"
            seen.append(_tried(Candidate(spec=other.spec, source=source), (), losses))
            chosen.setdefault(arm.spec.configuration, arm)
            continue
        own, moved = (
            _tried(Candidate(spec=one.spec, source=source), _anchor_rows(rows, one.spec), losses)
            for one, source in (
                (arm, called),
                (other, f"{called} {WITH_SINGLES}"),
            )
        )
        seen += [own, moved] if other != arm else []
        one = other if _merit(moved)[:2] < _merit(own)[:2] else arm
        chosen.setdefault(one.spec.configuration, one)
    return list(chosen.values()), seen


def _anchor_rows(rows: Rows, spec: Configuration) -> list[TrialRow]:
    own = spec.configuration
    return [r for r in rows.values() if r.stage == "anchor" and r.configuration == own]


# --- matched anchors


def with_matched(
    arms: Iterable[Arm], single: Configuration, pool: Configuration, seeds: int
) -> tuple[list[Arm], list[Arm]]:
    """Return the arms, each with what it is matched with, and the arms that are trained for that.

    Arms of the same values share their anchors; values that are those of the tuned single network
    have its.

    Args:
        arms: Candidates and comparisons.
        single: The tuned single network.
        pool: Its Deep Ensemble.
        seeds: Of a candidate.
    """
    arms = list(arms)
    sizes: dict[str, int] = {}
    singles: dict[str, Configuration] = {}
    for arm in arms:
        own = as_single(arm.spec, single)
        key = own.configuration
        singles[key], sizes[key] = own, max(sizes.get(key, 2), arm.spec.members)
    tuned = single.configuration
    pools = {k: as_deep_ensemble(own, sizes[k]) for k, own in singles.items()} | {tuned: pool}
    matched = [
        arm.model_copy(update={"matched": _matched(arm, as_single(arm.spec, single), pools)})
        for arm in arms
    ]
    roles: Mapping[Role, Mapping[str, Configuration]] = {
        "matched_single": singles,
        "matched_deep_ensemble": pools,
    }
    numbers = {"matched_single": MORE * seeds, "matched_deep_ensemble": pool_seeds(seeds)}
    trained = [
        Arm(spec=specs[key], role=role, reason="matched", seeds=numbers[role])
        for key in singles
        for role, specs in roles.items()
        if key != tuned
    ]
    return matched, trained


def with_contenders(
    trained: Iterable[Arm], contenders: Iterable[Configuration], seeds: int
) -> list[Arm]:
    """Return the matched anchors with the contenders marked, or added where no arm is so trained.

    A contender stands in for the tuned single network; the Deep Ensemble stays the tuned one's.

    Args:
        trained: What :func:`with_matched` returned.
        contenders: Single networks that may be better than the tuned one.
        seeds: Of a candidate.
    """
    arms = {(arm.role, arm.spec.configuration): arm for arm in trained}
    for spec in contenders:
        arm = Arm(spec=spec, role="matched_single", reason="contender", seeds=MORE * seeds)
        arms[arm.role, spec.configuration] = arm
    return list(arms.values())


def _matched(arm: Arm, own: Configuration, pools: Mapping[str, Configuration]) -> Matched:
    dropped = []
    if arm.spec.regulariser.name != "none":
        dropped.append(f"regulariser {arm.spec.regulariser.name}")
    if arm.spec.params.get("batch") == "split":
        dropped.append("batches split among members")
    pool = pools[own.configuration].configuration
    return Matched(single=own.configuration, deep_ensemble=pool, dropped=tuple(dropped))


# --- how many seeds each has


def single_seeds(study: Study, judged: int, seeds: int) -> int:
    """Return the seeds of the single network: all that is judged shares it (Dunnett 1955).

    Its Deep Ensemble is shared as well, but weighs delta in the tests, so more of it is no help.
    """
    asked = study.protocol.single_seeds
    return ceil(seeds * sqrt(max(1, judged))) if asked == "auto" else asked


def pool_seeds(seeds: int) -> int:
    """Return the seeds of a matched Deep Ensemble, given those of a candidate."""
    return min(seeds, max(FEWEST, seeds // 2))
