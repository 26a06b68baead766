"""The libraries that ours is compared with: they take seconds to import, so only when asked for."""

import warnings
from importlib import import_module
from typing import Any


def peer(module: str) -> Any:
    """Import a module of a peer; the warnings of what it imports are its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(module)


def metrics_of_torchmetrics() -> Any:
    """Return torchmetrics' functions of classification."""
    return peer("torchmetrics.functional.classification")


def metrics_of_torch_uncertainty() -> Any:
    """Return torch-uncertainty's metrics of classification."""
    return peer("torch_uncertainty.metrics.classification")


def layers_of_torch_uncertainty() -> Any:
    """Return torch-uncertainty's layers."""
    return peer("torch_uncertainty.layers")
