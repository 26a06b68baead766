"""Stage 0: how many seeds the confirmation needs, from the spread of the anchors.

The tuned single network and its Deep Ensemble are trained on seeds of their own and looked at on
validation data; the test set stays closed. These runs are used for nothing else.
"""

from statistics import fmean, stdev
from typing import Final

from study.plan import Arm
from study.schema import Role, StudyError, TrialRow
from study.search import Job
from study.space import Study
from study.spec import derive_seed

LEAST, MOST = 10, 60
"""Bounds of the number of seeds: fewer are fragile, more are seldom paid for."""
RECOVERY: Final = 0.5
"""The recovery, on every endpoint, that is to be found with ``analysis.power.POWER``."""
SEEN_AS: Final = {
    "cll": "val_nll",
    "nll": "val_nll",
    "shift_nll": "val_shift_nll",
    "gain": "val_gain",
}
"""Column of a trial's row that stands for an endpoint before the test set is opened."""


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


def seeds_for(study: Study, rows: list[TrialRow]) -> tuple[int, str]:
    """Return the number of seeds per arm and the reason for it, in a sentence.

    An arm's spread is not known beforehand; the larger of the anchors' is taken for it.

    Args:
        study: Endpoints, margin, level, and how many candidates share Holm's correction.
        rows: The pilot's rows.

    Raises:
        StudyError: When fewer than two runs of an anchor are complete.
    """
    # Only where it is needed: scipy would slow down every start of the program.
    from analysis.power import POWER, Spread, seeds_needed

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
        sds = stdev(single), stdev(deep)
        spreads.append(Spread(sds[0], max(sds), sds[1], gap, two_sided=endpoint != "gain"))
    if closed:
        return MOST, (
            f"the most ({MOST}), as the pilot's Deep Ensemble was not better than its single "
            f"model on {', '.join(closed)}"
        )
    delta, alpha = protocol.delta, protocol.alpha
    needed = seeds_needed(
        spreads, "escape", RECOVERY, delta=delta, alpha=alpha, configurations=configurations
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
