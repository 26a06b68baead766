"""One pure function per metric, on natural logarithms of probabilities.

Shapes: M members, N examples, C classes, P pairs of members. ``logp_MNC`` are the members'
log-probabilities, ``logq_NC`` the ensemble's, that is log of the members' mean *probability*;
``y_N`` the classes. Log-probabilities are exact in log space, so nothing is clipped; what is
summed over examples is summed in float64. ``log_softmax`` lays its result out class by class in
memory, which makes every reduction over classes a sum of long rows. What is undefined is NaN.
"""

from analysis.metrics.accuracy_and_brier import (
    BrierParts,
    accuracy,
    brier,
    brier_decomposition,
    mean_corruption_error,
)
from analysis.metrics.arrays import BoolArray, FloatArray, IntArray
from analysis.metrics.calibration import (
    BINS,
    adaptive_ece,
    classwise_ece,
    confidence_bins,
    ece,
    reliability,
)
from analysis.metrics.detection import aupr, auroc, fpr95, roc
from analysis.metrics.diversity import (
    disagreement,
    double_fault,
    error_correlation,
    normalised_disagreement,
    pairwise_disagreement,
    pairwise_js,
    pairwise_kl,
    q_statistic,
)
from analysis.metrics.equivalent_size import deep_ensemble_equivalent
from analysis.metrics.likelihood import (
    chance_nll,
    example_gain,
    example_nll,
    gain,
    member_nll,
    nll,
)
from analysis.metrics.log_space import ensemble, log_softmax
from analysis.metrics.ood_scores import ood_scores
from analysis.metrics.selective import augrc, aurc
from analysis.metrics.temperature_scaling import TEMPERATURES, cll, example_cll, temperature
from analysis.metrics.uncertainty import (
    ROUNDING,
    aleatoric_entropy,
    entropy,
    mutual_information,
    predictive_entropy,
)

__all__ = [
    "BINS",
    "ROUNDING",
    "TEMPERATURES",
    "BoolArray",
    "BrierParts",
    "FloatArray",
    "IntArray",
    "accuracy",
    "adaptive_ece",
    "aleatoric_entropy",
    "augrc",
    "aupr",
    "aurc",
    "auroc",
    "brier",
    "brier_decomposition",
    "chance_nll",
    "classwise_ece",
    "cll",
    "confidence_bins",
    "deep_ensemble_equivalent",
    "disagreement",
    "double_fault",
    "ece",
    "ensemble",
    "entropy",
    "error_correlation",
    "example_cll",
    "example_gain",
    "example_nll",
    "fpr95",
    "gain",
    "log_softmax",
    "mean_corruption_error",
    "member_nll",
    "mutual_information",
    "nll",
    "normalised_disagreement",
    "ood_scores",
    "pairwise_disagreement",
    "pairwise_js",
    "pairwise_kl",
    "predictive_entropy",
    "q_statistic",
    "reliability",
    "roc",
    "temperature",
]
