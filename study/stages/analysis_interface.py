"""What the stages ask of whoever knows the tests; ``study.commands.power`` answers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from study.run_folder.store import RunFolder

CALIBRATED: Final = "cll"
"""The endpoint that no column of a row stands for: it is taken from the stored predictions."""
SHIFTED: Final = "shift_nll"
"""The endpoint by which single networks that are alike on clean data are told apart."""


@dataclass(frozen=True)
class PlannedSpread:
    """What was seen on one endpoint; the fields are those of ``analysis.stats.power.Spread``.

    Attributes:
        single: Standard deviation over seeds of the single network.
        arm: Of a candidate.
        deep_ensemble: Of the Deep Ensemble.
        gap: Mean loss of the single network minus that of the Deep Ensemble, above 0.
        two_sided: Whether tracking has two sides (performance) or one (diversity).
    """

    single: float
    arm: float
    deep_ensemble: float
    gap: float
    two_sided: bool


@dataclass(frozen=True)
class PlannedPair:
    """A pair of anchors that a candidate is held against.

    Attributes:
        spreads: One per endpoint.
        seeds: From the seeds of a candidate to those of candidate, single network, Deep Ensemble.
    """

    spreads: tuple[PlannedSpread, ...]
    seeds: Callable[[int], tuple[int, int, int]]


@dataclass(frozen=True)
class Aim:
    """What the seeds are to show, and how surely: one of so many candidates with this recovery."""

    recovery: float
    power: float
    delta: float
    alpha: float
    configurations: int


class Analysis(Protocol):
    """What the stages ask of whoever knows the tests."""

    def calibrated_nll(self, store: RunFolder, trials: Iterable[str]) -> dict[str, float]:
        """Return each trial's calibrated NLL on validation data."""

    def chance_nll(self, store: RunFolder, trial: str) -> float:
        """Return the NLL on a trial's validation data of whoever knows but class frequencies."""

    def seeds_needed(self, pairs: Sequence[PlannedPair], aim: Aim) -> int | None:
        """Return the fewest seeds of a candidate that escapes so often; None for too many."""
