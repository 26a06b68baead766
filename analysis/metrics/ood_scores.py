"""What tells out-of-distribution examples from others: scores that rank by uncertainty.

How well they do is measured in ``detection``; a new score is an entry here, and one in
``analysis.measures.columns.SCORES``.
"""

from analysis.metrics.arrays import FloatArray
from analysis.metrics.uncertainty import predictive_entropy


def ood_scores(logq_NC: FloatArray, mi_N: FloatArray | None = None) -> dict[str, FloatArray]:
    """Return the scores of each example, (N,), by name: higher where it is less certain.

    Args:
        logq_NC: Of the ensemble.
        mi_N: Mutual information of the members; None of one member, where it is 0 and ranks
            nothing.
    """
    scores = {"entropy": predictive_entropy(logq_NC), "msp": -logq_NC.max(-1)}
    return scores if mi_N is None else scores | {"mi": mi_N}
