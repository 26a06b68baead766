"""Images on the page: test images, corrupted, foreign, and those that members disagree on."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import PIL.Image

from analysis import metrics
from analysis.data.images import Image, images
from analysis.data.predictions import predictions
from analysis.data.run import Run
from analysis.figures.context import FigureContext
from analysis.measures.selection import replicates_by_arm

SHOWN: Final = 12
WIDEST: Final = 64
"""Side of a picture, px, above which it is made smaller."""
CLASSES: Final = 10
"""Classes whose probabilities are shown, the likeliest."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it is.

    Attributes:
        source: Of an image, its PNG as an address.
        line: Of a series, the points of its line in a box of 100 by 40.
        caption: Words below it.
    """

    source: str | None
    line: str | None
    caption: str


@dataclass(frozen=True)
class Strip:
    """A row of pictures under one name."""

    name: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Votes:
    """What each member of an ensemble predicts for an example.

    Attributes:
        tag: Of the ensemble.
        rows: Of each member, the probabilities of ``Dispute.classes``.
        said: Each member's class, for those who do not see the picture.
    """

    tag: str
    rows: Sequence[Sequence[float]]
    said: str


@dataclass(frozen=True)
class Dispute:
    """An example on which members disagree, with what they and the Deep Ensemble's predict."""

    picture: Picture
    classes: Sequence[int]
    votes: Sequence[Votes]


@dataclass(frozen=True)
class Gallery:
    """All pictures of the page.

    Attributes:
        clean: Some test examples.
        corrupted: A strip for each corruption.
        foreign: A strip for each out-of-distribution set.
        disputed: Examples on which the members of ``ensemble`` disagree most.
        ensemble: Label of the leading configuration.
        among: Number of test examples that were kept, among which the disputed ones were sought.
    """

    clean: Strip
    corrupted: Sequence[Strip]
    foreign: Sequence[Strip]
    disputed: Sequence[Dispute]
    ensemble: str
    among: int


def gallery(context: FigureContext, run: Run) -> Gallery | None:
    """Return the pictures of the page, None where the run kept no images."""
    kept = images(run)
    clean = [one for one in kept if one.split == "test"]
    if not clean:
        return None
    corrupted = [one for one in kept if one.split == "shift"]
    foreign = [one for one in kept if one.split == "ood"]
    few = np.linspace(0, len(clean) - 1, min(SHOWN, len(clean))).round().astype(int)
    return Gallery(
        Strip("Test examples", [_picture(clean[at], f"{clean[at].label}") for at in few]),
        _by_severity(clean, corrupted),
        _by_set(foreign),
        _disputed(context, run, clean),
        context.lead()["label"] if len(context.recovery) else "",
        len(clean),
    )


def _by_severity(clean: Sequence[Image], corrupted: Sequence[Image]) -> list[Strip]:
    """Return a strip for each corruption: one example, clean and by severity, or one of each."""
    originals = {one.example: one for one in clean}
    strips = []
    for name in dict.fromkeys(one.condition for one in corrupted):
        own = [one for one in corrupted if one.condition == name]
        example, severities = own[0].example, {one.severity for one in own}
        alike = {one.severity: one for one in own if one.example == example}
        whole = len(alike) == len(severities)
        first = [_picture(originals[example], "clean")] if whole and example in originals else []
        by_severity = alike if whole else {one.severity: one for one in own}
        own = sorted(by_severity.values(), key=lambda one: one.severity or 0)
        pictures = first + [_picture(one, f"{one.severity}") for one in own]
        strips.append(Strip(str(name).replace("_", " "), pictures))
    return strips


def _by_set(foreign: Sequence[Image]) -> list[Strip]:
    names = dict.fromkeys(one.condition for one in foreign)
    return [
        Strip(str(name).replace("_", " "), [_picture(o) for o in foreign if o.condition == name])
        for name in names
    ]


def _disputed(context: FigureContext, run: Run, clean: Sequence[Image]) -> list[Dispute]:
    """Return the examples on which the members of the first arm disagree most, in one run."""
    if context.recovery.is_empty():
        return []
    lead, trials = context.lead(), replicates_by_arm(run)
    tags = dict(context.arms.select("arm", "tag").iter_rows())
    sides = []
    for arm in (lead["arm"], lead["reference"]):
        if not (trials.get(arm) and arm in tags):
            return []
        _, trial, size = trials[arm][0]
        sides.append((tags[arm], predictions(run, trial, "test"), size))
    _, ours, size = sides[0]
    if size < 2:
        return []
    place = {int(example): at for at, example in enumerate(ours.example)}
    known = [one for one in clean if one.example in place]
    if not known:
        return []
    at = np.array([place[one.example] for one in known])
    apart = metrics.mutual_information(metrics.log_softmax(ours.logits[:size, at]))
    most = np.argsort(-apart, kind="stable")[:SHOWN]
    found = []
    for which in most:
        one = known[which]
        shares = [np.exp(metrics.log_softmax(p.logits[:n, at[which]])) for _, p, n in sides]
        classes = _likeliest(shares)
        votes = [
            Votes(
                tag,
                np.round(share[:, classes], 2).tolist(),
                ", ".join(str(c) for c in share.argmax(-1)),
            )
            for (tag, _, _), share in zip(sides, shares, strict=True)
        ]
        found.append(Dispute(_picture(one, f"class {one.label}"), classes, votes))
    return found


def _likeliest(shares: Sequence[npt.NDArray[np.floating]]) -> list[int]:
    """Return the classes that come first on average, in the order of their numbers."""
    mean = np.concatenate(list(shares)).mean(0)
    return sorted(np.argsort(-mean, kind="stable")[:CLASSES].tolist())


def _picture(one: Image, caption: str = "") -> Picture:
    channels, height, _ = one.pixels.shape
    if height == 1:
        return Picture(None, _line(one.pixels[0, 0]), caption)
    coloured = channels in (3, 4)  # A fourth channel is left out; of others the mean is shown.
    array = one.pixels[:3].transpose(1, 2, 0) if coloured else one.pixels.mean(0).astype(np.uint8)
    picture = PIL.Image.fromarray(np.ascontiguousarray(array))
    picture.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Picture(address, None, caption)


def _line(values: npt.NDArray[np.uint8]) -> str:
    """Return the points of a series' line, which fills the height of its box."""
    x = np.linspace(0, 100, len(values))
    low, range_ = values.min(), max(1.0, float(np.ptp(values)))
    y = 38 - 36 * (values.astype(float) - low) / range_
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
