"""What the members look at: minimal sets of units that suffice for their decisions (DD-CAM).

For one image and member, delta debugging (Zeller and Hildebrandt 2002) reduces the units that
enter the ``head`` to a set K without which one cannot do: with all others set to 0 the class stays
the same, and without any one of K it changes (after DD-CAM, arXiv 2602.19274). Such sets are not
unique: the order in which units are tried decides. So the agreement of two members, the Jaccard
index of their sets, stands between two others: that of one member with itself under another order,
the most that could be seen, and that of random sets of as many active units.

Units are comparable by number only inside one shared backbone. Pixels are comparable always: there
the sets are of the ``SHARE`` of pixels on which |x ∘ ∂/∂x Σ_{u in K} (w_cu - w̄_u) z_u(x)| is
largest, c the class, w the head's weights, w̄ their mean over classes. Deviation from DD-CAM, which
upsamples maps of channels: gradients exist for every backbone.
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from itertools import combinations
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.layers.members import recording_head_inputs
from study.parquet_format import GeometryRow

SHARE: Final = 0.1
"""Share of the pixels that a member's evidence is said to be."""

IMAGES: Final = 20
"""Test images on which evidence is looked for."""
MEMBERS: Final = 4
"""Members, from the first, whose evidence is compared."""

Masks = NDArray[np.bool_]
Search = Generator[Masks, Masks, Masks]
"""Asks which sets (N, F) of units suffice, is sent that (N,), and returns the set that it found."""


def minimal_set(active_F: Masks, order_F: NDArray[np.int64]) -> Search:
    """Find a 1-minimal sufficient subset of the active units, (F,) bool, by ddmin.

    Args:
        active_F: The units to begin with, which suffice.
        order_F: A permutation of all units: the order in which they are grouped and tried.
    """
    units = order_F[active_F[order_F]]
    parts = 2
    while len(units) > 1:
        chunks = min(parts, len(units))
        chunk = _chunk_of_each(len(units), chunks)
        sets = np.zeros((2 * chunks, len(active_F)), dtype=np.bool_)
        sets[chunk, units] = True  # The subsets, and below them what is left without each.
        sets[chunks:, units] = ~sets[:chunks, units]
        suffices = yield sets
        found = int(suffices.argmax())  # The first, subsets before what is left without them.
        if not suffices[found]:
            if chunks == len(units):
                break
            parts = 2 * chunks
        elif found < chunks:
            units, parts = units[chunk == found], 2
        else:
            units, parts = units[chunk != found - chunks], max(chunks - 1, 2)
    if len(units) == 1 and bool((yield np.zeros((1, len(active_F)), dtype=np.bool_))[0]):
        units = units[:0]
    mask = np.zeros_like(active_F)
    mask[units] = True
    return mask


def _chunk_of_each(units: int, chunks: int) -> NDArray[np.int64]:
    """Return to which of as many equal chunks each unit belongs, the first ones the larger."""
    least, more = divmod(units, chunks)
    return np.arange(chunks).repeat([least + 1] * more + [least] * (chunks - more))


def side_by_side(
    searches: Sequence[Search], suffice: Callable[[Masks, NDArray[np.int64]], Masks]
) -> Masks:
    """Return what each search finds, (N, F), all asking at a time.

    Args:
        searches: N of them.
        suffice: Tells which sets (K, F) suffice, each asked for by the search of a number (K,).
    """
    found: dict[int, Masks] = {}
    asking: dict[int, Masks] = {}

    def go_on(number: int, search: Callable[[], Masks]) -> None:
        try:
            asking[number] = search()
        except StopIteration as end:
            found[number] = end.value

    for number, search in enumerate(searches):
        go_on(number, partial(next, search))
    while asking:
        sizes = [len(masks) for masks in asking.values()]
        owners = np.array(list(asking)).repeat(sizes)
        answers = suffice(np.concatenate(list(asking.values())), owners)
        for number, own in zip(list(asking), np.split(answers, np.cumsum(sizes)[:-1]), strict=True):
            del asking[number]
            go_on(number, partial(searches[number].send, own))
    return np.stack([found[number] for number in range(len(searches))])


def jaccard(one_NF: Tensor, other_NF: Tensor) -> Tensor:
    """Return |A ∩ B| / |A ∪ B| of sets (N, F), row by row; nan of two empty ones."""
    both, either = (one_NF & other_NF).sum(1), (one_NF | other_NF).sum(1)
    return both / either


