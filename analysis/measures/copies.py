"""Predictions that were given and are another arm's: a copy of the Deep Ensemble would escape.

Every member has a few numbers, its *marks*, which only copies share; so each file is read once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from analysis.data.predictions import predictions_file
from analysis.data.roles import ANCHORS
from analysis.data.run import Run
from study.errors import StudyError

Array = npt.NDArray[np.floating[Any]]

MARKS: Final = 8
ALIKE: Final = 1e-4
"""Nats by which marks may differ: float32 rounds logits that were shifted by 1000 to less."""

MAY_COPY: Final = (*ANCHORS, "negative_control")
"""Arms that may have members of an anchor's."""


class Marked(NamedTuple):
    """Predictions and their marks: those of one member, or the means of a file's members."""

    arm: str
    file: str
    member: int
    marks: tuple[float, ...]


def marks(logits_MNC: Array) -> list[list[float]]:
    """Return random projections of each member's logits (M, ``MARKS``), in nats.

    Members whose logits differ by d, root mean square, differ by about d in every one. What is
    added to all logits of an example, which no probability shows, or to those of a class counts
    nothing: so the marks of constant predictions are 0.
    """
    _, examples, classes = logits_MNC.shape
    draw = np.random.default_rng(0).normal
    by_example, by_class = draw(size=(examples, MARKS)), draw(size=(classes, MARKS))
    by_example -= by_example.mean(0)
    by_class -= by_class.mean(0)
    sums = [(by_example * (own @ by_class)).sum(0) for own in logits_MNC]
    return [(own / np.sqrt(examples * classes)).tolist() for own in sums]


def refuse_copies(
    run: Run, rows: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse a file that two arms have, an arm with an anchor's member, and seeds that share one.

    The negative control may be made of the single network. What is constant, or what two members of
    an anchor's file predict alike, is no proof of a copy.

    Args:
        run: Predictions that were given.
        rows: The trials.
        found: The scalars of each.

    Raises:
        StudyError: With both files.
    """
    files, members = [], []
    for row, scalars in sorted(
        zip(rows, found, strict=True), key=lambda pair: pair[0]["role"] in ANCHORS
    ):
        arm, own = row["configuration"], np.array(scalars["marks"])
        file = str(predictions_file(run, row["trial"], "test"))
        files.append(Marked(arm, file, 0, (*own.mean(0), len(own))))
        members += [Marked(arm, file, number, tuple(m)) for number, m in enumerate(own)]
    copies = set()
    for one, other in _alike(_telling(files)):
        if one.arm != other.arm:
            raise StudyError(
                f"{one.file}: must hold the predictions of its own arm, but is a copy of "
                f"{other.file}; put these there, or take the arm away"
            )
        copies.add(other.file)  # Of the same arm: that is told of with the verdict on it.
    pairs = list(_alike([own for own in _telling(members) if own.file not in copies]))
    degenerate = {own for pair in pairs if pair[0].file == pair[1].file for own in pair}
    for copy, of in pairs:
        if of.arm in ANCHORS and of not in degenerate and copy.arm not in MAY_COPY:
            raise StudyError(
                f"{copy.file}: must hold the predictions of its own arm, but its member "
                f"{copy.member} is member {of.member} of {of.file}, an anchor's ({of.arm}); put "
                "its own there, or take the arm away"
            )
        if copy.arm == of.arm and copy.file != of.file:
            raise StudyError(
                f"{copy.file}: must share no network with another seed, but its member "
                f"{copy.member} is member {of.member} of {of.file}; seeds that share networks "
                "vary too little: train each seed's own, or leave one seed out"
            )


def _telling(marked: Sequence[Marked]) -> list[Marked]:
    """Return those that are not constant."""
    return [own for own in marked if max(map(abs, own.marks[:MARKS])) > ALIKE]


def _alike(marked: Sequence[Marked]) -> Iterator[tuple[Marked, Marked]]:
    """Yield every two that are alike, in their order."""
    if marked:
        tree = cKDTree([own.marks for own in marked])
        pairs = tree.query_pairs(ALIKE, p=np.inf, output_type="ndarray")
        yield from ((marked[one], marked[other]) for one, other in sorted(pairs.tolist()))
