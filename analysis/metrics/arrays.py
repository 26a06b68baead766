"""Types of the arrays that metrics take and return."""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]


def tie_means(score_N: FloatArray, value_N: FloatArray | BoolArray) -> FloatArray:
    """Return each example's value averaged over the examples of the same score, (N,) float64.

    What is computed from it does not depend on the order of the rows.
    """
    group_N = np.unique(score_N, return_inverse=True)[1]
    return np.asarray((np.bincount(group_N, value_N) / np.bincount(group_N))[group_N])
