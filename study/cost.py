"""What a method costs: floating-point operations, parameters and stored bytes, all counted."""

import copy
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from study.methods import Method

COUNTED: Final = 64
"""Examples on which FLOPs are counted at most."""


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def counter() -> FlopCounterMode:
    """Return torch's counter, which by itself leaves a CPU's attention out in some releases."""
    aten = torch.ops.aten
    own = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=own)


def flops(
    method: Method, shape: tuple[int, int, int], device: torch.device, batch_size: int = 2
) -> dict[str, int]:
    """Measure the FLOPs of matrix products and convolutions per example.

    What is done once per batch, as composing members' weights, is shared by ``batch_size`` examples
    (``COUNTED`` at most; in training as many of them as make equal parts for the members). Phases
    of the training count by their share.
    """
    method = copy.deepcopy(method)  # It is led through its phases, on zeros.
    x = torch.zeros(min(batch_size, COUNTED), *shape, device=device)
    size = method.members * max(1, len(x) // method.members)
    batch = x[:1].expand(size, *shape)
    y = torch.zeros(size, dtype=torch.long, device=device)
    train = 0.0
    for part, _ in method.parts():
        for phase in part.phases():
            phase.begin()
            part.train()
            with counter() as counted:
                logits, y_MB = part.training_forward(batch, y)
                part.loss(logits, y_MB, 0.0).backward()
            train += phase.share * counted.get_total_flops() / size
            phase.after_epoch()
            phase.end()
    method.eval()
    with torch.no_grad(), counter() as infer:
        method(x)
    return {"infer_flops": infer.get_total_flops() // len(x), "train_flops": round(train)}


def size(method: Method) -> dict[str, int]:
    """Count the parameters of a trained method, those that it trained last, and its bytes."""
    stored = method.checkpoint().values()
    return {
        "parameters": sum(p.numel() for p in method.parameters()),
        "trainable": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "stored_bytes": sum(t.numel() * t.element_size() for t in stored),
    }
