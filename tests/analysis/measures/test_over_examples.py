"""How arms vary with the test examples: by hand, by simulation, beside the jackknife."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from analysis.measures.over_examples import MeasuredCovariances, influence
from analysis.measures.per_example import ExampleValues
from analysis.stats.contrasts import FloatArray

ARMS = ("single", "x", "deep")


def known(
    values: dict[str, FloatArray], weights: FloatArray
) -> Callable[[str], ExampleValues | None]:
    def of(arm: str) -> ExampleValues | None:
        if arm not in values:
            return None
        return ExampleValues(
            list(range(len(values[arm]))),
            {"cll": values[arm].astype(np.float32)},
            {"cll": weights.astype(np.float32)},
        )

    return of


def test_one_seed_by_hand() -> None:
    """The covariance of means is that of the values over their number."""
    single, arm, deep = (np.array([[1.0, 2.0, 6.0]]), np.array([[0.0, 3.0, 3.0]]), np.zeros((1, 3)))
    found = MeasuredCovariances(known({"single": single, "x": arm, "deep": deep}, np.ones(3))).of(
        ARMS, "cll"
    )
    assert found is not None
    expected = np.cov(np.vstack([single, arm, deep])) / 3
    assert np.array(found.covariance) == pytest.approx(expected)
    weights = (0.75, -1.0, 0.25)
    contrast = 0.75 * single - arm + 0.25 * deep
    assert found.variance(weights) == pytest.approx(contrast.var(ddof=1) / 3)


def test_examples_of_unequal_weight_move_a_ratio_as_the_jackknife_says() -> None:
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, 60)
    values = rng.normal(size=(1, 60)) * weights + 3 * weights
    moved = influence(values, weights).examples
    leave = [np.delete(values, i).sum() / np.delete(weights, i).sum() for i in range(60)]
    jackknife = 59 / 60 * np.square(leave - np.mean(leave)).sum()
    assert moved.var(ddof=1) / 60 == pytest.approx(jackknife, rel=0.05)
    assert moved.mean() == pytest.approx(0, abs=1e-12)


def crossed(
    rng: np.random.Generator, seeds: int, examples: int, sds: tuple[float, float, float]
) -> Iterator[FloatArray]:
    """Yield an arm's values: what is shared, its seeds, its examples, and both together."""
    of_seed, of_example, of_both = sds
    shared = rng.normal(size=examples)
    for _ in ARMS:
        yield (
            shared
            + of_seed * rng.normal(size=(seeds, 1))
            + of_example * rng.normal(size=examples)
            + of_both * rng.normal(size=(seeds, examples))
        )


@pytest.mark.parametrize("sds", [(0.1, 0.0, 2.0), (0.1, 1.0, 1.0), (0.0, 0.5, 0.0)])
def test_seeds_and_examples_together_make_up_the_variance(sds: tuple[float, float, float]) -> None:
    """What a seed makes of each example is not counted twice, and what all share cancels."""
    rng, seeds, examples = np.random.default_rng(1), 5, 40
    weights = np.array([0.75, -1.0, 0.25])
    seen, told = [], []
    for _ in range(600):
        values = list(crossed(rng, seeds, examples, sds))
        seen.append(weights @ [own.mean() for own in values])
        of_seeds = sum(
            w**2 * own.mean(1).var(ddof=1) / seeds for w, own in zip(weights, values, strict=True)
        )
        arms = dict(zip(ARMS, values, strict=True))
        found = MeasuredCovariances(known(arms, np.ones(examples))).of(ARMS, "cll")
        assert found is not None
        told.append(of_seeds + found.between(tuple(weights), tuple(weights)))
    assert np.mean(told) == pytest.approx(np.var(seen), rel=0.15)


def test_what_is_not_known_of_all_three_is_not_known() -> None:
    values = {"single": np.ones((2, 4)), "x": np.ones((2, 4))}
    assert MeasuredCovariances(known(values, np.ones(4))).of(ARMS, "cll") is None
    values["deep"] = np.ones((2, 4))
    assert MeasuredCovariances(known(values, np.ones(4))).of(ARMS, "gain") is None
    one = {arm: np.ones((2, 1)) for arm in ARMS}
    assert MeasuredCovariances(known(one, np.ones(1))).of(ARMS, "cll") is None
