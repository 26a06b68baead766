"""From a search space to a verdict, against the script that a user would write.

``python -m benchmarks.time_to_verdict`` runs a whole study of 100 trials, search and confirmation,
with this project and with :mod:`benchmarks.plain_study` (torch-uncertainty, Lightning, Ray Tune
with OptunaSearch), in turns on the same slots, and then single trials of both in one process. Both
sides train the same networks on the same data for the same epochs and store every member's logits.
Prints the ratios (above 1: ours is faster) by CPU seconds, of all processes, and by the clock, and
where the time goes; writes ``runs/time_to_verdict.json``. Linux only; needs the ``test`` extra
(``pip install -e ".[test]"``).

This project does more in that time: it also searches by constraint, keeps learning curves, the
geometry of members and their controls, and writes a report.
"""

import argparse
import itertools
import json
import tempfile
import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch

try:
    from benchmarks import plain_study
except ImportError as error:
    raise SystemExit(f'{error.name} is not installed; run: pip install -e ".[test]"') from None
from benchmarks.training import Setting
from benchmarks.watched_study import Took, of_rows, took, watched
from study import datasets
from study.cluster.worker import keep_freed_memory
from study.datasets import Dataset
from study.parquet_format import Stage
from study.run_folder.paths import local_path
from study.run_folder.store import RunFolder
from study.space.settings import Study
from study.training.batches import channel_statistics
from study.trials.trial import run_trials

SPACE: Final[dict[str, Any]] = {
    "name": "small",
    "dataset": {"name": "mnist1d", "ood_size": 500},
    "budget": {
        "trials": plain_study.TRIALS,
        "generation": 5,
        "rescore": plain_study.RESCORED,
        "rescore_seeds": 1,
    },
    "protocol": {"seeds": plain_study.SEEDS, "shortlist": 1, "anchors": "tuned"},
    "resources": {"concurrency": plain_study.SLOTS},
    "method": "batch_ensemble",
    "fixed": {
        "backbone": {"name": "mlp", "depth": 2, "width": plain_study.WIDTH, "dropout": 0.0},
        "training": {"epochs": plain_study.EPOCHS, "batch_size": plain_study.BATCH},
        "params": {
            "members": plain_study.MEMBERS,
            "init": "normal",
            "init_std": 0.5,
            "bias": "random",
        },
    },
    "search": {
        "training": {
            "lr": {"float": [3e-2, 1.0], "log": True},
            "weight_decay": {"float": [1e-6, 1e-2], "log": True},
        }
    },
}
PEERS: Final = ("torch-uncertainty", "lightning", "ray", "optuna", "torch")
LIBRARIES: Final = "torch-uncertainty, Lightning, Ray Tune"


def ours(space: Path, folder: Path) -> Took:
    """Run the study with this project."""
    out = folder / "ours"
    _, *run = watched(["-m", "study.run", "--space", str(space), "--out", str(out)])
    return of_rows(tuple(run), list(RunFolder(out).rows().values()), plain_study.SLOTS)


def theirs(folder: Path, data: dict[str, np.ndarray]) -> Took:
    """Run the plain study."""
    file, out = folder / "data.npz", folder / "theirs"
    out.mkdir()
    np.savez(file, **data)
    output, *run = watched(["-m", "benchmarks.plain_study", str(file), str(out)])
    trials = json.loads(output.splitlines()[-1])
    first, last = min(t[0] for t in trials), max(t[1] for t in trials)
    return took(
        tuple(run),
        [(end - start, fit) for start, end, fit in trials],
        first,
        last,
        plain_study.SLOTS,
    )


def arrays(data: Dataset) -> dict[str, np.ndarray]:
    """Return what the plain study reads: standardised examples, flat, and classes."""
    mean, std = (float(v) for v in channel_statistics(data.train[0]))

    def flat(images: np.ndarray) -> np.ndarray:
        return (images.reshape(len(images), -1).astype(np.float32) - mean) / std

    splits = {"train": data.train, "val": data.val, "test": data.test}
    splits["shift"] = data.shift.images, data.shift.labels
    found = {f"{split}_x": flat(images) for split, (images, _) in splits.items()}
    found |= {f"{split}_y": labels for split, (_, labels) in splits.items()}
    return found | {"ood_x": np.concatenate([flat(images) for images in data.ood.values()])}


