"""The frames of ``Measures``: their columns, units and orientation.

``replicates`` has a Float64 column per metric, null where it is undefined. Of an ensemble unless
said otherwise; "pairs" are pairs of members, and undefined for one member.
"""

from typing import Any, Final, Literal, NamedTuple

import polars as pl


class Metric(NamedTuple):
    """What a column of ``replicates`` holds.

    ``better`` in brackets: (more) and (less) diverse, which is good only if members are no worse.
    """

    unit: str
    better: Literal["lower", "higher", "none", "(more)", "(less)"]
    meaning: str


SCORES: Final = {
    "entropy": "entropy",
    "msp": "minus the greatest probability",
    "mi": "mutual information",
}
"""What tells out-of-distribution examples from others: higher is more foreign."""
_ON_TEST: Final = {
    "nll": Metric("nats", "lower", "negative log likelihood of the mean probability"),
    "cll": Metric("nats", "lower", "calibrated NLL: each example at the temperature of all others"),
    "brier": Metric("0 to 2", "lower", "Brier score"),
    "brier_reliability": Metric("0 to 2", "lower", "its part from confidence off the accuracy"),
    "brier_resolution": Metric("0 to 2", "higher", "its part from telling examples apart"),
    "ece": Metric("0 to 1", "lower", "calibration error, 15 bins of equal width"),
    "adaptive_ece": Metric("0 to 1", "lower", "calibration error, 15 bins of equal mass"),
    "classwise_ece": Metric("0 to 1", "lower", "calibration error, mean over classes"),
    "accuracy": Metric("0 to 1", "higher", "share of examples whose class is right"),
    "member_nll": Metric("nats", "lower", "mean over members of the member's NLL"),
    "member_accuracy": Metric("0 to 1", "higher", "mean over members of the member's accuracy"),
    "gain": Metric("nats", "(more)", "ensemble gain: member_nll - nll, 0 for one member"),
    "predictive_entropy": Metric(
        "nats", "none", "total uncertainty: entropy of the mean probability"
    ),
    "aleatoric_entropy": Metric("nats", "none", "mean over members of the member's entropy"),
    "mutual_information": Metric(
        "nats", "(more)", "total less aleatoric: the members' disagreement"
    ),
    "disagreement": Metric("0 to 1", "(more)", "share of pairs that choose another class"),
    "normalised_disagreement": Metric(
        "ratio", "(more)", "disagreement over the mean error of members"
    ),
    "kl": Metric("nats", "(more)", "mean KL divergence of ordered pairs"),
    "js": Metric("nats", "(more)", "mean Jensen-Shannon divergence of pairs, 0 to log 2"),
    "error_correlation": Metric("-1 to 1", "(less)", "mean correlation of pairs' errors"),
    "q_statistic": Metric("-1 to 1", "(less)", "mean Yule's Q of pairs' errors"),
    "double_fault": Metric("0 to 1", "lower", "mean share of examples that both of a pair miss"),
    "aurc": Metric("0 to 1", "lower", "mean error of the k most confident, over k"),
    "augrc": Metric("0 to 0.5", "lower", "mean share of undetected errors over coverage"),
    "chance_nll": Metric("nats", "none", "NLL of the labels' frequencies: what guessing gives"),
}
_UNDER_SHIFT: Final = {
    "shift_nll": Metric(
        "nats", "lower", "NLL under shift; mean over conditions and severities, as all of shift_*"
    ),
    "shift_accuracy": Metric("0 to 1", "higher", "accuracy under shift"),
    "shift_ece": Metric("0 to 1", "lower", "calibration error under shift"),
    "shift_gain": Metric("nats", "(more)", "ensemble gain under shift"),
    "shift_mutual_information": Metric("nats", "(more)", "mutual information under shift"),
    "shift_disagreement": Metric("0 to 1", "(more)", "disagreement under shift"),
    "mce": Metric(
        "ratio",
        "lower",
        "mean corruption error: by condition, over the single model's, severities summed",
    ),
}
_FOREIGN: Final = {
    "auroc": Metric("0 to 1", "higher", "area under ROC, out of distribution is positive"),
    "aupr": Metric("0 to 1", "higher", "area under precision-recall at a prevalence of a half"),
    "fpr95": Metric("0 to 1", "lower", "share of foreign examples that pass where 95 % of own do"),
}
_ONE_NETWORK: Final = {
    "mean_weights_nll": Metric("nats", "lower", "NLL of one network with the mean weights"),
    "mean_weights_cll": Metric("nats", "lower", "its calibrated NLL"),
    "mean_weights_shift_nll": Metric("nats", "lower", "its NLL under shift"),
    "cosine_init": Metric("-1 to 1", "(less)", "of pairs' effective weights before training"),
    "cosine": Metric("-1 to 1", "(less)", "of pairs' effective weights after training"),
    "collapsed_nll": Metric("nats", "lower", "NLL of one network with the mean fast weights"),
    "collapsed_cll": Metric("nats", "lower", "its calibrated NLL"),
    "collapsed_shift_nll": Metric("nats", "lower", "its NLL under shift"),
}
METRICS: Final[dict[str, Metric]] = {
    **_ON_TEST,
    **_UNDER_SHIFT,
    **{
        f"ood_{name}_{score}": metric._replace(meaning=f"{metric.meaning}; by {of}")
        for name, metric in _FOREIGN.items()
        for score, of in SCORES.items()
    },
    **_ONE_NETWORK,
}
COMPARING: Final = tuple(
    name for name, metric in METRICS.items() if metric.better in ("(more)", "(less)")
)
"""What compares members; undefined where they solve different tasks."""
KEYS: Final = {
    "arm": pl.String,
    "role": pl.String,
    "method": pl.String,
    "configuration": pl.String,
    "name": pl.String,
    "trial": pl.String,
    "replicate": pl.Int32,
    "members": pl.Int16,
}
SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "replicates": {**KEYS, **dict.fromkeys(METRICS, pl.Float64)},
    "severities": {
        **{"arm": pl.String, "replicate": pl.Int32, "condition": pl.String, "severity": pl.Int8},
        **dict.fromkeys(("nll", "accuracy", "ece"), pl.Float64),
    },
    "reliability": {
        **{"arm": pl.String, "replicate": pl.Int32, "bin": pl.Int8, "count": pl.Int64},
        **dict.fromkeys(("confidence", "accuracy"), pl.Float64),
    },
    "pairs": {"arm": pl.String, "i": pl.Int16, "j": pl.Int16, "disagreement": pl.Float64},
    "scores": {
        **{"arm": pl.String, "replicate": pl.Int32, "kind": pl.String},
        **dict.fromkeys(("at", "share"), pl.Float64),
    },
    "curve": {
        **{"arm": pl.String, "replicate": pl.Int32, "members": pl.Int16},
        **dict.fromkeys(("cll", "nll"), pl.Float64),
    },
}
