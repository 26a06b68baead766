"""Write a real run folder with simulated logits: trial rows, predictions, plan.

Noise model. An example's label, difficulty and noise direction are the same for every trial (the
data). Each run draws a scale of its own and one noise vector per example; each member draws
another. A member's logits are signal + spread * (sqrt(1-d) * run's noise + sqrt(d) * its own).
So *diversity* d = 0 gives members that are identical (recovery 0, in law the single model) and
d = 1 independent members (recovery 1, in law the Deep Ensemble). *quality* scales the noise of a
bad (above 1) or good (below 1) method at the same diversity.

As a script: ``python -m tests.analysis.make_run FOLDER [--seeds N]``.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from study import parquet_format
from study.spec import SETTINGS, canonical, derive_seed, digest

PROTOCOL: dict[str, Any] = {
    "delta": 0.25,
    "alpha": 0.05,
    "endpoints": ["cll", "shift_nll", "gain"],
    "seeds": 20,
    "shortlist": 8,
    "sensitivity": [0.15, 0.25, 0.35],
}
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CONDITIONS = ("gaussian_noise", "rotation")


@dataclass(frozen=True)
class Arm:
    """One configuration in one role.

    ``failed``: replicate -> status of runs that did not complete (``diverged``, ``failed``).
    """

    role: parquet_format.Role
    method: str
    members: int = 4
    name: str | None = None
    diversity: float = 0.0
    quality: float = 1.0
    init: str = "normal"
    init_std: float = 0.5
    reason: str | None = None
    stratum: str | None = None
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Arm key, as in ``analysis.measures.measure`` (without the size of a Deep Ensemble)."""
        open_roles = ("candidate", "comparison")
        return self.spec(0, "confirm")["configuration"] if self.role in open_roles else self.role

    def spec(self, replicate: int, stage: str) -> dict[str, Any]:
        """Return the whole spec, its identity and its configuration's."""
        params: dict[str, Any] = {"members": self.members}
        if self.method == "batchensemble":
            params |= {"init": self.init, "init_std": self.init_std, "name": self.name}
        content: dict[str, Any] = {
            "method": self.method,
            "params": params,
            "backbone": {"name": "mlp", "width": 64, "depth": 2},
            "dataset": {"name": "digits"},
            "training": {"optimizer": "sgd", "lr": 0.1, "epochs": 20, "weight_decay": 0.0},
            "regulariser": {"name": "none", "weight": None, "ramp": 0.1},
            "role": self.role,
            "stage": stage,
            "replicate": replicate,
            "seed": derive_seed(self.method, self.role, str(self.name), stage, replicate),
        }
        return {
            "content": content,
            "trial": digest(content),
            "configuration": digest({key: content[key] for key in SETTINGS}, 10),
        }


SINGLE = Arm("single", "single", members=1)
DEEP_ENSEMBLE = Arm("deep_ensemble", "deep_ensemble", diversity=1.0)
POSITIVE = Arm("positive_control", "deep_ensemble", diversity=1.0)
NEGATIVE = Arm("negative_control", "batchensemble", name="be-ones", init="ones", init_std=0.0)


def default_arms() -> tuple[Arm, ...]:
    """Return anchors, controls, four candidates of known recovery and one comparison."""
    be = "batchensemble"
    return (
        SINGLE,
        DEEP_ENSEMBLE,
        POSITIVE,
        NEGATIVE,
        Arm("candidate", be, name="be-normal", diversity=0.0, reason="enqueued"),
        Arm("candidate", be, name="be-sign", init="sign", diversity=0.9, stratum="sign"),
        Arm("candidate", be, diversity=0.15, init_std=0.3, stratum="normal"),
        Arm("candidate", be, name="be-wild", init_std=0.9, diversity=1.0, quality=2.2),
        Arm("comparison", "mc_dropout", name="mc-dropout", diversity=0.1),
    )


