"""The Parquet format between whoever trains and whoever judges.

Three kinds of file, all with the schema version in their key-value metadata:

* *predictions*, one file per trial and split: one row per (member, example), member by member, each
  member's rows in the same order. So ``logits.reshape(M, rows, C)`` is a view, not a copy.
* *geometry*, one file per confirmed ensemble: where its members lie in parameter and feature space.
* *trial*, one row per trial, written after all else: its presence is the commit mark.

Any program may write this format; nothing in it needs torch or this project.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

import pyarrow as pa

from study.errors import StudyError

VERSION: Final = 4
VERSION_KEY: Final = b"schema_version"

Role = Literal[
    "candidate",
    "single",
    "deep_ensemble",
    "matched_single",
    "matched_deep_ensemble",
    "comparison",
    "negative_control",
    "positive_control",
]
MATCHED: Final = ("matched_single", "matched_deep_ensemble")
"""Roles of the anchors that have an arm's own backbone and training values."""
Stage = Literal["search", "rescore", "anchor", "pilot", "confirm"]
Status = Literal["complete", "pruned", "diverged", "failed"]
Split = Literal["val", "test", "shift", "ood"]

COLLAPSED: Final = "collapsed_"
"""Prefix of a split's file that holds the one-member control with averaged fast weights."""

MEAN_WEIGHTS: Final = "mean_weights_"
"""Prefix of a split's file that holds the one-member control with the mean effective weights W̄.

One network with the members' mean weights, biases, and scale and shift of norms, its batch-norm
statistics estimated anew on training images; only of members that are trained jointly.
"""


def _field(name: str, type_: pa.DataType, meaning: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"meaning": meaning})


def predictions(classes: int, precision: Literal["float16", "float32"] = "float32") -> pa.Schema:
    """Return the schema of one predictions file.

    Args:
        classes: Number of classes C.
        precision: Type of the stored logits.
    """
    logit = pa.float16() if precision == "float16" else pa.float32()
    return pa.schema(
        [
            _field("member", pa.int16(), "ensemble member, 0 to M-1; the slowest key of the order"),
            _field("example", pa.int32(), "example in the split; a shifted copy keeps its number"),
            _field("label", pa.int16(), "class, 0 to C-1; null for out-of-distribution", True),
            _field("condition", pa.string(), "corruption or out-of-distribution set", True),
            _field("severity", pa.int8(), "severity of the corruption, 1 to 5", True),
            _field("logits", pa.list_(logit, classes), "raw logits before any averaging, in nats"),
        ],
        metadata={VERSION_KEY: str(VERSION).encode()},
    )


FILE: Final = pa.struct([pa.field("name", pa.string()), pa.field("sha256", pa.string())])

TRIAL: Final = pa.schema(
    [
        _field("trial", pa.string(), "identity: hash of the spec"),
        _field("configuration", pa.string(), "hash of the spec without seed, stage and role"),
        _field("name", pa.string(), "the configuration's name if it was given one", True),
        _field("method", pa.string(), "key of the method"),
        _field("role", pa.string(), "what the trial is to the study: see Role"),
        _field("stage", pa.string(), "search, rescore, anchor, pilot or confirm"),
        _field("replicate", pa.int32(), "number of the repetition, from 0"),
        _field("seed", pa.int64(), "root of all the trial's random streams"),
        _field("members", pa.int16(), "ensemble size M"),
        _field("spec", pa.string(), "the whole spec as canonical JSON"),
        _field("status", pa.string(), "complete, pruned, diverged or failed"),
        _field("reason", pa.string(), "why it is not complete", True),
        _field("epochs", pa.int32(), "epochs done"),
        _field("seconds", pa.float64(), "wall time, s, with a share of a stack's training"),
        _field(
            "train_seconds", pa.float64(), "wall time of training alone, s; in a stack, its share"
        ),
        _field("stack", pa.list_(pa.string()), "trials that were trained with it as one", True),
        _field(
            "pieces",
            pa.int16(),
            "parts of a step, computed in turn: members, or halves once out of memory",
            True,
        ),
        _field("comparable", pa.bool_(), "members solve the same task: diversity is defined", True),
        _field("excess", pa.float64(), "over the method's own limit; above 0: not trained", True),
        _field("parameters", pa.int64(), "parameters, frozen ones too", True),
        _field("trainable", pa.int64(), "parameters that the end of training trained", True),
        _field("stored_bytes", pa.int64(), "bytes of the trained method's checkpoint", True),
        _field("train_flops", pa.int64(), "forward + backward, per example, all members", True),
        _field("infer_flops", pa.int64(), "forward, per example, all members", True),
        _field("peak_bytes", pa.int64(), "peak memory: of the GPU, or the process so far", True),
        _field("val_nll", pa.float64(), "ensemble NLL on val, nats", True),
        _field("val_shift_nll", pa.float64(), "ensemble NLL on shifted val, nats", True),
        _field("val_gain", pa.float64(), "mean member NLL - ensemble NLL on val, nats", True),
        _field("val_accuracy", pa.float64(), "ensemble accuracy on val, 0 to 1", True),
        _field("cosine_init", pa.float64(), "mean pairwise cosine of effective weights", True),
        _field("cosine", pa.float64(), "the same after training", True),
        _field("files", pa.list_(FILE), "the trial's other files and their SHA-256", True),
        _field("device", pa.string(), "cpu or the accelerator's name"),
        _field("host", pa.string(), "name of the machine", True),
        _field("versions", pa.string(), "package versions as JSON"),
        _field("commit", pa.string(), "commit of the code, with +dirty", True),
        _field("data", pa.string(), "fingerprint of the data"),
        _field("finished", pa.timestamp("ms", tz="UTC"), "when the row was written"),
    ],
    metadata={VERSION_KEY: str(VERSION).encode()},
)


