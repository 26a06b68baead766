import numpy as np
import pytest

from study.datasets import CommonOptions, Dataset, Images, Labels
from study.datasets._corruptions import TEST, VALIDATION, shifted
from study.datasets._splits import assemble, split, stratified_order
from study.errors import StudyError


def options(**given: object) -> CommonOptions:
    return CommonOptions.model_validate({"name": "toy", "val_size": 20, **given})


def toy(count: int, start: int = 0) -> tuple[Images, Labels]:
    """Return images that carry their number in their first two pixels, three classes 1:2:3."""
    number = np.arange(start, start + count)
    images = np.zeros((count, 1, 4, 4), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256
    return images, np.array([0, 1, 1, 2, 2, 2], np.int64)[number % 6]


def numbers(images: Images) -> list[int]:
    return (images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]).tolist()


def made(**given: object) -> Dataset:
    return assemble(options(**given), toy(120), toy(30, 500), 3, {"other": toy(40, 700)[0]})


def test_parts_are_disjoint_and_together_everything() -> None:
    train, val, rest = split(toy(120)[1], options(train_size=60))
    assert sorted([*train, *val, *rest]) == list(range(120))
    assert (len(train), len(val), len(rest)) == (60, 20, 40)


def test_train_null_takes_all_that_val_leaves() -> None:
    data = made()
    assert sorted(numbers(data.train[0]) + numbers(data.val[0])) == list(range(120))
    assert numbers(data.test[0]) == list(range(500, 530))


def test_images_keep_their_labels() -> None:
    data = made(train_size=30)
    for images, labels in (data.train, data.val, data.test):
        np.testing.assert_array_equal(toy(600)[1][numbers(images)], labels)


def test_every_part_has_the_proportions_of_the_classes() -> None:
    data = made(train_size=30, val_size=24)
    assert np.bincount(data.val[1]).tolist() == [4, 8, 12]
    assert np.bincount(data.train[1]).tolist() == [5, 10, 15]


def test_every_stretch_of_the_order_has_the_proportions() -> None:
    labels = toy(600)[1]
    for stretch in np.split(labels[stratified_order(labels, 3)], 10):
        assert np.abs(np.bincount(stretch, minlength=3) - [10, 20, 30]).max() <= 1


def test_val_does_not_depend_on_train_size_and_train_is_nested() -> None:
    small, large = made(train_size=30), made(train_size=60)
    assert numbers(small.val[0]) == numbers(large.val[0])
    assert set(numbers(small.train[0])) < set(numbers(large.train[0]))


def test_split_seed_alone_decides() -> None:
    assert numbers(made().val[0]) == numbers(made().val[0])
    assert numbers(made().val[0]) != numbers(made(split_seed=1).val[0])


def test_ood_is_a_seeded_draw_of_at_most_ood_size() -> None:
    drawn = numbers(made(ood_size=10).ood["other"])
    assert len(set(drawn)) == 10
    assert drawn == numbers(made(ood_size=10).ood["other"])
    assert drawn != numbers(made(ood_size=10, split_seed=1).ood["other"])
    assert numbers(made(ood_size=99).ood["other"]) == list(range(700, 740))


def test_shifted_copies_belong_to_their_split() -> None:
    data = made(shift_size=7)
    for clean, copies in ((data.test, data.shift), (data.val, data.val_shift)):
        np.testing.assert_array_equal(clean[1][copies.example], copies.labels)
    assert set(data.shift.condition) == set(TEST)
    assert set(data.val_shift.condition) == set(VALIDATION)
    assert set(data.val_shift.severity) == {1, 2, 3}


def test_validation_ladder_leaves_out_what_the_test_contains() -> None:
    published = shifted(*toy(30), 5, 0, ["brightness", "contrast"])
    data = assemble(options(), toy(120), toy(30), 3, {}, shift=published)
    assert data.shift is published
    assert set(data.val_shift.condition) == {"speckle_noise", "translation"}


def test_val_can_come_from_its_own_images() -> None:
    data = assemble(options(train_size=50), toy(120), toy(30, 300), 3, {}, val=toy(40, 500))
    assert set(numbers(data.val[0])) < set(range(500, 540))
    assert len(data.train[0]) == 50
    assert numbers(data.test[0]) == list(range(300, 330))


def test_fingerprint_is_that_of_the_data() -> None:
    first = made()
    assert first.fingerprint == made().fingerprint
    for at, part in ((0, (3, 0, 2, 2)), (1, 3)):
        changed = made()
        changed.test[at][part] += 1
        assert changed.fingerprint != first.fingerprint
    assert made(split_seed=1).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train_size": 101}, "must be at most 120, with at least 1 .* but is 101 \\+ 20; lower"),
        ({"val_size": 120}, "must be at most 120, with at least 1 .* but is None \\+ 120; lower"),
    ],
)
def test_sizes_beyond_the_set_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        made(**sizes)


@pytest.mark.parametrize("key", ["train_size", "val_size"])
def test_sizes_beyond_the_own_val_are_refused(key: str) -> None:
    with pytest.raises(StudyError, match=f"{key} must be at most .*, but is 500; lower it"):
        assemble(options(**{key: 500}), toy(120), None, 3, {}, val=toy(40))


def test_without_test_images_train_size_must_leave_some() -> None:
    with pytest.raises(StudyError, match=r"train_size must be a number .* but is null; set it"):
        assemble(options(), toy(120), None, 3, {})
    with pytest.raises(StudyError, match="must be at most 119"):
        assemble(options(train_size=100), toy(120), None, 3, {})


def test_a_single_class_is_refused() -> None:
    images, labels = toy(120)
    with pytest.raises(StudyError, match="at least 2 classes, but all have label 1; check"):
        assemble(options(), (images, np.ones_like(labels)), None, 3, {})
