"""What all tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from tests import leftovers
from tests.object_store import ObjectStore, serve
from tests.running import Finished, finish, start

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.register_assert_rewrite("tests.clusters")  # Its helpers check as well as its tests.
# Ray's workers are nice to all else, and so starve beside the processes of other tests.
os.environ.setdefault("RAY_worker_niceness", "0")
torch.set_num_threads(1)  # the networks here are too small to gain from more
settings.register_profile("thorough", max_examples=150)  # for `make test-all`
settings.register_profile("quick", max_examples=40)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    """Have what the tests start cleared up; once, where they run in several processes."""
    if sys.platform == "linux" and not hasattr(config, "workerinput"):
        watcher = leftovers.watch()
        config.add_cleanup(lambda: leftovers.end(watcher))


TOGETHER = {
    "clusters": tuple(f"tests/clusters/test_{name}.py" for name in ("local", "slurm")),
    "more clusters": tuple(f"tests/clusters/test_{name}.py" for name in ("gpu", "jobs", "nodes")),
    "run": ("tests/test_run.py", "tests/test_database.py", "tests/study/stages/test_pilot.py"),
    "read": (
        "tests/test_readme.py",
        "tests/analysis/report/test_browser.py",
        "tests/analysis/report/test_side_by_side.py",
        "tests/analysis/report/test_missing_trials.py",
        "tests/analysis/test_publication.py",
    ),
    "disturbed": ("tests/test_object_store.py", "tests/test_chaos.py"),
    "metrics": tuple(
        f"tests/analysis/metrics/test_{name}.py"
        for name in (
            *("accuracy_and_brier", "calibration", "detection", "diversity", "selective"),
            "uncertainty",
        )
    ),
    "card": ("tests/study/trials/test_on_a_card.py",),
    "planted": ("tests/test_planted_truth.py",),
}
"""Files whose tests run in one process, in the order in which processes take them: those that take
longest come first; those that would only wait for each other at once, or import the same large
library, are together."""
GROUPS = {file: group for group, files in TOGETHER.items() for file in files}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that no process is left alone with them."""
    order = [*TOGETHER, None]
    items.sort(key=lambda item: order.index(GROUPS.get(item.nodeid.partition("::")[0])))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file's tests in one process, and the files of a group in the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return GROUPS.get(file, file)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A real study of the smoke space, logged to TensorBoard; for tests that only read it.

    Where tests run in several processes, the first that asks for it makes it for all.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    out, said = folder / "run", folder / "printed.txt"
    with FileLock(folder.with_suffix(".lock")):
        if not said.exists():
            (folder / "analysis").mkdir(parents=True)
            code, printed = finish(start(out, "--log", "tensorboard"))
            assert code == 0, printed
            said.write_text(printed)
    return Finished(out, said.read_text())


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """A real browser, for tests of pages."""
    from tests.analysis.browser import browser

    with browser() as found:
        yield found


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
