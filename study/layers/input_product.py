"""The product of a layer whose input needs no gradient, a matrix product cheaper than autograd's.

For y_m = (x_m ∘ r_m) Wᵀ autograd computes the gradient of x_m ∘ r_m, of which only that of r_m is
wanted. With G_m = g_mᵀ x_m both gradients follow without it: ∂W = Σ_m G_m ∘ r_m and
∂r_m = Σ_o (G_m ∘ W)_o. Below, N stacked networks have a W each, and M members.
"""

from typing import Any

import torch
from torch import Tensor

from study.layers.members import split_members


class _FirstProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NMBI: Tensor, r_NMI: Tensor, weight_NOI: Tensor) -> Tensor:
        ctx.save_for_backward(x_NMBI, r_NMI, weight_NOI)
        scaled = (x_NMBI * r_NMI.unsqueeze(2)).flatten(1, 2)
        return torch.bmm(scaled, weight_NOI.mT).view(*x_NMBI.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, gradient_NMBO: Tensor) -> tuple[None, Tensor, Tensor]:
        x, r, weight = ctx.saved_tensors
        of_r, of_weight = torch.empty_like(r), torch.zeros_like(weight)
        both = torch.empty_like(weight)  # Used again for each member, so that it stays in cache.
        for m in range(r.shape[1]):
            torch.bmm(gradient_NMBO[:, m].mT, x[:, m], out=both)
            of_weight.addcmul_(both, r[:, m].unsqueeze(1))
            of_r[:, m] = both.mul_(weight).sum(1)
        return None, of_r, of_weight


def applies(x: Tensor) -> bool:
    """Tell whether ``x`` needs no gradient while others do, in single precision throughout."""
    kind = x.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.is_grad_enabled() and not x.requires_grad and not mixed


def first_product(x_MBI: Tensor, r_MI: Tensor, weight_NOI: Tensor) -> Tensor:
    """Return (x_m ∘ r_m) Wᵀ, (M, B, O), for an x that needs no gradient.

    Args:
        x_MBI: Inputs of each member.
        r_MI: Its factors.
        weight_NOI: N weights, each for M / N members.
    """
    x, r = split_members(x_MBI, len(weight_NOI)), split_members(r_MI, len(weight_NOI))
    product: Tensor = _FirstProduct.apply(x, r, weight_NOI)
    return product.flatten(0, 1)