@torch.no_grad()
def minimal_sets(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a minimal set of units for each image, (N, F) bool, each in an order of its own."""
    z = _features(network, x)
    head = network.get_submodule("head")
    wanted = head(z).argmax(1)

    def suffice(masks: Masks, images: NDArray[np.int64]) -> Masks:
        own = torch.from_numpy(images).to(z.device)
        seen = z[own] * torch.from_numpy(masks).to(z.device)
        answer: Masks = (head(seen).argmax(1) == wanted[own]).cpu().numpy()
        return answer

    searches = [
        minimal_set(active, torch.randperm(len(active), generator=generator).numpy())
        for active in (z != 0).cpu().numpy()
    ]
    return torch.from_numpy(side_by_side(searches, suffice)).to(z.device)


def random_sets(active_NF: Tensor, sizes_N: Tensor, generator: torch.Generator) -> Tensor:
    """Return random subsets of the active units, of given sizes, (N, F) bool."""
    noise = torch.rand(active_NF.shape, generator=generator).to(active_NF.device)
    rank = noise.masked_fill(~active_NF, 2.0).argsort(1).argsort(1)
    return rank < sizes_N.unsqueeze(1)


def pixels(network: nn.Module, x: Tensor, units_NF: Tensor) -> Tensor:
    """Return the pixels that the units' evidence rests on, (N, H*W) bool."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        z = _features(network, x)
        head = network.get_submodule("head")
        logits = head(z.detach())
        classes = logits.argmax(1)
        weights = _unit_weights(head, z.detach(), classes)
        (gradient,) = torch.autograd.grad((weights * units_NF * z).sum(), x)
    saliency = (x * gradient).detach().abs().sum(1).flatten(1)
    count = max(1, round(SHARE * saliency.shape[1]))
    top = saliency.topk(count, dim=1).indices
    return torch.zeros_like(saliency, dtype=torch.bool).scatter_(1, top, True)


def _unit_weights(head: nn.Module, z_NF: Tensor, classes_N: Tensor) -> Tensor:
    """Return how much each unit speaks for the class beyond the mean of all, (N, F)."""
    z = z_NF.clone().requires_grad_()
    logits = head(z)
    margin = logits.gather(1, classes_N.unsqueeze(1)).squeeze(1) - logits.mean(1)
    return torch.autograd.grad(margin.sum(), z)[0]


def _features(network: nn.Module, x: Tensor) -> Tensor:
    with recording_head_inputs(network) as seen:
        network(x)
    return seen[-1].flatten(1)


def evidence_rows(
    networks: Sequence[nn.Module], x: Tensor, generator: torch.Generator, epoch: int
) -> list[GeometryRow]:
    """Return rows of ``parquet_format.GEOMETRY``: agreement in units and in pixels, and its bounds.

    Args:
        networks: The members as plain networks, in evaluation mode; the first ``MEMBERS`` of them
            are compared, less than two give no rows.
        x: Images (N, C, H, W).
        generator: Of the orders and of the random sets.
        epoch: Epochs done.
    """
    networks = networks[:MEMBERS]
    if len(networks) < 2 or not all(hasattr(network, "head") for network in networks):
        return []
    with torch.no_grad():
        classes = torch.stack([network(x).argmax(1) for network in networks])
        active = [_features(network, x) != 0 for network in networks]
    sets, again = ([minimal_sets(n, x, generator) for n in networks] for _ in range(2))
    chance = [random_sets(a, own.sum(1), generator) for a, own in zip(active, sets, strict=True)]

    def of_pixels(units: list[Tensor]) -> list[Tensor]:
        return [pixels(n, x, own) for n, own in zip(networks, units, strict=True)]

    kinds = {
        "units": (sets, again, chance),
        "pixels": (of_pixels(sets), of_pixels(again), of_pixels(chance)),
    }
    size = torch.cat(sets).sum(1).float().mean().item()
    rows = [GeometryRow("evidence_size", size, epoch)]
    for kind, (own, other, by_chance) in kinds.items():
        found = {
            f"evidence_{kind}": _agreement(own, own, classes),
            f"evidence_{kind}_chance": _agreement(by_chance, by_chance, classes),
            f"evidence_{kind}_same": torch.cat(
                [jaccard(a, b) for a, b in zip(own, other, strict=True)]
            ).nanmean(),
        }
        rows += [GeometryRow(n, value.item(), epoch) for n, value in found.items()]
    return rows


def _agreement(one: Sequence[Tensor], other: Sequence[Tensor], classes_MN: Tensor) -> Tensor:
    """Return the mean over pairs of members and the images on which they agree; or nan."""
    found = [
        jaccard(one[i], other[j])[classes_MN[i] == classes_MN[j]]
        for i, j in combinations(range(len(one)), 2)
    ]
    return torch.cat(found).nanmean()