def whole_trials(study: Study, data: Dataset, folder: Path, rounds: int) -> None:
    """Print the ratios of trials in one process: train, predict, store.

    Ours are replicates of one configuration as a study hands them to a worker: ten at a time in
    the confirm stage, which counts as ten of the peer's.
    """
    setting, plain, fingerprint = (
        Setting(rounds, torch.device("cpu")),
        arrays(data),
        data.fingerprint,
    )
    values = {"lr": 0.1, "weight_decay": 1e-4}
    configuration = study.configuration(
        "batch_ensemble", {f"training.{name}": value for name, value in values.items()}
    )
    store = RunFolder(folder / "trials")
    store.create()
    seeds = itertools.count()

    def own(stage: Stage, many: int) -> None:
        specs = [
            configuration.trial_of("candidate", stage, number, next(seeds))
            for number in range(many)
        ]
        run_trials(specs, data, store, fingerprint=fingerprint)

    def other(stage: Stage, how: plain_study.How) -> None:
        job = {"kind": "batch_ensemble", "seed": next(seeds), "confirm": stage == "confirm"}
        plain_study.trial(values | job | {"out": str(folder)}, plain, how)

    stages: dict[Stage, int] = {"search": 1, "confirm": plain_study.SEEDS}
    for stage, many in stages.items():
        peers = {f"Lightning, {how}": partial(other, stage, how) for how in plain_study.HOW}
        what = f"a BatchEnsemble's {stage} trial"
        for ratio in setting.compare(what, partial(own, stage, many), peers):
            low, mid, high = (f"{many * r:.2f}" for r in (ratio.low, ratio.median, ratio.high))
            print(f"| {what} | {ratio.against} | {mid} | {low} to {high} |", flush=True)


def line(side: str, took: Took) -> str:
    """Return a study as a row of the table."""
    slots = took.fit + took.rest + took.idle
    shares = (f"{part / slots:.0%}" for part in (took.fit, took.rest, took.idle))
    seconds = (f"{part:.1f}" for part in (took.wall, took.cpu, took.start_up, took.closing))
    return f"| {side} | {took.trials} | {' | '.join([*seconds, *shares])} |"


def whole_studies(space: Path, data: dict[str, np.ndarray], rounds: int) -> list[tuple[Took, Took]]:
    """Run the study on both sides in turns, and print what it took and the ratios."""
    print("| a study | trials | s | CPU s | start-up s | closing s | fit | rest | idle |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            own = ours(space, Path(name))
            print(line("this project", own), flush=True)
            other = theirs(Path(name), data)
            print(line(LIBRARIES, other), flush=True)
        found.append((own, other))
    print("\n| what | against | ratio | least to most |\n| --- | --- | --- | --- |")
    for of in ("cpu", "wall"):
        ratios = [getattr(other, of) / getattr(own, of) for own, other in found]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| a study, {of} | {LIBRARIES} | {median(ratios):.2f} | {spread} |", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the tables and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_verdict")
    parser.add_argument("--rounds", type=int, default=3, help="of whole studies (default 3)")
    parser.add_argument("--out", type=local_path, default=Path("runs/time_to_verdict.json"))
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # Those of the peers are their own.
    torch.set_num_threads(1)
    keep_freed_memory()
    plain_study.be_quiet()
    versions = ", ".join(f"{name} {version(name)}" for name in PEERS)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {versions}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        space = Path(name, "small.yaml")
        space.write_text(json.dumps(SPACE))
        study = Study.from_yaml(space)
        data = datasets.load(study.dataset)
        rounds = whole_studies(space, arrays(data), arguments.rounds)
        whole_trials(study, data, Path(name), 2 * arguments.rounds + 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found = [{"ours": asdict(own), "theirs": asdict(other)} for own, other in rounds]
    arguments.out.write_text(json.dumps({"versions": versions, "rounds": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
