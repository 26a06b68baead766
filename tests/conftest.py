"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.object_store import ObjectStore, serve

torch.set_num_threads(1)  # the networks here are too small to gain from more


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the real image sets, named by STUDY_DATA_ROOT; without it the test is skipped."""
    root = os.environ.get("STUDY_DATA_ROOT")
    if not root:
        pytest.skip("STUDY_DATA_ROOT names no folder with the real image sets")
    return Path(root)


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """A real S3 endpoint on loopback, with which this process, and those it starts, can talk."""
    with serve() as store:
        before = os.environ.copy()
        os.environ.update(store.env())
        yield store
        os.environ.clear()
        os.environ.update(before)
