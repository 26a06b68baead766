"""The anchors that share an arm's own hyperparameters: a single network and a Deep Ensemble.

Held against these, an arm cannot escape by hyperparameters that would have helped any network.
"""

from collections.abc import Iterable, Mapping
from math import ceil, sqrt
from typing import Final

from study.parquet_format import Role
from study.space.settings import Study
from study.spec import Configuration
from study.stages.plan import Arm, Matched
from study.stages.single_network import as_single

MORE: Final = 2
"""Seeds of a matched single network for each of the arm: it costs little and weighs 1 - delta."""
FEWEST: Final = 5
"""Seeds of a matched Deep Ensemble at least: it weighs delta in the tests, its variance delta²."""


def as_deep_ensemble(single: Configuration, members: int) -> Configuration:
    """Return the Deep Ensemble of so many networks that are trained as ``single`` is."""
    return single.model_copy(update={"method": "deep_ensemble", "params": {"members": members}})


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


def single_seeds(study: Study, judged: int, seeds: int) -> int:
    """Return the seeds of the single network: all that is judged shares it (Dunnett 1955).

    Its Deep Ensemble is shared as well, but weighs delta in the tests, so more of it is no help.
    """
    asked = study.protocol.single_seeds
    return ceil(seeds * sqrt(max(1, judged))) if asked == "auto" else asked


def pool_seeds(seeds: int) -> int:
    """Return the seeds of a matched Deep Ensemble, given those of a candidate."""
    return min(seeds, max(FEWEST, seeds // 2))
