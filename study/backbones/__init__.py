"""Plain single networks: one file each, named by its key in YAML, with ``Params`` and ``Network``.

Nothing here knows of ensembles. A method wraps a network by replacing its layers, so a network must
define its layers in the order in which they act, use ``nn.Linear`` and ``nn.Conv2d`` for what
has weights, ``nn.Dropout`` for dropout, and treat the examples of a batch independently (but for
batch normalisation).
"""

from typing import Any

from torch import nn

from study.plugins import load_plugin
from study.spec import Strict


def build(options: dict[str, Any] | Strict, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the network that ``options`` describe, with the current torch random state.

    Args:
        options: ``name`` and the network's own parameters, complete.
        shape: Channels, height and width of one image.
        classes: Number of classes C.

    Returns:
        A module from images (B, C, H, W), float32 and normalised, to logits (B, classes).
    """
    if isinstance(options, dict):
        options = parameters(options)
    module = load_plugin("study.backbones", str(dict(options)["name"]))
    network: nn.Module = module.Network(options, shape, classes)
    return network


def parameters(options: dict[str, Any]) -> Strict:
    """Return the validated parameters of the network that ``options["name"]`` names."""
    params: Strict = load_plugin("study.backbones", options["name"]).Params(**options)
    return params
