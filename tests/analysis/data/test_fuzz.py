"""Whatever stands in files of predictions: the same numbers, or one line; metrics never raise."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import metrics
from analysis.data.external import load_predictions
from analysis.measures.measure import Measures, measure
from study.errors import StudyError
from tests.analysis.make_predictions import ARMS, make_predictions
from tests.analysis.make_run import Data

ARM = {name: ARMS[name] for name in ("single", "deep_ensemble", "escaping")}
DATA = Data(test=40, shift=8, ood=6, classes=3, severities=2)
SPLITS = ("test", "shift", "ood")
quick = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=4),
    st.integers(-(2**40), 2**40),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308, -1.5]),
    st.lists(st.floats(), max_size=4),
    st.binary(max_size=4),
)
COLUMNS = ["member", "example", "label", "condition", "severity", "logits"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fuzz") / "sound"
    return make_predictions(place, ARM, seeds=2, data=DATA, splits=SPLITS)


@pytest.fixture(scope="module")
def right(sound: Path) -> Measures:
    return measured(sound)


@pytest.fixture
def folder(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(sound, tmp_path_factory.mktemp("damaged") / "given")


def measured(folder: Path) -> Measures:
    return measure(load_predictions(folder), workers=1)


def refusal(folder: Path, file: Path) -> str | None:
    """Return the line with which a folder is refused, None if it is not."""
    said = None
    try:
        measured(folder)
    except StudyError as error:
        said = str(error)
    if said is not None:
        assert "\n" not in said
        assert str(file.parent.parent) in said
    return said


def same(one: Measures, other: Measures) -> None:
    for name, frame in vars(other).items():
        if isinstance(frame, pl.DataFrame):
            assert frame.equals(getattr(one, name), null_equal=True), name


@contextmanager
def one_of(folder: Path, data: Any) -> Iterator[Path]:
    """Draw a file, and put it back for the next example."""
    file: Path = data.draw(st.sampled_from(sorted(folder.rglob("*.parquet"))))
    whole = file.read_bytes()
    try:
        yield file
    finally:
        file.write_bytes(whole)


@quick
@given(data=st.data())
def test_rows_in_any_order_give_the_same_numbers(folder, right, data):
    with one_of(folder, data) as file:
        frame = pl.read_parquet(file)
        frame = frame.sample(fraction=1, shuffle=True, seed=data.draw(st.integers(0, 99)))
        columns = data.draw(st.permutations(frame.columns))
        frame.select(columns).write_parquet(file, row_group_size=data.draw(st.integers(1, 50)))
        same(measured(folder), right)


@quick
@given(data=st.data())
def test_rows_that_are_missing_or_doubled_are_refused(folder, data):
    with one_of(folder, data) as file:
        frame = pl.read_parquet(file)
        kept = data.draw(st.lists(st.booleans(), min_size=len(frame), max_size=len(frame)))
        few = frame.filter(kept)
        changed = few if data.draw(st.booleans()) else pl.concat([frame, few])
        changed.write_parquet(file)
        assert (refusal(folder, file) is None) == (len(changed) == len(frame))


@quick
@given(data=st.data())
def test_a_value_that_cannot_be_is_refused(folder, data):
    with one_of(folder, data) as file:
        frame = pl.read_parquet(file)
        column = data.draw(st.sampled_from(frame.columns))
        row = data.draw(st.integers(0, len(frame) - 1))
        old: Any = frame[column].to_list()
        new = [*old[:row], data.draw(ODD), *old[row + 1 :]]
        try:
            changed = pl.Series(column, new, strict=True)
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            return  # No column can hold that.
        frame.with_columns(changed).write_parquet(file)
        if changed.dtype != frame[column].dtype or new[row] != old[row]:
            assert refusal(folder, file) is not None


@quick
@given(data=st.data())
def test_a_column_of_another_kind_is_refused(folder, data):
    with one_of(folder, data) as file:
        frame = pl.read_parquet(file)
        column = data.draw(st.sampled_from(frame.columns))
        changed = data.draw(
            st.sampled_from(
                [
                    frame.drop(column),
                    frame.rename({column: column.upper()}),
                    frame.with_columns(pl.lit(data.draw(ODD)).alias(column)),
                    frame.with_columns(pl.lit(None).alias(column)),
                    frame.with_columns(pl.Series(column, map(str, frame[column].to_list()))),
                ]
            )
        )
        changed.write_parquet(file)
        if not changed.equals(frame):
            assert refusal(folder, file) is not None


@quick
@given(data=st.data())
def test_damaged_bytes_give_the_same_numbers_or_one_line(folder, data):
    with one_of(folder, data) as file:
        whole = file.read_bytes()
        start = data.draw(st.integers(0, len(whole) - 1))
        end = data.draw(st.integers(start, len(whole)))
        file.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])
        refusal(folder, file)


NUMBER = st.one_of(
    st.floats(-50, 50), st.sampled_from([0.0, -0.0, 1e-300, 700.0, -700.0, 1e30, -1e30])
)


@settings(deadline=None, derandomize=True)
@given(data=st.data())
def test_metrics_of_any_logits_are_in_their_range(data):
    m, n, c = (data.draw(st.integers(1, most)) for most in (3, 5, 4))
    many = data.draw(st.lists(NUMBER, min_size=m * n * c, max_size=m * n * c))
    y = np.array(data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)))
    logp = metrics.log_softmax(np.array(many).reshape(m, n, c))
    logq = metrics.ensemble(logp)
    assert np.isfinite(logp).all()
    np.testing.assert_allclose(np.exp(logq).sum(-1), 1, rtol=1e-9)
    assert metrics.nll(logq, y) >= 0
    assert metrics.gain(logp, y) >= -1e-9
    assert metrics.nll(logq, y) <= metrics.member_nll(logp, y) + 1e-9 * abs(metrics.nll(logq, y))
    assert 0 <= metrics.accuracy(logq, y) <= 1
    assert 0 <= metrics.brier(logq, y) <= 2
    for error in (metrics.ece, metrics.adaptive_ece, metrics.classwise_ece):
        assert -1e-12 <= error(logq, y) <= 1 + 1e-12
    for risk in (metrics.aurc, metrics.augrc):
        assert 0 <= risk(metrics.entropy(logq), logq.argmax(-1) != y) <= 1
    if n > 1:
        assert metrics.cll(logq, y) >= 0
    if m > 1:
        assert 0 <= metrics.disagreement(logp.argmax(-1), c) <= 1
        assert -1e-12 <= metrics.pairwise_js(logp) <= np.log(2) + 1e-12
        assert metrics.pairwise_kl(logp) >= -1e-9
    assert (metrics.mutual_information(logp) >= -1e-9).all()
    entropy = metrics.predictive_entropy(logq)
    assert ((entropy >= -1e-12) & (entropy <= np.log(c) + 1e-9)).all()
    for area in (metrics.auroc, metrics.aupr):
        assert 0 <= area(entropy, entropy[:1]) <= 1 + 1e-12
