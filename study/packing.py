"""Signed integers of a few bits each, packed without gaps: what a quantised weight really takes."""

import torch
from torch import Tensor

from study.schema import StudyError


def largest(bits: int) -> int:
    """Return q = 2^(bits-1) - 1, the largest of the symmetric values -q, ..., q."""
    return 2 ** (bits - 1) - 1


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes ``count`` values take."""
    return -(-count * bits // 8)


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack integers from -q to q, lowest bit first; the last byte is filled up with zeros.

    Args:
        values: Integers of any shape, taken in order.
        bits: Of each value, 2 to 8.

    Returns:
        (packed_bytes,) of type uint8.

    Raises:
        StudyError: When a value does not fit.
    """
    q = largest(bits)
    flat = values.flatten().to(torch.int16)
    if len(flat) and int(flat.abs().max()) > q:
        raise StudyError(
            f"values of {bits} bits must lie from {-q} to {q}, but one is "
            f"{int(flat[flat.abs().argmax()])}; take more bits"
        )
    places = torch.arange(bits, device=flat.device)
    stream = ((flat + q).unsqueeze(1) >> places & 1).flatten()
    padded = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (padded << torch.arange(8, device=flat.device)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first ``count`` values, (count,) of type int16: the inverse of :func:`pack`."""
    stream = (packed.to(torch.int16).unsqueeze(1) >> torch.arange(8, device=packed.device)) & 1
    values = stream.flatten()[: count * bits].view(count, bits)
    summed = (values << torch.arange(bits, device=packed.device)).sum(1)
    return (summed - largest(bits)).to(torch.int16)
