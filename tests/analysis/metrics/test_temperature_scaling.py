"""Temperatures against a bounded search, and the calibrated likelihood against its definition."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from analysis import metrics
from tests.analysis.metrics.draw import calibrated_sample, draw

LN2 = np.log(2)


def searched(logq: np.ndarray, y: np.ndarray) -> float:
    """Return the temperature that Brent's search in log T finds on the loss itself."""

    def loss(log_t: float) -> float:
        return metrics.nll(metrics.log_softmax(logq * np.exp(-log_t)), y)

    bounds = np.log(metrics.TEMPERATURES)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x))


@pytest.mark.parametrize("scale", [0.03, 0.3, 1.0, 5.0, 20.0])
@pytest.mark.parametrize(("rows", "classes"), [(40, 2), (500, 10), (300, 100)])
def test_temperature_is_the_searched_one(rows: int, classes: int, scale: float) -> None:
    _, logq, y = draw(rows, rows=rows, classes=classes)
    scaled = metrics.log_softmax(scale * logq)
    assert metrics.temperature(scaled, y) == pytest.approx(searched(scaled, y), rel=1e-6)


def test_temperature_of_a_single_error_is_the_searched_one() -> None:
    """The slope is all but flat for small T: Newton's hardest case."""
    rng = np.random.default_rng(0)
    logq = metrics.log_softmax(rng.normal(size=(5000, 10)) * 3)
    y, gaps = logq.argmax(-1), np.sort(logq, -1)[:, -1] - np.sort(logq, -1)[:, -2]
    keep = gaps > 2
    logq, y = logq[keep], y[keep]
    y[0] = logq[0].argsort()[-2]
    assert metrics.temperature(logq, y) == pytest.approx(searched(logq, y), rel=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_scale(scale: float) -> None:
    logq, y = calibrated_sample()
    assert metrics.temperature(metrics.log_softmax(scale * logq), y) == pytest.approx(
        scale * metrics.temperature(logq, y), rel=1e-6
    )
    assert metrics.temperature(logq, y) == pytest.approx(1, abs=0.08)


def test_temperature_is_bounded() -> None:
    logq, y = calibrated_sample(50)
    low, high = metrics.TEMPERATURES
    assert metrics.temperature(logq, logq.argmax(-1)) == pytest.approx(low)
    assert metrics.temperature(logq, logq.argmin(-1)) == pytest.approx(high)
    few = metrics.log_softmax(logq * 1e-4)  # its best temperature is below the lower bound
    assert metrics.temperature(few, y) == pytest.approx(low)
    many = metrics.log_softmax(logq * 1e4)
    assert metrics.temperature(many, y) == pytest.approx(high)


def test_uniform_predictions_have_no_temperature_to_find() -> None:
    assert metrics.temperature(np.log(np.full((4, 2), 0.5)), np.array([0, 1, 1, 0])) == 1


@pytest.mark.parametrize("rows", [2, 3, 100, 101])
def test_calibrated_nll_of_an_example_is_the_mean_over_the_halves_that_held_it_out(
    rows: int,
) -> None:
    _, logq, y = draw(1, rows=rows)
    rng, expected = np.random.default_rng(2), np.zeros(rows)
    for _ in range(3):
        order = rng.permutation(rows)
        halves = order[: rows // 2], order[rows // 2 :]
        for fit, held in (halves, halves[::-1]):
            t = metrics.temperature(logq[fit], y[fit])
            calibrated = metrics.log_softmax(logq[held] / t)
            expected[held] += metrics.example_nll(calibrated, y[held]) / 3
    found = metrics.example_cll(logq, y, np.random.default_rng(2), repeats=3)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert metrics.cll(logq, y, np.random.default_rng(2), repeats=3) == found.mean()


def test_calibrated_nll_forgives_a_scale_and_depends_on_the_generator_alone() -> None:
    logq, y = calibrated_sample(1000)

    def score(scale: float, seed: int) -> float:
        return metrics.cll(metrics.log_softmax(scale * logq), y, np.random.default_rng(seed))

    assert score(1, 0) == pytest.approx(metrics.nll(logq, y), abs=0.005)
    assert score(3, 0) == pytest.approx(score(1, 0), abs=1e-8)
    assert metrics.nll(metrics.log_softmax(3 * logq), y) > metrics.nll(logq, y) + 0.2
    assert score(1, 0) == score(1, 0)
    assert score(1, 0) != score(1, 1)


def test_calibrated_nll_by_hand() -> None:
    """Uniform predictions stay uniform at every temperature."""
    logq = np.log(np.full((4, 2), 0.5))
    y = np.array([0, 1, 0, 1])
    assert metrics.cll(logq, y, np.random.default_rng(0)) == pytest.approx(LN2)
