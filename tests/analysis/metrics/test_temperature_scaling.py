"""Temperatures against a bounded search, and the calibrated likelihood against its definition."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from analysis import metrics
from tests.analysis.metrics.draw import calibrated_sample, draw, draw_coarse

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


def refitted(logq: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return each example's loss at the temperature that is fitted on all the others."""
    losses = []
    for i in range(len(y)):
        t = metrics.temperature(np.delete(logq, i, 0), np.delete(y, i))
        losses.append(metrics.example_nll(metrics.log_softmax(logq[i : i + 1] / t), y[i : i + 1]))
    return np.concatenate(losses)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("tails", ["normal", "t3"])
@pytest.mark.parametrize(
    ("rows", "classes", "strength"),
    [(2, 3, 1), (3, 2, 1), (10, 4, 2), (53, 4, 4), (200, 2, 1), (300, 10, 3), (500, 10, 6)],
)
def test_calibrated_nll_leaves_each_example_out(
    rows: int, classes: int, strength: float, tails: str, scale: float
) -> None:
    """Of weak and strong networks, 2 % to 70 % of whose choices are wrong, at all scales."""
    rng = np.random.default_rng([rows, classes])
    noise = rng.normal(size=(rows, classes))
    if tails == "t3":
        noise = rng.standard_t(3, size=(rows, classes))
    y = rng.integers(0, classes, rows)
    logits = noise * 1.5
    logits[np.arange(rows), y] += strength
    logq = metrics.log_softmax(scale * logits)
    found, exact = metrics.example_cll(logq, y), refitted(logq, y)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6)
    assert found.mean() == pytest.approx(exact.mean(), rel=3e-6)
    assert metrics.cll(logq, y) == found.mean()


@pytest.mark.parametrize("rows", [4, 30, 200])
def test_calibrated_nll_of_ties_in_single_precision_leaves_each_example_out(rows: int) -> None:
    """Every tenth prediction is uniform, and many labels share the greatest probability."""
    logq, y = draw_coarse(0, rows, 3)
    logq = np.round(logq, 0)
    logq[::10] = 0
    logq = metrics.log_softmax(logq).astype(np.float32)
    np.testing.assert_allclose(metrics.example_cll(logq, y), refitted(logq, y), rtol=1e-4)


