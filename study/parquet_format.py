"""The Parquet format between whoever trains and whoever judges.

Five kinds of file, all with the schema version in their key-value metadata:

* *predictions*, one file per trial and split: one row per (member, example), member by member, each
  member's rows in the same order. So ``logits.reshape(M, rows, C)`` is a view, not a copy.
* *geometry*, one file per confirmed ensemble: where its members lie in parameter and feature space.
* *curve*, one file per complete trial: its training, epoch by epoch.
* *images*, one file per run: some of the images, for its report.
* *trial*, one row per trial, written after all else: its presence is the commit mark.

Any program may write this format; nothing in it needs torch or this project.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple, get_args, get_type_hints

import pyarrow as pa

from study.errors import StudyError

VERSION: Final = 5
READABLE: Final = (4, VERSION)
"""Versions that are read; see :func:`completed`."""
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
"""Roles of the anchors that have an arm's own backbone and hyperparameters."""
Stage = Literal["search", "rescore", "anchor", "pilot", "confirm"]
Status = Literal["complete", "pruned", "diverged", "failed"]

COLLAPSED: Final = "collapsed_"
"""Prefix of a split's file that holds the one-member control with averaged fast weights."""

MEAN_WEIGHTS: Final = "mean_weights_"
"""Prefix of a split's file that holds the one-member control with the mean effective weights W̄.

One network with the members' mean weights, biases, and scale and shift of norms, its batch-norm
statistics estimated anew on training images; only of members that are trained jointly.
"""


def _field(name: str, type_: pa.DataType, meaning: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"meaning": meaning})


def _schema(*fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={VERSION_KEY: str(VERSION).encode()})


ARROW: Final = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
"""The type of a column that names none."""


def _schema_of(row: type, first: tuple[str, ...] = ()) -> pa.Schema:
    """Return the columns of a row, of the annotated type and meaning; null where None may stand.

    Those in ``first`` stand first; the others follow in the order in which they are defined.
    """
    hints, fields = get_type_hints(row, include_extras=True), []
    for name in (*first, *(name for name in hints if name not in first)):
        *given, meaning = hints[name].__metadata__
        kinds = get_args(hints[name].__origin__) or (hints[name].__origin__,)
        type_ = given[0] if given else ARROW[kinds[0]]
        fields.append(_field(name, type_, meaning, type(None) in kinds))
    return _schema(*fields)


def predictions(classes: int, precision: Literal["float16", "float32"] = "float32") -> pa.Schema:
    """Return the schema of one predictions file.

    Args:
        classes: Number of classes C.
        precision: Type of the stored logits.
    """
    logit = pa.float16() if precision == "float16" else pa.float32()
    return _schema(
        _field("member", pa.int16(), "ensemble member, 0 to M-1; the slowest key of the order"),
        _field("example", pa.int32(), "example in the split; a shifted copy keeps its number"),
        _field("label", pa.int16(), "class, 0 to C-1; null for out-of-distribution", True),
        _field("condition", pa.string(), "corruption or out-of-distribution set", True),
        _field("severity", pa.int8(), "severity of the corruption, 1 to 5", True),
        _field("logits", pa.list_(logit, classes), "raw logits before any averaging, in nats"),
    )


FILE: Final = pa.struct([pa.field("name", pa.string()), pa.field("sha256", pa.string())])


class File(NamedTuple):
    """A file of a committed trial, as in :data:`FILE`."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial found out, None where it did not come to that; columns of :data:`TRIAL`."""

    status: Annotated[Status, pa.string(), "complete, pruned, diverged or failed"] = "complete"
    reason: Annotated[str | None, "why it is not complete"] = None
    members: Annotated[int, pa.int16(), "ensemble size M"]
    epochs: Annotated[int, pa.int32(), "epochs done"] = 0
    seconds: Annotated[float, "wall time, s, with a share of a stack's training"] = 0.0
    train_seconds: Annotated[float, "wall time of training alone, s; in a stack, its share"] = 0.0
    stack: Annotated[
        tuple[str, ...] | None, pa.list_(pa.string()), "trials that were trained with it as one"
    ] = None
    pieces: Annotated[
        int | None,
        pa.int16(),
        "parts of a step, computed in turn: members, or halves once out of memory",
    ] = None
    comparable: Annotated[bool | None, "members solve the same task: diversity is defined"] = None
    excess: Annotated[float | None, "over the method's own limit; above 0: not trained"] = None
    parameters: Annotated[int | None, "parameters, frozen ones too"] = None
    trainable: Annotated[int | None, "parameters that the end of training trained"] = None
    stored_bytes: Annotated[int | None, "bytes of the trained method's checkpoint"] = None
    train_flops: Annotated[int | None, "forward + backward, per example, all members"] = None
    infer_flops: Annotated[int | None, "forward, per example, all members"] = None
    peak_bytes: Annotated[int | None, "peak memory: of the GPU, or the process so far"] = None
    val_nll: Annotated[float | None, "ensemble NLL on val, nats"] = None
    val_shift_nll: Annotated[float | None, "ensemble NLL on shifted val, nats"] = None
    val_gain: Annotated[float | None, "mean member NLL - ensemble NLL on val, nats"] = None
    val_accuracy: Annotated[float | None, "ensemble accuracy on val, 0 to 1"] = None
    cosine_init: Annotated[float | None, "mean pairwise cosine of effective weights"] = None
    cosine: Annotated[float | None, "the same after training"] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow(Outcome):
    """A row of :data:`TRIAL`: what a trial was, what it found out, and where that comes from."""

    trial: Annotated[str, "identity: hash of the spec"]
    configuration: Annotated[str, "hash of the spec without seed, stage and role"]
    name: Annotated[str | None, "the configuration's name if it was given one"]
    method: Annotated[str, "key of the method"]
    role: Annotated[Role, pa.string(), "what the trial is to the study: see Role"]
    stage: Annotated[Stage, pa.string(), "search, rescore, anchor, pilot or confirm"]
    replicate: Annotated[int, pa.int32(), "number of the repetition, from 0"]
    seed: Annotated[int, "root of all the trial's random streams"]
    spec: Annotated[str, "the whole spec as canonical JSON"]
    files: Annotated[
        tuple[File, ...] | None, pa.list_(FILE), "the trial's other files and their SHA-256"
    ] = None
    device: Annotated[str, "cpu or the accelerator's name"]
    host: Annotated[str | None, "name of the machine"]
    versions: Annotated[str, "package versions as JSON"]
    commit: Annotated[str | None, "commit of the code, with +dirty"]
    data: Annotated[str, "fingerprint of the data"]
    finished: Annotated[datetime, pa.timestamp("ms", tz="UTC"), "when the row was written"]
    deterministic: Annotated[
        bool | None, "trained by deterministic algorithms alone; null before version 5"
    ] = None