@dataclass(frozen=True)
class Data:
    """The fixed data of a simulated study: sizes, labels and what examples have in common."""

    test: int = 800
    shift: int = 100
    ood: int = 150
    classes: int = 10
    severities: int = 3
    seed: int = 0

    def labels(self) -> np.ndarray:
        return np.random.default_rng(self.seed).integers(0, self.classes, self.test)

    def common(self, split: str) -> np.ndarray:
        """Return the (N, C) signal that every member of every run receives."""
        rng = np.random.default_rng([self.seed, 1, ("val", "test", "shift", "ood").index(split)])
        rows = {"shift": len(CONDITIONS) * self.severities * self.shift, "ood": self.ood}
        n = rows.get(split, self.test)
        noise = rng.normal(size=(n, self.classes))
        if split == "ood":
            return noise
        y = self.keys(split)["label"]
        noise[np.arange(n), y] += 5.0
        return noise

    def keys(self, split: str) -> dict[str, np.ndarray]:
        """Return label, example, condition, severity of a split's rows."""
        y = self.labels()
        if split == "ood":
            return {
                "label": np.full(self.ood, None),
                "example": np.arange(self.ood),
                "condition": np.full(self.ood, "letters", object),
                "severity": np.full(self.ood, None),
            }
        if split != "shift":
            return {
                "label": y,
                "example": np.arange(self.test),
                "condition": np.full(self.test, None),
                "severity": np.full(self.test, None),
            }
        cells = [(c, s + 1) for c in CONDITIONS for s in range(self.severities)]
        example = np.arange(self.shift) % self.test
        return {
            "label": np.tile(y[example], len(cells)),
            "example": np.tile(example, len(cells)),
            "condition": np.repeat(np.array([c for c, _ in cells], object), self.shift),
            "severity": np.repeat(np.array([s for _, s in cells]), self.shift),
        }

    def spread(self, split: str) -> np.ndarray:
        """Return the (N, 1) scale of the models' noise: larger where the shift is severer."""
        if split == "shift":
            return 1.5 + 0.5 * self.keys("shift")["severity"].astype(float)[:, None]
        return np.full((1, 1), 3.0 if split == "ood" else 1.5)


def simulate(arm: Arm, data: Data, split: str, seed: int) -> np.ndarray:
    """Return (M, N, C) float32 logits of one run (see the module's noise model)."""
    rng = np.random.default_rng([seed % 2**32, len(split), data.seed])
    signal = data.common(split)
    scale = arm.quality * data.spread(split) * np.exp(0.01 * rng.normal())
    run = rng.normal(size=signal.shape)
    own = rng.normal(size=(arm.members, *signal.shape))
    noise = np.sqrt(1 - arm.diversity) * run + np.sqrt(arm.diversity) * own
    return (signal + scale * noise).astype(np.float32)


def table(logits: np.ndarray, keys: dict[str, np.ndarray]) -> pa.Table:
    """Return logits (M, N, C) and the keys of the N rows in the format of predictions."""
    members, rows, classes = logits.shape
    wanted = parquet_format.predictions(classes)
    arrays = [pa.array(np.repeat(np.arange(members, dtype=np.int16), rows))]
    for name in wanted.names[1:-1]:
        once = pa.array(keys[name].tolist(), wanted.field(name).type)
        arrays.append(pa.concat_arrays([once] * members))
    flat = pa.array(logits.reshape(-1), pa.float32())
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, classes))
    return pa.Table.from_arrays(arrays, schema=wanted)


