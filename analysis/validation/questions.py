"""What is simulated, what is counted, and what must come of it."""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
from scipy.stats import binomtest

from analysis.validation.simulate import Design, Pipeline, tally
from study.thresholds import ALPHA

Kind = Literal["size", "power", "shown"]

LIMIT: Final = 0.06
"""A share of wrong verdicts above this fails; the declared level is ``ALPHA``."""
TOLERANCE: Final = 0.05
"""How far a power may lie from what was planned."""
LABELS: Final = {
    "first_escapes": "escapes",
    "first_tracks": "tracks",
    "first_worse": "is worse",
    "any_escapes": "any escapes",
    "all_tracks": "every one tracks",
    "some_escape": "verdict: some escape",
    "all_track": "verdict: all track",
    "assessed": "judged at all",
    "escapes_if_assessed": "escapes, of those judged",
    "apparent": "best recovery the search saw",
    "escape_on_search": "any escapes on the search's own runs",
}


@dataclass(frozen=True)
class Question:
    """One event to count.

    Attributes:
        event: Key of ``LABELS``.
        kind: ``size`` where the event is wrong, ``power`` where it is right, ``shown`` where
            nothing is asked of it.
        pilot: What a simulation made before this code was written gave.
        formula: What ``analysis.stats.power`` gives.
        bound: Whether ``formula`` is a lower bound only.
    """

    event: str
    kind: Kind
    pilot: float | None = None
    formula: float | None = None
    bound: bool = False


@dataclass(frozen=True, eq=False)
class Cell:
    """One design with its questions.

    Attributes:
        scenario: Group of rows.
        setting: What is special here.
        design: What is drawn.
        questions: What is counted.
        share: Of the asked-for replications, for what is costly.
        quick: Whether the quick form has it.
    """

    scenario: str
    setting: str
    design: Design | Pipeline
    questions: tuple[Question, ...]
    share: float = 1.0
    quick: bool = False

    @property
    def study(self) -> Design:
        """The study that is judged."""
        return self.design.design if isinstance(self.design, Pipeline) else self.design

    @property
    def arms(self) -> int:
        """Number of candidates that are judged."""
        if isinstance(self.design, Pipeline):
            return min(self.design.shortlist, self.design.configurations)
        return len(self.design.arms)


@dataclass(frozen=True)
class Row:
    """One line of the table; ``low`` and ``high`` are the 95 % interval of the simulation."""

    scenario: str
    setting: str
    seeds: int
    arms: int
    event: str
    kind: Kind
    studies: int
    value: float
    low: float
    high: float
    pilot: float | None
    formula: float | None
    bound: bool

    @property
    def fails(self) -> bool:
        """Whether wrong verdicts are more frequent than declared, beyond the simulation's error."""
        return self.kind == "size" and self.value > LIMIT and self.low > ALPHA

    @property
    def off_plan(self) -> bool:
        """Whether a power is too far from a planned one, beyond the simulation's error.

        Above a lower bound, no power is too far.
        """

        def far(planned: float | None, bound: bool) -> bool:
            if planned is None or self.low <= planned <= self.high:
                return False
            short = planned - self.value
            return (short if bound else abs(short)) > TOLERANCE

        found = far(self.pilot, False) or far(self.formula, self.bound)
        return self.kind == "power" and found

    @property
    def mark(self) -> str:
        """What the last column says."""
        if self.kind == "shown":
            return ""
        return "FAILS" if self.fails else "off plan" if self.off_plan else "ok"


def run(cell: Cell, replications: int, seed: int) -> list[Row]:
    """Simulate a cell and return its rows; the numbers depend on cell and seed alone."""
    study = cell.study
    name = f"{cell.scenario}|{cell.setting}|{study.seeds}|{cell.arms}"
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    found = tally(cell.design, max(2, round(replications * cell.share)), rng)
    rows = []
    for question in cell.questions:
        values = found[question.event].drop_nans().to_list()
        value, low, high = _estimate(values, question.event == "apparent")
        asked = asdict(question) | {"event": LABELS[question.event]}
        rows.append(
            Row(
                scenario=cell.scenario,
                setting=cell.setting,
                seeds=study.seeds,
                arms=cell.arms,
                studies=len(values),
                value=value,
                low=low,
                high=high,
                **asked,
            )
        )
    return rows


def _estimate(values: Sequence[float], average: bool) -> tuple[float, float, float]:
    """Return mean and 95 % interval: Clopper-Pearson's of a share, the normal one of an average."""
    if not values:
        return 0.0, 0.0, 1.0
    mean = float(np.mean(values))
    if average:
        half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
        return mean, mean - half, mean + half
    interval = binomtest(round(sum(values)), len(values)).proportion_ci(0.95, "exact")
    return mean, float(interval.low), float(interval.high)
