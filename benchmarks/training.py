"""What a training step and a batch cost, beside the peers and the limit.

``python -m benchmarks.training`` (``make bench``) prints a table of ratios, and writes it as JSON.
In each row the sides take turns in one process at one thread; a ratio is the peer's time over ours
(above 1: ours is faster), the median over rounds with the quartiles of the rounds beside it: CPU
time on a CPU, wall time on a GPU (``--device cuda``). All sides train the same networks on the same
shapes with the same fused optimiser; ``--precision bfloat16`` is autocast on all sides.

LIMIT is the plain network on one batch of M·B examples: the arithmetic of a BatchEnsemble in which
every member sees the whole batch, without anything that tells members apart.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study import backbones, methods
from study.cluster.worker import keep_freed_memory
from study.methods import Method
from study.run_folder.paths import local_path
from study.spec import Regularisation, Training
from study.training.batches import DeviceImages, channel_statistics
from study.training.fit import fit
from study.training.stack import joined

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


@dataclass(frozen=True)
class Setting:
    """Where and how often to measure."""

    rounds: int
    device: torch.device
    precision: str = "float32"

    def fewer(self) -> "Setting":
        """Return the setting for what takes long."""
        return replace(self, rounds=max(3, self.rounds // 3))

    def compare(self, what: str, ours: Act, peers: dict[str, Act]) -> list[Ratio]:
        """Time ours and each peer in turn, and return the ratios."""
        for act in (ours, *peers.values()):
            act()
        found: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(self.rounds):
            own = self._seconds(ours)
            for name, act in peers.items():
                found[name].append(self._seconds(act) / own)
        return [Ratio(what, name, *quantiles(r, n=4)) for name, r in found.items()]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the precision of a forward pass."""
        on = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def batch(self, size: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return random images and labels."""
        x, y = torch.randn(size, *shape), torch.randint(CLASSES, (size,))
        return x.to(self.device), y.to(self.device)

    def _seconds(self, act: Act) -> float:
        """Return seconds of a call, repeated until there is something to measure."""
        start, calls = self._clock(), 0
        while calls == 0 or self._clock() - start < 0.05:
            act()
            calls += 1
        return (self._clock() - start) / calls

    def _clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


# --- sides


def our_step(
    method: Method, x: Tensor, y: Tensor, setting: Setting, sequential_members: bool = False
) -> Act:
    """Return one optimiser step of a method, in one pass or in one of each member."""
    training = Training(lr=0.01)
    groups = method.to(x.device).train().param_groups(training)
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)

    forwards = method.member_forwards() if sequential_members else [method.training_forward]

    def step() -> None:
        optimizer.zero_grad()
        for forward in forwards:
            with setting.autocast():
                logits, labels = forward(x, y)
            (method.loss(logits.float(), labels, 0.0).sum() / len(forwards)).backward()
        optimizer.step()

    return step


def plain_step(network: nn.Module, x: Tensor, y: Tensor, setting: Setting) -> Act:
    """Return one optimiser step of any network on one batch."""
    parameters = network.to(x.device).train().parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        with setting.autocast():
            logits = network(x)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()

    return step


def batch_ensemble(make: Callable[[], nn.Module], members: int, norm: str = "shared") -> Method:
    """Return ours with torch-uncertainty's initial law and biases, in our memory format."""

    def last() -> nn.Module:
        return make().to(memory_format=torch.channels_last)

    params = {"members": members, "init": "normal", "init_std": 0.5, "bias": "random"}
    params["norm"] = norm
    return methods.build("batch_ensemble", params, last, 0)


# --- rows


def against_torch_uncertainty(
    what: str,
    make: Callable[[], nn.Module],
    peer: Callable[[int], nn.Module],
    members: int,
    size: int,
    shape: tuple[int, ...],
    setting: Setting,
) -> list[Ratio]:
    """Compare a BatchEnsemble with the peer's on the same architecture, and with the limit.

    Some of the peer's models repeat the batch for the members themselves; they get it once.
    """
    x, y = setting.batch(size, shape)
    many = x.repeat(members, *[1] * len(shape)), y.repeat(members)
    last = many[0].to(memory_format=torch.channels_last), many[1]
    limit = make().to(memory_format=torch.channels_last)
    theirs = peer(members).to(setting.device).train()
    repeats = len(theirs(x)) == len(many[0])
    peers = {
        "torch-uncertainty": plain_step(theirs, x if repeats else many[0], many[1], setting),
        "LIMIT": plain_step(limit, *last, setting),
    }
    ours = our_step(batch_ensemble(make, members), x, y, setting)
    return setting.compare(f"BatchEnsemble step, {what}, M={members}, B={size}", ours, peers)


def perceptron(members: int, setting: Setting) -> list[Ratio]:
    """Compare on an MLP 784-256-256-10."""
    from torch_uncertainty.models.mlp import batched_mlp

    return against_torch_uncertainty(
        "MLP 256",
        small(256),
        lambda m: nn.Sequential(nn.Flatten(), batched_mlp(784, CLASSES, [256, 256], m)),
        members,
        128,
        (1, 28, 28),
        setting,
    )


def lenet(members: int, setting: Setting) -> list[Ratio]:
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
        setting,
    )


