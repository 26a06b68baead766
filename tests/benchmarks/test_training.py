"""The benchmark of training steps: what it compares, and that it can tell fast from slow."""

import warnings

import pytest
import torch

from benchmarks.training import (
    SIDES,
    Setting,
    epoch,
    images,
    lenet,
    peak,
    perceptron,
    stacked,
    stacked_ensembles,
)
from tests.pretend_card import pretend_card

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


ON_A_CARD = {
    "epoch": lambda setting: epoch(128, 4, setting),
    "stacked": lambda setting: stacked(3, setting),
    "images": lambda setting: images(1, 28, False, setting),
    "perceptron": lambda setting: perceptron(2, setting),
    "lenet": lambda setting: lenet(2, setting),
    "stacked_ensembles": lambda setting: stacked_ensembles(2, 2, setting),
}


@pytest.mark.slow  # Importing the peers and crossing each device's border takes a while.
@pytest.mark.parametrize("name", ON_A_CARD)
def test_every_row_runs_on_a_card(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pretend_card():
            rows = ON_A_CARD[name](Setting(2, torch.device("cuda"), "bfloat16"))
    assert all(row.median > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_memory_on_a_card_is_the_cards(side, monkeypatch):
    asked = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pretend_card():
            monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5)
            monkeypatch.setattr(
                torch.cuda, "reset_peak_memory_stats", lambda: asked.append("reset")
            )
            monkeypatch.setattr(
                torch.cuda, "max_memory_allocated", lambda: asked.append("max") or 12
            )
            assert peak(side, Setting(1, torch.device("cuda"))) == 7
            monkeypatch.undo()
    assert asked == ["reset", "max"]
