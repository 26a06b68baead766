"""E³, an efficient ensemble of experts (Allingham et al. 2022): members are groups of experts.

What acts before the first expert layer is computed once, for all members; there the activations are
repeated M times. In an expert layer E experts, each a copy of the layer that they replace, stand in
M disjoint groups. Member m maps a row h (an example; in a transformer a token) by the K experts of
its group that score highest,

    y = Σ_{e in top K} g_e expert_e(h),   g = softmax(R_m h + ε),   ε ~ N(0, (noise · M/E)²),

R_m the member's router, ε in training alone; g is not normalised again over the K. All other layers
are shared. The loss is the mean of the members' cross-entropies plus, weighted by ``auxiliary`` and
summed over expert layers, the mean over members of two losses that keep the experts in use (Shazeer
et al. 2017; in the form of Riquelme et al. 2021, appendix A.2), CV² the squared coefficient of
variation over a member's experts:

    importance = CV²(Σ_h softmax(R_m h)_e),   load = CV²(mean_h Φ(((R_m h)_e - t_h) · E/(noise M))),

t_h the K-th largest noisy score of the row: the chance of e to be chosen under fresh noise. Without
noise there is no load loss.

Expert layers are the perceptrons of a Vision Transformer, else the hidden linear layers, else (in a
residual network) the head. With one expert for each member they are independent layers.

Two failures are to be expected. A router may collapse onto one expert, its others never trained;
``auxiliary`` and ``noise`` are against that. (On 300 digits, with an MLP and the enqueued training,
the released 0.005 let every router collapse in 3 of 3 seeds; 0.05 kept 6 or 7 of 8 experts in use.)
And experts that start alike differ by their routing only: with one expert for each member and no
dropout nothing separates them, and the members stay twins.

Deviations: no limit on an expert's capacity, under which an example's output would depend on its
batch; experts may stand in layers that are no transformer's perceptrons; the auxiliary losses are
taken over the whole batch; no upcycling from a trained sparse network. The noise is divided by the
experts of one router, E/M, as in the authors' code. Training on a GPU calls every expert of a
member on all of its rows, with weight 0 where it was not chosen, since the host would have to wait
for the number of its own rows; the FLOPs that are counted are those of the K experts all the same.
"""

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from study.errors import StudyError
from study.layers.members import Folded, split_members, weighted_layers
from study.layers.perturbed import BATCH
from study.layers.transformer import FeedForward, Residual
from study.methods import MakeNetwork, Method
from study.spec import Strict


class Params(Strict):
    """What an efficient ensemble of experts is configured by.

    Attributes:
        members: M.
        experts: E of each expert layer, a multiple of M.
        top_k: K, experts that a row passes through; at most E/M.
        layers: Which of the layers that can hold experts do: the ``last`` or ``all``.
        noise: Standard deviation of the noise on a router's scores, times its number of experts.
        auxiliary: Weight of the importance loss and of the load loss.
        expert_init: All experts of a layer start alike (``shared``, as released) or ``independent``
            of each other. Routers always start independently.
    """

    members: int = Field(2, ge=1, le=64)
    experts: int = Field(8, ge=1, le=1024)
    top_k: int = Field(1, ge=1)
    layers: Literal["last", "all"] = "last"
    noise: float = Field(1.0, ge=0, le=100)
    auxiliary: float = Field(0.005, ge=0, le=100)
    expert_init: Literal["shared", "independent"] = "shared"

    @property
    def group(self) -> int:
        """Experts of one member, E/M."""
        return self.experts // self.members

    @model_validator(mode="after")
    def _members_divide_experts(self) -> "Params":
        if self.experts % self.members:
            nearest = max(1, round(self.experts / self.members)) * self.members
            raise ValueError(
                f"experts must be a multiple of members={self.members}, but is {self.experts}; "
                f"the nearest is {nearest}"
            )
        return self

    @model_validator(mode="after")
    def _a_member_has_k_experts(self) -> "Params":
        if self.top_k > self.group:
            raise ValueError(
                f"top_k must be at most the {self.group} experts of a member, but is {self.top_k}; "
                f"the nearest is {self.group}"
            )
        return self


