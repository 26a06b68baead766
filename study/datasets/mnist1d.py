"""MNIST-1D (Greydanus and Kobak 2024, arXiv 2011.14439): ten digits as series of 40 values.

The authors' package makes each series from its digit's template: padded, scaled, translated, with
noise, sheared. That needs neither files nor a network, so there is as much test data as one asks
for, and more that nobody has looked at.

A series is carried as an image of one channel and one row, (1, 1, 40), its values from -1 to 1
rounded to 256 levels. That adds a noise of 0.0023; the generator's own white noise is 0.02. Over 40
perceptrons the NLL changed by 0.0006 ± 0.0026 nats.

Shifted copies are the series that the generator would have made of the same random draws with more
of one disturbance. Out of distribution are curves that are no digit, treated alike; series with
random phases, which keep their spectrum (surrogates, Theiler et al. 1992); and series whose values
change places.

Deviations from the published set: each series has its own seed in place of its turn in a stream, so
that no option of one split changes another; classes are equally frequent; values are not
standardised, since training does that.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.datasets import CommonOptions, Dataset, Images, Labels, Shifted
from study.datasets import _splits as splits
from study.datasets._corruptions import SEVERITIES, VALIDATION_SEVERITIES, subsets
from study.spec import derive_seed

Series = NDArray[np.float64]
Seeds = NDArray[np.int64]

CLASSES: Final = 10
LENGTH: Final = 40

Ladder = Mapping[str, tuple[str, Sequence[float]]]
"""By condition: an argument of the generator, and its value at severities 1 to 5."""

TEST: Final[Ladder] = {
    "correlated_noise": ("corr_noise_scale", (0.28, 0.32, 0.36, 0.4, 0.44)),
    "white_noise": ("iid_noise_scale", (0.04, 0.06, 0.08, 0.1, 0.12)),
    "shear": ("shear_scale", (1.2, 1.6, 2.0, 2.4, 2.8)),
}
"""What is reported. On clean series the three arguments are 0.25, 0.02 and 0.75."""
VALIDATION: Final[Ladder] = {"scale": ("scale_coeff", (0.6, 0.8, 1.0, 1.2, 1.4))}
"""What tuning may see. On clean series the argument is 0.4."""


class Options(CommonOptions):
    """Options of MNIST-1D; ``split_seed`` draws only which series have shifted copies."""

    name: Literal["mnist1d"] = "mnist1d"
    train_size: int = Field(4000, ge=CLASSES, description="training series")
    val_size: int = Field(2000, ge=CLASSES, description="series for tuning")
    test_size: int = Field(4000, ge=CLASSES, description="test series")
    data_seed: int = Field(0, ge=0, description="of all series")
    test_seed: int = Field(
        0, ge=0, description="of test, shifted and OOD series; train and val stay as they are"
    )


def load(options: Options, root: Path | None) -> Dataset:
    """Return the set; ``root`` is not needed."""
    train = draws(options.train_size, "train", options.data_seed)
    val = draws(options.val_size, "val", options.data_seed)
    test = draws(options.test_size, "test", options.data_seed, options.test_seed)
    foreign = draws(options.ood_size, "ood", options.data_seed, options.test_seed)
    return Dataset(
        train=(quantised(digits(train)), train.labels),
        val=(quantised(digits(val)), val.labels),
        test=(quantised(digits(test)), test.labels),
        val_shift=_shifted(val, options, VALIDATION, VALIDATION_SEVERITIES),
        shift=_shifted(test, options, TEST, SEVERITIES),
        classes=CLASSES,
        ood={name: quantised(series) for name, series in out_of_distribution(foreign).items()},
    )


@dataclass(frozen=True)
class Draws:
    """What the series of a split are made from: (N,) their digits and (N,) their seeds."""

    labels: Labels
    seeds: Seeds

    def __getitem__(self, rows: NDArray[np.int64]) -> "Draws":
        return Draws(self.labels[rows], self.seeds[rows])


def draws(size: int, *key: str | int) -> Draws:
    """Return the first ``size`` draws of the stream ``key``; every ten have all digits once."""
    rng = np.random.default_rng(derive_seed("mnist1d", *key))
    tens = np.tile(np.arange(CLASSES), (-(-size // CLASSES), 1))
    seeds = [derive_seed("mnist1d", *key, number) for number in range(size)]
    return Draws(rng.permuted(tens, axis=1).ravel()[:size], np.array(seeds))


def digits(drawn: Draws, **amounts: float) -> Series:
    """Return the series (N, 40) that the generator makes of the draws.

    Args:
        drawn: N digits and seeds.
        amounts: Arguments of the generator that differ from its own.
    """
    _quieten()
    from mnist1d.data import get_templates

    return _transformed(get_templates()["x"][drawn.labels], drawn.seeds, **amounts)


def quantised(series: Series) -> Images:
    """Return series (N, 40) as images (N, 1, 1, 40): -1 to 1 become 0 to 255."""
    levels = np.rint((series + 1) * 127.5).clip(0, 255)
    return levels.astype(np.uint8)[:, None, None]


def out_of_distribution(drawn: Draws) -> dict[str, Series]:
    """Return N series (N, 40) of each kind that is no digit."""
    series = digits(drawn)
    chance = [np.random.default_rng(int(seed)) for seed in drawn.seeds]
    curves = np.stack([_curve(rng) for rng in chance])
    return {
        "other_curves": _transformed(curves, drawn.seeds),
        "random_phases": np.stack(
            [_surrogate(own, rng) for own, rng in zip(series, chance, strict=True)]
        ),
        "shuffled_values": np.stack(
            [rng.permutation(own) for own, rng in zip(series, chance, strict=True)]
        ),
    }


def _curve(rng: np.random.Generator) -> Series:
    """Return a template (12,) of no digit: a Brownian bridge, scaled as the digits' are."""
    walk = np.cumsum(rng.standard_normal(12))
    bridge = walk - np.linspace(walk[0], walk[-1], 12)
    bridge /= bridge.std()
    return bridge / 6


