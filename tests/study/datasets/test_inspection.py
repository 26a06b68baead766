"""What is odd about a data set is said with numbers before anything is trained."""

from dataclasses import replace

import numpy as np
import pytest

from study.datasets import inspect, load


@pytest.fixture(scope="module")
def digits():
    return load({"name": "digits", "train_size": 100, "val_size": 100, "shift_size": 5})


def test_nothing_is_odd_about_the_digits(digits):
    assert inspect(digits) == []


def test_copies_within_a_split_and_between_splits_are_counted(digits):
    images, labels = digits.train
    twice = np.concatenate([images, images[:3]]), np.concatenate([labels, labels[:3]])
    tests = (
        np.concatenate([digits.test[0], images[:7]]),
        np.concatenate([digits.test[1], labels[:7]]),
    )
    assert inspect(replace(digits, train=twice, test=tests)) == [
        "3 of the 103 train images are copies of others in train",
        "7 images are both in train and in test: test is no test of learning",
    ]


def test_constant_images_are_counted(digits):
    images = digits.val[0].copy()
    images[:1], images[5:6] = 0, 9
    lines = inspect(replace(digits, val=(images, digits.val[1])))
    assert lines == ["2 of the 100 val images are one colour throughout"]


def test_classes_without_examples_are_named(digits):
    few = digits.val[1] < 4
    lines = inspect(replace(digits, val=(digits.val[0][few], digits.val[1][few])))
    assert lines == ["6 of 10 classes have no example in val: 4, 5, 6, 7, 8, ..."]


def test_a_split_of_one_class_is_named(digits):
    one = digits.test[1] == 3
    lines = inspect(replace(digits, test=(digits.test[0][one], digits.test[1][one])))
    assert lines == ["every example in test is of class 3: nothing to tell apart"]


def test_a_split_that_is_sorted_by_class_is_named(digits):
    order = np.argsort(digits.train[1], kind="stable")
    lines = inspect(replace(digits, train=(digits.train[0][order], digits.train[1][order])))
    assert lines == [
        "train is sorted by class (10 runs in 100 images): batches are drawn at random, but a part "
        "that is cut off in order has not all classes"
    ]
    back = order[::-1]
    lines = inspect(replace(digits, train=(digits.train[0][back], digits.train[1][back])))
    assert lines[0].startswith("train is sorted by class (10 runs")


def test_what_was_noticed_in_reading_comes_first(digits):
    assert inspect(replace(digits, notes=("x",))) == ["x"]
    assert replace(digits, notes=("x",)).fingerprint == digits.fingerprint
