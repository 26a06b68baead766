"""A trial that is run again has the same predictions, or it is said what differs."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.commands.replay import replay
from study.errors import StudyError
from study.run_folder.store import CURVE, RunFolder
from study.trials.trial import run_trials


@pytest.fixture
def run(make_spec, data, tmp_path):
    """A run folder with two trials that were trained as one, and the second."""
    store = RunFolder(tmp_path / "run")
    store.create()
    params = {"members": 2, "init": "normal", "init_std": 0.5}
    specs = [make_spec("batch_ensemble", params, seed=n, replicate=n) for n in range(2)]
    run_trials(specs, data, store, fingerprint=data.fingerprint)
    return store, specs[1].trial


def test_what_nothing_happened_to_is_the_same(run, capsys):
    store, trial = run
    assert replay(store, trial, None) == 0
    assert "(batch_ensemble, confirm, complete): same predictions" in capsys.readouterr().out


def test_a_trial_from_before_there_were_curves_is_the_same(run, capsys):
    store, trial = run
    (store.folder(trial) / CURVE).unlink()
    assert replay(store, trial, None) == 0
    assert "same predictions" in capsys.readouterr().out


@pytest.mark.parametrize("deterministic", [False, True])
def test_on_a_gpu_bit_for_bit_is_claimed_of_deterministic_algorithms_alone(
    run, capsys, deterministic
):
    store, trial = run
    row = store.row(trial)
    store.commit(replace(row, device="NVIDIA H100", deterministic=deterministic))
    assert replay(store, trial, None) == 0
    said = capsys.readouterr().out
    assert ("bit for bit" in said) == deterministic
    assert ("resources.deterministic=true" in said) == (not deterministic)


def test_what_differs_is_named(run, capsys):
    store, trial = run
    file = store.folder(trial) / "test.parquet"
    table = pq.read_table(file)
    logits = table["logits"].combine_chunks().flatten().to_numpy() * np.float16(0)
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(logits), 10)
    at = table.schema.get_field_index("logits")
    pq.write_table(table.set_column(at, table.schema.field("logits"), zeros), file)
    (store.folder(trial) / "ood.parquet").unlink()
    assert replay(store, trial, None) == 1
    said = capsys.readouterr().out
    assert "test.parquet: logits differ by up to" in said
    assert "ood.parquet: only now" in said
    assert "shift.parquet" not in said
    assert said.endswith("complete): differs\n")


def test_a_trial_needs_those_that_it_was_trained_with(run):
    store, trial = run
    (other,) = set(store.committed()) - {trial}
    store.discard(other)
    with pytest.raises(StudyError, match=f"trial {other} was trained with it as one"):
        replay(store, trial, None)
