"""Whatever stands in a file, the user sees a study or one line."""

import contextlib
import copy
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.errors import StudyError
from study.run_folder.integrity import examine
from study.run_folder.store import ROW, RunFolder
from study.space.load import load_study
from study.space.settings import Study
from study.trials.trial import run_trials

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
EXTREME = st.sampled_from([0, -1, 2**70, 1e308, float("nan"), float("inf"), "", " ", "../..", "~"])
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), EXTREME)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
quick = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def places(value, path=()):
    """Yield the path of every part of a nested value."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


def in_one_line(file):
    """Load a space; what it refuses, it refuses in one line that names the file."""
    refused = None
    try:
        assert isinstance(load_study([file]), Study)
    except StudyError as error:
        refused = str(error)
    if refused is not None:
        assert "\n" not in refused
        assert file.name in refused


@quick
@given(data=st.data())
def test_a_space_with_a_part_replaced(tmp_path, data):
    document = yaml.safe_load(data.draw(st.sampled_from(SPACES), "space").read_text())
    path = data.draw(st.sampled_from(list(places(document))), "place")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(replaced(document, path, data.draw(VALUE, "value"))))
    in_one_line(file)


@quick
@given(data=st.data())
def test_a_space_with_a_piece_of_text_replaced(tmp_path, data):
    text = data.draw(st.sampled_from(SPACES), "space").read_text()
    start = data.draw(st.integers(0, len(text)), "start")
    end = data.draw(st.integers(start, min(len(text), start + 40)), "end")
    file = tmp_path / "mine.yaml"
    file.write_text(text[:start] + data.draw(st.text(max_size=20), "text") + text[end:])
    in_one_line(file)


@quick
@given(content=st.binary(max_size=200))
def test_a_space_of_any_bytes(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    in_one_line(file)


@quick
@given(draw=st.data())
def test_a_damaged_trial_is_never_taken_for_sound(tmp_path_factory, make_spec, data, draw):
    store = RunFolder(tmp_path_factory.mktemp("run") / "run")
    store.create()
    spec = make_spec("single", stage="search")
    run_trials([spec], data, store, fingerprint=data.fingerprint)
    path = store.folder(spec.trial) / draw.draw(st.sampled_from([ROW, "val.parquet"]), "file")
    whole = path.read_bytes()
    start = draw.draw(st.integers(0, len(whole) - 1), "start")
    end = draw.draw(st.integers(start, len(whole)), "end")
    path.write_bytes(whole[:start] + draw.draw(st.binary(max_size=8), "bytes") + whole[end:])
    rows, damaged = {}, {spec.trial: "of another release"}
    with contextlib.suppress(StudyError):
        rows, damaged = examine(store)
    if path.read_bytes() == whole:
        assert not damaged
    elif path.name != ROW:
        assert list(damaged) == [spec.trial]
    assert len(rows) + len(damaged) == 1
