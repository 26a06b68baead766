"""The Vision Transformer against torchvision's, and its closed forms."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.models import VisionTransformer

from study.backbones.vit import Network, Params, from_torchvision
from study.diagnostics.cost import counter
from study.errors import StudyError
from study.layers.members import repeat_for_members, replace_modules, split_members
from study.layers.perturbed import RankOneLayer
from study.layers.transformer import FeedForward

SHAPE, CLASSES = (3, 16, 16), 5


def small(**params):
    torch.manual_seed(0)
    options = {"width": 12, "depth": 2, "heads": 3, "patch": 4} | params
    return Network(Params(**options), SHAPE, CLASSES)


def images(count=4):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pair():
    torch.manual_seed(2)
    theirs = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=24,
        num_classes=CLASSES,
    )  # fmt: skip
    for parameter in theirs.parameters():  # Some start at zero, which would hide mistakes.
        nn.init.normal_(parameter, std=0.3)
    ours = small()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    return ours, theirs


@pytest.mark.peer
def test_torchvisions_weights_give_torchvisions_logits(pair):
    ours, theirs = pair
    torch.testing.assert_close(ours.eval()(images()), theirs.eval()(images()))
    epsilons = [{m.eps for m in n.modules() if isinstance(m, nn.LayerNorm)} for n in pair]
    assert epsilons[0] == epsilons[1]  # Too small to be seen in the logits.


@pytest.mark.peer
def test_torchvisions_weights_give_torchvisions_gradients(pair):
    for network in pair:
        network(images()).square().mean().backward()
    ours, theirs = ({n: p.grad for n, p in network.named_parameters()} for network in pair)
    torch.testing.assert_close(ours, from_torchvision(theirs), rtol=1e-3, atol=1e-5)


def test_older_names_of_torchvisions_layers_are_known():
    state = {f"encoder.layers.encoder_layer_11.mlp.linear_{i}.bias": torch.ones(2) for i in (1, 2)}
    assert list(from_torchvision(state)) == [f"blocks.11.1.branch.fc{i}.bias" for i in (1, 2)]


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_parameters_have_the_closed_form(pool):
    d, hidden, patches = 12, 30, 16
    tokens = patches + (pool == "class")
    block = 4 * (d * d + d) + d * hidden + hidden + hidden * d + d + 4 * d
    rest = (3 * 16 + 1) * d + (pool == "class") * d + tokens * d + 2 * d + (d + 1) * CLASSES
    network = small(pool=pool, mlp_ratio=2.5)
    assert sum(p.numel() for p in network.parameters()) == 2 * block + rest


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_flops_have_the_closed_form(pool):
    d, hidden, patches = 12, 24, 16
    t = patches + (pool == "class")
    macs = 3 * 16 * d * patches + 2 * t * (4 * d * d + 2 * t * d + 2 * d * hidden) + d * CLASSES
    with torch.no_grad(), counter() as counted:
        small(pool=pool)(images(1))
    assert counted.get_total_flops() == 2 * macs


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_an_example_does_not_depend_on_its_batch(pool):
    network = small(pool=pool).eval()
    changed = images()
    changed[0] = 100
    torch.testing.assert_close(network(changed)[1:], network(images())[1:])


def test_mean_pooling_is_over_all_tokens():
    network, seen = small(pool="mean"), []
    network.norm.register_forward_hook(lambda *hooked: seen.append(hooked[2]))
    logits = network(images())
    torch.testing.assert_close(logits, network.head(seen[0]).mean(1))


def test_without_positions_the_mean_does_not_see_the_order_of_patches():
    network = small(pool="mean")
    swapped = torch.cat([images()[..., 8:], images()[..., :8]], dim=-1)
    assert not torch.allclose(network(images()), network(swapped), atol=1e-3)
    network.position.data.zero_()
    torch.testing.assert_close(network(images()), network(swapped), rtol=1e-4, atol=1e-5)


def test_members_folded_into_the_batch_are_networks_of_their_own():
    network = small()
    start = {name: lambda m, n: 1 + 0.5 * torch.randn(m, n) for name in "rs"}
    kinds = (nn.Linear, nn.Conv2d)
    replace_modules(network, kinds, lambda layer: RankOneLayer(layer, 3, start))
    together = split_members(network(repeat_for_members(images(), 3)), 3)
    for member, logits in enumerate(together):
        alone = small()
        layers = (m for m in network.modules() if isinstance(m, RankOneLayer))
        replace_modules(alone, kinds, lambda _, rest=layers, m=member: next(rest).plain(m))
        torch.testing.assert_close(alone(images()), logits, rtol=1e-4, atol=1e-5)


def test_every_block_has_a_perceptron_to_be_found():
    found = [m for m in small(mlp_ratio=2.5).modules() if isinstance(m, FeedForward)]
    assert [(m.fc1.in_features, m.fc1.out_features) for m in found] == [(12, 30)] * 2


def test_sides_may_differ():
    network = Network(Params(patch=8), (1, 16, 24), 3)
    assert network(torch.zeros(2, 1, 16, 24)).shape == (2, 3)


def test_a_patch_must_divide_the_image():
    message = "patch must divide the sides of 16x24 images, but is 14; the nearest is 8"
    with pytest.raises(StudyError, match=message):
        Network(Params(patch=14), (1, 16, 24), 3)


def test_heads_must_divide_the_width():
    with pytest.raises(
        ValidationError, match="must divide the width 64, but is 5; the nearest is 4"
    ):
        Params(width=64, heads=5)
