import pytest
import torch
from pydantic import ValidationError
from torch import nn

from study.backbones.mlp import Network, Params


def linears(network: nn.Module) -> list[tuple[int, int]]:
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    return [(layer.in_features, layer.out_features) for layer in layers]


def test_depth_counts_hidden_layers() -> None:
    network = Network(Params(width=20, depth=3), (1, 8, 8), 10)
    assert linears(network) == [(64, 20), (20, 20), (20, 20), (20, 10)]


def test_widths_are_the_hidden_layers() -> None:
    network = Network(Params(widths=[64, 32, 16]), (1, 28, 28), 10)
    assert linears(network) == [(784, 64), (64, 32), (32, 16), (16, 10)]
    assert sum(p.numel() for p in network.parameters()) == 53_018


def test_widths_blank_out_what_they_replace() -> None:
    dump = Params(widths=[8]).model_dump()
    assert (dump["width"], dump["depth"]) == (None, None)
    assert Params(**dump) == Params(widths=[8])


def test_without_hidden_layers_it_is_linear() -> None:
    network = Network(Params(widths=[]), (1, 8, 8), 10)
    a, b = torch.randn(2, 3, 1, 8, 8)
    zero = network(torch.zeros(3, 1, 8, 8))
    torch.testing.assert_close(network(a + b) + zero, network(a) + network(b))


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_norm_stands_between_every_hidden_linear_layer_and_its_activation(
    norm: str, kind: type[nn.Module]
) -> None:
    network = Network(Params.model_validate({"norm": norm}), (1, 8, 8), 10)
    hidden = [nn.Linear, kind, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in network.layers] == [nn.Flatten, *hidden, *hidden, nn.Linear]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": [8], "depth": 2}, "depth must be left out where widths is given, but is 2"),
        ({"widths": [8, 0]}, r"widths must all be at least 1, but are \[8, 0\]"),
        ({"width": None}, "width and depth must be numbers unless widths is given"),
        ({"width": 0}, "greater than or equal to 1"),
    ],
)
def test_contradictions_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Params.model_validate(given)
