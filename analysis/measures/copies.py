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
    """Refuse a file that two arms have, and an arm of which a member is an anchor's.

    The negative control may be made of the single network. What an arm has twice, or is constant,
    is no proof of a copy.

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
    telling = _telling(files)
    for copy, of in _alike(telling, telling):
        raise StudyError(
            f"{copy.file}: must hold the predictions of its own arm, but is a copy of {of.file}; "
            "put these there, or take the arm away"
        )
    telling = _telling(members)
    judged = [own for own in telling if own.arm not in (*ANCHORS, "negative_control")]
    for copy, of in _alike(judged, [own for own in telling if own.arm in ANCHORS]):
        raise StudyError(
            f"{copy.file}: must hold the predictions of its own arm, but its member {copy.member} "
            f"is member {of.member} of {of.file}, an anchor's ({of.arm}); put its own there, or "
            "take the arm away"
        )


def _telling(marked: Sequence[Marked]) -> list[Marked]:
    """Return those that are not constant and like no other of their arm."""
    arms: dict[str, list[Marked]] = {}
    for own in marked:
        if max(map(abs, own.marks[:MARKS])) > ALIKE:
            arms.setdefault(own.arm, []).append(own)
    twins = {own for arm in arms.values() for own, _ in _alike(arm, arm)}
    return [own for arm in arms.values() for own in arm if own not in twins]


def _alike(marked: Sequence[Marked], among: Sequence[Marked]) -> Iterator[tuple[Marked, Marked]]:
    """Yield each that is like another one, and one that it is like."""
    if not marked or not among:
        return
    tree, points = cKDTree([own.marks for own in among]), [own.marks for own in marked]
    _, nearest = tree.query(points, k=2, p=np.inf, distance_upper_bound=ALIKE)
    for own, numbers in zip(marked, nearest, strict=True):
        others = [among[n] for n in numbers if n < len(among) and among[n] is not own]
        yield from ((own, other) for other in others[:1])
