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
        of_r, of_weight = torch.empty_like(r), torch.zeros_like(weight)
        both = torch.empty_like(weight)  # Used again for each member, so that it stays in cache.
        for m, gradient_BO in enumerate(gradient_MBO):
            torch.mm(gradient_BO.mT, x[m], out=both)
            of_weight.addcmul_(both, r[m])
            torch.sum(both.mul_(weight), 0, out=of_r[m])
        return None, of_r, of_weight


def applies(x: Tensor) -> bool:
    """Tell whether ``x`` needs no gradient while others do, in single precision throughout."""
    kind = x.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.is_grad_enabled() and not x.requires_grad and not mixed


def first_product(x_MBN: Tensor, r_MN: Tensor, weight_ON: Tensor) -> Tensor:
    """Return (x_m ∘ r_m) Wᵀ, (M, B, O), for an x that needs no gradient."""
    product: Tensor = _FirstProduct.apply(x_MBN, r_MN, weight_ON)  # type: ignore[no-untyped-call]
    return product
