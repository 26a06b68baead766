"""Timers of a trial's parts, and what a study's time is divided into."""

import time
from collections import Counter
from types import SimpleNamespace

import pytest

from benchmarks.around_training import Timer, shares
from benchmarks.time_to_verdict import Took, took


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
    found = took((0.0, 20.0, 30.0), [(8.0, 4.0), (10.0, 5.0)], 5.0, 15.0)
    assert found == Took(20.0, 30.0, 5.0, 9.0, 9.0, 2.0, 5.0, 2)
    parts = shares(found, Counter({"training": 3.0, "files": 1.0}))
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["start-up to the first trial"] == parts["verdict and report"] == 0.25
    assert parts["slots between trials"] == pytest.approx(0.05)
    assert parts["training"] == pytest.approx(0.45 * 3 / 4)
