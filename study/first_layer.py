"""The product of a layer whose input needs no gradient, a matrix product cheaper than autograd's.

For y_m = (x_m ∘ r_m) Wᵀ autograd computes the gradient of x_m ∘ r_m, of which only that of r_m is
wanted. With G_m = g_mᵀ x_m both gradients follow without it: ∂W = Σ_m G_m ∘ r_m and
∂r_m = Σ_o (G_m ∘ W)_o.
"""

from typing import Any

import torch
from torch import Tensor


class _FirstProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MBN: Tensor, r_MN: Tensor, weight_ON: Tensor) -> Tensor:
        ctx.save_for_backward(x_MBN, r_MN, weight_ON)
        return (x_MBN * r_MN.unsqueeze(1)) @ weight_ON.mT

    @staticmethod
    def backward(ctx: Any, gradient_MBO: Tensor) -> tuple[None, Tensor, Tensor]:  # type: ignore[override]
        x, r, weight = ctx.saved_tensors
        both = torch.bmm(gradient_MBO.mT, x)
        of_weight = both[0] * r[0]
        for g, own in zip(both[1:], r[1:], strict=True):
            of_weight.addcmul_(g, own)
        return None, both.mul_(weight).sum(1), of_weight


def applies(x: Tensor) -> bool:
    """Tell whether ``x`` needs no gradient while others do, in single precision throughout."""
    kind = x.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.is_grad_enabled() and not x.requires_grad and not mixed


def first_product(x_MBN: Tensor, r_MN: Tensor, weight_ON: Tensor) -> Tensor:
    """Return (x_m ∘ r_m) Wᵀ, (M, B, O), for an x that needs no gradient."""
    product: Tensor = _FirstProduct.apply(x_MBN, r_MN, weight_ON)  # type: ignore[no-untyped-call]
    return product
