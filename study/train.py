"""Training and prediction: loops that one can read from top to bottom. No Ray, no files."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from study import regularisers
from study.batches import Pixels
from study.methods import Method
from study.schema import StudyError
from study.spec import Regularisation, Training, derive_seed

OnEpoch = Callable[[int], None]


class DivergenceError(Exception):
    """The training loss stopped being finite."""


def fit(
    method: Method,
    pixels: Pixels,
    labels: Tensor,
    training: Training,
    regularisation: Regularisation,
    seed: int,
    on_epoch: OnEpoch = lambda epoch: None,
) -> None:
    """Train ``method`` in place for ``training.epochs``; the last partial batch is dropped.

    Args:
        method: What to train, on the device of ``pixels``.
        pixels: Training images.
        labels: (N,) their classes, on the same device.
        training: Optimiser, schedule, batches, augmentation.
        regularisation: Diversity term that joins the loss.
        seed: Root of the order of batches, augmentation and dropout. Sets torch's global seed.
        on_epoch: Called with the number of epochs done after each.

    Raises:
        DivergenceError: When the loss of an epoch is not finite.
        StudyError: When the diversity term does not apply to the method.
    """
    torch.manual_seed(derive_seed(seed, "dropout"))
    order = torch.Generator().manual_seed(derive_seed(seed, "order"))
    chance = torch.Generator().manual_seed(derive_seed(seed, "augmentation"))
    diversity = _diversity(method, regularisation)
    optimizer = make_optimizer(method, training)
    peak = [group["lr"] for group in optimizer.param_groups]
    size = min(training.batch_size, len(pixels))
    steps = len(pixels) // size
    total, step = steps * training.epochs, 0
    method.train()
    for epoch in range(1, training.epochs + 1):
        losses = torch.zeros((), device=labels.device)
        indices = torch.randperm(len(pixels), generator=order).to(labels.device)
        for index in indices[: steps * size].split(size):
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * lr_factor(step / total, training)
            ramp = min(1.0, step / (regularisation.ramp * total)) if regularisation.ramp else 1.0
            if training.augment == "none":
                x = pixels.batch(index)
            else:
                x = pixels.augmented(index, training.augment == "crop_flip", chance)
            with _precision(x.device, training):
                logits_MBC, y_MB = method.training_forward(x, labels[index])
            loss = method.loss(logits_MBC.float(), y_MB, training.label_smoothing)
            if diversity is not None:
                loss = loss + ramp * diversity(logits_MBC.float(), y_MB)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses += loss.detach()
            step += 1
        if not math.isfinite(losses.item()):
            raise DivergenceError(f"loss is {losses.item()} in epoch {epoch}")
        on_epoch(epoch)


def _precision(device: torch.device, training: Training) -> AbstractContextManager[Any]:
    if training.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def make_optimizer(method: Method, training: Training) -> torch.optim.Optimizer:
    """Return the optimiser over the method's own parameter groups."""
    groups = method.param_groups(training)
    if training.optimizer == "sgd":
        nesterov = training.momentum > 0
        return torch.optim.SGD(
            groups, lr=training.lr, momentum=training.momentum, nesterov=nesterov, fused=True
        )
    return torch.optim.AdamW(groups, lr=training.lr, fused=True)


def lr_factor(progress: float, training: Training) -> float:
    """Return the learning rate over its peak at ``progress`` (0 to 1) of all steps."""
    if progress < training.warmup:
        return progress / training.warmup
    rest = (progress - training.warmup) / (1 - training.warmup)
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    if training.schedule == "step":
        return 0.1 ** int(rest * 3)
    return 1.0


@torch.inference_mode()
def predict(method: Method, pixels: Pixels, batch_size: int = 2048) -> Tensor:
    """Return every member's logits (M, N, C) on the CPU, in float32 and evaluation mode."""
    method.eval()
    size = max(1, batch_size // method.members)
    indices = torch.arange(len(pixels), device=pixels.images.device).split(size)
    return torch.cat([method(pixels.batch(index)).float().cpu() for index in indices], dim=1)


def _diversity(
    method: Method, regularisation: Regularisation
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the weighted diversity term as a function of logits and labels."""
    regulariser = regularisers.find(regularisation.name)
    if regulariser is None:
        return None

    def weighted(logits_MBC: Tensor, y_MB: Tensor) -> Tensor:
        if len(logits_MBC) < 2 or not torch.equal(y_MB[0], y_MB[1]):
            raise StudyError(
                f"regulariser {regularisation.name} compares members that are trained jointly on "
                "the same examples, which this method does not have; set regulariser.name to none"
            )
        outputs = regularisers.MemberOutputs(logits_MBC, y_MB[0], method.perturbations())
        return (regularisation.weight or 0.0) * regulariser(outputs)

    return weighted
