"""What a training step and a batch cost, beside the peers and the limit.

``python -m benchmarks.training`` (``make bench``) prints a table of ratios, and writes it as JSON.
In each row two sides take turns in one process at one thread; a ratio is the peer's CPU time over
ours (above 1: ours is faster), the median over rounds with the quartiles of the rounds beside it.
Both sides train the same networks on the same shapes with the same fused optimiser, in float32.

LIMIT is the plain network on one batch of M·B examples: the arithmetic of a BatchEnsemble in which
every member sees the whole batch, without anything that tells members apart.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study import backbones, methods
from study.allocator import keep_freed_memory
from study.batches import Pixels, channel_statistics
from study.methods import Method
from study.methods._stack import joined
from study.spec import Training

Act = Callable[[], Any]
CLASSES = 10


@dataclass(frozen=True)
class Ratio:
    """CPU time of the peer over ours: lower quartile, median, upper quartile over rounds."""

    what: str
    against: str
    low: float
    median: float
    high: float


def compare(what: str, ours: Act, peers: dict[str, Act], rounds: int) -> list[Ratio]:
    """Time ours and each peer in turn, and return the ratios."""
    for act in (ours, *peers.values()):
        act()
    found: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        own = _seconds(ours)
        for name, act in peers.items():
            found[name].append(_seconds(act) / own)
    return [Ratio(what, name, *quantiles(r, n=4)) for name, r in found.items()]


def _seconds(act: Act) -> float:
    """Return CPU seconds of a call, repeated until there is something to measure."""
    start, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - start < 0.05:
        act()
        calls += 1
    return (time.process_time() - start) / calls


# --- sides


def our_step(method: Method, x: Tensor, y: Tensor) -> Act:
    """Return one optimiser step of a method."""
    training = Training(lr=0.01)
    groups = method.train().param_groups(training)
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        logits, labels = method.training_forward(x, y)
        optimizer.zero_grad()
        method.loss(logits, labels, 0.0).backward()
        optimizer.step()

    return step


def plain_step(network: nn.Module, x: Tensor, y: Tensor) -> Act:
    """Return one optimiser step of any network on one batch."""
    parameters = network.train().parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def batch(size: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return random images and labels."""
    return torch.randn(size, *shape), torch.randint(CLASSES, (size,))


def batch_ensemble(make: Callable[[], nn.Module], members: int) -> Method:
    """Return ours with torch-uncertainty's initial law and biases, in our memory format."""

    def last() -> nn.Module:
        return make().to(memory_format=torch.channels_last)

    params = {"members": members, "init": "normal", "init_std": 0.5, "bias": "random"}
    return methods.build("batch_ensemble", params, last, 0)


# --- rows


def against_torch_uncertainty(
    what: str,
    make: Callable[[], nn.Module],
    peer: Callable[[int], nn.Module],
    members: int,
    size: int,
    shape: tuple[int, ...],
    rounds: int,
) -> list[Ratio]:
    """Compare a BatchEnsemble with the peer's on the same architecture, and with the limit.

    Some of the peer's models repeat the batch for the members themselves; they get it once.
    """
    x, y = batch(size, shape)
    many = x.repeat(members, *[1] * len(shape)), y.repeat(members)
    last = many[0].to(memory_format=torch.channels_last), many[1]
    limit = make().to(memory_format=torch.channels_last)
    theirs = peer(members).train()
    repeats = len(theirs(x)) == len(many[0])
    peers = {
        "torch-uncertainty": plain_step(theirs, x if repeats else many[0], many[1]),
        "LIMIT": plain_step(limit, *last),
    }
    ours = our_step(batch_ensemble(make, members), x, y)
    return compare(f"BatchEnsemble step, {what}, M={members}, B={size}", ours, peers, rounds)


def perceptron(members: int, rounds: int) -> list[Ratio]:
    """Compare on an MLP 784-256-256-10."""
    from torch_uncertainty.models.mlp import batched_mlp

    return against_torch_uncertainty(
        "MLP 256",
        small(256),
        lambda m: nn.Sequential(nn.Flatten(), batched_mlp(784, CLASSES, [256, 256], m)),
        members,
        128,
        (1, 28, 28),
        rounds,
    )


def lenet(members: int, rounds: int) -> list[Ratio]:
    """Compare on the peer's own LeNet with batch normalisation."""
    from torch_uncertainty.models.classification import batchensemble_lenet
    from torch_uncertainty.models.classification import lenet as plain

    return against_torch_uncertainty(
        "LeNet",
        lambda: plain(1, CLASSES, norm=nn.BatchNorm2d),
        lambda m: batchensemble_lenet(1, CLASSES, m),
        members,
        128,
        (1, 28, 28),
        rounds,
    )