def trial_row(
    arm: Arm, replicate: int, stage: str = "confirm", status: str = "complete", **values: Any
) -> pa.Table:
    """Return the one row of ``trial.parquet``."""
    spec = arm.spec(replicate, stage)
    complete = status == "complete"
    row: dict[str, Any] = {
        "trial": spec["trial"],
        "configuration": spec["configuration"],
        "name": arm.name,
        "method": arm.method,
        "role": arm.role,
        "stage": stage,
        "replicate": replicate,
        "seed": spec["content"]["seed"],
        "members": arm.members,
        "spec": canonical(spec["content"]),
        "status": status,
        "reason": None if complete else "loss is not finite in epoch 3",
        "epochs": 20 if complete else 3,
        "seconds": 1.5 * arm.members,
        "train_seconds": 1.2 * arm.members,
        "parameters": 9_000 * (arm.members if "deep" in arm.method else 1) + 300 * arm.members,
        "stored_bytes": 40_000,
        "train_flops": 54_000 * arm.members,
        "infer_flops": 18_000 * arm.members,
        "peak_bytes": 300_000_000,
        "device": "cpu",
        "host": "here",
        "versions": canonical({"torch": "2.11.0", "python": "3.12.0"}),
        "commit": "0" * 40,
        "data": "simulated",
        "finished": NOW,
    }
    if arm.method == "batchensemble":
        row |= {"cosine_init": 1 / (1 + arm.init_std**2) ** 2, "cosine": 0.98}
    row |= values
    return pa.Table.from_pylist([row], schema=parquet_format.TRIAL)


def write_trial(
    folder: Path, arm: Arm, data: Data, replicate: int, like_run: int | None = None
) -> Path:
    """Write one confirm trial and return its folder; a failed one gets a row and no predictions.

    ``like_run``: take this seed for the logits instead of the trial's own.
    """
    spec = arm.spec(replicate, "confirm")
    here = folder / "trials" / spec["trial"]
    here.mkdir(parents=True)
    status = arm.failed.get(replicate, "complete")
    if status == "complete":
        seed = spec["content"]["seed"] if like_run is None else like_run
        for split in ("test", "shift", "ood"):
            keys = data.keys(split)
            logits = simulate(arm, data, split, seed)
            pq.write_table(table(logits, keys), here / f"{split}.parquet")
            if arm.method == "batchensemble" and split != "ood":
                collapsed = logits.mean(0, keepdims=True)
                name = f"{parquet_format.COLLAPSED}{split}.parquet"
                pq.write_table(table(collapsed, keys), here / name)
        rows = geometry_rows(arm, replicate)
        if rows:
            stored = pa.Table.from_pylist(rows, schema=parquet_format.GEOMETRY)
            pq.write_table(stored, here / "geometry.parquet")
    pq.write_table(trial_row(arm, replicate, status=status), here / "trial.parquet")
    return here


def geometry_rows(arm: Arm, replicate: int) -> list[dict[str, Any]]:
    """Return rows as of members whose cosine starts at 1 - diversity and rises by a tenth of it.

    A Deep Ensemble is looked at before and after training; MC Dropout has features alone.
    """
    if arm.members < 2:
        return []
    empty = dict.fromkeys(parquet_format.GEOMETRY.names)
    end = 20
    rows = [{"quantity": "cka", "epoch": end, "value": 1 - arm.diversity / 2}]
    if arm.method != "mc_dropout":
        for epoch in (0, end) if arm.method == "deep_ensemble" else (0, 10, end):
            cosine = 1 - arm.diversity * (1 - 0.1 * epoch / end) - 0.001 * replicate
            values = {"cosine": cosine, "spread": 1 - cosine, "sign_disagreement": (1 - cosine) / 2}
            for layer in (None, "0", "1"):
                here = {"epoch": epoch, "layer": layer}
                rows += [here | {"quantity": q, "value": v} for q, v in values.items()]
        barrier = {"quantity": "barrier", "epoch": end, "value": arm.diversity / 2}
        rows += [barrier | {"i": 0, "j": 1}, barrier]
        for kind, level in {"units": 0.1, "pixels": 0.4}.items():
            found = {"": (1 - arm.diversity) * level, "_chance": level / 5, "_same": level}
            for bound, value in found.items():
                rows.append({"quantity": f"evidence_{kind}{bound}", "epoch": end, "value": value})
    return [empty | row for row in rows]


