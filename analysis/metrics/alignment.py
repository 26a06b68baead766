"""Similarity of two members' features."""

import numpy as np

from analysis.metrics.arrays import FloatArray


def linear_cka(X_ND: FloatArray, Y_NE: FloatArray) -> float:
    """Return the linear centred kernel alignment, 0 to 1; 1 for features equal up to a rotation.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) in Frobenius norms of centred features (Kornblith et al. 2019).
    Lower is more diverse; does not change with rotation, scale or shift of either. Biased upwards
    where N is not well above D and E. NaN where a side is constant.
    """
    X_ND, Y_NE = _centred(X_ND), _centred(Y_NE)
    if X_ND.shape[1] + Y_NE.shape[1] <= len(X_ND):
        cross, own, other = Y_NE.T @ X_ND, X_ND.T @ X_ND, Y_NE.T @ Y_NE
        above = float(np.vdot(cross, cross))
    else:  # The same from the Gram matrices, which are smaller.
        own, other = X_ND @ X_ND.T, Y_NE @ Y_NE.T
        above = float(np.vdot(own, other))
    below = float(np.linalg.norm(own) * np.linalg.norm(other))
    return above / below if below else float("nan")


def _centred(features_ND: FloatArray) -> FloatArray:
    exact_ND = features_ND.astype(np.float64)
    return np.asarray(exact_ND - exact_ND.mean(0))
