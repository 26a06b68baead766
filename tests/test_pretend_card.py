"""The card that is none refuses what torch would refuse on a real one."""

import copy
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from tests.pretend_card import pretend_card

CALLS = {
    "add": (lambda a, b: a + b, (2, 3), (2, 3)),
    "add a number": (lambda a, b: a + b, (2, 3), ()),
    "add to a number": (lambda a, b: a + b, (), (2, 3)),
    "add in place": (lambda a, b: a.add_(b), (2, 3), (2, 3)),
    "add a number in place": (lambda a, b: a.add_(b), (2, 3), ()),
    "product": (lambda a, b: a @ b, (2, 3), (3, 2)),
    "linear": (F.linear, (2, 3), (4, 3)),
    "convolution": (F.conv2d, (1, 2, 4, 4), (3, 2, 3, 3)),
    "cat": (lambda a, b: torch.cat([a, b]), (2, 3), (2, 3)),
    "where": (lambda a, b: torch.where(a > 0, a, b), (2, 3), (2, 3)),
    "copy": (lambda a, b: a.copy_(b), (2, 3), (2, 3)),
    "index": (lambda a, b: a[torch.zeros_like(b, dtype=torch.long)], (2, 3), (2,)),
    "index, written": (
        lambda a, b: a.index_put_((torch.zeros_like(b, dtype=torch.long),), a.new_ones(3)),
        (2, 3),
        (2,),
    ),
    "gather": (
        lambda a, b: a.gather(1, torch.zeros_like(b, dtype=torch.long)),
        (2, 3),
        (2, 1),
    ),
    "cross-entropy": (
        lambda a, b: F.cross_entropy(a, torch.zeros_like(b, dtype=torch.long)),
        (2, 3),
        (2,),
    ),
    "moved to it": (lambda a, b: a.to(b.device) + b, (2, 3), (2, 3)),
    "moved to its like": (lambda a, b: a.to(b) + b, (2, 3), (2, 3)),
    "made like it": (lambda a, b: b.new_zeros(2, 3) + a, (2, 3), (2, 3)),
}


def outcome(call, shapes, devices):
    """Return the device of what a call gives, or that it is refused."""
    pairs = zip(shapes, devices, strict=True)
    tensors = [torch.rand(shape, device=device) for shape, device in pairs]
    try:
        return call(*tensors).device.type
    except RuntimeError:
        return "refused"


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_mixtures_are_refused_where_torchs_fake_tensors_refuse_them(name, devices):
    call, *shapes = CALLS[name]
    with pretend_card():
        ours = outcome(call, shapes, devices)
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = outcome(call, shapes, devices)
    if name.startswith("index") and devices == ("cpu", "cuda"):
        theirs = (
            "refused"  # As a GPU does: "indices should be either on cpu or on the same device".
        )
    assert ours == theirs


def test_a_network_moves_and_learns_there():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    before = copy.deepcopy(network)
    with pretend_card():
        kept = next(network.parameters())
        network.to("cuda")
        assert kept is next(network.parameters())
        state = [*network.parameters(), *network.buffers(), *copy.deepcopy(network).parameters()]
        assert {tensor.device.type for tensor in state} == {"cuda"}
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        network(torch.rand(5, 3, device="cuda")).square().sum().backward()
        assert {p.grad.device.type for p in network.parameters()} == {"cuda"}
        optimizer.step()
        assert not torch.equal(kept.cpu(), before[0].weight)
    assert not torch.cuda.is_available()
    assert kept.device.type == "cpu"


def test_what_a_card_cannot_do_raises():
    with pretend_card():
        x = torch.rand(3, device="cuda")
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device="cuda", generator=torch.Generator())
        with pytest.raises(RuntimeError, match="generator"):
            x.bernoulli_(0.5, generator=torch.Generator())
        assert x.bernoulli_(0.5, generator=torch.Generator("cuda")).device.type == "cuda"
        assert x.tolist() == x.cpu().numpy().tolist()
        pinned = torch.rand(3).pin_memory()
        assert pinned.device.type == "cpu"
        assert pinned.to(x.device, non_blocking=True).device.type == "cuda"
