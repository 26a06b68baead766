"""Prediction of every member, in batches that fit into memory."""

from typing import Final

import torch
from torch import Tensor

from study.methods import Method
from study.training.batches import DeviceImages

PREDICTED: Final = 2048
"""Examples times members that are predicted at a time, at most."""


def predict(method: Method, pixels: DeviceImages, batch_size: int = PREDICTED) -> Tensor:
    """Return every member's logits (M, N, C) on the CPU, in float32 and evaluation mode.

    Out of memory it begins again with half the batch, down to one example.
    """
    method.eval()
    size = max(1, min(batch_size // method.members, len(pixels)))
    while True:
        try:
            return _predicted(method, pixels, size)
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # With the error gone, so is all that its frames held.
        size //= 2


@torch.inference_mode()
def _predicted(method: Method, pixels: DeviceImages, size: int) -> Tensor:
    done: list[Tensor] = []
    last: Tensor | None = None
    for x in pixels.batches(size):
        logits = method(x).float()
        # One behind, so that the device has work while the host waits and gets the next batch.
        if last is not None:
            done.append(last.cpu())
        last = logits
    assert last is not None
    return torch.cat([*done, last.cpu()], dim=1)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the device's memory, or the computer's, did not suffice."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "can't allocate memory" in str(error)
