import pytest
import torch
from pydantic import ValidationError
from torch import nn

from study.backbones.wide_resnet import Network, Params


@pytest.mark.parametrize(
    ("depth", "widen", "count"), [(28, 10, 36_479_194), (16, 4, 2_748_890), (28, 1, 369_498)]
)
def test_parameter_count(depth: int, widen: int, count: int) -> None:
    with torch.device("meta"):
        network = Network(Params.model_validate({"depth": depth, "widen": widen}), (3, 32, 32), 10)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("depth", [16, 28])
def test_depth_counts_the_convolutions(depth: int) -> None:
    network = Network(Params.model_validate({"depth": depth, "widen": 2}), (3, 32, 32), 10)
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == depth


def test_an_identity_block_adds_its_input_untouched() -> None:
    block = Network(Params(depth=16, widen=1), (3, 8, 8), 10).groups[0][1].eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_other_depths_are_refused() -> None:
    with pytest.raises(ValidationError, match="16 or 28"):
        Params.model_validate({"depth": 22})
