"""The members as plain networks: the loss on the way between two, their mean, their features.

Networks are mixed as parameter vectors, as they stand: no permutation of units aligns them first,
so members that were trained apart (a Deep Ensemble's) are far from each other for that reason too.
Batch-norm statistics belong to no mixture and are estimated anew (as Frankle et al. 2020 do), for
its ends too, on training images without augmentation.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.datasets import evenly
from study.diagnostics.weight_trajectory import mean_cosine
from study.layers.fixed_heads import EquiangularHead, MemberHead
from study.layers.members import CHUNK, split_members, update_batch_norm
from study.methods import Method
from study.parquet_format import GeometryRow

STEPS: Final = 10
"""Parts into which the line between two members is cut."""
COMPARED: Final = 3
"""Members, from the first, whose pairs are joined by lines."""
ON_A_LINE: Final = 128
"""Training images on which statistics are estimated at every step of a line."""
FEATURES: Final = 256
"""Images on which features are compared."""


@dataclass(frozen=True)
class Probe:
    """Images to compare networks on, on their device.

    Attributes:
        train: Training images (N', C, H, W), to estimate batch-norm statistics on.
        val: Validation images (N, C, H, W).
        y_N: Their labels.
    """

    train: Tensor
    val: Tensor
    y_N: Tensor


def member_networks(method: Method) -> list[nn.Module]:
    """Return every member as a plain network in evaluation mode; none if they are not such."""
    networks = (method.member_network(m) for m in range(method.members))
    return [network.eval() for network in networks if network is not None]


def mean_network(networks: Sequence[nn.Module], train: Tensor) -> nn.Module:
    """Return the network of the members' mean parameters, its statistics estimated on ``train``."""
    mean = copy.deepcopy(networks[0])
    mix(mean, networks, [1 / len(networks)] * len(networks))
    update_batch_norm(mean, train)
    return mean


@torch.no_grad()
def mix(into: nn.Module, networks: Sequence[nn.Module], shares: Sequence[float]) -> None:
    """Set the parameters of ``into`` to Σ share · θ; the shares sum to 1.

    Identical networks give exactly the same one.
    """
    every = zip(*(network.parameters() for network in networks), strict=True)
    for parameter, (first, *rest) in zip(into.parameters(), every, strict=True):
        parameter.copy_(first)
        for share, other in zip(shares[1:], rest, strict=True):
            parameter.add_(other - first, alpha=share)


def line(one: nn.Module, other: nn.Module, probe: Probe) -> Tensor:
    """Return the mean cross-entropy on val at even steps from ``one`` to ``other``, in nats."""
    train = probe.train[torch.as_tensor(evenly(len(probe.train), ON_A_LINE))]
    between, losses = copy.deepcopy(one), []
    for step in range(STEPS + 1):
        mix(between, [one, other], [1 - step / STEPS, step / STEPS])
        update_batch_norm(between, train)
        losses.append(loss(between, probe))
    return torch.tensor(losses, dtype=torch.float64)


@torch.inference_mode()
def loss(network: nn.Module, probe: Probe) -> float:
    """Return the mean cross-entropy on val, in nats."""
    logits = torch.cat([network(chunk) for chunk in probe.val.split(CHUNK)])
    return F.cross_entropy(logits, probe.y_N).item()


def barrier(losses: Tensor) -> float:
    """Return how far the losses on a line rise above its chord: at least 0, its ends included."""
    chord = torch.linspace(0, 1, len(losses), dtype=losses.dtype)
    return (losses - torch.lerp(losses[0], losses[-1], chord)).max().item()


def cka(features_MNF: Tensor) -> Tensor:
    """Return the unbiased linear CKA between members, (M, M).

    The cosine of U-centred Gram matrices: HSIC of Song et al. (2012) in the place of the biased one
    of Kornblith et al. (2019), which is far above 0 for unrelated features unless N is well above
    F. Needs N > 3; nan for a member whose features are constant.
    """
    n = features_MNF.shape[1]
    centred = features_MNF - features_MNF.mean(1, keepdim=True)  # For precision alone.
    grams = (centred @ centred.mT).double()
    grams.diagonal(dim1=1, dim2=2).zero_()
    rows = grams.sum(2, keepdim=True) / (n - 2)
    grams = grams - rows - rows.mT + grams.sum((1, 2), keepdim=True) / ((n - 1) * (n - 2))
    grams.diagonal(dim1=1, dim2=2).zero_()
    flat = grams.flatten(1)
    inner = flat @ flat.mT
    norms = inner.diagonal().sqrt()
    return inner / norms.outer(norms)


@torch.no_grad()
def features(method: Method, networks: Sequence[nn.Module], x: Tensor) -> Tensor | None:
    """Return the members' penultimate features (M, N, F): what enters the last linear layer or
    fixed head.

    Of members that are not networks of their own, as they stand in the batch axis (see
    :mod:`study.layers.members`); None where no linear layer sees all of them.
    """
    chunks = x.split(max(1, CHUNK // method.members))
    if networks:
        found = [torch.cat([_penultimate(net, chunk) for chunk in chunks]) for net in networks]
        return torch.stack(found) if len(found[0]) == len(x) else None
    method.eval()
    folded = [_penultimate(method, chunk) for chunk in chunks]
    if any(len(f) != method.members * len(c) for f, c in zip(folded, chunks, strict=True)):
        return None
    return torch.cat([split_members(part, method.members) for part in folded], dim=1)


def _penultimate(network: nn.Module, x: Tensor) -> Tensor:
    kinds = (nn.Linear, EquiangularHead, MemberHead)
    linear = [module for module in network.modules() if isinstance(module, kinds)][-1:]
    seen = [x.new_empty(0)]
    hooks = [m.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for m in linear]
    network(x)
    for hook in hooks:
        hook.remove()
    return seen[-1].flatten(1) if linear else seen[0]


def network_rows(
    method: Method, networks: Sequence[nn.Module], probe: Probe, epoch: int
) -> list[GeometryRow]:
    """Return rows of ``parquet_format.GEOMETRY``: barriers by pair and in the mean, and CKA."""
    if method.members < 2:
        return []
    pairs = list(combinations(range(min(len(networks), COMPARED)), 2))
    barriers = [barrier(line(networks[i], networks[j], probe)) for i, j in pairs]
    found = zip(pairs, barriers, strict=True)
    rows = [GeometryRow("barrier", b, epoch, i=i, j=j) for (i, j), b in found]
    if barriers:
        rows.append(GeometryRow("barrier", sum(barriers) / len(barriers), epoch))
    few = torch.as_tensor(evenly(len(probe.val), FEATURES), device=probe.val.device)
    members_MNF = features(method, networks, probe.val[few])
    if members_MNF is not None and len(few) > 3:
        rows.append(GeometryRow("cka", mean_cosine(cka(members_MNF)), epoch))
    return rows
