"""One simulated study for all tests that only read it."""

from pathlib import Path

import pytest

from analysis.data.run import Run, load
from analysis.measures.measure import Measures, measure
from tests.analysis.make_run import make_run


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("study"), seeds=6, search=6)


@pytest.fixture(scope="session")
def run(study: Path) -> Run:
    return load(study)


@pytest.fixture(scope="session")
def measures(run: Run) -> Measures:
    return measure(run)