TRIAL: Final = _schema_of(
    TrialRow,
    first=(
        *("trial", "configuration", "name", "method", "role", "stage", "replicate", "seed"),
        *("members", "spec"),
    ),
)

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

    quantity: Annotated[str, "what was measured: see QUANTITIES"]
    value: Annotated[float | None, "null where undefined or not finite"]
    epoch: Annotated[int | None, pa.int32(), "epochs done, 0 at the start; null if not of an epoch"]
    layer: Annotated[str | None, "weighted layers in order, from 0; null for all"] = None
    i: Annotated[int | None, pa.int16(), "member; null for the mean over members or pairs"] = None
    j: Annotated[int | None, pa.int16(), "other member of the pair"] = None


GEOMETRY: Final = _schema_of(GeometryRow, first=("quantity", "epoch", "layer", "i", "j"))


class CurveRow(NamedTuple):
    """A row of :data:`CURVE`."""

    epoch: Annotated[int, pa.int32(), "epochs done, from 1"]
    part: Annotated[int | None, pa.int16(), "member, where they are trained one by one; else null"]
    lr: Annotated[float, "learning rate of the epoch's last step"]
    loss: Annotated[
        float,
        "mean over the epoch's steps of what is minimised, nats, diversity term and label "
        "smoothing included",
    ]
    val_nll: Annotated[
        float | None,
        "ensemble NLL on up to 1,000 of val, nats; of a part, its own; null where not computed or "
        "not finite",
    ]
    val_members_nll: Annotated[float | None, "mean NLL of the members on the same"]


CURVE: Final = _schema_of(CurveRow)

IMAGES: Final = _schema(
    _field("split", pa.string(), "test, shift or ood"),
    _field("example", pa.int32(), "as in the predictions; of ood, in its set"),
    _field("label", pa.int16(), "class; null for out-of-distribution", True),
    _field("condition", pa.string(), "corruption or out-of-distribution set", True),
    _field("severity", pa.int8(), "severity of the corruption, 1 to 5", True),
    _field("channels", pa.int16(), "of the image; a series has a height of 1"),
    _field("height", pa.int32(), "pixels"),
    _field("width", pa.int32(), "pixels"),
    _field("pixels", pa.binary(), "uint8, channel by channel, row by row"),
)
"""What a run's ``images.parquet`` holds: some of the images, as the networks see them."""


def check_version(schema: pa.Schema, file: str) -> None:
    """Refuse a file that is not of this format or of another version of it.

    Raises:
        StudyError: With the file and both versions.
    """
    found = (schema.metadata or {}).get(VERSION_KEY)
    if found is None:
        raise StudyError(
            f"{file}: no key {VERSION_KEY.decode()!r} in the file's metadata; "
            f"write it with the schema of study/parquet_format.py (version {VERSION})"
        )
    if found not in [str(version).encode() for version in READABLE]:
        raise StudyError(
            f"{file}: schema version must be {' or '.join(map(str, READABLE))}, but is "
            f"{found.decode(errors='replace')}; read it with the release that wrote it"
        )


def completed(rows: pa.Table) -> pa.Table:
    """Return rows of trials with null in the column that version 4 did not have, at the end."""
    column = TRIAL.field("deterministic")
    if (rows.schema.metadata or {}).get(VERSION_KEY) != b"4" or column.name in rows.column_names:
        return rows
    return rows.append_column(column, pa.nulls(len(rows), column.type))
