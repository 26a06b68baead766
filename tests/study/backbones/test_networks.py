"""What holds for every backbone."""

import pytest
import torch
from torch import Tensor, nn

from study.backbones import build, parameters
from study.plugins import names

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 64, 48)]
SMALL = {
    "mlp": {"width": 16},
    "cnn": {"channels": [4, 8], "hidden": 8},
    "resnet18": {"width": 4},
    "wide_resnet": {"depth": 16, "widen": 1},
    "vit": {"width": 12, "depth": 2, "heads": 2},
}
HEAD_INPUTS = {"mlp": 16, "cnn": 8, "resnet18": 32, "wide_resnet": 64, "vit": 12}


def small(name: str, shape: tuple[int, int, int] = (3, 16, 16), **params: object) -> nn.Module:
    return build({"name": name, **SMALL[name], **params}, shape, 7)


def test_every_backbone_is_tested_here() -> None:
    assert set(SMALL) <= set(names("study.backbones"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SMALL)
def test_logits_have_one_column_per_class(name: str, shape: tuple[int, int, int]) -> None:
    assert small(name, shape)(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_params_survive_their_dump(name: str) -> None:
    params = parameters({"name": name, **SMALL[name]})
    assert parameters(params.model_dump()) == params


@pytest.mark.parametrize("name", SMALL)
def test_examples_are_independent_in_evaluation(name: str) -> None:
    network = small(name).eval()
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(network(x)[1:3], network(x[1:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_layers_are_declared_in_the_order_they_act(name: str) -> None:
    network, acted = small(name, dropout=0.5), []
    leaves = [m for m in network.modules() if not list(m.children()) and list(m.parameters())]
    for leaf in leaves:
        leaf.register_forward_hook(lambda module, *_: acted.append(module))
    network(torch.randn(2, 3, 16, 16))
    assert acted == leaves


@pytest.mark.parametrize("name", SMALL)
def test_same_random_state_gives_the_same_weights(name: str) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in small(name).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", SMALL)
def test_dropout_is_a_module_at_the_rate_and_acts_in_training_alone(name: str) -> None:
    torch.manual_seed(0)
    network = small(name, dropout=0.25)
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.25}
    x = torch.randn(2, 3, 16, 16)
    network.eval()
    assert torch.equal(network(x), network(x))
    for module in network.modules():
        module.train(isinstance(module, nn.Dropout))
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = small(name)
    network(torch.randn(8, 3, 16, 16)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", SMALL)
def test_the_last_linear_layer_is_the_head(name: str) -> None:
    head = [m for m in small(name).modules() if isinstance(m, nn.Linear)][-1]
    assert (head.in_features, head.out_features) == (HEAD_INPUTS[name], 7)
