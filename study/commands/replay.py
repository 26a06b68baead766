"""``--replay TRIAL``: run one trial again and compare its predictions with the stored ones."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from study import datasets
from study.errors import StudyError
from study.parquet_format import TrialRow
from study.run_folder.paths import AnyPath, open_for_arrow
from study.run_folder.store import CURVE, GEOMETRY, ROW, RunFolder
from study.spec import Execution, TrialSpec
from study.trials.trial import run_trials


def replay(store: RunFolder, trial: str, root: Path | None) -> int:
    """Run ``trial`` again beside the run folder; return 0 if every file is the same, else 1."""
    row = store.row(trial)
    if row is None:
        known = len(store.rows())
        raise StudyError(f"--replay {trial}: no such trial among the {known} in {store.root}")
    torch.set_num_threads(1)
    specs = [_spec(store, own) for own in row.stack or [trial]]
    data = datasets.load(specs[0].dataset, root)
    with tempfile.TemporaryDirectory() as folder:
        again = RunFolder(folder)
        execution = Execution()
        if (study := store.read_json(store.study)) is not None:
            every = {"precision": study["precision"], **study["resources"]}
            execution = Execution(**{k: v for k, v in every.items() if k in Execution.model_fields})
        execution = execution.model_copy(update={"deterministic": bool(row.deterministic)})
        run_trials(specs, data, again, fingerprint=data.fingerprint, execution=execution)
        new = again.rows()[trial]
        different = _differences(store.folder(trial), again.folder(trial))
    for line in (*_provenance(row, new), *different):
        print(line)
    # On a GPU kernels that add up in any order may give the same numbers twice by chance alone.
    by_chance = {row.device, new.device} != {"cpu"} and not row.deterministic
    if by_chance:
        print(
            "it was trained on a GPU without resources.deterministic=true: there its numbers may "
            "differ from run to run"
        )
    same = "same predictions" if by_chance else "same predictions, bit for bit"
    verdict = "differs" if different else same if new.status == "complete" else new.reason
    print(f"trial {trial} ({row.method}, {row.stage}, {new.status}): {verdict}")
    return 1 if different else 0


def _spec(store: RunFolder, trial: str) -> TrialSpec:
    row = store.row(trial)
    if row is None:
        raise StudyError(
            f"--replay: trial {trial} was trained with it as one, but has no row in {store.root}; "
            "give the command that made the run again, which completes it"
        )
    return TrialSpec.model_validate_json(row.spec)


def _provenance(old: TrialRow, new: TrialRow) -> list[str]:
    """Say what differs in data, code, versions and device."""
    names = ("data", "commit", "versions", "device", "pieces", "status")
    pairs = ((name, getattr(old, name), getattr(new, name)) for name in names)
    return [f"{name}: {then} then, {now} now" for name, then, now in pairs if then != now]


def _differences(old: AnyPath, new: AnyPath) -> list[str]:
    """Compare every predictions file of two trial folders."""
    files = [*old.glob("*.parquet"), *new.glob("*.parquet")]
    names = {file.name for file in files} - {ROW}
    if not (old / CURVE).exists():  # Runs of before there were any have none.
        names -= {CURVE}
    lines = []
    for name in sorted(names):
        if not (old / name).exists() or not (new / name).exists():
            lines.append(f"{name}: only {'now' if (new / name).exists() else 'then'}")
        else:
            try:
                then = pq.read_table(open_for_arrow(old / name), page_checksum_verification=True)
            except (OSError, pa.ArrowException) as error:
                lines.append(f"{name}: cannot be read ({' '.join(str(error).split())})")
                continue
            if not then.equals(pq.read_table(open_for_arrow(new / name))):
                how = "differs" if name in (GEOMETRY, CURVE) else _largest(old / name, new / name)
                lines.append(f"{name}: {how}")
    return lines


def _largest(old: AnyPath, new: AnyPath) -> str:
    then, now = (
        pq.read_table(open_for_arrow(p), columns=["logits"])["logits"]
        .combine_chunks()
        .flatten()
        .to_numpy()
        for p in (old, new)
    )
    if then.shape != now.shape:
        return f"{len(then)} logits then, {len(now)} now"
    return f"logits differ by up to {abs(then.astype('f8') - now.astype('f8')).max():.3g}"
