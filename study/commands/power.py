"""What the pilot asks the analysis: see ``study.stages.analysis_interface.Analysis``.

The one place where the study asks the analysis: the formulas are those of the tests that judge.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import log

from study.run_folder.store import RunFolder
from study.stages.analysis_interface import Aim, PlannedPair


def calibrated_nll(store: RunFolder, trials: Iterable[str]) -> dict[str, float]:
    """Return each trial's calibrated NLL on validation data, from its stored predictions."""
    from analysis import metrics
    from analysis.data.predictions import predictions
    from analysis.data.run import load

    run, found = load(store.root), {}
    for trial in trials:
        stored = predictions(run, trial, "val")
        logq_NC = metrics.ensemble(metrics.log_softmax(stored.logits))
        found[trial] = metrics.cll(logq_NC, stored.labels)
    return found


def chance_nll(store: RunFolder, trial: str) -> float:
    """Return the NLL on a trial's validation data of whoever knows but how frequent classes are."""
    from analysis.data.predictions import predictions
    from analysis.data.run import load

    labels = predictions(load(store.root), trial, "val").labels.tolist()
    return -sum(n * log(n / len(labels)) for n in Counter(labels).values()) / len(labels)


def seeds_needed(pairs: Sequence[PlannedPair], aim: Aim) -> int | None:
    """Return the fewest seeds of an arm with which it escapes between every pair of anchors."""
    from analysis.stats import power

    def planned(pair: PlannedPair) -> power.Pair:
        spreads = [power.Spread(*vars(spread).values()) for spread in pair.spreads]
        return power.Pair(spreads, lambda seeds: power.Replicates(*pair.seeds(seeds)))

    return power.seeds_needed([planned(pair) for pair in pairs], power.Aim(**vars(aim)))
