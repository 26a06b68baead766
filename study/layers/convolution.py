"""A convolution whose gradients are right on every CPU.

With torch 2.14.1 (oneDNN 3.12.0) the backward pass of a 1x1 convolution with a stride, over few
channels that lie last, writes past the end of its scratch memory. What follows depends on what lies
there: wrong gradients of the weights without a word, a crash, a hang, or nothing.
"""

from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional as F

UNPADDED: Final = ((0, 0), "valid")
FILLED: Final = 16
"""Input channels that fill a vector of AVX-512. With as many no kernel leaves its memory."""


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    """Apply ``torch.nn.functional.conv2d`` by a kernel that is safe wherever it runs.

    Args:
        x: Images, (B, groups * in, H, W).
        weight: (out, in, height, width).
        bias: (out,), or None.
        stride: Of rows and columns.
        padding: As torch takes it.
        dilation: As torch takes it.
        groups: Into which the channels are divided.
    """
    if _is_unsafe(x, weight, stride, padding, groups):
        # The pixels that a 1x1 kernel sees, taken beforehand. Means of one pixel rather than a
        # slice, whose gradient would not lie channels last.
        x, stride = F.avg_pool2d(x, 1, stride), (1, 1)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _is_unsafe(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: Any, groups: int
) -> bool:
    """Tell whether the kernel for the weight's gradient may leave its memory.

    For a stride oneDNN gathers the pixels that it hits, in memory of ``in`` floats each, but begins
    at a place for which it counts a whole vector each, 8 floats with AVX2 and 16 with AVX-512
    (https://github.com/uxlfoundation/oneDNN/issues/6035). It does so without groups or padding,
    where the stride divides the sides; sides are not looked at here, nor is the instruction set.
    """
    return (
        weight.shape[1] < FILLED
        and weight.shape[2:] == (1, 1)
        and stride != (1, 1)
        and padding in UNPADDED
        and groups == 1
        and x.device.type == "cpu"
        # Channels lie last, for torch, as soon as those of the images or of the kernels do.
        and (x.stride(-3) <= x.stride(-1) or weight.stride(-3) < weight.stride(-1))
    )


class Convolution(nn.Conv2d):
    """``nn.Conv2d`` through :func:`conv2d`, for methods; its state and options are the same."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding not in UNPADDED:
            return super()._conv_forward(input, weight, bias)
        stride: Any = self.stride
        return conv2d(input, weight, bias, stride, self.padding, self.dilation, self.groups)


def make_safe(network: nn.Module) -> None:
    """Turn, in place, each ``nn.Conv2d`` of 1x1 kernels with a stride into a ``Convolution``.

    Only its class changes: parameters, hooks and names stay. A subclass of ``nn.Conv2d`` is left
    as it is, for it may do something else.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride != (1, 1):
            module.__class__ = Convolution
