"""Where the members lie in parameter space: how their effective weights differ, and how that moves.

Everything follows from inner products between members, which add up over layers.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import reduce
from typing import Final

import torch
from torch import Tensor

from study.methods import Method
from study.parquet_format import GeometryRow

POINTS: Final = 8
"""Epochs, beside the start, at which a trial's weights are looked at."""


@dataclass(frozen=True)
class Products:
    """Inner products of the members' weights W_m in one layer, or summed over layers.

    Attributes:
        weights_MM: W_i · W_j.
        deviations_MM: (W_i - W̄) · (W_j - W̄), W̄ the mean over members.
        signs_MM: sign(W_i) · sign(W_j).
        mean: ‖W̄‖².
        size: Number of weights P.
    """

    weights_MM: Tensor
    deviations_MM: Tensor
    signs_MM: Tensor
    mean: float
    size: int

    def __add__(self, other: "Products") -> "Products":
        """Return the products of the weights of both, side by side."""
        return Products(
            self.weights_MM + other.weights_MM,
            self.deviations_MM + other.deviations_MM,
            self.signs_MM + other.signs_MM,
            self.mean + other.mean,
            self.size + other.size,
        )


def products(weights_MP: Tensor) -> Products:
    """Return the inner products, in float64 on the CPU; identical members deviate by exactly 0."""
    mean_P = weights_MP[0] + (weights_MP - weights_MP[0]).mean(0)
    return Products(
        gram(weights_MP),
        gram(weights_MP - mean_P),
        gram(weights_MP.sign()),
        mean_P.square().sum(dtype=torch.float64).item(),
        weights_MP.shape[1],
    )


def gram(vectors_MP: Tensor) -> Tensor:
    """Return the inner products (M, M) of the rows, in float64 on the CPU."""
    return (vectors_MP @ vectors_MP.mT).double().cpu()


def mean_cosine(gram_MM: Tensor) -> float | None:
    """Return the mean cosine over pairs, None for less than two members or one without length."""
    norms = gram_MM.diagonal().sqrt()
    if len(gram_MM) < 2 or not bool((norms > 0).all()):
        return None
    return _mean_over_pairs(gram_MM / norms.outer(norms))


def spread(inner: Products) -> float | None:
    """Return the mean over members of ‖W_m - W̄‖ / ‖W̄‖."""
    lengths = inner.deviations_MM.diagonal().sqrt()
    return lengths.mean().item() / inner.mean**0.5 if inner.mean > 0 else None


def sign_disagreement(inner: Products) -> float:
    """Return the mean over pairs of the share of opposite signs; a weight of zero counts half."""
    return (1 - _mean_over_pairs(inner.signs_MM) / inner.size) / 2


def _mean_over_pairs(matrix_MM: Tensor) -> float:
    m = len(matrix_MM)
    return ((matrix_MM.sum() - matrix_MM.diagonal().sum()) / (m * (m - 1))).item()


WEIGHTS: Final[dict[str, Callable[[Products], float | None]]] = {
    "cosine": lambda inner: mean_cosine(inner.weights_MM),
    "cosine_deviation": lambda inner: mean_cosine(inner.deviations_MM),
    "spread": spread,
    "sign_disagreement": sign_disagreement,
}
"""The quantities of the weights alone; their meaning is in ``study.parquet_format.QUANTITIES``."""


def weight_cosine(method: Method) -> float | None:
    """Return the mean over pairs of members of the cosine of their effective weights."""
    grams = [gram(weights_MP) for weights_MP in method.effective_weights()]
    return mean_cosine(sum(grams[1:], grams[0])) if grams else None


def weight_rows(method: Method, epoch: int) -> list[GeometryRow]:
    """Return every quantity, of all weights and each layer, as in ``parquet_format.GEOMETRY``."""
    if method.members < 2:
        return []
    layers = {str(n): products(w_MP) for n, w_MP in enumerate(method.effective_weights())}
    if not layers:
        return []
    whole: dict[str | None, Products] = {None: reduce(Products.__add__, layers.values())}
    return [
        GeometryRow(quantity, measured(inner), epoch, layer)
        for layer, inner in (whole | layers).items()
        for quantity, measured in WEIGHTS.items()
    ]


def when(epochs: int) -> set[int]:
    """Return the start and ``POINTS`` even steps to the last epoch."""
    return {round(epochs * point / POINTS) for point in range(POINTS + 1)}


class Trajectory:
    """The rows of a method's weights along its training.

    Args:
        method: What is trained, its members at the same epoch at every call of ``record``.
        epochs: When to look; ``record`` passes over all other epochs.

    Attributes:
        rows: What was recorded.
        seconds: What that took, so that training can be timed without it.
    """

    def __init__(self, method: Method, epochs: Collection[int]) -> None:
        self.method = method
        self.due = set(epochs)
        self.rows: list[GeometryRow] = []
        self.seconds = 0.0

    def record(self, epoch: int) -> None:
        """Look at the weights after ``epoch`` epochs, once, if it is due."""
        if epoch not in self.due:
            return
        start = time.perf_counter()
        self.due.remove(epoch)
        self.rows += weight_rows(self.method, epoch)
        self.seconds += time.perf_counter() - start
