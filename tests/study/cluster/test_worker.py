"""What a worker makes of its environment."""

import pytest

from study.cluster.worker import threads


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, 1), ("3", 3), ("", 1), (" 2 ", 2), ("4,2", 4), ("auto", 1), ("0", 1), ("-1", 1), ("1.5", 1), ("100000", 1), ("9" * 20, 1)],
    ids=lambda value: f"OMP_NUM_THREADS={value!r}",
)  # fmt: skip
def test_threads_are_those_that_openmp_would_take(given, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads() == expected
