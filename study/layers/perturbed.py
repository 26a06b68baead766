"""Layers in which members share one weight W and own a perturbation: W_m = W ∘ P_m or W + D_m.

All map (M*B, in, ...) to (M*B, out, ...), members in the batch axis (see
:mod:`study.layers.members`).
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.errors import StudyError
from study.layers.convolution import Convolution, conv2d
from study.layers.input_product import applies, first_product
from study.layers.members import MemberModule, split_members

Weighted = nn.Linear | nn.Conv2d
SCALING = 2
"""How many weights are multiplied out in the time that it takes to scale an activation; timed."""

Start = Callable[[int, int], Tensor]
"""Draws the initial values (M, size) of one fast weight."""


BATCH: ContextVar[int | None] = ContextVar("BATCH", default=None)
"""Examples of a member for which a convolution's form is chosen; None: as many as there are."""


class MemberLayer(MemberModule):
    """What the layers share: the wrapped layer's own ``weight``, and a bias, shared or per member.

    N such layers may be stacked as one of N*M members; each M of them share a weight.

    Attributes:
        weight: (out, in, ...), the wrapped layer's parameter itself; None where it is not shared;
            (N, in, out) in a stack, the order in which a product's gradient comes out.
        shape: Of one weight.
        fast: The members' own weights, each with a leading member axis.
        bias: (out,) shared, (M, out) own, or None; (N, 1, out) shared in a stack.
    """

    fast: nn.ParameterDict

    def __init__(self, layer: Weighted, members: int) -> None:
        super().__init__()
        self.members = members
        self.shape = layer.weight.shape
        self.weight = layer.weight
        self.bias = layer.bias
        self.convolution: tuple[Any, ...] | None = None
        if isinstance(layer, nn.Conv2d):
            self.convolution = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def own_bias(self, random: bool) -> None:
        """Give each member its own bias, all at the shared start or U(±1/√fan_in) each."""
        if self.bias is not None:
            bias = self.bias.detach().expand(self.members, -1).clone()
            self.bias = nn.Parameter(self._drawn(bias) if random else bias)

    def _drawn(self, values: Tensor) -> Tensor:
        bound = 1 / math.sqrt(self.shape[1:].numel())
        return nn.init.uniform_(values, -bound, bound)

    def own_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters that have a member axis: fast weights, then own biases."""
        yield from self.fast.values()
        if self.bias is not None and self.bias.dim() == 2:
            yield self.bias

    def stacked(self, layers: int) -> "MemberLayer":
        """Return a linear layer for the members of ``layers`` layers of this shape.

        Its parameters are copies of this layer's.
        """
        new = copy.deepcopy(self)
        new.members = layers * self.members
        for parameter in new.own_parameters():
            parameter.data = parameter.data.repeat(layers, *[1] * (parameter.dim() - 1))
        if self.weight is not None:
            new.weight.data = self.weight.data.mT.repeat(layers, 1, 1)
        if new.bias is not None and new.bias.dim() == 1:
            new.bias.data = new.bias.data.repeat(layers, 1, 1)
        return new

    def shared_weight(self) -> Tensor:
        """Return W, (*shape), or in a stack each member's, (M, *shape)."""
        if self.weight.dim() == len(self.shape):
            return self.weight
        return self._by_member(self.weight.mT)

    def _by_member(self, v: Tensor) -> Tensor:
        return v.unsqueeze(1).expand(-1, self.members // len(v), *v.shape[1:]).flatten(0, 1)

    def deviations(self) -> Tensor:
        """Return how far each member's fast weights are from the unperturbed ones, (M, P)."""
        raise NotImplementedError

    def effective_weight(self) -> Tensor:
        """Return W_m, (M, *shape)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Apply every member's weight, multiplied out, to its own part of the batch."""
        return self._multiplied_out(x, self.effective_weight())

    def _multiplied_out(self, x: Tensor, weight: Tensor) -> Tensor:
        members = split_members(x, self.members)
        if self.convolution is None:
            flat = members.flatten(1, -2)
            y = torch.bmm(flat, weight.mT).view(*members.shape[:-1], -1)
        else:
            parts = zip(members, weight, strict=True)
            y = split_members(
                torch.cat([self._apply_weight(own, w) for own, w in parts]), self.members
            )
        if (bias := self._bias(y)) is not None:
            y = y + bias
        return y.flatten(0, 1)

    def plain(self, member: int) -> Weighted:
        """Return the ordinary layer that one member applies."""
        out, into, *kernel = self.shape
        bias = self.bias is not None
        layer: Weighted
        if self.convolution is None:
            layer = nn.Linear(into, out, bias, device="meta")
        else:
            stride, padding, dilation, groups = self.convolution
            layer = Convolution(
                into * groups, out, (kernel[0], kernel[1]), stride, padding, dilation, groups, bias,
                device="meta",
            )  # fmt: skip
        layer.weight = nn.Parameter(self.effective_weight()[member].detach().clone())
        if self.bias is not None:
            own = self.bias if self.bias.dim() == 1 else self.bias[member]
            layer.bias = nn.Parameter(own.detach().clone())
        return layer

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        if weight.dim() > len(self.shape):
            rows = split_members(x, len(weight)).flatten(1, -2)
            return torch.bmm(rows, weight).view(*x.shape[:-1], -1)
        if self.convolution is None:
            return F.linear(x, weight)
        return conv2d(x, weight, None, *self.convolution)

    def _bias(self, y: Tensor) -> Tensor | None:
        """Return the bias in a shape to be added to y, (M, B, ...)."""
        if self.bias is None:
            return None
        bias = self.bias if self.bias.dim() < 3 else self._by_member(self.bias.squeeze(1))
        return self._per_channel(bias, y)

    def _per_channel(self, v: Tensor, x: Tensor) -> Tensor:
        """Shape (M, F) or (F,) to broadcast over the channels of x, (M, B, ...), in x's type.

        In mixed precision a product with float32 would be float32, and all that follows with it.
        """
        v = (v if v.dim() == 2 else v.unsqueeze(0)).to(x.dtype)
        if self.convolution is None:
            return v.view(len(v), *[1] * (x.dim() - 2), -1)
        return v.view(len(v), 1, -1, 1, 1)


class RankOneLayer(MemberLayer):
    """P_m = s_m r_mᵀ, applied to the activations: y_m = ((x ∘ r_m) Wᵀ) ∘ s_m + b_m.

    A convolution with fewer weights than activations has its weights multiplied out instead, which
    then touches less memory.

    Args:
        layer: The layer to wrap.
        members: M.
        start: Initial values of each fast weight, under "r" (over inputs) and "s" (over outputs);
            one that is absent is fixed at 1.
        anchor: Value to which an optimiser's weight decay pulls the fast weights; the parameters
            hold the difference.
    """

    def __init__(
        self, layer: Weighted, members: int, start: dict[str, Start], anchor: float = 0.0
    ) -> None:
        super().__init__(layer, members)
        self.anchor = anchor
        out, into = layer.weight.shape[:2]
        sizes = {"r": into, "s": out}
        self.fast = nn.ParameterDict(
            {k: nn.Parameter(draw(members, sizes[k]) - anchor) for k, draw in start.items()}
        )

    def scale(self, name: str) -> Tensor | None:
        """Return r or s, (M, size), or None where it is fixed at 1."""
        if name not in self.fast:
            return None
        return self.fast[name] + self.anchor if self.anchor else self.fast[name]

    def applied(self, name: str) -> Tensor | None:
        """Return r or s as this forward pass applies it."""
        return self.scale(name)

    def effective_weight(self) -> Tensor:
        """Return W ∘ s_m r_mᵀ, (M, *shape)."""
        return self.shared_weight() * self._outer(self.scale("r"), self.scale("s"))

    def _outer(self, r: Tensor | None, s: Tensor | None) -> Tensor:
        """Return s_m r_mᵀ, broadcastable to (M, *shape)."""
        kernel = [1] * (len(self.shape) - 2)
        product = self.weight.new_ones(self.members, 1, 1, *kernel)
        if r is not None:
            product = product * r.view(self.members, 1, -1, *kernel)
        if s is not None:
            product = product * s.view(self.members, -1, 1, *kernel)
        return product

    def deviations(self) -> Tensor:
        """Return r - 1 and s - 1."""
        return torch.cat([v + (self.anchor - 1) for v in self.fast.values()], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply every member's weight to its own part of the batch."""
        r, s = self.applied("r"), self.applied("s")
        if self._has_fewer_weights(x):
            return self._multiplied_out(x, self.weight * self._outer(r, s))
        x = split_members(x, self.members)
        if r is not None and self.convolution is None and x.dim() == 3 and applies(x):
            stacked = self.weight.dim() > 2
            y = first_product(x, r, self.weight.mT if stacked else self.weight.unsqueeze(0))
        else:
            x = x if r is None else x * self._per_channel(r, x)
            y = split_members(self._apply_weight(x.flatten(0, 1), self.weight), self.members)
        scale = None if s is None else self._per_channel(s, y)
        bias = self._bias(y)
        if scale is not None and bias is not None:
            y = torch.addcmul(bias, y, scale)
        elif scale is not None:
            y = y * scale
        elif bias is not None:
            y = y + bias
        return y.flatten(0, 1)

    def _has_fewer_weights(self, x: Tensor) -> bool:
        if self.convolution is None:
            return False
        stride = math.prod(self.convolution[0])
        # Where FLOPs are counted on few examples, the form is that of a whole batch.
        examples = BATCH.get() or len(x) // self.members
        out, into = self.shape[:2]
        activations = examples * x[0, 0].numel() * (into + out / stride)
        return activations > SCALING * self.shape.numel()


class LowRankScaledLayer(MemberLayer):
    """P_m = 1 + A_m B_mᵀ/√k, or 1 + E_m at full rank; each member's weight is multiplied out.

    Args:
        layer: The layer to wrap.
        members: M.
        rank: k, or None for full.
        std: Standard deviation of the entries of P_m at initialisation, for any k: those of E
            have it, those of A and B its square root.
    """

    def __init__(self, layer: Weighted, members: int, rank: int | None, std: float) -> None:
        super().__init__(layer, members)
        out, into = layer.weight.shape[:2]
        if rank is None:
            fast = {"E": torch.randn(members, *layer.weight.shape) * std}
        else:
            factors = {"A": (members, out, rank), "B": (members, into, rank)}
            fast = {k: torch.randn(shape) * math.sqrt(std) for k, shape in factors.items()}
        self.fast = nn.ParameterDict({k: nn.Parameter(v) for k, v in fast.items()})

    def effective_weight(self) -> Tensor:
        """Return W ∘ P_m, (M, *shape)."""
        return self.shared_weight() * self.perturbation()

    def perturbation(self) -> Tensor:
        """Return 1 + A_m B_mᵀ/√k, or 1 + E_m, broadcastable to (M, *shape)."""
        if "E" in self.fast:
            return 1 + self.fast["E"]
        a, b = self.fast["A"], self.fast["B"]
        product = a @ b.mT / math.sqrt(a.shape[-1])
        return 1 + product.view(*product.shape, *[1] * (len(self.shape) - 2))

    def deviations(self) -> Tensor:
        """Return the entries of A and B, or of E."""
        return torch.cat([v.flatten(1) for v in self.fast.values()], dim=1)


class LowRankLayer(MemberLayer):
    """W_m = W + B_m A_m/√k, A (k, in) and B (out, k); a kernel's sides count as inputs.

    Args:
        layer: The layer to wrap.
        a: Initial values of A, (M, k, in).
        b: Of B, (M, out, k).
        factor: In the place of 1/√k.

    Raises:
        StudyError: When the rank is above the layer's.
    """

    def __init__(self, layer: Weighted, a: Tensor, b: Tensor, factor: float = 1.0) -> None:
        super().__init__(layer, len(a))
        out, into = self.weight.flatten(1).shape
        rank = a.shape[1]
        if rank > min(out, into):
            raise StudyError(
                f"params.rank must be at most {min(out, into)}, the smaller side of a layer with "
                f"{into} inputs and {out} outputs, but is {rank}; lower it"
            )
        self.factor = factor
        self.fast = nn.ParameterDict({"A": nn.Parameter(a), "B": nn.Parameter(b)})

    def difference(self) -> Tensor:
        """Return W_m - W, (M, *shape)."""
        product = self.fast["B"] @ self.fast["A"] * self.factor
        return product.view(self.members, *self.shape)

    def effective_weight(self) -> Tensor:
        """Return W + B_m A_m/√k, (M, *shape)."""
        return self.shared_weight() + self.difference()

    def deviations(self) -> Tensor:
        """Return the entries of W_m - W, which unlike those of A and B are unique."""
        return self.difference().flatten(1)


class IndependentLayer(MemberLayer):
    """Each member's own weights, nothing shared: those of the wrapped layer, or drawn anew.

    Args:
        layer: The layer to wrap.
        members: M.
        random: Whether each member's are drawn, U(±1/√fan_in) as torch draws a layer's.
    """

    def __init__(self, layer: Weighted, members: int, random: bool = False) -> None:
        super().__init__(layer, members)
        own = self.weight.detach().expand(members, *self.shape).clone()
        if random:
            own = self._drawn(own)
        self.register_parameter("weight", None)
        self.fast = nn.ParameterDict({"W": nn.Parameter(own)})
        self.own_bias(random=random)

    def effective_weight(self) -> Tensor:
        """Return W_m, (M, *shape)."""
        return self.fast["W"]

    def deviations(self) -> Tensor:
        """Return W_m - W̄."""
        own = self.fast["W"].flatten(1)
        return own - own.mean(0)
