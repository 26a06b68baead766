"""Logits as tables of the published format (:mod:`study.parquet_format`), split by split."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from study import parquet_format
from study.datasets import Shifted

Precision = Literal["float16", "float32"]


def clean_table(logits: Tensor, labels: np.ndarray[Any, Any], precision: Precision) -> pa.Table:
    """Return the predictions of a clean split as a table; logits (M, N, C), labels (N,)."""
    return _table(logits, precision, example=np.arange(len(labels)), label=labels)


def shift_table(logits: Tensor, shifted: Shifted, precision: Precision) -> pa.Table:
    """Return the predictions on corrupted copies as a table; logits (M, R, C)."""
    return _table(
        logits,
        precision,
        example=shifted.example,
        label=shifted.labels,
        condition=shifted.condition,
        severity=shifted.severity,
    )


def ood_table(logits: dict[str, Tensor], precision: Precision) -> pa.Table:
    """Return the predictions on out-of-distribution sets, by name, as a table."""
    sizes = {name: part.shape[1] for name, part in logits.items()}
    return _table(
        torch.cat(list(logits.values()), dim=1),
        precision,
        example=np.concatenate([np.arange(n) for n in sizes.values()]),
        condition=np.repeat(list(sizes), list(sizes.values())),
    )


def _table(logits: Tensor, precision: Precision, **columns: np.ndarray[Any, Any]) -> pa.Table:
    m, rows, classes = logits.shape
    if precision == "float16" and logits.abs().max() > torch.finfo(torch.float16).max:
        precision = "float32"
    table_schema = parquet_format.predictions(classes, precision)
    flat = logits.numpy().astype(precision).ravel()
    arrays = {
        "member": pa.array(np.repeat(np.arange(m), rows), pa.int16()),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(flat), classes),
    }
    for name in ("example", "label", "condition", "severity"):
        type_ = table_schema.field(name).type
        if name in columns:
            arrays[name] = pa.array(np.tile(columns[name], m), type_)
        else:
            arrays[name] = pa.nulls(m * rows, type_)
    return pa.table([arrays[name] for name in table_schema.names], schema=table_schema)
