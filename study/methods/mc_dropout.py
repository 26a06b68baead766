"""MC Dropout (Gal & Ghahramani 2016): one network, its dropout left on at prediction.

Member m is one fixed draw of all masks, the same for every example: a sampled function, as one
forward pass of the paper is. The paper draws anew for each batch; fixed draws make the predictions
independent of how the data are batched, and pairwise measures between members meaningful.
Training is that of the single network with dropout; batch normalisation is in evaluation mode.
"""

from pydantic import Field
from torch import nn

from study.errors import StudyError
from study.layers.dropout import MemberDropout
from study.layers.members import replace_modules
from study.methods import MakeNetwork
from study.methods._one_network import OneNetwork
from study.spec import Strict, derive_seed


class Params(Strict):
    """``members`` is the number of forward passes T; the rate is the backbone's ``dropout``."""

    members: int = Field(20, ge=1, le=256)


class Ensemble(OneNetwork):
    """One network whose M members differ by their dropout masks, in evaluation mode."""

    stackable = True

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__(params.members, make_network)
        rates = [m.p for m in self.network.modules() if isinstance(m, nn.Dropout)]
        if not any(rates):
            raise StudyError(
                "mc_dropout needs a network with dropout, but backbone.dropout is "
                f"{rates[0] if rates else 'absent'}; set it above 0"
            )
        seeds = iter(derive_seed(seed, "mask", layer) for layer in range(len(rates)))
        replace_modules(
            self.network,
            nn.Dropout,
            lambda dropout: MemberDropout(dropout.p, self.members, next(seeds)),
        )


EXAMPLES = [{"members": 3}]
