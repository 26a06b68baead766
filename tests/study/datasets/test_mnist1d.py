import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from study import methods
from study.backbones import build
from study.datasets import Dataset, Images, load
from study.datasets.mnist1d import (
    TEST,
    VALIDATION,
    Draws,
    Options,
    digits,
    draws,
    out_of_distribution,
    quantised,
)
from study.diagnostics.objectives import nll
from study.errors import StudyError
from study.spec import Regularisation, Training
from study.training.batches import Splits
from study.training.fit import fit
from study.training.prediction import predict

FIRST = [0.073, -0.0513, 0.0084, -0.064, -0.0195]
SECOND = [0.4839, 0.0279, 0.0493, 0.0253, -0.125]
"""Every eighth value of two series."""
SMALL = {"train_size": 300, "val_size": 100, "test_size": 200, "shift_size": 50, "ood_size": 60}


def made(**given: Any) -> Dataset:
    return load(Options.model_validate({**SMALL, **given}).model_dump(), None)


@pytest.fixture(scope="module")
def small() -> Dataset:
    return made()


def values(images: Images) -> NDArray[np.float64]:
    return images[:, 0, 0].astype(float) / 127.5 - 1


def test_shapes_and_types(small: Dataset) -> None:
    assert [len(part[1]) for part in (small.train, small.val, small.test)] == [300, 100, 200]
    assert (small.shape, small.classes) == ((1, 1, 40), 10)
    assert small.train[0].dtype == np.uint8
    assert small.train[1].dtype == np.int64
    assert {name: images.shape for name, images in small.ood.items()} == dict.fromkeys(
        ("other_curves", "random_phases", "shuffled_values"), (60, 1, 1, 40)
    )


def test_every_ten_have_all_digits(small: Dataset) -> None:
    for _, labels in (small.train, small.val, small.test):
        assert (np.sort(labels.reshape(-1, 10)) == np.arange(10)).all()
    assert len({tuple(ten) for ten in small.train[1].reshape(-1, 10)}) > 25


def test_the_series_are_the_packages_own() -> None:
    """The package's whole set, drawn by the seeds that it would have come to by itself."""
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.num_samples, arguments.train_split = 2000, 1.0
    states = np.random.get_state(), random.getstate()
    published = make_dataset(arguments)
    np.random.set_state(states[0])
    random.setstate(states[1])
    ours = digits(draws(2000, "any"))
    ours = (ours - ours.mean()) / ours.std()
    labels = draws(2000, "any").labels
    for label in range(10):
        theirs, own = published["x"][published["y"] == label], ours[labels == label]
        # Standard errors of a mean of 200 are 0.07 and less; 80 are compared.
        assert np.abs(theirs.mean(0) - own.mean(0)).max() < 0.35
        assert np.abs(theirs.std(0) - own.std(0)).max() < 0.35


def test_a_series_by_its_seed() -> None:
    """To three digits, the same on every machine; numpy's older generators never change."""
    series = digits(Draws(np.array([3, 7]), np.array([12345, 2**62 + 1])))
    np.testing.assert_allclose(series[0, ::8], FIRST, atol=5e-4)
    np.testing.assert_allclose(series[1, ::8], SECOND, atol=5e-4)


def test_levels_keep_the_values() -> None:
    series = digits(draws(500, "any"))
    assert np.abs(series).max() < 1
    difference = values(quantised(series)) - series
    assert np.abs(difference).max() <= 1 / 255 + 1e-12
    assert difference.std() < 0.02 * series.std()


def test_same_options_same_data(small: Dataset) -> None:
    assert made().fingerprint == small.fingerprint
    for key in ("data_seed", "test_seed", "split_seed"):
        assert made(**{key: 1}).fingerprint != small.fingerprint


def test_splits_are_disjoint(small: Dataset) -> None:
    every = np.concatenate([values(part[0]) for part in (small.train, small.val, small.test)])
    apart = cdist(every, every, "chebyshev") + np.eye(len(every))
    assert apart.min() > 3 / 255


