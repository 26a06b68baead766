"""Minimal sufficient sets of units, by hand and by definition."""

import pytest
import torch
from torch import nn

from study.conformance import Subject, inputs
from study.evidence import evidence_rows, jaccard, minimal_set, minimal_sets, pixels, random_sets


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("seed", range(5))
def test_ddmin_finds_what_is_needed(seed):
    needed = torch.tensor([1, 4, 6])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    found = minimal_set(torch.ones(9, dtype=torch.bool), lambda s: s[:, needed].all(1), order)
    assert found.nonzero().flatten().tolist() == [1, 4, 6]


def test_order_decides_where_several_sets_suffice():
    either = lambda s: s[:, 0] | s[:, 1]  # noqa: E731
    start = torch.ones(4, dtype=torch.bool)
    found = {
        tuple(minimal_set(start, either, torch.tensor(order)).tolist())
        for order in ([0, 2, 1, 3], [1, 2, 0, 3])
    }
    assert found == {(True, False, False, False), (False, True, False, False)}


def test_nothing_is_needed_where_the_bias_decides():
    always = lambda s: torch.ones(len(s), dtype=torch.bool)  # noqa: E731
    assert not minimal_set(torch.ones(5, dtype=torch.bool), always, torch.arange(5)).any()


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "resnet18"])
def test_sets_of_a_network_suffice_and_are_1_minimal(backbone):
    network, x = Subject("single", {}, backbone).trained().network.eval(), inputs()
    seen = []
    hook = network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    wanted = network(x).argmax(1)
    hook.remove()
    for z, kept, label in zip(seen[0], minimal_sets(network, x, generator()), wanted, strict=True):
        assert network.head((z * kept).unsqueeze(0)).argmax() == label
        for unit in kept.nonzero().flatten():
            less = kept.clone()
            less[unit] = False
            assert network.head((z * less).unsqueeze(0)).argmax() != label


def test_jaccard_by_hand():
    one = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    other = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    found = jaccard(one, other)
    assert found[0].item() == pytest.approx(1 / 3)
    assert found[1].isnan()


def test_random_sets_are_of_active_units_and_of_the_size():
    active = torch.rand(50, 20, generator=generator()) < 0.6
    sizes = (active.sum(1) // 2).clamp(min=1)
    found = random_sets(active, sizes, generator())
    assert torch.equal(found.sum(1), sizes)
    assert not (found & ~active).any()


def test_pixels_are_those_that_the_units_read():
    class Halves(nn.Module):
        """Unit 0 is the sum of the left half of the image, unit 1 that of the right."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2, bias=False)
            self.head.weight.data = torch.tensor([[1.0, 0.5], [0.0, 0.4]])

        def forward(self, x):
            left, right = x[..., :5].sum((1, 2, 3)), x[..., 5:].sum((1, 2, 3))
            return self.head(torch.stack([left, right], 1))

    x = torch.rand(3, 1, 4, 10, generator=generator()) + 0.1
    for unit, part in enumerate([slice(0, 5), slice(5, 10)]):
        units = torch.zeros(3, 2, dtype=torch.bool)
        units[:, unit] = True
        found = pixels(Halves(), x, units).view(3, 4, 10)
        assert found.sum().item() == 3 * 4
        assert found[..., part].sum() == found.sum()


def test_identical_members_agree_as_far_as_order_lets_them():
    torch.manual_seed(0)
    network = Subject("single", {}, "cnn").make().network.eval()
    network.head.bias.data.zero_()
    x = torch.randn(60, 3, 16, 16)
    rows = evidence_rows([network, network], x, generator(), 1)
    found = {r["quantity"]: r["value"] for r in rows}
    for kind in ("units", "pixels"):
        own, same = found[f"evidence_{kind}"], found[f"evidence_{kind}_same"]
        assert own == pytest.approx(same, abs=0.15)
        assert own > found[f"evidence_{kind}_chance"]
    assert evidence_rows([network], x, generator(), 1) == []
