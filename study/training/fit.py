"""Training: loops that one can read from top to bottom. No Ray, no files."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor

from study.errors import StudyError
from study.layers.members import recording_head_inputs
from study.methods import Method, Phase, TrainingForward
from study.spec import Regularisation, Schedule, Training, derive_seed
from study.training.batches import Crops, DeviceImages
from study.training.diversity import diversity_term, refuse_pairs
from study.training.per_network import PerNetwork, adamw, sgd


class EpochDone(NamedTuple):
    """What an epoch of training was, of one network of a stack.

    Attributes:
        number: Epochs done, this one included.
        loss: Mean over its steps of the loss, in nats.
        lr: Learning rate of its last step, of the first parameter group.
    """

    number: int
    loss: float
    lr: float


OnEpoch = Callable[[int], None]
"""Told the number of epochs done."""


class DivergenceError(Exception):
    """The training loss stopped being finite."""


@dataclass(frozen=True)
class AtATime:
    """How much of a step is passed through the network, and held in memory, at a time.

    Attributes:
        accumulation_steps: Micro-batches of a step, of which the weighted mean of the losses is
            minimised; batch normalisation and diversity terms see one at a time. Not for a stack.
        sequential_members: Whether members that know nothing of each other are passed through the
            network one after another, which takes the memory of one: see :func:`forwards_of`.
    """

    accumulation_steps: int = 1
    sequential_members: bool = False


WHOLE_STEP: Final = AtATime()


def fit(
    method: Method,
    pixels: DeviceImages,
    labels: Tensor,
    training: Training,
    regularisation: Regularisation,
    seed: int,
    on_epoch: Callable[[Sequence[EpochDone]], None] = lambda epochs: None,
    at_a_time: AtATime = WHOLE_STEP,
) -> None:
    """Train ``method`` in place for ``training.epochs``; the last partial batch is dropped.

    Each of the method's phases has a new optimiser, and the whole learning-rate schedule.

    Args:
        method: What to train, on the device of ``pixels``.
        pixels: Training images.
        labels: (N,) their classes, on the same device.
        training: Optimiser, schedule, batches, augmentation.
        regularisation: Diversity term that joins the loss.
        seed: Root of the order of batches, augmentation and dropout. Sets torch's global seed.
        on_epoch: Called after each epoch, with what it was to each network of a stack.
        at_a_time: How much of a step is passed through the network at a time.

    Raises:
        DivergenceError: When the loss of an epoch is not finite, of a stack every network's.
        StudyError: When the diversity term does not apply to the method.
    """
    torch.manual_seed(derive_seed(seed, "dropout"))
    phases = method.phases()
    if not any(phase.diverse for phase in phases):
        refuse_pairs(regularisation)
    seeds, done = method.batch_seeds(seed), 0
    batches = _batches(pixels, labels, training, seeds)
    for phase, epochs in zip(phases, epochs_of(phases, training.epochs), strict=True):
        with torch.device(labels.device):
            phase.begin()
        optimizer = make_optimizer(method, training)
        step = _step(method, optimizer, phase, training, regularisation, at_a_time)
        for epoch in range(epochs):
            method.train()
            losses = [
                step(x, y_B, (epoch + progress) / epochs) for x, y_B, progress in next(batches)
            ]
            done += 1
            sums = torch.stack(losses).sum(0).view(-1).tolist()
            if not any(map(math.isfinite, sums)):
                raise DivergenceError(f"loss is {sums[0]} in epoch {done}")
            phase.after_epoch()
            if epoch == epochs - 1:
                phase.end()
            lr = torch.as_tensor(optimizer.param_groups[0]["lr"], dtype=torch.float64).flatten()
            rates = lr.expand(len(sums)).tolist()
            on_epoch(
                [EpochDone(done, s / len(losses), r) for s, r in zip(sums, rates, strict=True)]
            )


Batch = tuple[Tensor, Tensor, float]
"""Images, labels, and which share of the epoch was done before."""


def _batches(
    pixels: DeviceImages, labels: Tensor, training: Training, seeds: list[int]
) -> Iterator[Iterator[Batch]]:
    """Yield epochs without end, each an iterator over its batches, of every stream one."""
    orders = [torch.Generator().manual_seed(derive_seed(seed, "order")) for seed in seeds]
    chances = [torch.Generator().manual_seed(derive_seed(seed, "augmentation")) for seed in seeds]
    size = min(training.batch_size, len(pixels))
    steps = len(pixels) // size

    sizes, flip = [size] * steps, training.augment == "crop_flip"

    def epoch() -> Iterator[Batch]:
        # All that is drawn for an epoch is copied at once: a step waits for nothing.
        every = torch.stack([torch.randperm(len(pixels), generator=order) for order in orders])
        every = every[:, : steps * size].to(labels.device)
        crops: list[Crops] = []
        if training.augment != "none":
            drawn = (pixels.draw_crops(sizes, flip, chance) for chance in chances)
            crops = [own.to(labels.device) for own in drawn]
        for step, index in enumerate(every.split(size, dim=1)):
            if crops:
                now = slice(step * size, (step + 1) * size)
                streams = zip(index, crops, strict=True)
                x = torch.cat([pixels.augmented(own, crop.of(now)) for own, crop in streams])
            else:
                x = pixels.batch(index.flatten())
            yield x, labels[index.flatten()], step / steps

    while True:
        yield epoch()


def _step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    training: Training,
    regularisation: Regularisation,
    at_a_time: AtATime,
) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return the optimiser step of a phase: images, labels, the phase's progress -> the loss."""
    peak = [group["lr"] for group in optimizer.param_groups]
    schedule = phase.schedule or training.schedule
    diversity = diversity_term(method, regularisation, phase)
    ramp, mixed = regularisation.ramp, training.precision == "bfloat16"
    parts = at_a_time.accumulation_steps
    forwards: list[TrainingForward] = [method.training_forward]
    if at_a_time.sequential_members:
        forwards = forwards_of(method, regularisation)

    def loss_of(forward: TrainingForward, x: Tensor, y_B: Tensor, progress: float) -> Tensor:
        precision = torch.autocast(x.device.type, torch.bfloat16) if mixed else nullcontext()
        with precision, recording_head_inputs(method) as features:
            logits_MBC, y_MB = forward(x, y_B)
        logits_MBC = logits_MBC.float()
        loss = method.loss(logits_MBC, y_MB, training.label_smoothing)
        if diversity is not None:
            term = diversity(logits_MBC, y_MB, features, x)
            ramped = min(1.0, progress / ramp) if ramp else 1.0
            loss = loss + ramped * term
        return loss

    def step(x: Tensor, y_B: Tensor, progress: float) -> Tensor:
        factor = lr_factor(progress, schedule, training.warmup)
        for group, lr in zip(optimizer.param_groups, peak, strict=True):
            group["lr"] = lr * factor
        optimizer.zero_grad(set_to_none=True)
        total = x.new_zeros(())
        for own_x, own_y in zip(x.chunk(parts), y_B.chunk(parts), strict=True):
            for forward in forwards:
                # Each part's graph is freed before the next one is built: that saves the memory.
                share = len(own_x) / len(x) / len(forwards)
                loss = loss_of(forward, own_x, own_y, progress) * share
                loss.sum().backward()  # Of a stack each network has its own.
                total = total + loss.detach()
        optimizer.step()
        return total

    return step


