"""What a worker makes of its environment."""

import resource
import sys

import pytest

from study.cluster.worker import keep_freed_memory, threads


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


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's allocator")
def test_a_block_that_is_freed_is_used_again():
    keep_freed_memory()

    def pages_for_a_block():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * (48 * 2**20)  # As large as a convolution's activations of a batch may be.
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages_for_a_block()
    assert pages_for_a_block() < 1000  # Fresh, it has 12,288.
