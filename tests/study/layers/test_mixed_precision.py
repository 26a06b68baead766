"""In mixed precision the members' own weights act in bfloat16, as the activations are."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from study.conformance import CLASSES, Subject, inputs
from study.layers.norms import GroupedBatchNorm
from study.layers.perturbed import (
    IndependentLayer,
    LowRankLayer,
    LowRankScaledLayer,
    MemberLayer,
    RankOneLayer,
)
from study.methods.e3 import ExpertLayer
from study.methods.film_ensemble import FilmNorm
from study.methods.masksembles import MaskedLayer
from study.methods.packed_ensembles import GroupedLinear
from study.methods.rank1_bnn import BayesianLayer
from study.methods.sve import SingularLayer
from study.plugins import load_plugin, names

M, B = 3, 16
PERTURBED = (MemberLayer, FilmNorm, GroupedLinear, GroupedBatchNorm, ExpertLayer)


def normal(members, size):
    return 1 + 0.5 * torch.randn(members, size)


def additive(layer):
    out, into = layer.weight.flatten(1).shape
    a, b = torch.randn(M, 2, into), torch.randn(M, out, 2)
    return LowRankLayer(layer, 0.3 * a, 0.3 * b, factor=0.5**0.5)


LAYERS = {
    "rank one": lambda layer: RankOneLayer(layer, M, {"r": normal, "s": normal}),
    "toward one": lambda layer: RankOneLayer(layer, M, {"r": normal, "s": normal}, anchor=1.0),
    "r": lambda layer: RankOneLayer(layer, M, {"r": normal}),
    "s": lambda layer: RankOneLayer(layer, M, {"s": normal}),
    "scaled": lambda layer: LowRankScaledLayer(layer, M, 2, 0.5),
    "full": lambda layer: LowRankScaledLayer(layer, M, None, 0.5),
    "additive": additive,
    "independent": lambda layer: IndependentLayer(layer, M, random=True),
    "masked": lambda layer: MaskedLayer(layer, M, 2.0),
    "bayesian": lambda layer: BayesianLayer(layer, M, normal, 0.1),
    "singular": lambda layer: SingularLayer(layer, M, 0.1, softplus=False),
}
PLAIN = {
    "linear": (lambda: nn.Linear(12, 20), (12,)),
    "tokens": (lambda: nn.Linear(12, 20), (5, 12)),
    # With fewer weights than activations, which are multiplied out, and with more.
    "small convolution": (lambda: nn.Conv2d(4, 8, 3, padding=1), (4, 9, 9)),
    "large convolution": (lambda: nn.Conv2d(48, 64, 3, padding=1), (48, 3, 3)),
}


class Promoted(TorchDispatchMode):
    """Notes element-wise operations of a whole batch that mix types."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [v for v in tree_leaves(args) if isinstance(v, torch.Tensor) and v.dim()]
        mixed = len({v.dtype for v in given if v.is_floating_point()}) > 1
        batch = any(v.shape[:2] == (M, B) or v.shape[0] in (B, M * B) for v in given)
        kind = func.overloadpacket.__name__
        if mixed and batch and kind in ("mul", "add", "addcmul", "sub", "div", "where"):
            self.seen.append(kind)
        return result


@pytest.mark.parametrize("own_bias", [False, True])
@pytest.mark.parametrize("plain", PLAIN)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_perturbed_layer_stays_in_bfloat16(kind, plain, own_bias):
    torch.manual_seed(0)
    make, shape = PLAIN[plain]
    layer = LAYERS[kind](make())
    if own_bias and kind != "independent":
        layer.own_bias(random=True)
    layer.eval()  # One draw of what is drawn.
    x = torch.randn(M * B, *shape).bfloat16()
    exact = layer(x.float())
    assert exact.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), Promoted() as promoted:
        rough = layer(x)
    assert rough.dtype == torch.bfloat16
    assert not promoted.seen
    error = (rough.float() - exact).norm() / exact.norm()
    assert error < 2**-6


METHODS = {name: load_plugin("study.methods", name).EXAMPLES for name in names("study.methods")}
CASES = [
    *((name, example, "mlp") for name, examples in METHODS.items() for example in examples),
    *((name, METHODS[name][0], "cnn") for name in METHODS),
]


@pytest.mark.parametrize(("name", "example", "backbone"), CASES)
def test_activations_after_the_members_own_are_bfloat16(name, example, backbone):
    if example.get("layers") == "attention":
        backbone = "vit"
    options = {"norm": "batch"} if backbone == "mlp" else {}
    (method, _), *_ = Subject(name, example, backbone, options).trained().independent_members()
    x, y = inputs(), torch.arange(8) % CLASSES
    seen = []
    for module in method.modules():
        if isinstance(module, PERTURBED):
            module.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    losses = []
    for mixed in (False, True):
        seen.clear()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, mixed):
            logits, labels = method.train().training_forward(x, y)
        losses.append(method.loss(logits.float(), labels, 0.0))
        assert set(seen) <= {torch.bfloat16 if mixed else torch.float32}
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.02)
