"""Planted truths from per-example predictions: singles, Deep Ensembles, and mixtures of both.

The members of a run's Deep Ensembles are independently trained single models. Of them any number of
whole arms can be made whose true recovery is known: the mean over all units that were made.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import brentq

from analysis import metrics
from analysis.data.predictions import predictions, predictions_file
from analysis.data.run import Run
from analysis.metrics import IntArray
from analysis.stats.contrasts import FloatArray
from analysis.validation.simulate import MEMBERS, Blend, Units
from study.errors import StudyError

ENDPOINTS: Final = ("cll", "shift_nll", "gain")
FEWEST: Final = 3 * MEMBERS
"""Members below which subsets are too much alike."""
SHARE_ERROR: Final = 1e-7
"""Of a mixture's share; the first hundredth already has up to a quarter of the recovery."""


@dataclass(frozen=True)
class Members:
    """Log-probabilities of P independently trained single models.

    Attributes:
        test: (P, N, C).
        labels: (N,).
        shift: (P, K, C).
        shift_labels: (K,).
        cell: (K,) number of the condition and severity of a shifted row.
    """

    test: FloatArray
    labels: IntArray
    shift: FloatArray
    shift_labels: IntArray
    cell: IntArray

    def losses(self, chosen: IntArray, weights: FloatArray | None = None) -> FloatArray:
        """Return calibrated NLL, shifted NLL and minus the gain of one weighted ensemble, (3,).

        The gain is sum_m w_m NLL_m - NLL(sum_m w_m p_m): with equal weights, ``metrics.gain``.
        """
        w = np.full(len(chosen), 1 / len(chosen)) if weights is None else weights
        logq = _mixed(self.test[chosen], w)
        nll = metrics.nll(logq, self.labels)
        own = [metrics.nll(logp, self.labels) for logp in self.test[chosen]]
        rows = metrics.example_nll(_mixed(self.shift[chosen], w), self.shift_labels)
        cells = np.bincount(self.cell, rows) / np.bincount(self.cell)
        cll = metrics.cll(logq, self.labels)
        return np.array([cll, cells.mean(), nll - np.dot(w, own)])

    def unit(self, chosen: IntArray) -> FloatArray:
        """Return the losses of an ensemble of equal weights; of one member the gain is 0."""
        found = self.losses(chosen)
        return np.append(found[:2], 0.0) if len(chosen) == 1 else found


def _mixed(logp_MNC: FloatArray, weights: FloatArray) -> FloatArray:
    """Return log sum_m w_m p_m, (N, C)."""
    if len(logp_MNC) == 1:
        return np.asarray(logp_MNC[0])
    counts = weights > 0  # A member of no weight may be all that is not next to impossible.
    scaled = logp_MNC[counts] + np.log(weights[counts])[:, None, None]
    top = scaled.max(0)
    return np.asarray(top + np.log(np.exp(scaled - top).sum(0)))


def of_run(run: Run) -> Members:
    """Return the members of a run's confirmed Deep Ensembles.

    Raises:
        StudyError: When there are fewer than ``FEWEST``, or no shifted predictions.
    """
    pools = run.trials.filter(stage="confirm", role="deep_ensemble", status="complete")
    trials = pools.sort("replicate")["trial"].to_list()
    members = int(pools["members"].sum())
    if members < FEWEST:
        raise StudyError(
            f"{run.folder}: planted truths need at least {FEWEST} confirmed members of Deep "
            f"Ensembles, but there are {members}; finish the study, or leave out --runs"
        )
    if not predictions_file(run, trials[0], "shift").exists():
        raise StudyError(
            f"{run.folder}: planted truths need predictions on shifted data, but there are none; "
            "use a data set with a shift, or leave out --runs"
        )
    parts = {
        split: [predictions(run, trial, split) for trial in trials] for split in ("test", "shift")
    }
    test, shift = parts["test"][0], parts["shift"][0]
    logp = {
        split: np.concatenate([metrics.log_softmax(p.logits) for p in found])
        for split, found in parts.items()
    }
    _, cell = np.unique(shift.condition * 128 + shift.severity, return_inverse=True)
    return Members(logp["test"], test.labels, logp["shift"], shift.labels, cell)


def generated(
    rng: np.random.Generator, members: int = 80, examples: int = 250, classes: int = 4
) -> Members:
    """Return members that were never trained: signal, noise of the data, noise of the seed.

    Every member draws a scale of its noise too, so that single models differ in quality.
    """
    labels = np.arange(examples) % classes
    scale = 2.2 * np.exp(0.08 * rng.standard_normal((members, 1, 1)))
    found = []
    for strength in (3.5, 2.0):
        signal = strength * np.eye(classes)[labels]
        data = 0.7 * rng.standard_normal((1, examples, classes))
        seed = 0.7 * rng.standard_normal((members, examples, classes))
        found.append(metrics.log_softmax(signal + scale * (data + seed)))
    return Members(found[0], labels, found[1], labels, np.arange(examples) % 2)


@dataclass(frozen=True)
class Planted:
    """Populations of one run; every one is a finite set of units whose mean is the truth."""

    members: Members
    singles: Units
    copies: Units
    deep: dict[int, Units]
    chosen: IntArray

    def recovery(self, units: Units) -> FloatArray:
        """Return the true recovery of a population by endpoint."""
        single, deep = self.singles.mean, self.deep[MEMBERS].mean
        return np.asarray((single - units.mean) / (single - deep))

    def mixed(self, share: float) -> Units:
        """Return units of p = (1 - share) p_S + share p_DE."""
        weights = np.append(1 - share, np.full(MEMBERS, share / MEMBERS))
        return Units(np.array([self.members.losses(row, weights) for row in self.chosen]))

    def share_for(self, recovery: float) -> float:
        """Return the share of ``mixed`` at which the least recovery of all endpoints is this.

        It errs towards too small a share, so that a planted null is one.
        """
        if recovery >= 1:  # Where rounding may leave no change of sign.
            return 1.0

        def beyond(share: float) -> float:
            return float(self.recovery(self.mixed(share)).min()) - recovery

        return max(0.0, float(brentq(beyond, 0.0, 1.0, xtol=SHARE_ERROR)) - SHARE_ERROR)

    def blend(self, size: int, recovery: float) -> Blend | None:
        """Return singles with a share of Deep Ensembles of ``size``; None if these are too poor.

        The share is such that the least mean recovery of all endpoints is ``recovery``.
        """
        most = float(self.recovery(self.deep[size]).min())
        if most < recovery:
            return None
        return Blend(recovery / most, self.deep[size], self.singles)


def planted(members: Members, units: int, rng: np.random.Generator) -> Planted:
    """Make ``units`` Deep Ensembles of each size from 2 to ``MEMBERS``, and a single beside each.

    A unit's members are distinct; units share members. A copy is a "BatchEnsemble" whose members
    are all one single model.
    """
    count = len(members.test)
    chosen = np.array([rng.choice(count, MEMBERS + 1, replace=False) for _ in range(units)])
    singles = np.array([members.unit(np.array([m])) for m in range(count)])
    copies = singles.copy()
    copies[:, 2] = [members.losses(np.repeat(m, MEMBERS))[2] for m in range(count)]
    deep = {
        size: Units(np.array([members.unit(row[1 : size + 1]) for row in chosen]))
        for size in range(2, MEMBERS + 1)
    }
    return Planted(members, Units(singles), Units(copies), deep, chosen)
