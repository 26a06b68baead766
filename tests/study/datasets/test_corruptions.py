import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from sklearn.svm import SVC

from study.datasets import Dataset, Images, Shifted, load
from study.datasets._corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    TEST,
    VALIDATION,
    corrupt,
    shifted,
    subset,
    subsets,
)
from study.datasets.digits import Options

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 40, 24)]


def noise(shape: tuple[int, int, int] = (3, 32, 32), count: int = 4) -> Images:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def disc(side: int, count: int = 1) -> Images:
    """Return bright discs with soft edges that scale with the side, away from the border."""
    axis = (np.arange(side) + 0.5) / side - 0.5
    distance = np.hypot(axis[:, None] + 0.1, axis)
    image = 200 * np.clip((0.25 - distance) * 8, 0, 1)
    return np.tile(image.astype(np.uint8), (count, 1, 1, 1))


def change(a: Images, b: Images) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_the_ladders_share_nothing_and_use_everything() -> None:
    assert set(TEST) & set(VALIDATION) == set()
    assert {*TEST, *VALIDATION} == set(CORRUPTIONS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", CORRUPTIONS)
def test_images_keep_shape_and_type(condition: str, shape: tuple[int, int, int]) -> None:
    images = noise(shape)
    before = images.copy()
    changed = corrupt(images, condition, 3, seed=0)
    assert (changed.shape, changed.dtype) == (images.shape, np.uint8)
    assert not np.array_equal(changed, images)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("condition", CORRUPTIONS)
def test_severity_changes_images_more_and_more(condition: str) -> None:
    images = disc(32, count=8) + noise((1, 32, 32), 8) // 8
    changes = [change(corrupt(images, condition, s, seed=0), images) for s in SEVERITIES]
    assert changes == sorted(changes)
    assert changes[0] > 0
    assert changes[4] > 1.5 * changes[0]


@pytest.mark.parametrize("condition", CORRUPTIONS)
def test_equal_arguments_give_equal_images(condition: str) -> None:
    images = noise(count=16)
    first = corrupt(images, condition, 4, seed=1)
    np.testing.assert_array_equal(corrupt(images, condition, 4, seed=1), first)
    drawn = condition in {"gaussian_noise", "speckle_noise", "rotation", "translation"}
    assert np.array_equal(corrupt(images, condition, 4, seed=2), first) != drawn


@pytest.mark.parametrize("condition", ["blur", "rotation", "translation"])
def test_amounts_scale_with_the_side(condition: str) -> None:
    small, large = (corrupt(disc(side), condition, 3, seed=0) for side in (24, 48))
    shrunk = large.reshape(1, 1, 24, 2, 24, 2).mean(axis=(3, 5))
    original = change(shrunk, disc(24))
    assert change(small, shrunk) < 0.35 * original


@pytest.mark.parametrize("condition", ["blur", "contrast", "rotation", "pixelation", "translation"])
def test_a_plain_image_stays_plain(condition: str) -> None:
    plain = np.full((2, 3, 20, 20), 90, np.uint8)
    np.testing.assert_array_equal(corrupt(plain, condition, 5, seed=0), plain)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    images = noise((1, 12, 12), 6)
    images[3:] = 255 - images[3:]
    apply = CORRUPTIONS[name].apply
    whole = apply(images.astype(np.float32), 0.2, np.random.default_rng(0))
    images[5] = 0
    again = apply(images.astype(np.float32), 0.2, np.random.default_rng(0))
    np.testing.assert_array_equal(whole[:5], again[:5])


def test_gaussian_noise_has_its_standard_deviation() -> None:
    grey = np.full((50, 1, 20, 20), 128, np.uint8)
    for severity, amount in zip((1, 2), CORRUPTIONS["gaussian_noise"].amounts, strict=False):
        spread = corrupt(grey, "gaussian_noise", severity, seed=0).astype(float).std()
        assert spread == pytest.approx(255 * amount, rel=0.03)


@pytest.mark.parametrize("condition", ["gaussian_noise", "speckle_noise"])
def test_between_severities_only_the_amount_of_noise_differs(condition: str) -> None:
    grey = np.full((2, 1, 32, 32), 100, np.uint8)
    weak, strong = (corrupt(grey, condition, severity, seed=0) for severity in (1, 2))
    changes = [copy.astype(float).ravel() - 100 for copy in (weak, strong)]
    assert np.corrcoef(changes)[0, 1] > 0.98
    one, two = CORRUPTIONS[condition].amounts[:2]
    assert np.std(changes[1]) / np.std(changes[0]) == pytest.approx(two / one, rel=0.05)


def test_contrast_shrinks_deviations_from_the_mean_by_its_amount() -> None:
    images = np.array([50, 150], np.uint8).repeat(8).reshape(1, 1, 4, 4)
    assert np.unique(corrupt(images, "contrast", 3, seed=0)).tolist() == [75, 125]


def test_brightness_adds_its_amount_and_saturates() -> None:
    images = np.array([0, 250], np.uint8).repeat(8).reshape(1, 1, 4, 4)
    assert np.unique(corrupt(images, "brightness", 5, seed=0)).tolist() == [102, 255]


def test_rotation_turns_about_half_of_the_images_each_way() -> None:
    images = disc(32, count=200)
    turned = np.unique(corrupt(images, "rotation", 5, seed=0), axis=0, return_counts=True)
    assert len(turned[0]) == 2
    assert turned[1].min() > 70


def test_translation_goes_in_all_four_directions() -> None:
    moved = np.unique(corrupt(disc(32, 200), "translation", 5, seed=0), axis=0, return_counts=True)
    assert len(moved[0]) == 4
    assert moved[1].min() > 25


def test_pixelation_averages_whole_blocks_where_they_divide_the_side() -> None:
    images = noise((1, 8, 8), 1)
    blocks = np.rint(images.reshape(1, 1, 4, 2, 4, 2).mean(axis=(3, 5)))
    expected = blocks.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(corrupt(images, "pixelation", 4, seed=0), expected, atol=1)


@pytest.mark.parametrize("severity", [0, 6])
def test_other_severities_are_refused(severity: int) -> None:
    with pytest.raises(ValueError, match=f"one of .1, 2, 3, 4, 5.*, but is {severity}"):
        corrupt(noise(), "blur", severity, seed=0)


def cells(made: Shifted) -> Iterator[np.ndarray]:
    for condition in dict.fromkeys(made.condition.tolist()):
        for severity in np.unique(made.severity):
            yield np.flatnonzero((made.condition == condition) & (made.severity == severity))


def test_every_cell_has_the_same_examples_in_order() -> None:
    labels = np.arange(40) % 10
    made = shifted(noise(count=40), labels, 12, seed=0)
    rows = list(cells(made))
    assert np.concatenate(rows).tolist() == list(range(25 * 12))
    for cell in rows:
        assert made.example[cell].tolist() == made.example[:12].tolist()
    assert len(set(made.example[:12])) == 12
    assert made.example[:12].tolist() == sorted(made.example[:12])
    np.testing.assert_array_equal(made.labels, labels[made.example])
    assert (made.example.dtype, made.severity.dtype) == (np.int32, np.int8)


def test_rows_are_the_corrupted_originals() -> None:
    images = noise(count=6)
    made = shifted(images, np.zeros(6, np.int64), 6, 3, ["blur", "contrast"], [2, 5])
    assert list(dict.fromkeys(made.condition.tolist())) == ["blur", "contrast"]
    np.testing.assert_array_equal(made.images[6:12], corrupt(images, "blur", 5, seed=3))
    np.testing.assert_array_equal(made.images[12:18], corrupt(images, "contrast", 2, seed=3))


def test_subset_is_seeded_and_bounded() -> None:
    assert subset(5, 9, 0).tolist() == list(range(5))
    assert subset(100, 9, 0).tolist() == subset(100, 9, 0).tolist()
    assert subset(100, 9, 0).tolist() != subset(100, 9, 1).tolist()


def test_distinct_subsets_share_nothing_before_all_has_been_used() -> None:
    assert len(np.unique(subsets(4, 100, 25, 0, distinct=True))) == 100
    _, times = np.unique(subsets(15, 40, 8, 0, distinct=True), return_counts=True)
    assert times.tolist() == [3] * 40
    assert (np.diff(subsets(15, 40, 8, 0, distinct=True)) > 0).all()
    assert subsets(3, 5, 9, 0, distinct=True).tolist() == [list(range(5))] * 3
    np.testing.assert_array_equal(subsets(3, 100, 9, 7), [subset(100, 9, 7)] * 3)


def test_distinct_copies_are_those_of_their_originals() -> None:
    images, labels = noise(count=12), np.arange(12)
    made = shifted(images, labels, 3, 3, ["blur", "contrast"], [2, 5], distinct=True)
    assert sorted(made.example.tolist()) == list(range(12))
    np.testing.assert_array_equal(made.labels, made.example)
    third = made.example[6:9]
    assert set(made.condition[6:9]) == {"contrast"}
    np.testing.assert_array_equal(made.images[6:9], corrupt(images[third], "contrast", 2, seed=3))


def test_older_studies_have_no_such_option_and_keep_their_identities() -> None:
    assert "shift_distinct" not in Options().model_dump()
    assert Options(shift_distinct=True).model_dump()["shift_distinct"] is True


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(Options(shift_size=500).model_dump(), None)


@pytest.mark.parametrize("condition", CORRUPTIONS)
def test_severity_hurts_a_classifier_of_real_digits(digits: Dataset, condition: str) -> None:
    def flat(images: Images) -> np.ndarray:
        return images.reshape(len(images), -1) / 255

    model = SVC().fit(flat(digits.train[0]), digits.train[1])
    made = shifted(*digits.test, 500, 0, [condition])
    accuracy = [
        float(model.score(flat(made.images[cell]), made.labels[cell])) for cell in cells(made)
    ]
    clean = float(model.score(flat(digits.test[0]), digits.test[1]))
    assert clean > 0.92
    assert accuracy[0] > clean - 0.1
    assert all(after <= before + 0.01 for before, after in pairwise(accuracy))
    assert 0.2 < accuracy[4] < clean - 0.08


KERNELS = """
import hashlib
import numpy as np
from study.datasets._corruptions import CORRUPTIONS, corrupt
images = np.random.default_rng(0).integers(0, 17, (200, 1, 8, 8)).astype(np.uint8) * 15
sha = hashlib.sha256()
for condition in CORRUPTIONS:
    for severity in range(1, 6):
        sha.update(corrupt(images, condition, severity, seed=0).tobytes())
print(sha.hexdigest())
"""


def test_corrupted_images_do_not_depend_on_the_kernels_of_the_cpu() -> None:
    """BLAS has other kernels, which add in another order, on other CPUs."""

    def digest(kernels: str) -> str:
        own = os.environ | {"OPENBLAS_CORETYPE": kernels, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", KERNELS]
        return subprocess.run(
            command, env=own, check=True, capture_output=True, text=True, timeout=300
        ).stdout

    assert digest("Nehalem") == digest("")