class ExpertLayer(nn.Module):
    """M groups of experts behind a router each, from rows (M*B, ..., D) to (M*B, ..., F).

    Args:
        experts: E copies of one layer, member by member.
        params: Of the method.

    Attributes:
        router: Each member's scores of its experts, (M, E/M, D).
        balance: Importance and load loss of the last batch in training; ``take_balance`` takes it.
    """

    def __init__(self, experts: list[nn.Module], params: Params) -> None:
        super().__init__()
        inputs = weighted_layers(experts[0])[0].weight.shape[1]
        self.members, self.top_k, self.noise = params.members, params.top_k, params.noise
        self.router = nn.Parameter(torch.randn(params.members, params.group, inputs) / inputs**0.5)
        self.experts = nn.ModuleList(experts)
        self.balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each row its member's K experts."""
        rows_MND = split_members(x, self.members).flatten(1, -2)
        gates_MNK, chosen_MNK = self.route(rows_MND)
        # BATCH is set while FLOPs are counted.
        if self.training and x.device.type != "cpu" and BATCH.get() is None:
            y = self._apply_all(rows_MND, gates_MNK, chosen_MNK)
        else:
            y = self._apply_chosen(rows_MND, gates_MNK, chosen_MNK)
        return y.view(*x.shape[:-1], -1)

    def route(self, rows_MND: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and numbers (in 0 to E-1) of each row's experts, (M, N, K) both."""
        scores = (rows_MND @ self.router.mT).float()
        noisy, group = scores, scores.shape[-1]
        if self.training:
            std = self.noise / group
            noisy = scores + std * torch.randn_like(scores)
            self.balance = importance(scores.softmax(-1))
            if self.noise:
                self.balance = self.balance + load(scores, noisy, self.top_k, std)
        gates_MNK, chosen_MNK = noisy.softmax(-1).topk(self.top_k)
        first = torch.arange(self.members, device=scores.device) * group
        return gates_MNK, chosen_MNK + first.view(-1, 1, 1)

    def take_balance(self) -> Tensor | None:
        """Return the last batch's auxiliary loss, once: it holds the graph of the batch."""
        balance, self.balance = self.balance, None
        return balance

    def _apply_chosen(self, rows_MND: Tensor, gates_MNK: Tensor, chosen_MNK: Tensor) -> Tensor:
        """Sum each row's weighted experts, every expert called on its own rows alone.

        All are called, be it on no row, so that all have a gradient.
        """
        rows_ND, chosen = rows_MND.flatten(0, 1), chosen_MNK.flatten()
        order = chosen.argsort(stable=True)
        row = order // self.top_k
        counts = chosen.bincount(minlength=len(self.experts)).tolist()
        parts = zip(self.experts, row.split(counts), strict=True)
        y = torch.cat([expert(rows_ND.index_select(0, own)) for expert, own in parts])
        weighted = y * gates_MNK.flatten()[order].unsqueeze(1).to(y.dtype)
        return weighted.new_zeros(len(rows_ND), y.shape[1]).index_add(0, row, weighted)

    def _apply_all(self, rows_MND: Tensor, gates_MNK: Tensor, chosen_MNK: Tensor) -> Tensor:
        """Return the same, every expert called on all rows of its member: shapes are fixed."""
        group = self.router.shape[1]
        gates_MNE = torch.zeros(*gates_MNK.shape[:2], group, device=gates_MNK.device)
        gates_MNE = gates_MNE.scatter(2, chosen_MNK % group, gates_MNK)
        members = (rows for rows in rows_MND for _ in range(group))
        y = torch.stack([expert(own) for expert, own in zip(self.experts, members, strict=True)])
        weighted = y.unflatten(0, (-1, group)) * gates_MNE.permute(0, 2, 1).unsqueeze(3).to(y.dtype)
        return weighted.sum(1).flatten(0, 1)


def importance(gates_MNE: Tensor) -> Tensor:
    """Return the importance loss, the mean over members of CV²(Σ_n g_e)."""
    return _squared_variation(gates_MNE.sum(1))


def load(scores_MNE: Tensor, noisy_MNE: Tensor, top_k: int, std: float) -> Tensor:
    """Return the load loss, the mean over members of CV²(mean_n P(e is chosen again)).

    Args:
        scores_MNE: A router's scores.
        noisy_MNE: With the noise under which the rows were routed.
        top_k: K.
        std: Of the noise, above 0.
    """
    threshold_MN1 = noisy_MNE.topk(top_k).values[..., -1:]
    chance_MNE = torch.special.ndtr((scores_MNE - threshold_MN1) / std)
    return _squared_variation(chance_MNE.mean(1))


def _squared_variation(values_ME: Tensor) -> Tensor:
    return (values_ME.var(1, correction=0) / values_ME.mean(1).square()).mean()


class Ensemble(Method):
    """M members in one network, apart from the first expert layer on."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.params, self.members = params, params.members
        self.network = make_network()
        names = replaceable(self.network)[-1 if params.layers == "last" else 0 :]
        experts: dict[str, list[nn.Module]] = {name: [] for name in names}
        for number in range(params.experts):
            fresh = number > 0 and params.expert_init == "independent"
            source = make_network() if fresh else self.network
            for name in names:
                experts[name].append(copy.deepcopy(source.get_submodule(name)))
        for name in names:
            self.network.set_submodule(name, ExpertLayer(experts[name], params))
        self._fold_before(names[0])

    def _fold_before(self, name: str) -> None:
        """Repeat the rows before the named layer; in a transformer before the branch it acts in."""
        parent = name.rpartition(".")[0]
        if isinstance(self.network.get_submodule(parent), Residual):
            name = parent
        module = self.network.get_submodule(name)
        own_name = name.rpartition(".")[2]
        self.network.set_submodule(name, Folded(own_name, module, self.members))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return split_members(self.network(x), self.members)

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean of the members' cross-entropies plus the weighted auxiliary losses.

        Those are of the batch that went through the network last, in training.
        """
        loss = super().loss(logits_MBC, y_MB, label_smoothing)
        for layer in self.expert_layers():
            balance = layer.take_balance()
            if balance is not None:
                loss = loss + self.params.auxiliary * balance
        return loss

    def expert_layers(self) -> Iterator[ExpertLayer]:
        """Yield the expert layers in the order in which they act."""
        return (m for m in self.network.modules() if isinstance(m, ExpertLayer))

    def member_network(self, member: int) -> nn.Module | None:
        """Return the plain network with the member's expert; None where it has several."""
        if self.params.group > 1:
            return None
        own: dict[int, nn.Module] = {}
        for layer in self.expert_layers():
            own[id(layer)] = copy.deepcopy(layer.experts[member])
        for module in self.network.modules():
            if isinstance(module, Folded):
                own[id(module)] = copy.deepcopy(module[0], own)
        return copy.deepcopy(self.network, own)  # The copy has these in their places.


def replaceable(network: nn.Module) -> list[str]:
    """Return the names of the layers that can hold experts, in the order in which they act.

    Raises:
        StudyError: When there is none.
    """
    named = list(network.named_modules())
    found = [name for name, module in named if isinstance(module, FeedForward)]
    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    found = found or [name for name in linear if name.rpartition(".")[2] != "head"] or linear
    if not found:
        raise StudyError(
            "e3 needs a linear layer to replace by experts, but the network has none; "
            "choose another backbone, or a linear backbone.head"
        )
    return found


EXAMPLES = [
    {"members": 2, "experts": 4},
    {"members": 2, "experts": 6, "top_k": 2, "layers": "all", "expert_init": "independent"},
    {"members": 2, "experts": 2, "layers": "all", "noise": 0.0, "expert_init": "independent"},
]
