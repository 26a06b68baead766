"""Weights that the user has: a file with a state of the same network, ours or torchvision's."""

import hashlib
import pickle
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.run_folder.paths import is_lfs_pointer

WRAPPERS: Final = ("_orig_mod.", "module.", "model.")
"""What torch.compile, DataParallel and Lightning put before every name."""
AVERAGED: Final = "n_averaged"
"""What torch's AveragedModel, as of SWA, keeps beside the weights."""

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
    if is_lfs_pointer(Path(path)):
        raise StudyError(
            f"backbone.weights={path} is Git LFS's pointer to the file; fetch it with git lfs pull"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What torch warns of is no state, which is said.
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in state.items()):
            keys = ", ".join(str(k) for k, t in state.items() if not isinstance(t, Tensor))
            raise TypeError(f"it holds more than named tensors: {keys}")
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise ValueError("not all values are finite")
    except Exception as error:  # torch has no error of its own for a file that is no state.
        why = " ".join(str(error).split())[:80]
        if isinstance(error, pickle.UnpicklingError):  # Torch's advice is for who wrote the code.
            why = "it is of another format, or holds objects that are no tensors"
        raise StudyError(
            f"backbone.weights={path} must be what torch.save(network.state_dict()) writes, but "
            f"cannot be read as that ({type(error).__name__}: {why}); save it so"
        ) from None
    return {name: tensor for name, tensor in state.items() if name != AVERAGED}


def _unwrapped(state: State, own: State) -> State:
    """Return the state without what wrappers put before every name, unless names are the own."""
    while state and not state.keys() & own.keys():
        prefix = next((p for p in WRAPPERS if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def load(network: nn.Module, path: str, sha256: str, rename: Rename | None) -> None:
    """Give a network the weights of a file, in place.

    Where the file has no head, or one of another size, the network keeps its own. It has the
    attribute ``pretrained`` then.

    Args:
        network: With a last layer called ``head``.
        path: Of the file.
        sha256: That the file must have.
        rename: From the names of the same network in torchvision to its own.

    Raises:
        StudyError: When names or shapes are not those of the network.
    """
    own = network.state_dict()
    state = _unwrapped(read(path, sha256), own)
    if rename is not None and not state.keys() <= own.keys():
        state = rename(state)
    heads = [name for name in state if name.startswith("head.")]
    others = any(name in own and state[name].shape != own[name].shape for name in heads)
    if state.keys() & own.keys() and (others or not heads):
        head = {name: own[name] for name in own if name.startswith("head.")}
        state = {name: state[name] for name in state if name not in heads} | head
    wrong = sorted(state.keys() ^ own.keys())
    if wrong:
        raise StudyError(
            f"backbone.weights={path} must have the tensors of the backbone, but {wrong[0]} is "
            f"only in {'the file' if wrong[0] in state else 'the backbone'}; fix backbone"
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise StudyError(
                f"backbone.weights={path}: {name} must be of type {own[name].dtype}, but is "
                f"{tensor.dtype}; save it so"
            )
        if tensor.shape != own[name].shape:
            raise StudyError(
                f"backbone.weights={path}: {name} must be of shape {list(own[name].shape)}, but is "
                f"{list(tensor.shape)}; fix backbone or the size of the images"
            )
    network.load_state_dict(state)
    # torch's type of a module knows tensors and modules as attributes alone.
    network.pretrained = True  # type: ignore[assignment]