def equal(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_another_test_leaves_train_and_val(small: Dataset) -> None:
    for other in (made(test_size=250), made(test_seed=1)):
        assert equal(other.train, small.train)
        assert equal(other.val, small.val)
        assert np.array_equal(other.val_shift.images, small.val_shift.images)
    new = made(test_seed=1)
    assert cdist(values(new.test[0]), values(small.test[0]), "chebyshev").min() > 3 / 255
    assert not np.isin(new.shift.images, small.shift.images).all(axis=(1, 2, 3)).all()
    for name, images in new.ood.items():
        assert not np.array_equal(images, small.ood[name])


def test_a_larger_split_begins_with_the_smaller(small: Dataset) -> None:
    larger = made(train_size=355, test_size=215)
    assert equal((larger.train[0][:300], larger.train[1][:300]), small.train)
    assert equal((larger.test[0][:200], larger.test[1][:200]), small.test)
    assert equal(larger.val, small.val)


def test_another_data_seed_is_other_data(small: Dataset) -> None:
    other = made(data_seed=1)
    for split in ("train", "val", "test"):
        distances = cdist(values(getattr(other, split)[0]), values(getattr(small, split)[0]))
        assert distances.min() > 0.01


def test_global_random_states_are_left_alone() -> None:
    np.random.seed(5)
    random.seed(5)
    expected = np.random.rand(), random.random()
    np.random.seed(5)
    random.seed(5)
    made()
    assert (np.random.rand(), random.random()) == expected


def test_the_state_is_restored_after_an_error() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    with pytest.raises(TypeError):
        digits(draws(10, "any"), scale_coeff="much")  # type: ignore[arg-type]
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_the_ladders_share_nothing() -> None:
    assert not {argument for argument, _ in TEST.values()} & {a for a, _ in VALIDATION.values()}
    assert not set(TEST) & set(VALIDATION)


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("split", ["val", "test"])
def test_shifted_copies_are_of_their_originals(split: str, distinct: bool) -> None:
    data = made(shift_distinct=distinct)
    (images, labels), copies = getattr(data, split), data.val_shift
    conditions, severities = set(VALIDATION), {1, 2, 3}
    if split == "test":
        copies, conditions, severities = data.shift, set(TEST), {1, 2, 3, 4, 5}
    cells = len(conditions) * len(severities)
    assert len(set(copies.example)) == (min(len(labels), 50 * cells) if distinct else 50)
    assert set(copies.condition) == conditions
    assert set(copies.severity.tolist()) == severities
    assert len(copies.labels) == 50 * len(conditions) * len(severities)
    assert np.array_equal(copies.labels, labels[copies.example])
    for condition in conditions:
        changes = []
        for severity in sorted(severities):
            cell = (copies.condition == condition) & (copies.severity == severity)
            assert len(set(copies.example[cell])) == 50
            clean = values(images[copies.example[cell]])
            changes.append(np.abs(values(copies.images[cell]) - clean).mean())
        assert changes == sorted(changes)
        assert changes[0] > 0
        assert changes[-1] > 2 * changes[0]
    clipped = (copies.images == 0) | (copies.images == 255)
    assert clipped.mean() < 0.002


def test_what_is_out_of_distribution() -> None:
    drawn = draws(200, "any")
    series, foreign = digits(drawn), out_of_distribution(drawn)
    # Random phases keep the spectrum, shuffled values the values, other curves neither.
    spectrum = np.abs(np.fft.rfft(series))
    np.testing.assert_allclose(np.abs(np.fft.rfft(foreign["random_phases"])), spectrum, atol=1e-9)
    np.testing.assert_array_equal(np.sort(foreign["shuffled_values"]), np.sort(series))
    for name in ("other_curves", "random_phases", "shuffled_values"):
        assert np.abs(foreign[name] - series).mean() > 0.03
        assert 0.8 < foreign[name].std() / series.std() < 1.2
    # As smooth as the digits', for the treatment is the same.
    steps = {name: np.diff(own).std() for name, own in {**foreign, "digits": series}.items()}
    assert 0.8 < steps["other_curves"] / steps["digits"] < 1.2
    assert steps["shuffled_values"] > 1.5 * steps["digits"]


def test_a_split_must_have_all_digits() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 10"):
        Options(test_size=9)


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "resnet18", "wide_resnet"])
def test_networks_take_the_series(small: Dataset, backbone: str) -> None:
    options = {"wide_resnet": {"depth": 16, "widen": 1}, "resnet18": {"width": 4}}
    network = build({"name": backbone, **options.get(backbone, {})}, small.shape, 10)
    assert network(torch.zeros(3, *small.shape)).shape == (3, 10)


def test_a_vit_needs_patches_of_one_row(small: Dataset) -> None:
    with pytest.raises(StudyError, match=r"backbone vit: patch must .*1x40"):
        build({"name": "vit"}, small.shape, 10)
    network = build({"name": "vit", "patch": 1}, small.shape, 10)
    assert network(torch.zeros(3, *small.shape)).shape == (3, 10)


def test_severity_raises_the_loss_of_a_trained_network() -> None:
    data = made(train_size=2000, test_size=500, shift_size=500)
    splits = Splits(data, torch.device("cpu"))
    mlp = {"name": "mlp", "width": 64}
    network = methods.build("single", {}, lambda: build(mlp, data.shape, 10), seed=0)
    training = Training(optimizer="adamw", lr=3e-3, weight_decay=0.1, epochs=15, batch_size=64)
    fit(network, *splits.train, training, Regularisation(), seed=0)
    clean = nll(predict(network, splits.pixels(data.test[0])), torch.tensor(data.test[1]))
    assert clean < 1.6
    logits, labels = predict(network, splits.pixels(data.shift.images)), data.shift.labels
    for condition in TEST:
        losses = [clean]
        for severity in (1, 2, 3, 4, 5):
            cell = (data.shift.condition == condition) & (data.shift.severity == severity)
            losses.append(nll(logits[:, cell], torch.tensor(labels[cell])))
        assert losses == sorted(losses), condition
        assert losses[5] > losses[0] + 0.15
