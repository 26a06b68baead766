"""What a study is likely to take of processors and disk, and whether the disk has it.

The hours of a GPU follow from FLOPs, which are counted, and from how many it does in a second,
which is assumed: NVIDIA states an H100's peak, and the share of it that is reached is a guess. The
uncompiled airbench94, a small network for CIFAR-10, does 0.36 PFLOPs in 3.83 s on an A100
(https://github.com/KellerJordan/cifar10-airbench), 30 % of its peak; here a third of that share is
assumed. No GPU has confirmed it.
"""

import math
from collections.abc import Mapping
from typing import Final

from study.datasets import Dataset
from study.run_folder.free_space import RESERVE, free_space
from study.run_folder.store import RunFolder
from study.space.settings import MethodSpace, Study
from study.stages import pilot
from study.stages.hyperparameter_exchange import EXCHANGED
from study.stages.matched_anchors import MORE, pool_seeds, single_seeds
from study.stages.single_network import OWN

MEMBERS: Final = 6
"""Sets of logits of a confirmed trial, on average: its members and the controls."""
PEAK: Final = {"bfloat16": 989e12, "float32": 494e12}
"""FLOPs in a second of an H100 (SXM), dense, by precision; that of float32 is TF32's."""
UTILISATION: Final = 0.1
"""Share of the peak that training is assumed to reach."""
SIZE: Final = 4
"""Members of an ensemble that does not say."""


def total(study: Study, each: Mapping[str, float]) -> float:
    """Return what all trials of a study cost together, at most.

    Args:
        study: What is done.
        each: What a trial costs, by tuned method.
    """
    budget, protocol = study.budget, study.protocol
    single, pilots, seeds = each["single"], 0.0, protocol.seeds
    most = max(map(_members, study.spaces))
    if seeds == "auto":
        pilots, seeds = (1 + most) * single * budget.pilot_seeds, pilot.MOST
    tuned = sum((budget.trials + budget.rescore * budget.rescore_seeds) * c for c in each.values())
    compared = (s for s in study.others if s.method not in ("single", "deep_ensemble"))
    counts = [
        *((space, protocol.shortlist) for space in study.candidates),
        *((space, protocol.comparisons) for space in compared),
    ]
    arms = sum(count * each[space.method] for space, count in counts)
    negative = max((each[space.method] for space in study.candidates), default=single)
    cost = tuned + pilots + seeds * (arms + negative + (1 + 2 * most) * single)
    if protocol.anchors != "tuned":
        values = sum(min(count, _values(space)) for space, count in counts)
        own = min(OWN, _values(study.space("single")))
        networks = budget.anchor_seeds * (own + values)
        if protocol.contended:
            # By the exchange all may have new values, and all of the own search be contenders.
            again = values if protocol.exchange else 0.0
            networks += budget.anchor_seeds * again + MORE * seeds * own
        networks += values * (MORE * seeds + most * pool_seeds(seeds))
        networks += single_seeds(study, sum(count for _, count in counts), seeds)
        exchanged = 2 * EXCHANGED * arms if protocol.exchange else 0.0
        cost += single * networks + exchanged
    return cost


def _members(space: MethodSpace) -> int:
    """Return the members of a method's largest ensemble."""
    return max(space.values_of("params.members"), default=0) or SIZE


def _values(space: MethodSpace) -> float:
    """Return how many sets of training and backbone values a space has."""
    sizes = [
        sum(len(domain.choice) if domain.choice else math.inf for domain in alternatives)
        for key, alternatives in space.search.items()
        if key.startswith(("training.", "backbone."))
    ]
    return math.prod(sizes)


def gpu_hours(flops: float, precision: str) -> float:
    """Return the hours that an H100 is assumed to take."""
    return flops / (UTILISATION * PEAK[precision]) / 3600


def estimate(study: Study, data: Dataset) -> float:
    """Return about how many bytes the finished study takes; at most, where the seeds are auto."""
    protocol = study.protocol
    seeds = pilot.MOST if protocol.seeds == "auto" else protocol.seeds
    width = 2 if study.precision == "float16" else 4
    rows = len(data.test[1]) + len(data.shift.labels) + sum(map(len, data.ood.values()))
    judged = protocol.shortlist * len(study.candidates) + len(study.spaces)
    arms = (2 if protocol.anchors != "tuned" else 1) * judged + 3
    return seeds * arms * rows * MEMBERS * data.classes * width


def shortage(study: Study, data: Dataset, store: RunFolder) -> str | None:
    """Return a line when what is free is not likely to suffice."""
    free = free_space(store)
    if free == math.inf:
        return None
    there = sum(file.stat().st_size for file in store.root.glob("trials/*/*.parquet"))
    missing = estimate(study, data) - there
    if missing <= free - RESERVE:
        return None
    return (
        f"note: --out {store.root}: the study may take {missing / 1e6:,.0f} MB more, but "
        f"{free / 1e6:,.0f} are free; it will stop, and can go on, where the disk is nearly full"
    )
