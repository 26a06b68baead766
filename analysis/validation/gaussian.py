"""Normal replicates of known recovery: one endpoint, three endpoints, whole studies.

Standard deviations over seeds are in units of the gap between the anchors and come from pilots on
the digits; ``PILOT`` are the powers of an independent simulation of single endpoints made before
this code was written, with degrees of freedom of its own.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from analysis.stats.power import Spread, power_all, power_escape, power_track
from analysis.validation.populations import ENDPOINTS
from analysis.validation.questions import Cell, Question
from analysis.validation.simulate import Design, Errors, Gaussian
from study.thresholds import ALPHA, DELTA

CORRELATION: Final = 0.5
KEYS: Final = {"test": "cll", "shift": "shift_nll"}
SPREADS: Final = {
    "test": Spread(0.30, 0.25, 0.18),
    "shift": Spread(0.235, 0.12, 0.08),
    "gain": Spread(0.0, 0.15, 0.15, two_sided=False),
    "narrow": Spread(1.0, 0.8, 0.55),
}
ALL: Final = ("test", "shift", "gain")
ALL_SPREADS: Final = [SPREADS[pattern] for pattern in ALL]
PILOT: Final[dict[tuple[str, str], dict[int, float]]] = {
    ("test", "escape .5"): {5: 0.48, 10: 0.73, 20: 0.95},
    ("test", "escape .75"): {5: 0.92, 10: 1.0, 20: 1.0},
    ("test", "track"): {5: 0.06, 10: 0.29, 20: 0.72},
    ("shift", "escape .5"): {5: 0.80, 10: 0.98},
    ("shift", "track"): {5: 0.36, 10: 0.77, 20: 0.96},
    ("test", "escape .5 of 8"): {10: 0.35, 20: 0.75, 30: 0.92},
    ("test", "escape .75 of 8"): {10: 0.96},
    ("test", "all 8 track"): {20: 0.29, 30: 0.68},
    ("shift", "all 8 track"): {10: 0.48, 20: 0.90},
}
SEEDS: Final = (5, 10, 20, 30)


def replicates(
    recovery: Sequence[float],
    of: Literal["single", "arm", "deep_ensemble"],
    spreads: Sequence[Spread] = ALL_SPREADS,
    errors: Errors = "normal",
) -> Gaussian:
    """Return the population of one kind of arm around its recovery, by endpoint."""
    sd = tuple(getattr(spread, of) for spread in spreads)
    return Gaussian(tuple(recovery), sd, CORRELATION if len(sd) > 1 else 0.0, errors)


def gaussian_study(
    spreads: Sequence[Spread],
    recoveries: Sequence[Sequence[float]],
    seeds: int,
    endpoints: Sequence[str],
    errors: Errors = "normal",
    controls: bool = False,
) -> Design:
    """Return a study with normal replicates (or of other ``errors``).

    Args:
        spreads: One per endpoint.
        recoveries: Of each candidate, by endpoint.
        seeds: Replicates of every arm.
        endpoints: Keys.
        errors: Shape of the errors.
        controls: Whether both controls are there; the negative one has exactly no gain.
    """
    single = replicates((0.0,) * len(endpoints), "single", spreads, errors)
    deep = replicates((1.0,) * len(endpoints), "deep_ensemble", spreads, errors)
    arms = tuple(replicates(recovery, "arm", spreads, errors) for recovery in recoveries)
    return Design(tuple(endpoints), single, deep, arms, seeds, single if controls else None)


def one_endpoint() -> Iterator[Cell]:
    """Yield the grid of one endpoint, one configuration or eight."""
    for pattern, key in KEYS.items():
        spread = SPREADS[pattern]
        for seeds in SEEDS:
            for recovery in (-0.25, 0.0, 0.25, 0.5, 0.75):
                design = gaussian_study([spread], [[recovery]], seeds, [key])
                yield Cell(
                    "one endpoint, one configuration",
                    f"{pattern}, R = {recovery:g}",
                    design,
                    tuple(_of_one(pattern, recovery, seeds)),
                    quick=pattern == "test" and seeds == 10,
                )
            yield from _of_eight(pattern, key, seeds)


def _of_one(pattern: str, recovery: float, seeds: int) -> Iterator[Question]:
    spread = SPREADS[pattern]
    escape = power_escape(spread, recovery, seeds)
    track = power_track(spread, recovery, seeds)
    if recovery == 0:
        yield Question("first_escapes", "size", formula=escape)
        yield Question("first_tracks", "power", _pilot(pattern, "track", seeds), track)
        yield Question("first_worse", "size")
    elif abs(recovery) == DELTA:
        yield Question("first_escapes", "size", formula=escape)
        yield Question("first_tracks", "size", formula=track)
        yield Question("first_worse", "size")
    else:
        pilot = _pilot(pattern, f"escape {recovery:g}".replace("0.", "."), seeds)
        yield Question("first_escapes", "power", pilot, escape)


def _pilot(pattern: str, what: str, seeds: int) -> float | None:
    return PILOT.get((pattern, what), {}).get(seeds)


def _of_eight(pattern: str, key: str, seeds: int) -> Iterator[Cell]:
    scenario, spread = "one endpoint, eight configurations", SPREADS[pattern]

    def cell(setting: str, recoveries: Sequence[float], *questions: Question) -> Cell:
        design = gaussian_study([spread], [[r] for r in recoveries], seeds, [key])
        return Cell(scenario, f"{pattern}, {setting}", design, questions, 0.5)

    none = Question("any_escapes", "size")
    tracks = Question("all_tracks", "power", _pilot(pattern, "all 8 track", seeds))
    yield cell("all R = 0", [0.0] * 8, none, tracks)
    yield cell("all R = 0.25", [DELTA] * 8, none, Question("all_tracks", "size"))
    yield cell("one R = 0.25, seven 0", [DELTA] + [0.0] * 7, Question("all_tracks", "size"))
    for recovery in (0.5, 0.75):
        pilot = _pilot(pattern, f"escape {recovery:g} of 8".replace("0.", "."), seeds)
        formula = power_escape(spread, recovery, seeds, alpha=ALPHA / 8)
        yield cell(
            f"one R = {recovery:g}, seven 0",
            [recovery] + [0.0] * 7,
            Question("first_escapes", "power", pilot, formula, bound=True),
        )


def three_endpoints() -> Iterator[Cell]:
    """Yield the whole rule on test, shift and gain, and the global verdict with its controls."""
    escape, track = Question("first_escapes", "size"), Question("first_tracks", "size")
    for seeds in SEEDS:

        def cell(
            setting: str, recovery: Sequence[float], *questions: Question, seeds: int = seeds
        ) -> Cell:
            design = gaussian_study(ALL_SPREADS, [recovery], seeds, ENDPOINTS)
            name = "three endpoints, one configuration"
            return Cell(name, setting, design, questions, quick=seeds == 10)

        power = power_all(ALL_SPREADS, "track", 0.0, seeds)
        tracks = Question("first_tracks", "power", formula=power, bound=True)
        yield cell("R = 0 on all", (0, 0, 0), escape, tracks, Question("first_worse", "size"))
        yield cell("R = 0.25 on all", (DELTA,) * 3, escape, track)
        for recovery in (0.5, 0.75):
            power = power_all(ALL_SPREADS, "escape", recovery, seeds)
            escapes = Question("first_escapes", "power", formula=power, bound=True)
            yield cell(f"R = {recovery:g} on all", (recovery,) * 3, escapes)
        for i, pattern in enumerate(ALL):
            at = [DELTA if j == i else 1.0 for j in range(3)]
            yield cell(f"R = 0.25 on {pattern}, 1 elsewhere", at, escape)
            at = [DELTA if j == i else 0.0 for j in range(3)]
            yield cell(f"R = 0.25 on {pattern}, 0 elsewhere", at, track)
        for i in range(2):
            at = [-DELTA if j == i else -1.0 for j in range(3)]
            setting = f"R = -0.25 on {ALL[i]}, -1 elsewhere"
            yield cell(setting, at, Question("first_worse", "size"))
        yield from _global(seeds)


def _global(seeds: int) -> Iterator[Cell]:
    def cell(
        setting: str, recoveries: Sequence[Sequence[float]], *questions: Question, quick: bool
    ) -> Cell:
        design = gaussian_study(ALL_SPREADS, recoveries, seeds, ENDPOINTS, controls=True)
        name = "whole study: eight configurations and controls"
        return Cell(name, setting, design, questions, 0.5, quick and seeds == 10)

    null, edge = (0.0,) * 3, (DELTA, 0.0, 0.0)
    some, every = Question("some_escape", "size"), Question("all_track", "size")
    yield cell("all R = 0", [null] * 8, some, Question("all_track", "power"), quick=True)
    yield cell("all R = 0.25", [(DELTA,) * 3] * 8, some, every, quick=False)
    hard = [(DELTA, 1.0, 1.0)] * 8
    yield cell("all R = 0.25 on test, 1 elsewhere", hard, some, every, quick=False)
    yield cell("one R = 0.25 on test, all else 0", [edge] + [null] * 7, every, quick=False)
    found = Question("some_escape", "power")
    yield cell("one R = 0.5, seven 0", [(0.5,) * 3] + [null] * 7, found, quick=False)
    yield cell("one R = 0.75, seven 0", [(0.75,) * 3] + [null] * 7, found, quick=False)
