"""What every method must do on every backbone; importable for methods outside the project.

from tests.conformance import check_method
check_method("my_package.my_method", {"members": 3}, "mlp")
"""

import torch

from study import backbones
from study.methods import Method, build
from study.spec import Training

SHAPE, CLASSES, BATCH = (3, 16, 16), 5, 8
SMALL = {
    "mlp": {"width": 12, "depth": 2, "dropout": 0.1},
    "cnn": {"channels": [4, 6], "dropout": 0.1},
    "resnet18": {"width": 4, "dropout": 0.1},
    "wide_resnet": {"depth": 16, "widen": 1, "dropout": 0.1},
}


def make(method: str, params: dict, backbone: str, seed: int = 0) -> Method:
    """Build a method around a small network."""
    return build(method, params, lambda: plain(backbone), seed)


def plain(backbone: str) -> torch.nn.Module:
    """Build the small network itself."""
    options = backbones.parameters({"name": backbone} | SMALL.get(backbone, {})).model_dump()
    return backbones.build(options, SHAPE, CLASSES)


def check_method(method: str, params: dict, backbone: str) -> None:
    """Check the whole contract of a method on one backbone."""
    x = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(3))
    y = torch.arange(BATCH) % CLASSES
    ensemble = make(method, params, backbone)
    check_shapes(ensemble, x)
    check_seed(method, params, backbone, x)
    check_training(ensemble, x, y)
    check_examples_are_independent(ensemble, x)
    check_weights(ensemble)
    check_member_networks(ensemble, x, plain(backbone))


def check_shapes(ensemble: Method, x: torch.Tensor) -> None:
    """Logits are (M, B, C), finite, and do not change the random state in evaluation."""
    ensemble.eval()
    state = torch.get_rng_state()
    logits = ensemble(x)
    assert logits.shape == (ensemble.members, len(x), CLASSES)
    assert bool(logits.isfinite().all())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ensemble(x), logits)


def check_seed(method: str, params: dict, backbone: str, x: torch.Tensor) -> None:
    """The seed alone decides the initial weights; building leaves the random state alone."""
    state = torch.get_rng_state()
    first, same, other = (make(method, params, backbone, seed).eval() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(x), same(x))
    assert not torch.equal(first(x), other(x))


def check_training(ensemble: Method, x: torch.Tensor, y: torch.Tensor) -> None:
    """Every parameter is in one group of one part, gets a gradient and moves."""
    before = {name: p.detach().clone() for name, p in ensemble.named_parameters()}
    seen: list[int] = []
    for part, _ in ensemble.parts():
        part.train()
        groups = part.param_groups(Training(lr=0.1, weight_decay=0.01))
        seen += [id(p) for group in groups for p in group["params"]]
        optimizer = torch.optim.SGD(groups)
        logits, labels = part.training_forward(x, y)
        assert logits.shape[:2] == labels.shape
        part.loss(logits, labels, 0.0).backward()
        optimizer.step()
    assert sorted(seen) == sorted({id(p) for p in ensemble.parameters()})
    for name, p in ensemble.named_parameters():
        assert p.grad is not None, f"{name} gets no gradient"
        assert bool(p.grad.isfinite().all()), name
    moved = [n for n, p in ensemble.named_parameters() if not torch.equal(p, before[n])]
    assert moved


def check_examples_are_independent(ensemble: Method, x: torch.Tensor) -> None:
    """In evaluation an example's logits do not depend on what else is in the batch."""
    ensemble.eval()
    torch.testing.assert_close(ensemble(x)[:, 2:5], ensemble(x[2:5]), rtol=1e-4, atol=1e-5)


def check_weights(ensemble: Method) -> None:
    """Effective weights, perturbations and the collapsed control agree on M."""
    for weights in ensemble.effective_weights():
        assert weights.shape[0] == ensemble.members
    perturbations = ensemble.perturbations()
    assert perturbations is None or perturbations.shape[0] == ensemble.members
    collapsed = ensemble.collapsed()
    assert collapsed is None or collapsed.members == 1


def check_member_networks(ensemble: Method, x: torch.Tensor, backbone: torch.nn.Module) -> None:
    """All members or none are copies of the plain backbone that map x to the member's logits."""
    ensemble.eval()
    logits, state = ensemble(x), torch.get_rng_state()
    networks = [ensemble.member_network(m) for m in range(ensemble.members)]
    assert torch.equal(torch.get_rng_state(), state)
    if networks[0] is None:
        assert networks == [None] * ensemble.members
        return
    for network, expected in zip(networks, logits, strict=True):
        assert network.state_dict().keys() == backbone.state_dict().keys()
        torch.testing.assert_close(network.eval()(x), expected, rtol=1e-4, atol=1e-5)
        for tensor in network.state_dict().values():
            tensor.zero_()
    assert torch.equal(ensemble(x), logits)
