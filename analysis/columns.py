"""The frames of ``Measures``: their columns, units and orientation.

``replicates`` has a Float64 column per metric, null where it is undefined. Of an ensemble unless
said otherwise; "pairs" are pairs of members, and undefined for one member.

=========================== ======= ======== ======================================================
name                        unit    better   meaning
=========================== ======= ======== ======================================================
nll                         nats    lower    negative log likelihood of the mean probability
cll                         nats    lower    the same after temperature scaling on the other half
brier                       0 to 2  lower    Brier score
brier_reliability           0 to 2  lower    its part from confidence off the accuracy
brier_resolution            0 to 2  higher   its part from telling examples apart
ece                         0 to 1  lower    calibration error, 15 bins of equal width
adaptive_ece                0 to 1  lower    the same, 15 bins of equal mass
classwise_ece               0 to 1  lower    the same, mean over classes
accuracy                    0 to 1  higher   share of examples whose class is right
member_nll                  nats    lower    mean over members of the member's NLL
member_accuracy             0 to 1  higher   mean over members of the member's accuracy
gain                        nats    (more)   member_nll - nll: 0 for one member
predictive_entropy          nats    none     total uncertainty: entropy of the mean probability
aleatoric_entropy           nats    none     mean over members of the member's entropy
mutual_information          nats    (more)   their difference: the members' disagreement
disagreement                0 to 1  (more)   share of pairs that choose another class
normalised_disagreement     ratio   (more)   the same over the mean error of members
kl                          nats    (more)   mean KL divergence of ordered pairs
js                          nats    (more)   mean Jensen-Shannon divergence of pairs, 0 to log 2
error_correlation           -1 to 1 (less)   mean correlation of pairs' errors
q_statistic                 -1 to 1 (less)   mean Yule's Q of pairs' errors
double_fault                0 to 1  lower    mean share of examples that both of a pair miss
chance_nll                  nats    none     NLL of the labels' frequencies: what guessing gives
aurc                        0 to 1  lower    mean error of the k most confident, over k
augrc                       0 to .5 lower    mean share of undetected errors over coverage
shift_nll                   nats    lower    mean over conditions and severities, as all of shift_*
shift_accuracy              0 to 1  higher
shift_ece                   0 to 1  lower
shift_gain                  nats    (more)
shift_mutual_information    nats    (more)
shift_disagreement          0 to 1  (more)
mce                         ratio   lower    mean over conditions of the error by that of the single
                                             model (mean over its seeds), severities summed
ood_auroc_{score}           0 to 1  higher   out of distribution is positive; mean over the sets
ood_aupr_{score}            0 to 1  higher   the same, at a prevalence of a half
ood_fpr95_{score}           0 to 1  lower    share of the other side that passes at a rate of 95 %
mean_weights_{nll,cll}      nats    lower    one network with the members' mean weights, on test
mean_weights_shift_nll      nats    lower    the same under shift
cosine_init, cosine         -1 to 1 (less)   of pairs' effective weights, before and after training
collapsed_{nll,cll}         nats    lower    one network with the members' mean fast weights
collapsed_shift_nll         nats    lower    the same under shift
=========================== ======= ======== ======================================================

``{score}``: entropy, msp (minus the greatest probability), mi (mutual information). *(more)* and
*(less)*: more diverse, which is good only if members are no worse for it.
"""

from typing import Any, Final

import polars as pl

SCORES: Final = ("entropy", "msp", "mi")
METRICS: Final = (
    *("nll", "cll", "brier", "brier_reliability", "brier_resolution"),
    *("ece", "adaptive_ece", "classwise_ece", "accuracy", "member_nll", "member_accuracy"),
    *("gain", "predictive_entropy", "aleatoric_entropy", "mutual_information"),
    *("disagreement", "normalised_disagreement", "kl", "js"),
    *("error_correlation", "q_statistic", "double_fault", "aurc", "augrc", "chance_nll"),
    *("shift_nll", "shift_accuracy", "shift_ece", "shift_gain"),
    *("shift_mutual_information", "shift_disagreement", "mce"),
    *(f"ood_{name}_{score}" for name in ("auroc", "aupr", "fpr95") for score in SCORES),
    *("mean_weights_nll", "mean_weights_cll", "mean_weights_shift_nll"),
    *("cosine_init", "cosine", "collapsed_nll", "collapsed_cll", "collapsed_shift_nll"),
)
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
    "curve": {
        **{"arm": pl.String, "replicate": pl.Int32, "members": pl.Int16},
        **dict.fromkeys(("cll", "nll"), pl.Float64),
    },
}
