"""Stage 0: how many seeds the confirmation needs, from the spread of the anchors.

The tuned single network and its Deep Ensemble are trained on seeds of their own and looked at on
validation data; the test set stays closed. These runs are used for nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final, Protocol

from study.errors import StudyError
from study.jobs import Job
from study.schema import Role, TrialRow
from study.space.study import Study
from study.spec import derive_seed
from study.stages.plan import Arm

LEAST, MOST = 10, 60
"""Bounds of the number of seeds: fewer are fragile, more are seldom paid for."""
RECOVERY, POWER = 0.5, 0.8
"""The recovery, on every endpoint, that is to be found, and the chance with which it is."""
SEEN_AS: Final = {
    "cll": "val_nll",
    "nll": "val_nll",
    "shift_nll": "val_shift_nll",
    "gain": "val_gain",
}
"""Column of a trial's row that stands for an endpoint before the test set is opened."""


@dataclass(frozen=True)
class AnchorSpread:
    """What the pilot saw on one endpoint.

    Attributes:
        single: Standard deviation over seeds of the single model.
        deep_ensemble: Of the Deep Ensemble.
        gap: Mean loss of the single model minus that of the Deep Ensemble, above 0.
        two_sided: Whether tracking has two sides (performance) or one (diversity).
    """

    single: float
    deep_ensemble: float
    gap: float
    two_sided: bool


class SeedsNeeded(Protocol):
    """Returns the fewest seeds per arm with which a recovery is found; None for too many."""

    def __call__(
        self,
        spreads: Sequence[AnchorSpread],
        *,
        recovery: float,
        power: float,
        delta: float,
        alpha: float,
        configurations: int,
    ) -> int | None:
        """Return the number of seeds."""


def pilot_jobs(study: Study, arms: list[Arm]) -> list[Job]:
    """Return the runs of the single model and of the Deep Ensemble of the candidates' common size.

    Args:
        study: Its seed and budget.
        arms: Those of the plan; the positive control is such a Deep Ensemble. Long runs come first.
    """
    jobs = []
    sources: dict[Role, Role] = {"deep_ensemble": "positive_control", "single": "single"}
    for role, source in sources.items():
        arm = next(arm for arm in arms if arm.role == source)
        for replicate in range(study.budget.pilot_seeds):
            seed = derive_seed(study.seed, "pilot", role, arm.spec.configuration, replicate)
            jobs.append(Job(arm.spec.trial_of(role, "pilot", replicate, seed)))
    return jobs


def seeds_for(study: Study, rows: list[TrialRow], seeds_needed: SeedsNeeded) -> tuple[int, str]:
    """Return the number of seeds per arm and the reason for it, in a sentence.

    Args:
        study: Endpoints, margin, level, and how many candidates share Holm's correction.
        rows: The pilot's rows.
        seeds_needed: What knows the power of the tests.

    Raises:
        StudyError: When fewer than two runs of an anchor are complete.
    """
    protocol = study.protocol
    configurations = protocol.shortlist * len(study.candidates)
    aim = (
        f"power {POWER:g} for recovery {RECOVERY:g} on {', '.join(protocol.endpoints)} "
        f"with {configurations} configurations"
    )
    spreads, closed = [], []
    for endpoint in protocol.endpoints:
        single, deep = (_values(rows, role, endpoint) for role in ("single", "deep_ensemble"))
        gap = fmean(single) - fmean(deep)
        if gap <= 0:
            closed.append(endpoint)
            continue
        spreads.append(AnchorSpread(stdev(single), stdev(deep), gap, endpoint != "gain"))
    if closed:
        return MOST, (
            f"the most ({MOST}), as the pilot's Deep Ensemble was not better than its single "
            f"model on {', '.join(closed)}"
        )
    needed = seeds_needed(
        spreads,
        recovery=RECOVERY,
        power=POWER,
        delta=protocol.delta,
        alpha=protocol.alpha,
        configurations=configurations,
    )
    said = f"{needed or 'too many'} seeds give {aim}, by {study.budget.pilot_seeds} pilot runs each"
    return min(MOST, max(LEAST, needed or MOST)), f"{said} (bounded by {LEAST} and {MOST})"


def _values(rows: list[TrialRow], role: str, endpoint: str) -> list[float]:
    """Return an anchor's losses, lower is better."""
    own = sorted((r for r in rows if r.role == role), key=lambda row: row.replicate)
    sign = -1 if endpoint == "gain" else 1
    found = [sign * getattr(r, SEEN_AS[endpoint]) for r in own if r.status == "complete"]
    if len(found) < 2:
        raise StudyError(
            f"protocol.seeds=auto needs at least 2 complete pilot runs of {role}, but "
            f"{len(found)} of {len(own)} are; give protocol.seeds a number"
        )
    return found