def write_search(folder: Path, trials: int) -> None:
    """Write search-stage rows of BatchEnsemble and of the single model, every tenth one pruned."""
    rng = np.random.default_rng(7)
    for number in range(trials):
        be = number % 3 > 0
        std = float(np.exp(rng.uniform(np.log(0.02), 0)))
        arm = Arm(
            "candidate" if be else "single",
            "batchensemble" if be else "single",
            4 if be else 1,
            init=("normal", "sign")[number % 2],
            init_std=std,
        )
        gain = 0.02 * std if be else 0.0
        values = {
            "val_nll": 0.2 - gain + 0.01 * abs(rng.normal()),
            "val_shift_nll": 0.7 - 3 * gain + 0.05 * abs(rng.normal()),
            "val_gain": gain,
            "val_accuracy": 0.95 + 0.01 * rng.normal(),
        }
        status = "pruned" if number % 10 == 9 else "complete"
        row = trial_row(arm, number, "search", status, **values)
        here = folder / "trials" / row["trial"][0].as_py()
        here.mkdir(parents=True)
        if status == "complete":
            pq.write_table(curve(values["val_nll"], values["val_gain"]), here / "curve.parquet")
        pq.write_table(row, here / "trial.parquet")


def curve(end: float, gain: float, epochs: int = 8) -> pa.Table:
    """Return a learning curve whose validation NLL, looked at every other epoch, ends at ``end``."""
    rows = []
    for epoch in range(1, epochs + 1):
        left = (epochs - epoch) / epochs
        nll = end + left if epoch % 2 == 0 else None
        members = None if nll is None else nll + gain
        rows.append(
            parquet_format.CurveRow(epoch, None, 0.1 * left + 1e-3, 0.5 * end + left, nll, members)
        )
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=parquet_format.CURVE)


def plan(arms: Iterable[Arm], seeds: int, **protocol: Any) -> dict[str, Any]:
    """Return a declaration of these arms, with its hash."""
    reasons = {"candidate": "validation", "comparison": "comparison"}
    content: dict[str, Any] = {
        "study": "simulated",
        "declared": NOW.isoformat(),
        "protocol": PROTOCOL | {"seeds": seeds} | protocol,
        "arms": [
            {
                "configuration": arm.spec(0, "confirm")["configuration"],
                "role": arm.role,
                "method": arm.method,
                "name": arm.name,
                "members": arm.members,
                "reason": arm.reason
                or reasons.get(arm.role, "control" if "control" in arm.role else "anchor"),
                "stratum": arm.stratum,
            }
            for arm in arms
        ],
        "tuning": {"single": {"trials": 40}, "batchensemble": {"trials": 40}},
        "seeds": seeds,
    }
    return content | {"hash": plan_hash(content)}


def plan_hash(content: dict[str, Any]) -> str:
    """Return the hash of a declaration, by hand: what ``study`` is to write."""
    rest = {key: content[key] for key in ("study", "protocol", "arms")}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_run(
    folder: Path,
    arms: Iterable[Arm] | None = None,
    seeds: int = 6,
    data: Data | None = None,
    search: int = 0,
    declare: bool = True,
    **protocol: Any,
) -> Path:
    """Write a run folder and return it.

    Args:
        folder: Where; made if it is not there.
        arms: ``default_arms()`` if not given.
        seeds: Replicates per arm.
        data: Sizes of the simulated splits.
        search: Number of search-stage rows besides.
        declare: Whether to write ``plan.json``.
        protocol: Changes to the declared protocol.
    """
    arms = tuple(arms or default_arms())
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for arm in arms:
        for replicate in range(seeds):
            write_trial(folder, arm, data or Data(), replicate)
    write_search(folder, search)
    if declare:
        (folder / "plan.json").write_text(json.dumps(plan(arms, seeds, **protocol), indent=1))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a run folder with simulated logits.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--search", type=int, default=60)
    given = parser.parse_args()
    make_run(given.folder, seeds=given.seeds, search=given.search)
