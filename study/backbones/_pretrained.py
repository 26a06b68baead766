"""Weights that the user has: a file with a state of the same network, ours or torchvision's."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from study.errors import StudyError

State = dict[str, Tensor]
Rename = Callable[[State], State]


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits.

    Raises:
        ValueError: When it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"weights must be a file, but {path}: {error.strerror}") from None


@lru_cache(maxsize=1)
def read(path: str, sha256: str) -> State:
    """Return the tensors of a file written by ``torch.save(network.state_dict(), path)``.

    Nothing in the file is executed.

    Raises:
        StudyError: When the file is another than the study was asked for with, or has no state.
    """
    try:
        found = sha256_of(path)
    except ValueError as error:
        raise StudyError(f"backbone.{error}; put it there on every node") from None
    if found != sha256:
        raise StudyError(
            f"backbone.weights={path} must have the SHA-256 {sha256[:12]}... that the study began "
            f"with, but has {found[:12]}...; put the old file back or choose another --out"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in state.items()):
            raise TypeError("it holds more than named tensors")
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise ValueError("not all values are finite")
    except Exception as error:  # torch has no error of its own for a file that is no state.
        why = " ".join(str(error).split())[:80]
        raise StudyError(
            f"backbone.weights={path} must be what torch.save(network.state_dict()) writes, but "
            f"cannot be read as that ({type(error).__name__}: {why}); save it so"
        ) from None
    return dict(state)


def load(network: nn.Module, path: str, sha256: str, rename: Rename | None) -> None:
    """Give a network the weights of a file, in place; a head of another size keeps its own.

    It has the attribute ``pretrained`` then.

    Args:
        network: With a last layer called ``head``.
        path: Of the file.
        sha256: That the file must have.
        rename: From the names of the same network in torchvision to its own.

    Raises:
        StudyError: When names or shapes are not those of the network.
    """
    state, own = read(path, sha256), network.state_dict()
    if rename is not None and not state.keys() <= own.keys():
        state = rename(state)
    if any(k in own and state[k].shape != own[k].shape for k in state if k.startswith("head.")):
        state = {k: own[k] if k.startswith("head.") else tensor for k, tensor in state.items()}
    wrong = sorted(state.keys() ^ own.keys())
    if wrong:
        raise StudyError(
            f"backbone.weights={path} must have the tensors of the backbone, but {wrong[0]} is "
            f"only in {'the file' if wrong[0] in state else 'the backbone'}; mend backbone"
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise StudyError(
                f"backbone.weights={path}: {name} must be of shape {list(own[name].shape)}, but is "
                f"{list(tensor.shape)}; mend backbone or the size of the images"
            )
    network.load_state_dict(state)
    network.pretrained = True  # type: ignore[assignment]
