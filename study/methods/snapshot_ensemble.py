"""Snapshot Ensembles (Huang et al. 2017, arXiv 1704.00109): M minima on the path of one training.

The learning rate goes through M cycles of cosine annealing, from its peak to 0, each starting where
the one before ended; the network at the end of each cycle is a member (eqs. 1 and 2). The training
costs what one network's does. ``skip`` leaves that many first cycles without a member, as the
paper's use of the last m of M snapshots does.
"""

from dataclasses import replace

from pydantic import Field

from study.methods import MakeNetwork, Phase
from study.methods._one_training import OneTraining
from study.spec import Strict


class Params(Strict):
    """``members`` is the number of snapshots M, ``skip`` that of earlier cycles without one."""

    members: int = Field(4, ge=1, le=64)
    skip: int = Field(0, ge=0, le=64)


class Ensemble(OneTraining):
    """One network in training, M snapshots of it in prediction."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__(params.members, make_network)
        self.skip = params.skip

    def phases(self) -> list[Phase]:
        """Return a cycle for each skipped or kept snapshot."""
        cycles = self.members + self.skip
        skipped = Phase(1 / cycles, schedule="cosine", diverse=False)
        kept = replace(skipped, end=self.keep)
        return [skipped] * self.skip + [kept] * self.members


EXAMPLES = [{"members": 2}, {"members": 2, "skip": 1}]
