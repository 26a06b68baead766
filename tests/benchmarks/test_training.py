"""The benchmark of training steps: what it compares, and that it can tell fast from slow."""

import warnings

import pytest
import torch

from benchmarks.training import Setting, epoch, perceptron, stacked

CPU = torch.device("cpu")


def test_a_ratio_is_the_peers_time_over_ours():
    matrix = torch.randn(200, 200)

    def act(times):
        return lambda: [matrix @ matrix for _ in range(times)]

    setting = Setting(7, CPU)
    (ratio,) = setting.compare("products", act(2), {"eight times as many": act(16)})
    assert ratio.low <= ratio.median <= ratio.high
    assert 3 < ratio.median < 20


def test_a_row_has_the_peer_and_the_limit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the peer and of what it imports are its own
        rows = perceptron(2, Setting(2, CPU))
    assert [row.against for row in rows] == ["torch-uncertainty", "LIMIT"]
    assert all(row.what == "BatchEnsemble step, MLP 256, M=2, B=128" for row in rows)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rows_run_in_either_precision(precision):
    setting = Setting(2, CPU, precision)
    for rows in (epoch(128, 4, setting), stacked(3, setting)):
        assert all(row.median > 0 for row in rows)