def nearly_right(errors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return confident predictions of which only the first so many are wrong."""
    rng = np.random.default_rng(3)
    logq = metrics.log_softmax(rng.normal(size=(400, 10)) * 4)
    y = logq.argmax(-1)
    y[:errors] = logq[:errors].argsort(-1)[:, -2]
    return logq, y


@pytest.mark.parametrize("errors", [0, 1, 2, 3, 5])
def test_calibrated_nll_of_few_errors_leaves_each_example_out(errors: int) -> None:
    """Where one example decides the temperature, a Newton step without it does not reach."""
    logq, y = nearly_right(errors)
    found, exact = metrics.example_cll(logq, y), refitted(logq, y)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-9)
    assert found.mean() == pytest.approx(exact.mean(), rel=3e-6)


def test_a_single_error_is_judged_by_those_who_make_none() -> None:
    logq, y = nearly_right(1)
    sharpest = metrics.log_softmax(logq / metrics.TEMPERATURES[0])
    found = metrics.example_cll(logq, y)
    assert found[0] == pytest.approx(metrics.example_nll(sharpest, y)[0])
    right = metrics.log_softmax(logq[1:] / metrics.temperature(logq, y))
    assert found[1:] == pytest.approx(metrics.example_nll(right, y[1:]), rel=0.05, abs=1e-3)


def test_calibrated_nll_of_two_examples_swaps_their_temperatures() -> None:
    logq = np.log([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    y = np.array([1, 1])
    swapped = [metrics.temperature(logq[i : i + 1], y[i : i + 1]) for i in (1, 0)]
    expected = metrics.example_nll(metrics.log_softmax(logq / np.array(swapped)[:, None]), y)
    assert metrics.example_cll(logq, y) == pytest.approx(expected)


def test_calibrated_nll_does_not_depend_on_the_order_of_examples() -> None:
    logq, y = calibrated_sample(500)
    order = np.random.default_rng(0).permutation(500)
    shuffled = metrics.example_cll(logq[order], y[order])
    np.testing.assert_allclose(shuffled, metrics.example_cll(logq, y)[order], rtol=1e-9)


def test_calibrated_nll_forgives_a_scale() -> None:
    logq, y = calibrated_sample(1000)
    assert metrics.cll(logq, y) == pytest.approx(metrics.nll(logq, y), abs=0.005)
    tripled = metrics.log_softmax(3 * logq)
    assert metrics.cll(tripled, y) == pytest.approx(metrics.cll(logq, y), abs=1e-8)
    assert metrics.nll(tripled, y) > metrics.nll(logq, y) + 0.2


def test_calibrated_nll_is_unbiased_for_a_temperature_of_all_but_one_example() -> None:
    """Its mean over data sets is the loss on new data at temperatures fitted on N - 1 examples.

    Both are taken less the loss at the true temperature, which varies most. On the examples on
    which it was fitted, a temperature of N examples gains 1/(2N) nats where here it loses as much.
    """
    logq, y = calibrated_sample(40_000)
    sharp, n = metrics.log_softmax(2 * logq), 30
    rng = np.random.default_rng(1)
    left_out, fresh, fitted = [], [], []
    for _ in range(1500):
        rows = rng.choice(len(y), n + 500, replace=False)
        few, new = rows[:n], rows[n:]
        lost = metrics.nll(logq[few], y[few])
        left_out.append(metrics.cll(sharp[few], y[few]) - lost)
        t = metrics.temperature(sharp[few[1:]], y[few[1:]])
        scaled = metrics.log_softmax(sharp[new] / t)
        fresh.append(metrics.nll(scaled, y[new]) - metrics.nll(logq[new], y[new]))
        t = metrics.temperature(sharp[few], y[few])
        fitted.append(metrics.nll(metrics.log_softmax(sharp[few] / t), y[few]) - lost)
    error = np.std(np.subtract(left_out, fresh)) / len(fresh) ** 0.5
    assert error < 0.1 / (2 * n)
    assert abs(np.mean(left_out) - np.mean(fresh)) < 3 * error
    assert np.mean(fitted) < -0.3 / (2 * n) < 0.3 / (2 * n) < np.mean(fresh)


def test_calibrated_nll_is_that_of_random_halves_but_for_their_size() -> None:
    """Ashukha et al. 2020 fit on N/2: to second order, 3/2 of what leaving one out adds.

    At the best temperature of all N let the slopes of single losses have variance J and their
    curvature the mean H. Leaving one out adds J / (N H) to the mean loss. A half's mean slope has
    variance J/N, and the other half's loss at its temperature is 3/2 of slope² / H above.
    """
    n = 2000
    logq, y = calibrated_sample(n)
    rng, halves = np.random.default_rng(0), []
    for _ in range(1000):
        order = rng.permutation(n)
        for fit, held in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            t = metrics.temperature(logq[fit], y[fit])
            halves.append(metrics.nll(metrics.log_softmax(logq[held] / t), y[held]))
    least = metrics.nll(metrics.log_softmax(logq / metrics.temperature(logq, y)), y)
    left_out, halved = metrics.cll(logq, y) - least, np.mean(halves) - least
    assert left_out > 0
    assert halved / left_out == pytest.approx(1.5, abs=0.15)


def test_calibrated_nll_by_hand() -> None:
    """Uniform predictions stay uniform at every temperature."""
    logq = np.log(np.full((4, 2), 0.5))
    y = np.array([0, 1, 0, 1])
    assert metrics.cll(logq, y) == pytest.approx(LN2)
    assert metrics.cll(logq[:, :1], np.zeros(4, int)) == 0  # one class
    logq[0] = np.log([0.2, 0.8])  # the others say nothing about its temperature
    assert metrics.example_cll(logq, y) == pytest.approx([np.log(5), LN2, LN2, LN2])
