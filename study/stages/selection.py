"""Which configurations go on: ranks on validation data, strata, shortlist."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.stats import rankdata

from study.parquet_format import TrialRow

DULL = 0.25
"""Share of the configurations, those with the least gain, that are ranked behind all others."""


def rank(rows: Iterable[TrialRow], penalise_low_gain: bool = False) -> list[str]:
    """Return configurations from best to worst by validation NLL, averaged over their rows.

    The ranking uses clean data only, even where shifted data exist: on small sets a rank by shifted
    NLL picks networks so strongly regularised that their Deep Ensemble gains nothing. Ranks are
    shares within one ensemble size. Gain is no merit in itself (bad members have it too), but
    without it nothing can escape.

    Args:
        rows: Trial rows; incomplete ones do not count.
        penalise_low_gain: Rank the quarter with the least ensemble gain behind all others.
    """
    by_configuration: dict[str, list[TrialRow]] = defaultdict(list)
    for row in rows:
        if row.status == "complete":
            by_configuration[row.configuration].append(row)
    by_size: dict[int, list[str]] = defaultdict(list)
    for configuration, own in by_configuration.items():
        by_size[own[0].members].append(configuration)
    scores: dict[str, tuple[bool, float, str]] = {}
    for group in by_size.values():
        means = np.array([_means(by_configuration[c]) for c in group])
        shares = (rankdata(means, method="average", axis=0) - 0.5) / len(group)
        for configuration, (nll, gain) in zip(group, shares, strict=True):
            scores[configuration] = (
                penalise_low_gain and bool(gain < DULL),
                float(nll),
                configuration,
            )
    return sorted(scores, key=scores.__getitem__)


def _means(rows: list[TrialRow]) -> list[float]:
    """Return mean val NLL and ensemble gain."""
    return [
        float(np.mean([getattr(row, name) for row in rows])) for name in ("val_nll", "val_gain")
    ]


def shortlist(
    ordered: list[str], strata: Mapping[str, str], enqueued: list[str], size: int, per_stratum: int
) -> list[str]:
    """Return at most ``size`` configurations: the enqueued ones, then the best of each stratum.

    Args:
        ordered: Configurations from best to worst.
        strata: Stratum of each configuration.
        enqueued: Configurations that are confirmed whatever their rank.
        size: Length of the list; the enqueued ones are never dropped.
        per_stratum: How many of one stratum the ranking may add.
    """
    chosen = list(dict.fromkeys(enqueued))
    taken: dict[str, int] = defaultdict(int)
    for configuration in ordered:
        stratum = strata[configuration]
        if len(chosen) >= size:
            break
        if configuration not in chosen and taken[stratum] < per_stratum:
            chosen.append(configuration)
            taken[stratum] += 1
    return chosen
