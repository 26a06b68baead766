"""The cheaper product gives the plain formula's values and gradients."""

import pytest
import torch

from study.layers.input_product import applies, first_product
from study.methods import build

M, B, N, O = 3, 5, 4, 6  # noqa: E741


def test_values_and_gradients_are_the_plain_formulas():
    torch.manual_seed(0)
    x = torch.randn(M, B, N, dtype=torch.float64)
    r = torch.randn(M, N, dtype=torch.float64, requires_grad=True)
    w = torch.randn(O, N, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, w: first_product(x, r, w.unsqueeze(0)), (r, w))
    torch.testing.assert_close(first_product(x, r, w.unsqueeze(0)), (x * r.unsqueeze(1)) @ w.mT)


@pytest.mark.parametrize("init", ["normal", "sign"])
def test_an_ensemble_has_the_gradients_that_it_has_with_a_gradient_of_its_input(init):
    own = {"init_std": 0.5} if init == "normal" else {"negative_share": 0.5}
    params = {"members": M, "init": init} | own

    def gradients(needs):
        method = build(
            "batch_ensemble", params, lambda: torch.nn.Sequential(torch.nn.Linear(N, O)), 0
        )
        x = torch.randn(B, N, generator=torch.Generator().manual_seed(1)).requires_grad_(needs)
        y = method(x)
        y.square().sum().backward()
        return [y.detach(), *(p.grad for p in method.parameters())]

    for plain, fast in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(fast, plain)


def test_it_is_left_alone_where_it_does_not_apply():
    x = torch.zeros(1, 1, 1)
    assert applies(x)
    assert not applies(x.clone().requires_grad_())
    with torch.no_grad():
        assert not applies(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not applies(x)