def _surrogate(series: Series, rng: np.random.Generator) -> Series:
    """Return a series (40,) with the same amplitude at every frequency, but random phases."""
    spectrum = np.fft.rfft(series)
    phases = rng.uniform(0, 2 * np.pi, len(spectrum) - 2)
    spectrum[1:-1] *= np.exp(1j * phases)  # The mean and the highest frequency have no phase.
    return np.fft.irfft(spectrum, LENGTH)


def _shifted(split: Draws, options: Options, ladder: Ladder, severities: Sequence[int]) -> Shifted:
    """Return disturbed copies of seeded subsets, by condition, severity and example."""
    cells = list(product(ladder, severities))
    size, seed, distinct = options.shift_size, splits.shift_seed(options), options.shift_distinct
    examples = subsets(len(cells), len(split.labels), size, seed, distinct)
    copies = [
        digits(split[own], **{argument: amounts[severity - 1]})
        for own, (condition, severity) in zip(examples, cells, strict=True)
        for argument, amounts in [ladder[condition]]
    ]
    return Shifted.of(quantised(np.concatenate(copies)), split.labels, examples, cells)


def _transformed(templates: Series, seeds: Seeds, **amounts: float) -> Series:
    """Return series (N, 40) made of templates (N, 12), each by its own seed."""
    _quieten()
    from mnist1d.data import get_dataset_args, get_templates
    from mnist1d.transform import transform

    arguments, times = get_dataset_args(), get_templates()["t"]
    for name, amount in amounts.items():
        setattr(arguments, name, amount)
    series = np.empty((len(templates), LENGTH))
    with _numpys_random_state_kept():
        for row, (template, seed) in enumerate(zip(templates, seeds.tolist(), strict=True)):
            np.random.seed([seed >> 32, seed & 0xFFFFFFFF])  # All 63 bits.
            series[row], _ = transform(template, times, arguments)
    return series


def _quieten() -> None:
    """Keep matplotlib, which the package imports, from telling of a home it cannot write to."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


@contextlib.contextmanager
def _numpys_random_state_kept() -> Iterator[None]:
    """Keep numpy's global random state, which the generator draws from."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
