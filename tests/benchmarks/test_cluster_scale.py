"""The quick parts of the benchmark of scale run."""

import pytest

from benchmarks import cluster_scale


@pytest.mark.parametrize("part", ["sampler", "storage", "folder"])
def test_each_part_prints_a_row_of_costs(part, capsys):
    cluster_scale.main(["--part", part, "--sizes", "30"])
    size, *costs = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert size == "30"
    assert costs
    assert all(float(cost) >= 0 for cost in costs)