class File(NamedTuple):
    """A file of a committed trial, as in :data:`FILE`."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial found out, None where it did not come to that; columns of :data:`TRIAL`."""

    status: Status = "complete"
    reason: str | None = None
    members: int
    epochs: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    stack: tuple[str, ...] | None = None
    pieces: int | None = None
    comparable: bool | None = None
    excess: float | None = None
    parameters: int | None = None
    trainable: int | None = None
    stored_bytes: int | None = None
    train_flops: int | None = None
    infer_flops: int | None = None
    peak_bytes: int | None = None
    val_nll: float | None = None
    val_shift_nll: float | None = None
    val_gain: float | None = None
    val_accuracy: float | None = None
    cosine_init: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow(Outcome):
    """A row of :data:`TRIAL`: what a trial was, what it found out, and where that comes from."""

    trial: str
    configuration: str
    name: str | None
    method: str
    role: Role
    stage: Stage
    replicate: int
    seed: int
    spec: str
    files: tuple[File, ...] | None = None
    device: str
    host: str | None
    versions: str
    commit: str | None
    data: str
    finished: datetime


QUANTITIES: Final = {
    "cosine": "mean over pairs of members of cos(W_i, W_j), W_m the effective weights",
    "cosine_deviation": "the same of W_m - W̄; -1/(M-1) where all deviate as much",
    "spread": "mean over members of ‖W_m - W̄‖ / ‖W̄‖; √(M-1) for unrelated ones",
    "sign_disagreement": "mean over pairs of the share of weights of opposite sign, 0 to 1",
    "barrier": "highest rise of the loss above the chord on the line from W_i to W_j, nats on val; "
    "without alignment by permutation",
    "cka": "mean over pairs of the unbiased linear CKA of penultimate features on val",
    "evidence_size": "mean number of units in a minimal set that suffices for a member's decision",
    "evidence_units": "mean Jaccard index of two members' minimal sets, on test",
    "evidence_units_same": "the same of one member's sets found in two orders",
    "evidence_units_chance": "the same of random sets of as many active units",
    "evidence_pixels": "mean Jaccard index of the pixels that two members' minimal sets rest on",
    "evidence_pixels_same": "the same of one member's sets found in two orders",
    "evidence_pixels_chance": "the same of random sets of as many active units",
}
"""What a geometry file may hold, by ``quantity``."""


class GeometryRow(NamedTuple):
    """A row of :data:`GEOMETRY`."""

    quantity: str
    value: float | None
    epoch: int | None
    layer: str | None = None
    i: int | None = None
    j: int | None = None


GEOMETRY: Final = pa.schema(
    [
        _field("quantity", pa.string(), "what was measured: see QUANTITIES"),
        _field("epoch", pa.int32(), "epochs done, 0 at the start; null if not of an epoch", True),
        _field("layer", pa.string(), "weighted layers in order, from 0; null for all", True),
        _field("i", pa.int16(), "member; null for the mean over members or pairs", True),
        _field("j", pa.int16(), "other member of the pair", True),
        _field("value", pa.float64(), "null where undefined or not finite", True),
    ],
    metadata={VERSION_KEY: str(VERSION).encode()},
)


def check_version(schema: pa.Schema, file: str) -> None:
    """Refuse a file that is not of this format or of another version of it.

    Raises:
        StudyError: With the file and both versions.
    """
    found = (schema.metadata or {}).get(VERSION_KEY)
    if found is None:
        raise StudyError(
            f"{file}: no key {VERSION_KEY.decode()!r} in the file's metadata; "
            f"write it with the schema of study/schema.py (version {VERSION})"
        )
    if found != str(VERSION).encode():
        raise StudyError(
            f"{file}: schema version must be {VERSION}, but is {found.decode(errors='replace')}; "
            "read it with the release that wrote it"
        )
