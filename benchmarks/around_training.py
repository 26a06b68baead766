"""What a study costs besides training: a budget for each part, as a share of the default study.

``python -m benchmarks.around_training`` runs ``search_spaces/be.yaml``, then some jobs of each of
its kinds again in this process with a timer around every part, and prints each part's share of the
whole. A part above its budget is marked, and the exit status is then 1. With ``--run DIR`` the
study is one that is there, and the parts around its trials are left out. Linux only; needs the
``test`` extra.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.watched_study import Took, of_rows, watched
from study import datasets
from study.cluster.worker import keep_freed_memory
from study.diagnostics.curve import Curve
from study.diagnostics.weight_trajectory import Trajectory
from study.parquet_format import TrialRow
from study.run_folder.paths import local_path
from study.run_folder.store import RunFolder
from study.spec import TrialSpec
from study.trials import evaluation, trial

SPACE: Final = Path(__file__).parents[1] / "search_spaces" / "be.yaml"
SLOTS: Final = 2
"""Trials of it at a time."""
BUDGET: Final = 0.05
"""Share of the study that a part may take."""
TRAINING: Final = "training"
PARTS: Final = (
    (trial, "fit", TRAINING),
    (trial, "flops", "FLOPs and size"),
    (trial, "size", "FLOPs and size"),
    (Curve, "record", "learning curve"),
    (Trajectory, "record", "geometry along the training"),
    (evaluation, "network_rows", "loss barriers and CKA"),
    (evaluation, "evidence_rows", "evidence"),
    (evaluation, "_controls", "controls"),
    (evaluation, "objectives", "predictions"),
    (evaluation, "nll", "predictions"),
    (RunFolder, "_write", "files"),
    (RunFolder, "commit", "commit"),
)
"""Functions of a trial, where they are looked up, and the part that each is."""


class Timer:
    """CPU seconds by part; what a part calls that is another part counts as that one alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inside: list[str] = ["the rest of a trial"]
        self.since = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count as ``name`` what is done inside."""
        self._count()
        self.inside.append(name)
        try:
            yield
        finally:
            self._count()
            self.inside.pop()

    def _count(self) -> None:
        now = time.process_time()
        self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    @contextmanager
    def around(self, owner: Any, name: str, part: Callable[..., str]) -> Iterator[None]:
        """Count every call of a function as the part that its arguments tell."""
        original = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            with self.part(part(*args)):
                return original(*args, **options)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, original)


@dataclass(frozen=True)
class Kind:
    """Trials of one kind: stage, role and method."""

    stage: str
    role: str
    method: str


def jobs_by_kind(rows: dict[str, TrialRow]) -> dict[Kind, list[list[TrialSpec]]]:
    """Return the jobs of a study, each with the trials that were trained as one."""
    found: dict[Kind, dict[tuple[str, ...], list[TrialSpec]]] = {}
    for row in sorted(rows.values(), key=lambda row: row.finished):
        stack = row.stack or (row.trial,)
        specs = [TrialSpec.model_validate_json(rows[name].spec) for name in stack]
        found.setdefault(Kind(row.stage, row.role, row.method), {})[stack] = specs
    return {kind: list(jobs.values()) for kind, jobs in found.items()}


def seconds_by_part(rows: dict[str, TrialRow], most: int) -> Counter[str]:
    """Return the CPU seconds of the study's trials by part, of each kind from ``most`` jobs."""
    total: Counter[str] = Counter()
    kinds = jobs_by_kind(rows)
    data = datasets.load(next(iter(kinds.values()))[0][0].dataset)
    fingerprint = data.fingerprint
    with tempfile.TemporaryDirectory() as name:
        store = RunFolder(name)
        store.create()
        for kind, jobs in kinds.items():
            some = jobs[:: -(-len(jobs) // most)]
            timer = Timer()
            with ExitStack() as timed:
                _time_parts(timer, timed)
                for specs in some:
                    trial.run_trials(specs, data, store, fingerprint=fingerprint)
            scale = sum(map(len, jobs)) / sum(map(len, some))
            total += Counter({part: scale * s for part, s in timer.seconds.items()})
            what = f"{kind.stage}, {kind.role}, {kind.method}"
            print(f"{what}: {len(some)} of {len(jobs)} jobs", flush=True)
    return total


def _time_parts(timer: Timer, timed: ExitStack) -> None:
    """Put the timer around every part, until ``timed`` ends."""
    trained: list[Any] = []

    def of_prediction(method: Any, *_: Any) -> str:
        return "predictions" if method in trained else "controls"

    def of_evaluation(run: Any, *_: Any) -> str:
        trained[:] = [run.method]
        return "the rest of a trial"

    for owner, name, part in PARTS:
        timed.enter_context(timer.around(owner, name, lambda *_, part=part: part))
    timed.enter_context(timer.around(evaluation, "predict", of_prediction))
    timed.enter_context(timer.around(trial, "evaluate", of_evaluation))


def shares(took: Took | None, parts: Counter[str]) -> dict[str, float]:
    """Return each part's share of a study: of its slots' time from its start to its end."""
    inside = parts.total()
    if took is None:
        return {part: seconds / inside for part, seconds in parts.items()}
    slots = took.fit + took.rest + took.idle
    busy = (1 - took.idle / slots) * (1 - (took.start_up + took.closing) / took.wall)
    around = {
        "start-up to the first trial": took.start_up / took.wall,
        "verdict and report": took.closing / took.wall,
        "slots between trials": (1 - took.start_up / took.wall - took.closing / took.wall) - busy,
    }
    return around | {part: busy * seconds / inside for part, seconds in parts.items()}


def default_study(folder: Path) -> tuple[Took, dict[str, TrialRow]]:
    """Run the default study; return what it took, and its rows."""
    out = folder / "be"
    command = ["-m", "study.run", "--space", str(SPACE), "--out", str(out)]
    _, *run = watched([*command, "--set", f"resources.concurrency={SLOTS}"])
    rows = RunFolder(out).rows()
    return of_rows(tuple(run), list(rows.values()), SLOTS), rows


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.around_training")
    parser.add_argument("--run", type=local_path, help="a finished default study (default: run it)")
    parser.add_argument("--jobs", type=int, default=3, help="of each kind (default 3)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    took = None
    if arguments.run:
        rows = RunFolder(arguments.run).rows()
    else:
        with tempfile.TemporaryDirectory() as name:
            took, rows = default_study(Path(name))
    found = shares(took, seconds_by_part(rows, arguments.jobs))
    print("\n| part | share | budget |\n| --- | --- | --- |")
    over = 0
    for part, share in sorted(found.items(), key=lambda item: -item[1]):
        allowed = "" if part == TRAINING else f"{BUDGET:.0%}{' (over)' * (share > BUDGET)}"
        over += "over" in allowed
        print(f"| {part} | {share:.1%} | {allowed} |")
    return int(over > 0)


if __name__ == "__main__":
    raise SystemExit(main())
