"""Optimisers of a stack whose networks have rates of their own.

Each parameter has the N networks along its leading axis, ``lr``, ``weight_decay`` and ``momentum``
of a group are (N, 1). The formulas are those of ``torch.optim``, row by row: what one network does,
diverge say, does not reach another.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

BETAS: Final = (0.9, 0.999)
EPS: Final = 1e-8
"""As in ``torch.optim.AdamW``."""

State = dict[str, Any]


class PerNetwork(torch.optim.Optimizer):
    """Applies a formula to the rows of every parameter, each of which belongs to one network.

    Args:
        groups: With ``params`` (N*M, ...) and the rates that the formula names, (N, 1) each.
        formula: Updates weights (N, P) in place, given their gradient, state and group.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        formula: Callable[[Tensor, Tensor, State, dict[str, Any]], None],
    ) -> None:
        super().__init__(groups, {})
        self.formula = formula

    # torch's type wants a loss where there is a closure, which nobody gives.
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows = len(group["lr"]), -1
                    gradient = parameter.grad.reshape(rows)
                    self.formula(parameter.view(rows), gradient, self.state[parameter], group)


def sgd(weights: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
    """Do a step of SGD with Nesterov momentum and an L2 penalty."""
    gradient = torch.addcmul(gradient, weights, group["weight_decay"])
    velocity = state.setdefault("velocity", torch.zeros_like(weights))
    velocity.mul_(group["momentum"]).add_(gradient)
    weights.addcmul_(torch.addcmul(gradient, velocity, group["momentum"]), group["lr"], value=-1)


def adamw(weights: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
    """Do a step of Adam with decoupled weight decay."""
    if not state:
        state |= {"step": 0, "mean": torch.zeros_like(weights), "square": torch.zeros_like(weights)}
    state["step"] += 1
    (first, second), step = BETAS, state["step"]
    mean = state["mean"].lerp_(gradient, 1 - first)
    square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    scale = (square / (1 - second**step)).sqrt_().add_(EPS)
    weights.addcmul_(mean / scale, group["lr"] / (1 - first**step), value=-1)
