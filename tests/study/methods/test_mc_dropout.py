"""MC Dropout: a member is one draw of every layer's mask, by the law of dropout."""

import pytest
import torch

from study.conformance import Subject, inputs
from study.layers.dropout import MemberDropout


def test_a_member_drops_its_share_of_the_units_and_scales_the_others_up():
    layer = MemberDropout(0.3, members=4, seed=0).eval()
    y = layer(torch.ones(4 * 5, 20_000)).unflatten(0, (4, 5))
    assert torch.equal(y, y[:, :1].expand_as(y)), "one mask for all examples"
    kept = y[:, 0] > 0
    torch.testing.assert_close(y[:, 0][kept].unique(), torch.tensor([1 / 0.7]))
    for share in kept.double().mean(1).tolist():
        assert share == pytest.approx(0.7, abs=0.02)
    assert (kept[0] & kept[1]).double().mean().item() == pytest.approx(0.49, abs=0.02)


def test_every_layer_has_masks_of_its_own():
    options = {"width": 32, "depth": 2, "dropout": 0.5}
    method = Subject("mc_dropout", {"members": 3}, "mlp", options).make().eval()
    method(inputs())
    first, second = (m.mask for m in method.modules() if isinstance(m, MemberDropout))
    assert first.shape == second.shape == (3, 1, 32)
    assert not torch.equal(first, second)
