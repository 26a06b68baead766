import pytest
import torch
from torch import nn

from study.backbones.resnet18 import Network, Params


def test_parameter_count_is_that_of_the_usual_small_image_form() -> None:
    network = Network(Params(), (3, 32, 32), 10)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962


def test_it_has_eighteen_weighted_layers_beside_three_projections() -> None:
    layers = Network(Params(width=4), (3, 32, 32), 10).modules()
    weighted = [m for m in layers if isinstance(m, nn.Conv2d | nn.Linear)]
    projections = [m for m in weighted if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert (len(weighted), len(projections)) == (21, 3)


def test_convolutions_are_drawn_over_fan_out() -> None:
    torch.manual_seed(0)
    conv = Network(Params(width=64), (3, 32, 32), 10).groups[3][1].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_an_identity_block_adds_its_input() -> None:
    block = Network(Params(width=4), (3, 8, 8), 10).groups[0][0].eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(block(x), x)
