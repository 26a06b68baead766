"""What longer training alone would give: ``python -m benchmarks.longer_single``.

    python -m benchmarks.longer_single mnist --data-root DATA

Arms are compared at equal epochs, at which an ensemble of M members is trained with up to M times
the compute of the single network. Here the tuned single network of a published study is trained for
2 to M times its epochs as well, M being the largest ensemble on the shortlist, on fresh seeds, and
placed between that study's anchors: 0 is the single network at the epochs of the study, 1 its Deep
Ensemble of M. Its other values are not tuned again for the longer training. Intervals are
Fieller's, at 90 %. Writes ``longer_single.csv`` beside the study.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from analysis.data.files import write
from analysis.data.protocol import ENDPOINTS
from analysis.data.roles import arm_key, ensemble_key
from analysis.data.run import load
from analysis.measures.measure import measure
from analysis.publication import RESULTS, read_frame
from analysis.stats.contrasts import Recovery, fieller, summary
from study import datasets
from study.errors import StudyError
from study.run_folder.paths import local_path
from study.run_folder.store import RunFolder
from study.spec import Configuration, TrialSpec, derive_seed
from study.stages.plan import read
from study.trials.trial import run_trials

FILE: Final = "longer_single.csv"
LEVEL: Final = 0.90
LOSSES: Final = frozenset(
    key for key, endpoint in ENDPOINTS.items() if endpoint.kind == "performance"
)
"""Endpoints that a single network has: it gains nothing from averaging."""


def longer_single(folder: Path, root: Path | None, seeds: int) -> pl.DataFrame:
    """Train the tuned single network of a published study for longer, and place it.

    Args:
        folder: Of ``analysis/results``.
        root: Folder with the raw files of the data set.
        seeds: Networks for each number of epochs.

    Returns:
        endpoint, times (how often the study's epochs), epochs, seeds, mean (nats), recovery, low,
        high.

    Raises:
        StudyError: When the study or its data are not there.
    """
    plan = read(RunFolder(folder))
    if plan is None:
        raise StudyError(f"{folder}: must be a published study, but has no plan.json")
    (single,) = (arm.spec for arm in plan.arms if arm.role == "single")
    members = max(arm.spec.members for arm in plan.arms if arm.role == "candidate")
    longer = {times: _times(single, times) for times in _doublings(members)}
    dataset = datasets.load(single.dataset, root)
    with tempfile.TemporaryDirectory() as place:
        store = RunFolder(place)
        store.create()
        for one in longer.values():
            run_trials(_trials(one, seeds), dataset, store, fingerprint=dataset.fingerprint)
        found = measure(load(place)).replicates
    published = read_frame(folder, "replicates")
    anchors = [
        published.filter(arm=key) for key in ("single", ensemble_key("deep_ensemble", members))
    ]
    rows = []
    for key in (key for key in plan.protocol.endpoints if key in LOSSES):
        start, end = (summary(frame[key].to_numpy()) for frame in anchors)
        for times, one in longer.items():
            arm = found.filter(arm=arm_key("matched_single", one.configuration))
            placed = Recovery(start, summary(arm[key].to_numpy()), end)
            about = (key, times, one.training.epochs, placed.arm.n, placed.arm.mean)
            rows.append((*about, placed.recovery, *fieller(placed, LEVEL)))
    columns = ("endpoint", "times", "epochs", "seeds", "mean", "recovery", "low", "high")
    return pl.DataFrame(rows, schema=columns, orient="row")


def _doublings(members: int) -> list[int]:
    """Return 1, 2, 4, ... below the number of members, and that number."""
    return sorted({*(2**n for n in range(members.bit_length()) if 2**n < members), members})


def _times(single: Configuration, times: int) -> Configuration:
    training = single.training.model_copy(update={"epochs": single.training.epochs * times})
    return single.model_copy(update={"training": training})


def _trials(one: Configuration, seeds: int) -> list[TrialSpec]:
    """Return one trial per seed, which no trial of a study shares."""
    roots = (derive_seed("longer single", one.configuration, n) for n in range(seeds))
    return [one.trial_of("matched_single", "confirm", n, seed) for n, seed in enumerate(roots)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, place and write; return the exit status."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.longer_single",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("study", help="its folder in analysis/results")
    found.add_argument(
        "--data-root", type=local_path, metavar="FOLDER", help="raw files of image sets"
    )
    found.add_argument(
        "--seeds", type=int, default=20, help="networks for each length (%(default)s)"
    )
    given = found.parse_args(arguments)
    folder = RESULTS / given.study
    try:
        table = longer_single(folder, given.data_root, given.seeds)
        write(folder / FILE, table.write_csv(float_precision=4))
    except (StudyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
