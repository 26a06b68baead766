"""Deterministic algorithms are required where that is asked for, and nowhere else."""

import os

import pytest
import torch

from study.cluster import worker
from study.errors import StudyError
from study.run_folder.store import RunFolder
from study.spec import Execution
from study.training.determinism import CUBLAS, FIXED, deterministic
from study.trials.trial import run_trials


@pytest.fixture(autouse=True)
def workspace(monkeypatch):
    monkeypatch.setenv(CUBLAS, "")


def flags():
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


def test_what_has_no_deterministic_algorithm_is_refused_within_alone():
    before, x = flags(), torch.zeros(3)
    with deterministic(True):
        assert flags() == (True, True, False)
        assert os.environ[CUBLAS] == FIXED[0]
        with pytest.raises(RuntimeError, match="deterministic"):
            x.put_(torch.tensor([0]), torch.ones(1))
    assert flags() == before
    with deterministic(False):
        assert flags() == before
        x.put_(torch.tensor([0]), torch.ones(1))


def test_after_cuda_has_started_it_is_too_late(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(StudyError, match=f"{CUBLAS} must be :4096:8"), deterministic(True):
        pass
    monkeypatch.setenv(CUBLAS, FIXED[1])
    with deterministic(True):
        assert os.environ[CUBLAS] == FIXED[1]


def test_a_worker_prepares_cublas_before_cuda_starts(make_spec, tmp_path, monkeypatch):
    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(worker, "time_limit", stop)
    config = {"specs": [make_spec().to_json()], "out": str(tmp_path), "hours": 1.0, "gpus": 1}
    for required, expected in ((False, ""), (True, FIXED[0])):
        config["execution"] = {"deterministic": required}
        with pytest.raises(InterruptedError):
            worker.trainable(config, data=None)
        assert os.environ[CUBLAS] == expected


def test_a_trial_is_trained_so_and_says_it(make_spec, data, tmp_path):
    spec = make_spec("batch_ensemble", {"members": 2, "init": "normal", "init_std": 0.5})
    rows = []
    for required in (False, True):
        store, seen = RunFolder(tmp_path / str(required)), []
        (row,) = run_trials(
            [spec],
            data,
            store,
            fingerprint=data.fingerprint,
            execution=Execution(deterministic=required),
            on_epoch=lambda _, seen=seen: seen.append(flags()[0]),
        )
        assert seen == [required, required]
        assert row.deterministic is required is store.row(spec.trial).deterministic
        rows.append((row.status, row.val_nll))
    assert rows[0] == rows[1]
