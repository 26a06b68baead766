import numpy as np
import pytest

from study.datasets import Dataset, load
from study.datasets.digits import MIN_CONTRAST, Options
from study.errors import StudyError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(Options().model_dump(), None)


def test_defaults(digits: Dataset) -> None:
    assert [len(part[1]) for part in (digits.train, digits.val, digits.test)] == [300, 500, 997]
    assert (digits.shape, digits.classes) == ((1, 8, 8), 10)
    assert digits.train[0].dtype == np.uint8
    assert digits.train[1].dtype == np.int64


def test_grey_levels_fill_the_whole_range(digits: Dataset) -> None:
    levels = np.unique(digits.train[0])
    assert levels.tolist() == np.rint(np.arange(17) * 255 / 16).tolist()


def test_the_splits_are_all_the_digits_once(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    every = np.concatenate([digits.train[0], digits.val[0], digits.test[0]])
    ours = sorted(image.tobytes() for image in every)
    raw = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert ours == sorted(image.tobytes() for image in raw)


def test_classes_are_balanced(digits: Dataset) -> None:
    for _, labels in (digits.train, digits.val):
        share = np.bincount(labels) / len(labels)
        assert np.ptp(share) < 0.02


def test_photo_patches_have_structure(digits: Dataset) -> None:
    patches = digits.ood["photo_patches"]
    assert patches.shape == (1000, 1, 8, 8)
    assert patches.std(axis=(1, 2, 3)).min() > MIN_CONTRAST - 0.5
    assert len(np.unique(patches, axis=0)) == 1000
    neighbours = np.abs(np.diff(patches.astype(int), axis=3)).mean()
    shuffled = np.random.default_rng(0).permuted(patches.reshape(1000, 64), axis=1)
    assert neighbours < 0.7 * np.abs(np.diff(shuffled.astype(int), axis=1)).mean()


def test_same_options_same_fingerprint(digits: Dataset) -> None:
    assert load(Options().model_dump(), None).fingerprint == digits.fingerprint
    assert load(Options(split_seed=1).model_dump(), None).fingerprint != digits.fingerprint


def test_the_test_must_keep_an_image() -> None:
    with pytest.raises(StudyError, match=r"at most 1796, .* but is 1297 \+ 500"):
        load(Options(train_size=1297).model_dump(), None)