def forwards_of(method: Method, regularisation: Regularisation) -> list[TrainingForward]:
    """Return the passes that a step may be made of: one for each member, or one for all.

    The mean of their losses is the loss. A diversity term needs all members at a time.
    """
    return method.member_forwards() if regularisation.name == "none" else [method.training_forward]


def epochs_of(phases: list[Phase], epochs: int) -> list[int]:
    """Return the number of epochs of each phase: its share, but as many as it needs.

    Raises:
        StudyError: When there are fewer epochs than the phases need.
    """
    needed = [phase.at_least for phase in phases]
    if epochs < sum(needed):
        raise StudyError(
            f"training.epochs must be at least the {sum(needed)} that the method's "
            f"{len(phases)} phases of training need, but is {epochs}; raise it"
        )
    ends, share = [0], 0.0
    for number, phase in enumerate(phases):
        share += phase.share
        earliest, latest = ends[-1] + needed[number], epochs - sum(needed[number + 1 :])
        ends.append(min(max(round(share * epochs), earliest), latest))
    return [end - start for start, end in pairwise(ends)]


def make_optimizer(method: Method, training: Training) -> torch.optim.Optimizer:
    """Return the optimiser over the method's own parameter groups."""
    groups = method.param_groups(training)
    if isinstance(groups[0]["lr"], Tensor):
        return PerNetwork(groups, sgd if training.optimizer == "sgd" else adamw)
    if training.optimizer == "sgd":
        nesterov = training.momentum > 0
        return torch.optim.SGD(
            groups, lr=training.lr, momentum=training.momentum, nesterov=nesterov, fused=True
        )
    return torch.optim.AdamW(groups, lr=training.lr, fused=True)


def lr_factor(progress: float, schedule: Schedule, warmup: float) -> float:
    """Return the learning rate over its peak at ``progress`` (0 to 1) of a phase's steps."""
    if progress < warmup:
        return progress / warmup
    rest = (progress - warmup) / (1 - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    if schedule == "step":
        return 0.1 ** int(rest * 3)
    return 1.0
