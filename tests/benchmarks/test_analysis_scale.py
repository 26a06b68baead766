"""The cost of the analysis beside libraries on the same files, at a tenth of the full scale."""

from pathlib import Path

import pytest

from benchmarks.analysis_scale import cost_of, differences, write_run


@pytest.mark.slow
def test_same_numbers_as_libraries_at_half_their_time(tmp_path: Path) -> None:
    write_run(tmp_path, trials=10, members=10, examples=10_000)
    alone, ours, theirs = (cost_of(side, tmp_path) for side in ("primary", "ours", "theirs"))
    for side in (alone, ours):
        apart = differences(side, theirs)
        assert all(most < 1e-6 for most in apart.values()), apart
        assert side.cpu <= theirs.cpu / 2
        assert side.peak_mib <= 1024
    again = [(cost_of("primary", tmp_path), cost_of("theirs", tmp_path)) for _ in range(2)]
    works = [(alone.work, theirs.work), *((ours.work, other.work) for ours, other in again)]
    quickest, their_quickest = map(min, zip(*works, strict=True))  # What disturbs only adds.
    assert quickest <= 0.7 * their_quickest  # About half, of some tenths of a second.


@pytest.mark.slow
def test_kept_numbers_are_the_same_at_a_fifth_of_the_work(tmp_path: Path) -> None:
    write_run(tmp_path, trials=20, members=10, examples=10_000)  # Fewer cost too little to tell.
    first, kept = (cost_of("ours", tmp_path) for _ in range(2))
    assert kept.values == first.values
    assert kept.work <= first.work / 5


@pytest.mark.slow
def test_ten_times_the_trials_cost_at_most_thirteen_times_the_work(tmp_path: Path) -> None:
    write_run(tmp_path / "small", trials=20, members=4, examples=1000)
    write_run(tmp_path / "large", trials=200, members=4, examples=1000)
    small, large = cost_of("ours", tmp_path / "small"), cost_of("ours", tmp_path / "large")
    assert large.work <= 13 * small.work  # 11, and what a busy machine adds
    assert large.peak_mib <= small.peak_mib + 200
