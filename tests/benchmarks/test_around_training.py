"""Timers of a trial's parts, and what a study's time is divided into."""

import time
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from benchmarks.around_training import Timer, shares
from benchmarks.watched_study import Took, of_rows, took


def burn(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


def test_a_part_inside_a_part_counts_as_itself_alone():
    timer = Timer()
    with timer.part("outer"):
        burn(0.05)
        with timer.part("inner"):
            burn(0.1)
    assert timer.seconds["inner"] == pytest.approx(0.1, abs=0.02)
    assert timer.seconds["outer"] == pytest.approx(0.05, abs=0.02)


def test_a_timed_function_works_as_before_and_is_put_back():
    owner, timer = SimpleNamespace(double=lambda x: 2 * x), Timer()
    original = owner.double
    with timer.around(owner, "double", lambda x: f"of {x}"):
        assert owner.double(3) == 6
    assert owner.double is original
    assert "of 3" in timer.seconds


def test_a_study_is_divided_without_rest():
    # From 0 to 20 s; trials from 5 to 15 s on two slots, of 8 and 10 s, half of each training.
    found = took((0.0, 20.0, 30.0), [(8.0, 4.0), (10.0, 5.0)], 5.0, 15.0, 2)
    assert found == Took(20.0, 30.0, 5.0, 9.0, 9.0, 2.0, 5.0, 2)
    parts = shares(found, Counter({"training": 3.0, "files": 1.0}))
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["start-up to the first trial"] == parts["verdict and report"] == 0.25
    assert parts["slots between trials"] == pytest.approx(0.05)
    assert parts["training"] == pytest.approx(0.45 * 3 / 4)


def test_trials_that_were_trained_as_one_began_together():
    # Two trained for 6 s from second 4 on, then predicted for 1 s each; one alone from 10 to 15.
    def row(trial, stack, finished, seconds, fit):
        end = datetime.fromtimestamp(finished, UTC)
        return SimpleNamespace(
            trial=trial, stack=stack, finished=end, seconds=seconds, train_seconds=fit
        )

    stack = ("a", "b")
    rows = [row("a", stack, 11, 4, 3), row("b", stack, 12, 4, 3), row("c", None, 15, 5, 2)]
    assert of_rows((0, 16, 20), rows, 2) == Took(16, 20, 4, 8, 5, 9, 1, 3)
