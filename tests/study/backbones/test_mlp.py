import pytest
from pydantic import ValidationError
from torch import nn

from study.backbones.mlp import Network, Params


def linears(network: nn.Module) -> list[tuple[int, int]]:
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    return [(layer.in_features, layer.out_features) for layer in layers]


def test_depth_counts_hidden_layers() -> None:
    network = Network(Params(width=20, depth=3), (1, 8, 8), 10)
    assert linears(network) == [(64, 20), (20, 20), (20, 20), (20, 10)]


def test_taper_halves_the_width() -> None:
    network = Network(Params(width=64, depth=3, taper=True), (1, 28, 28), 10)
    assert linears(network) == [(784, 64), (64, 32), (32, 16), (16, 10)]
    assert sum(p.numel() for p in network.parameters()) == 53_018


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_norm_stands_between_every_hidden_linear_layer_and_its_activation(
    norm: str, kind: type[nn.Module]
) -> None:
    network = Network(Params.model_validate({"norm": norm, "dropout": 0.1}), (1, 8, 8), 10)
    hidden = [nn.Linear, kind, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in network.layers] == [nn.Flatten, *hidden, *hidden]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 3, "depth": 3, "taper": True}, "width must be at least 4 to be halved 2 times"),
        ({"width": None}, "valid integer"),
        ({"width": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_sizes_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Params.model_validate(given)
