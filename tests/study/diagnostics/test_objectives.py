"""The objectives of an ensemble equal those of its members one by one, bit for bit."""

import pytest
import torch

from study.diagnostics.objectives import log_ensemble, nll, objectives


@pytest.mark.parametrize("members", [1, 2, 5])
def test_one_pass_equals_a_pass_for_each_member(members):
    chance = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(members, 200, 10, generator=chance)
    labels = torch.randint(10, (200,), generator=chance)
    alone = sum(nll(own.unsqueeze(0), labels) for own in logits) / members
    right = (log_ensemble(logits).argmax(-1) == labels).double().mean().item()
    assert objectives(logits, labels) == (nll(logits, labels), alone - nll(logits, labels), right)
