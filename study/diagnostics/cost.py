"""What a method costs: floating-point operations, parameters and stored bytes, all counted."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from study.layers.perturbed import BATCH
from study.methods import Method


class Flops(NamedTuple):
    """Floating-point operations per example, of all members; named as the columns of a row."""

    train_flops: int
    infer_flops: int


class Size(NamedTuple):
    """What a trained method takes; named as the columns of a row."""

    parameters: int
    trainable: int
    stored_bytes: int


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _convolution_backward(gradient: Any, x: Any, weight: Any, *more: Any, **__: Any) -> int:
    """Count each of the two products as the forward one, in groups or not; none is transposed."""
    wants_input, wants_weight, _ = more[-1]
    product = 2 * gradient[0] * math.prod(gradient[2:]) * math.prod(weight)
    return product * (wants_input + wants_weight)


def counter() -> FlopCounterMode:
    """Return torch's counter with two mends.

    By itself it leaves a CPU's attention out in some releases, and takes the weight gradient of a
    grouped convolution for that of a dense one.
    """
    aten = torch.ops.aten
    own = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        aten.convolution_backward: _convolution_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=own)


def flops(
    method: Method, shape: tuple[int, int, int], device: torch.device, batch_size: int
) -> Flops:
    """Count the FLOPs of matrix products and convolutions per example.

    What a batch costs however many examples it has, as composing the members' weights, is shared by
    ``batch_size`` examples in training and left out in prediction, where it is done once. Phases of
    the training count by their share.
    """
    method = copy.deepcopy(method)  # It is led through its phases, on zeros.
    train = 0.0
    for part, _ in method.independent_members():
        for phase in part.phases():
            with torch.device(device):
                phase.begin()
            part.train()

            def step(examples: int, part: Method = part) -> None:
                x = torch.zeros(examples, *shape, device=device)
                logits, y_MB = part.training_forward(x, x.new_zeros(len(x), dtype=torch.long))
                part.loss(logits, y_MB, 0.0).backward()

            form = BATCH.set(batch_size)
            try:
                once, each = _once_and_each(step, 2 * part.members)
            finally:  # Else the next trial of this worker would take another form.
                BATCH.reset(form)
            train += phase.share * (each + once / batch_size)
            phase.after_epoch()
            phase.end()
    method.eval()
    with torch.no_grad():
        _, infer = _once_and_each(lambda n: method(torch.zeros(n, *shape, device=device)), 2)
    return Flops(round(train), round(infer))


def _once_and_each(run: Callable[[int], object], examples: int) -> tuple[float, float]:
    """Return the FLOPs of a batch of no example, and those of each example more."""
    found = []
    for count in (examples, 2 * examples):
        with counter() as counted:
            run(count)
        found.append(counted.get_total_flops())
    each = (found[1] - found[0]) / examples
    return found[0] - each * examples, each


def size(method: Method) -> Size:
    """Count the parameters of a trained method, those that it trained last, and its bytes."""
    return Size(
        parameters=sum(p.numel() for p in method.parameters()),
        trainable=sum(p.numel() for p in method.parameters() if p.requires_grad),
        stored_bytes=method.stored_bytes(),
    )