def resnet(members: int, setting: Setting) -> list[Ratio]:
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
        setting,
    )


def in_turn(*steps: Act) -> Act:
    """Return all steps, one after the other."""

    def every() -> None:
        for step in steps:
            step()

    return every


def side_by_side(
    parts: list[tuple[Method, int]], batches: list[tuple[Tensor, Tensor]], setting: Setting
) -> Act:
    """Return a step of each method on its own batch, in stacks as the project trains them."""
    steps, start = [], 0
    for part, seed in joined(parts):
        own = batches[start : start + len(part.batch_seeds(seed))]
        x, y = (torch.cat(many) for many in zip(*own, strict=True))
        steps.append(our_step(part, x, y, setting))
        start += len(own)
    return in_turn(*steps)


def small(width: int = 64) -> Callable[[], nn.Module]:
    """Return what makes MLPs 784-width-width-10."""
    options = backbones.parameters({"name": "mlp", "width": width, "depth": 2})
    return lambda: backbones.build(options, (1, 28, 28), CLASSES)


def stacked(networks: int, setting: Setting) -> list[Ratio]:
    """Compare MLPs 784-64-64-10 side by side with one after the other."""
    every = [methods.build("single", {}, small(), seed) for seed in range(networks)]
    batches = [setting.batch(32, (1, 28, 28)) for _ in every]
    ours = side_by_side([(one, seed) for seed, one in enumerate(every)], batches, setting)
    steps = [plain_step(small()(), *own, setting) for own in batches]
    what = f"{networks} MLPs 64 on a batch of 32 each"
    return setting.compare(what, ours, {"one after the other": in_turn(*steps)})


def stacked_ensembles(seeds: int, members: int, setting: Setting) -> list[Ratio]:
    """Compare BatchEnsembles of several seeds side by side with the peer's in turn."""
    from torch_uncertainty.models.mlp import batched_mlp

    parts = [(batch_ensemble(small(), members), seed) for seed in range(seeds)]
    batches = [setting.batch(32, (1, 28, 28)) for _ in parts]
    steps = []
    for x, y in batches:
        peer = nn.Sequential(nn.Flatten(), batched_mlp(784, CLASSES, [64, 64], members))
        repeats = len(peer.to(x.device)(x)) > len(x)
        many = x if repeats else x.repeat(members, 1, 1, 1)
        steps.append(plain_step(peer, many, y.repeat(members), setting))
    what = f"{seeds} BatchEnsembles of MLP 64, M={members}, B=32"
    ours = side_by_side(parts, batches, setting)
    return setting.compare(what, ours, {"torch-uncertainty": in_turn(*steps)})


def images(channels: int, side: int, augment: bool, setting: Setting) -> list[Ratio]:
    """Compare an epoch of batches with a data loader over PIL images."""
    from torchvision.transforms import v2

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2000, channels, side, side), dtype=np.uint8)
    mean, std = channel_statistics(pixels)
    moves = [v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()] if augment else []
    steps = [v2.ToPILImage(), *moves, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*steps, v2.Normalize((mean / 255).tolist(), (std / 255).tolist())])
    data = [(image, 0) for image in torch.from_numpy(pixels)]
    own = DeviceImages(pixels, mean, std, setting.device)
    chance = torch.Generator().manual_seed(0)

    def ours() -> None:
        for index in torch.randperm(len(data), device=setting.device).split(128):
            if augment:
                crops = own.draw_crops([len(index)], True, chance).to(setting.device)
                _ = own.augmented(index, crops)
            else:
                _ = own.batch(index)

    def loader() -> None:
        made = ((transform(image), label) for image, label in data)
        loaded = torch.utils.data.DataLoader(list(made), batch_size=128, shuffle=True)
        for x, y in loaded:
            x.to(setting.device), y.to(setting.device)

    what = f"batches of {channels}x{side}x{side} images{', crop and flip' if augment else ''}"
    return setting.fewer().compare(what, ours, {"DataLoader with PIL": loader})


