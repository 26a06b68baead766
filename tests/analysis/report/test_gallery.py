"""Pictures on the page are of the run's own images, beside what its members predicted for them."""

import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import metrics
from analysis.data.images import images
from analysis.data.predictions import predictions
from analysis.data.run import Run, load
from analysis.figures.context import FigureContext, figure_context
from analysis.measures.measure import Measures
from analysis.measures.selection import replicates_by_arm
from analysis.report.gallery import SHOWN, gallery
from analysis.verdict.judge import judge
from study import parquet_format
from study.errors import StudyError

SIDE = 6


def pixels(number: int, channels: int, height: int) -> bytes:
    shape = (channels, height, SIDE)
    return np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8).tobytes()


def write_images(run: Run, channels: int = 1, height: int = SIDE, most: int = 200) -> None:
    shape = {"channels": channels, "height": height, "width": SIDE}
    rows = [
        {"split": "test", "example": n, "label": n % 10, "pixels": pixels(n, channels, height)}
        for n in range(most)
    ]
    rows += [
        {
            "split": "shift",
            "example": example,
            "label": example % 10,
            "condition": condition,
            "severity": severity,
            "pixels": pixels(1000 + severity, channels, height),
        }
        for condition in ("blur", "grey_noise")
        for example in (3, 7)
        for severity in (2, 1, 3)
    ]
    rows += [
        {
            "split": "ood",
            "example": n,
            "condition": "letters",
            "pixels": pixels(n, channels, height),
        }
        for n in range(4)
    ]
    empty = dict.fromkeys(parquet_format.IMAGES.names)
    table = pa.Table.from_pylist(
        [empty | shape | row for row in rows], schema=parquet_format.IMAGES
    )
    pq.write_table(table, Path(str(run.folder)) / "images.parquet")


@pytest.fixture(scope="module")
def context(run: Run, measures: Measures) -> FigureContext:
    return figure_context(run, measures, judge(measures, run.plan))


@pytest.fixture
def own(study: Path, run: Run) -> Run:
    """The run with images, for one test."""
    yield load(study)
    (study / "images.parquet").unlink(missing_ok=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_the_image(context: FigureContext, own: Run, channels: int) -> None:
    write_images(own, channels)
    found = gallery(context, own)
    assert found is not None
    sources = [one.source for one in found.clean.pictures]
    assert len(sources) == SHOWN
    content = base64.b64decode(sources[0].removeprefix("data:image/png;base64,"))
    shown = np.asarray(PIL.Image.open(io.BytesIO(content))).reshape(SIDE, SIDE, channels)
    expected = np.frombuffer(pixels(0, channels, SIDE), np.uint8).reshape(channels, SIDE, SIDE)
    np.testing.assert_array_equal(shown.transpose(2, 0, 1), expected)


def test_a_series_is_a_line(context: FigureContext, own: Run) -> None:
    write_images(own, height=1)
    found = gallery(context, own)
    assert found is not None
    assert all(one.source is None for one in found.clean.pictures)
    heights = [float(p.split(",")[1]) for p in found.clean.pictures[0].line.split()]
    values = np.frombuffer(pixels(0, 1, 1), np.uint8).astype(float)
    assert len(heights) == SIDE
    assert np.argmax(values) == np.argmin(heights)
    assert min(heights) == 2
    assert max(heights) == 38


def test_a_corruption_goes_from_clean_to_severe(context: FigureContext, own: Run) -> None:
    write_images(own)
    found = gallery(context, own)
    assert found is not None
    assert [one.name for one in found.corrupted] == ["blur", "grey noise"]
    for strip in found.corrupted:
        assert [one.caption for one in strip.pictures] == ["clean", "1", "2", "3"]
    assert [(one.name, len(one.pictures)) for one in found.foreign] == [("letters", 4)]


def test_the_disputed_examples_are_those_of_most_mutual_information(
    context: FigureContext, own: Run
) -> None:
    write_images(own)
    found = gallery(context, own)
    assert found is not None
    lead = context.lead()
    _, trial, size = replicates_by_arm(own)[lead["arm"]][0]
    stored = predictions(own, trial, "test")
    logp = metrics.log_softmax(stored.logits[:size, :200])
    order = np.argsort(-metrics.mutual_information(logp), kind="stable")[:SHOWN]
    assert [one.picture.caption for one in found.disputed] == [f"class {n % 10}" for n in order]
    for dispute, n in zip(found.disputed, order, strict=True):
        ours, theirs = dispute.votes
        assert (ours.tag, len(ours.rows)) == (lead["tag"], size)
        assert len(theirs.rows) == lead["members"]
        np.testing.assert_allclose(np.array(ours.rows), np.exp(logp[:, n]), atol=0.006)


def test_a_run_without_images_has_no_such_section(context: FigureContext, own: Run) -> None:
    assert images(own) == []
    assert gallery(context, own) is None


def test_a_file_with_other_columns_is_one_line(own: Run) -> None:
    table = pa.table({"split": ["test"]}).replace_schema_metadata(
        {parquet_format.VERSION_KEY: str(parquet_format.VERSION)}
    )
    pq.write_table(table, Path(str(own.folder)) / "images.parquet")
    with pytest.raises(StudyError, match="columns must be those of IMAGES"):
        images(own)