def resnet(members: int, rounds: int) -> list[Ratio]:
    """Compare on the peer's own ResNet-18 for CIFAR."""
    from torch_uncertainty.models.classification import batched_resnet
    from torch_uncertainty.models.classification import resnet as plain

    fixed: dict[str, Any] = {"arch": 18, "style": "cifar", "conv_bias": False}
    return against_torch_uncertainty(
        "ResNet-18",
        lambda: plain(3, CLASSES, **fixed),
        lambda m: batched_resnet(3, CLASSES, num_estimators=m, **fixed),
        members,
        32,
        (3, 32, 32),
        rounds,
    )


def in_turn(*steps: Act) -> Act:
    """Return all steps, one after the other."""

    def every() -> None:
        for step in steps:
            step()

    return every


def side_by_side(parts: list[tuple[Method, int]], batches: list[tuple[Tensor, Tensor]]) -> Act:
    """Return a step of each method on its own batch, in stacks as the project trains them."""
    steps, start = [], 0
    for part, seed in joined(parts):
        own = batches[start : start + len(part.streams(seed))]
        x, y = (torch.cat(many) for many in zip(*own, strict=True))
        steps.append(our_step(part, x, y))
        start += len(own)
    return in_turn(*steps)


def small(width: int = 64) -> Callable[[], nn.Module]:
    """Return what makes MLPs 784-width-width-10."""
    options = backbones.parameters({"name": "mlp", "width": width, "depth": 2})
    return lambda: backbones.build(options, (1, 28, 28), CLASSES)


def stacked(networks: int, rounds: int) -> list[Ratio]:
    """Compare MLPs 784-64-64-10 side by side with one after the other."""
    every = [methods.build("single", {}, small(), seed) for seed in range(networks)]
    batches = [batch(32, (1, 28, 28)) for _ in every]
    ours = side_by_side([(one, seed) for seed, one in enumerate(every)], batches)
    steps = [plain_step(small()(), *own) for own in batches]
    what = f"{networks} MLPs 64 on a batch of 32 each"
    return compare(what, ours, {"one after the other": in_turn(*steps)}, rounds)


def stacked_ensembles(seeds: int, members: int, rounds: int) -> list[Ratio]:
    """Compare BatchEnsembles of several seeds side by side with the peer's in turn."""
    from torch_uncertainty.models.mlp import batched_mlp

    parts = [(batch_ensemble(small(), members), seed) for seed in range(seeds)]
    batches = [batch(32, (1, 28, 28)) for _ in parts]
    steps = []
    for x, y in batches:
        peer = nn.Sequential(nn.Flatten(), batched_mlp(784, CLASSES, [64, 64], members))
        repeats = len(peer(x)) > len(x)
        many = x if repeats else x.repeat(members, 1, 1, 1)
        steps.append(plain_step(peer, many, y.repeat(members)))
    what = f"{seeds} BatchEnsembles of MLP 64, M={members}, B=32"
    return compare(
        what, side_by_side(parts, batches), {"torch-uncertainty": in_turn(*steps)}, rounds
    )


def images(channels: int, side: int, augment: bool, rounds: int) -> list[Ratio]:
    """Compare an epoch of batches with a data loader over PIL images."""
    from torchvision.transforms import v2

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2000, channels, side, side), dtype=np.uint8)
    mean, std = channel_statistics(pixels)
    moves = [v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()] if augment else []
    steps = [v2.ToPILImage(), *moves, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*steps, v2.Normalize((mean / 255).tolist(), (std / 255).tolist())])
    data = [(image, 0) for image in torch.from_numpy(pixels)]
    own = Pixels(pixels, mean, std, torch.device("cpu"))
    chance = torch.Generator().manual_seed(0)

    def ours() -> None:
        for index in torch.randperm(len(data)).split(128):
            _ = own.augmented(index, True, chance) if augment else own.batch(index)

    def loader() -> None:
        made = ((transform(image), label) for image, label in data)
        loaded = torch.utils.data.DataLoader(list(made), batch_size=128, shuffle=True)
        for _ in loaded:
            pass

    what = f"batches of {channels}x{side}x{side} images{', crop and flip' if augment else ''}"
    return compare(what, ours, {"DataLoader with PIL": loader}, max(3, rounds // 3))


ROWS: list[Callable[[int], list[Ratio]]] = [
    lambda rounds: perceptron(4, rounds),
    lambda rounds: perceptron(16, rounds),
    lambda rounds: lenet(4, rounds),
    lambda rounds: resnet(4, max(3, rounds // 3)),
    lambda rounds: stacked(32, rounds),
    lambda rounds: stacked_ensembles(8, 4, rounds),
    lambda rounds: images(1, 28, False, rounds),
    lambda rounds: images(3, 32, True, rounds),
]


def main(argv: list[str] | None = None) -> int:
    """Print the table and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of most rows (default 15)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # Those of the peers are their own.
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    machine = f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, CPU, one thread, {machine}\n")
    print("| what | against | ratio | quartiles |\n| --- | --- | --- | --- |")
    found = []
    for row in ROWS:
        for ratio in row(arguments.rounds):
            found.append(asdict(ratio))
            spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
            print(f"| {ratio.what} | {ratio.against} | {ratio.median:.2f} | {spread} |", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "ratios": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
