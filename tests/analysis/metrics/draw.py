"""Random predictions that all tests of metrics take."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from analysis import metrics

seeds = st.integers(0, 10_000)
some = settings(max_examples=15, deadline=None)


def draw(seed: int, members: int = 4, rows: int = 200, classes: int = 5) -> tuple:
    """Return members' log-probabilities, the ensemble's, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    logits = rng.normal(size=(members, rows, classes)) * 2
    logits[:, np.arange(rows), y] += 2
    logp = metrics.log_softmax(logits)
    return logp, metrics.ensemble(logp), y


def draw_coarse(seed: int, rows: int, classes: int) -> tuple:
    """Return an ensemble's log-probabilities, many of them equal, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 3, (rows, classes)) + 0.1 * np.arange(classes)  # on no bin's edge
    return metrics.log_softmax(logits), rng.integers(0, classes, rows)


def calibrated_sample(rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities and labels drawn from them: temperature 1 is right."""
    rng = np.random.default_rng(5)
    logq = metrics.log_softmax(rng.normal(size=(rows, 4)) * 1.5)
    return logq, (np.exp(logq).cumsum(-1) < rng.random((rows, 1))).sum(-1)
