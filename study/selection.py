"""Which configurations go on: ranks on validation data, strata, shortlist."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

Row = Mapping[str, Any]


def order(rows: Iterable[Row]) -> list[str]:
    """Return configurations from best to worst by the worst of their ranks.

    A configuration escapes only if it does on every endpoint, so it is as good as its weakest
    objective: val NLL, shifted val NLL, ensemble gain, each averaged over seeds. Ranks are
    shares within one ensemble size, since the gain grows with it. Incomplete trials do not count.
    """
    by_configuration: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == "complete":
            by_configuration[row["configuration"]].append(row)
    by_size: dict[int, list[str]] = defaultdict(list)
    for configuration, own in by_configuration.items():
        by_size[own[0]["members"]].append(configuration)
    scores: dict[str, tuple[float, float, str]] = {}
    for group in by_size.values():
        means = np.array([_objectives(by_configuration[c]) for c in group])
        shares = rankdata(means, method="min", axis=0) / len(group)
        for configuration, share in zip(group, shares, strict=True):
            scores[configuration] = (share.max(), share.mean(), configuration)
    return sorted(scores, key=scores.__getitem__)


def _objectives(rows: list[Row]) -> list[float]:
    """Return the mean objectives, each lower is better."""
    return [
        float(np.mean([row[name] for row in rows])) * sign
        for name, sign in (("val_nll", 1), ("val_shift_nll", 1), ("val_gain", -1))
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
