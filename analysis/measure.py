"""From stored predictions to frames of numbers: one pass over the confirm stage's files.

The frames are all that the statistics and the charts ever see.
"""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Measures:
    """What was measured on the confirm stage.

    An *arm* is one configuration in one role; its key is ``<role>`` for the anchors and controls
    (the anchor Deep Ensemble of size M: ``deep_ensemble-M``) and ``<configuration>`` otherwise.

    Attributes:
        replicates: One row per arm and replicate: arm, role, method, configuration, name, trial,
            replicate, members, and a Float64 column per metric (null where it is undefined):
            nll, cll, brier, ece, accuracy, gain, member_nll, predictive_entropy,
            mutual_information, disagreement, kl, shift_nll, shift_accuracy, shift_ece,
            shift_gain, ood_auroc_entropy, ood_auroc_msp, ood_auroc_mi, cosine, cosine_init,
            collapsed_nll, collapsed_cll, collapsed_shift_nll.
        severities: arm, replicate, condition, severity, nll, accuracy, ece.
        reliability: arm, replicate, bin (0-14), count, confidence, accuracy.
        pairs: arm, i, j, disagreement (mean over replicates; members i < j).
        excluded: trial, arm, stage, status, reason: every trial that is not complete.
    """

    replicates: pl.DataFrame
    severities: pl.DataFrame
    reliability: pl.DataFrame
    pairs: pl.DataFrame
    excluded: pl.DataFrame
