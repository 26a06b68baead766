"""Minimal sufficient sets of units, by hand and by definition."""

import numpy as np
import pytest
import torch
from torch import nn

from study.conformance import Subject, inputs
from study.diagnostics.evidence import (
    _chunk_of_each,
    evidence_rows,
    jaccard,
    minimal_set,
    minimal_sets,
    pixels,
    random_sets,
    side_by_side,
)


def found_alone(suffices, *orders):
    """Return the minimal set of each order, all units being active."""
    searches = [minimal_set(np.ones(len(o), dtype=np.bool_), np.array(o)) for o in orders]
    return side_by_side(searches, lambda masks, _: suffices(masks)).tolist()


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("seed", range(5))
def test_ddmin_finds_what_is_needed(seed):
    order = np.random.default_rng(seed).permutation(9)
    (found,) = found_alone(lambda masks: masks[:, [1, 4, 6]].all(1), order)
    assert np.flatnonzero(found).tolist() == [1, 4, 6]


@pytest.mark.parametrize(("units", "chunks"), [(7, 3), (9, 3), (4, 4), (5, 2)])
def test_first_chunks_are_the_larger_ones(units, chunks):
    first = next(minimal_set(np.ones(units, dtype=np.bool_), np.arange(units)))
    assert first.sum(1).tolist()[0] == -(-units // 2)
    expected = [len(chunk) for chunk in np.array_split(np.arange(units), chunks)]
    assert np.bincount(_chunk_of_each(units, chunks)).tolist() == expected


def test_each_search_has_its_own_answers():
    wanted = np.array([2, 0, 3])
    searches = [minimal_set(np.ones(4, dtype=np.bool_), np.arange(4)) for _ in wanted]
    found = side_by_side(searches, lambda masks, owners: masks[range(len(masks)), wanted[owners]])
    assert found.argmax(1).tolist() == [2, 0, 3]
    assert found.sum() == 3


def test_order_decides_where_several_sets_suffice():
    found = found_alone(lambda m: m[:, 0] | m[:, 1], [0, 2, 1, 3], [1, 2, 0, 3])
    assert sorted(found) == [[False, True, False, False], [True, False, False, False]]


def test_nothing_is_needed_where_the_bias_decides():
    assert found_alone(lambda masks: np.ones(len(masks), dtype=np.bool_), range(5)) == [5 * [False]]


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
    found = {r.quantity: r.value for r in rows}
    for kind in ("units", "pixels"):
        own, same = found[f"evidence_{kind}"], found[f"evidence_{kind}_same"]
        assert own == pytest.approx(same, abs=0.15)
        assert own > found[f"evidence_{kind}_chance"]
    assert evidence_rows([network], x, generator(), 1) == []
