"""Members from along one training: snapshots, and draws around its end."""

import pytest
import torch

from study.conformance import Subject, inputs
from study.methods.swag import Moments
from study.spec import Training


def test_a_snapshot_is_the_network_at_the_end_of_its_cycle():
    method = Subject("snapshot_ensemble", {"members": 2, "skip": 1}, "cnn").make()
    seen = []
    for phase in method.phases():
        phase.begin()
        for p in method.network.parameters():
            p.data += 0.1
        phase.end()
        method.eval()
        seen.append(method.network(inputs()))
    torch.testing.assert_close(method(inputs()), torch.stack(seen[1:]))


def test_every_cycle_anneals_to_zero():
    phases = Subject("snapshot_ensemble", {"members": 3, "skip": 1}, "mlp").make().phases()
    assert [(phase.share, phase.schedule) for phase in phases] == [(0.25, "cosine")] * 4


def test_only_snapshots_are_stored():
    trained = Subject("snapshot_ensemble", {"members": 2}, "mlp").trained()
    single = Subject("single", {}, "mlp").make()
    assert trained.stored_bytes() == 2 * single.stored_bytes()


def test_iterates_are_collected_at_a_constant_share_of_the_rate():
    params = {"members": 2, "collect": 0.25, "lr_multiplier": 0.4}
    method = Subject("swag", params, "mlp").make()
    phases = method.phases()
    assert [(phase.share, phase.schedule) for phase in phases] == [(0.75, None), (0.25, "constant")]
    for phase, rate in zip(phases, (0.5, 0.2), strict=True):
        phase.begin()
        assert [group["lr"] for group in method.param_groups(Training(lr=0.5))] == [rate]


def draws(iterates, scale, members):
    moments = Moments(len(iterates))
    for theta in iterates:
        moments.take(theta)
    return moments.draws(scale, members)


def test_draws_have_the_moments_of_equation_1():
    torch.manual_seed(0)
    iterates = torch.randn(12, 5) * torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0])
    found = draws(iterates, 1.0, 200_000)
    steps = torch.arange(1, 13).unsqueeze(1)
    d = iterates - iterates.cumsum(0) / steps
    diagonal = iterates.var(0, correction=0)
    expected = 0.5 * torch.diag(diagonal) + 0.5 * d.T @ d / 11
    torch.testing.assert_close(found.mean(0), iterates.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(found.T), expected, atol=0.06, rtol=0.02)


@pytest.mark.parametrize("iterates", [torch.ones(1, 4), torch.randn(5, 4)])
def test_no_scale_is_the_mean(iterates):
    found = draws(iterates, 0.0, 3)
    torch.testing.assert_close(found, iterates.mean(0).expand(3, -1))


def test_small_moves_of_large_weights_keep_their_variance():
    iterates = 100 + 1e-3 * torch.randn(200, 50)
    spread = draws(iterates[:, :], 2.0, 4000).std(0)
    exact = iterates.double().var(0, correction=0)
    d = iterates.double() - iterates.double().cumsum(0) / torch.arange(1, 201).unsqueeze(1)
    expected = (exact + d.square().sum(0) / 199).sqrt()
    torch.testing.assert_close(spread.double(), expected, rtol=0.1, atol=0)


def test_only_so_many_deviations_are_kept():
    moments = Moments(2)
    for theta in torch.randn(5, 3):
        moments.take(theta)
    assert len(moments.deviations) == 2


def test_swag_members_are_networks_with_statistics_of_their_own():
    method = Subject("swag", {"members": 3, "rank": 2}, "cnn").make()
    _, collecting = method.phases()
    collecting.begin()
    for _ in range(3):
        method.training_forward(inputs(), torch.zeros(8, dtype=torch.long))
        for p in method.network.parameters():
            p.data += 0.1 * torch.randn_like(p)
        collecting.after_epoch()
    collecting.end()
    means = {m.get_buffer("stages.0.1.running_mean").sum().item() for m in method.networks()}
    assert len(means) == 3
    for network in method.networks():  # None holds the memory of all draws.
        storage = next(network.parameters()).untyped_storage().nbytes()
        assert storage <= 4 * sum(p.numel() for p in network.parameters())
    assert method.moments is None
