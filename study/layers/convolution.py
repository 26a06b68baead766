"""A convolution that is right on every CPU.

Torch 2.14.1 (oneDNN 3.12.0) has three faulty kernels for CPUs, which :func:`conv2d` avoids:

* 1x1, with a stride, over few channels that lie last: the backward pass writes past the end of its
  scratch memory. What follows depends on what lies there: wrong gradients of the weights without a
  word, a crash, a hang, or nothing.
* bfloat16, on small images: the gradients of taps that meet padding alone are whatever lay in their
  memory, and where all outputs of an axis are one, those of other taps and the outputs may be too.
* One channel that lies last, with other strides by row than by column: wrong outputs.
"""

from functools import lru_cache
from typing import Any, Final

import torch
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
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    precise = _precise_enough(x, weight, dtype, stride, padding, dilation)
    if precise == dtype:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.to(precise)
        y = F.conv2d(x.to(precise), weight.to(precise), bias, stride, padding, dilation, groups)
    return y.to(dtype)


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


def _precise_enough(
    x: Tensor,
    weight: Tensor,
    dtype: torch.dtype,
    stride: tuple[int, int],
    padding: Any,
    dilation: Any,
) -> torch.dtype:
    """Return the type to compute in: ``dtype``, or a more precise one whose kernel is right."""
    if x.device.type != "cpu":
        return dtype
    if dtype == torch.float32 and weight.shape[1] == 1 and stride[0] != stride[1]:
        return torch.float64
    if dtype == torch.bfloat16:
        if padding == "same":
            padding = [d * (k - 1) // 2 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        elif padding == "valid":
            padding = (0, 0)
        axes = zip(x.shape[-2:], weight.shape[2:], stride, padding, dilation, strict=True)
        if any(_is_small(*axis) for axis in axes):
            return torch.float32
    return dtype


@lru_cache(maxsize=1024)
def _is_small(side: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Tell whether an axis has a single output, or a tap that meets no pixel."""
    outputs = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    seen = (
        any(0 <= tap * dilation - padding + o * stride < side for o in range(outputs))
        for tap in range(kernel)
    )
    return outputs == 1 or not all(seen)


class Convolution(nn.Conv2d):
    """``nn.Conv2d`` through :func:`conv2d`; its state and options are the same."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride: Any = self.stride
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            sides = self._reversed_padding_repeated_twice
            input, padding = F.pad(input, sides, mode=self.padding_mode), (0, 0)
        return conv2d(input, weight, bias, stride, padding, self.dilation, self.groups)


def resized(layer: nn.Conv2d, inputs: int, outputs: int, groups: int) -> Convolution:
    """Return a fresh convolution like ``layer`` from and to other numbers of channels."""
    kernel: Any = layer.kernel_size
    stride: Any = layer.stride
    padding: Any = layer.padding
    dilation: Any = layer.dilation
    bias = layer.bias is not None
    return Convolution(inputs, outputs, kernel, stride, padding, dilation, groups, bias)


def make_safe(network: nn.Module) -> None:
    """Turn, in place, each ``nn.Conv2d`` into a ``Convolution``.

    Only its class changes: parameters, hooks and names stay. A subclass of ``nn.Conv2d`` is left
    as it is, for it may do something else.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Convolution