def epoch(size: int, width: int, setting: Setting) -> list[Ratio]:
    """Compare an epoch of a ResNet-18 on crops and mirrors with the same in a loop of its own."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, CLASSES, size)).to(setting.device)
    mean, std = channel_statistics(pixels)
    own = DeviceImages(pixels, mean, std, setting.device)
    precision: Any = setting.precision
    training = Training(lr=0.01, batch_size=128, epochs=1, augment="crop_flip", precision=precision)
    options = backbones.parameters({"name": "resnet18", "width": width})

    def network() -> nn.Module:
        return backbones.build(options, (3, 32, 32), CLASSES).to(setting.device)

    method = methods.build("single", {}, network, 0).to(setting.device)
    plain = network().train()
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True
    )
    floats = F.pad(
        (torch.from_numpy(pixels).to(setting.device) - mean.view(-1, 1, 1).to(setting.device))
        / std.view(-1, 1, 1).to(setting.device),
        [4] * 4,
    )
    corners = floats.unfold(2, 32, 1).unfold(3, 32, 1)

    def loop() -> None:
        for index in torch.randperm(size, device=setting.device)[: size // 128 * 128].split(128):
            top, left = torch.randint(9, (2, 128), device=setting.device)
            x = corners[index, :, top, left]
            x = torch.where(torch.rand(128, 1, 1, 1, device=setting.device) < 0.5, x, x.flip(3))
            with setting.autocast():
                logits = plain(x.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), labels[index]).backward()
            optimizer.step()

    def ours() -> None:
        fit(method, own, labels, training, Regularisation(), 0)

    what = f"an epoch of a ResNet-18 of width {width} on {size:,} images"
    return setting.fewer().compare(what, ours, {"a loop of its own": loop})


def memory(setting: Setting) -> list[Ratio]:
    """Compare the peak memory that a step of ResNet-18, M=4, B=16, adds: to a process, or on a GPU.

    One member at a time, each with its own norms, takes less than all: that ratio is below 1.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        ours, *peers = pool.map(peak, SIDES, [setting] * len(SIDES))
    what = "peak memory of a BatchEnsemble step, ResNet-18, M=4, B=16"
    return [Ratio(what, side, *[p / ours] * 3) for side, p in zip(SIDES[1:], peers, strict=True)]


SIDES = ("ours", "torch-uncertainty", "LIMIT", "ours, a member at a time")


def peak(side: str, setting: Setting) -> float:
    """Return the bytes that a step adds to the peak, of a new process or on the GPU."""
    from torch_uncertainty.models.classification import batched_resnet
    from torch_uncertainty.models.classification import resnet as plain

    torch.set_num_threads(1)
    fixed: dict[str, Any] = {"arch": 18, "style": "cifar", "conv_bias": False}
    x, y = setting.batch(16, (3, 32, 32))
    many = x.repeat(4, 1, 1, 1), y.repeat(4)
    if side.startswith("ours"):
        norm = "shared" if side == "ours" else "member"
        method = batch_ensemble(lambda: plain(3, CLASSES, **fixed), 4, norm)
        step = our_step(method, x, y, setting, sequential_members=norm == "member")
    elif side == "LIMIT":
        step = plain_step(plain(3, CLASSES, **fixed), *many, setting)
    else:
        step = plain_step(batched_resnet(3, CLASSES, num_estimators=4, **fixed), *many, setting)
    if setting.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = _kilobytes("VmRSS")
    step()
    return _kilobytes("VmHWM") - before


def _kilobytes(name: str) -> int:
    """Return a figure of this process that Linux keeps."""
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith(name))


def whole_epoch(setting: Setting) -> list[Ratio]:
    """Compare an epoch of as large a network as the device does in a while."""
    images, width = (512, 16) if setting.device.type == "cpu" else (10_000, 64)
    return epoch(images, width, setting)


ROWS: list[Callable[[Setting], list[Ratio]]] = [
    lambda setting: perceptron(4, setting),
    lambda setting: perceptron(16, setting),
    lambda setting: lenet(4, setting),
    lambda setting: resnet(4, setting.fewer()),
    lambda setting: stacked(32, setting),
    lambda setting: stacked_ensembles(8, 4, setting),
    lambda setting: images(1, 28, False, setting),
    lambda setting: images(3, 32, True, setting),
    whole_epoch,
    memory,
]


def main(argv: list[str] | None = None) -> int:
    """Print the table and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of most rows (default 15)")
    parser.add_argument("--out", type=local_path, default=Path("runs/bench.json"))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # Those of the peers are their own.
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    setting = Setting(arguments.rounds, torch.device(arguments.device), arguments.precision)
    on_cpu = arguments.device == "cpu"
    name = platform.processor() or platform.machine() if on_cpu else torch.cuda.get_device_name()
    machine = f"{name}, {arguments.precision}, torch {torch.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}\n")
    print("| what | against | ratio | quartiles |\n| --- | --- | --- | --- |")
    found = []
    for row in ROWS:
        for ratio in row(setting):
            found.append(asdict(ratio))
            spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
            print(f"| {ratio.what} | {ratio.against} | {ratio.median:.2f} | {spread} |", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "ratios": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
