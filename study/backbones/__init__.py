"""Plain single networks: one file each, named by its key in YAML.

A file has ``Params``, ``Network`` and ``EXAMPLE``, the options of a small one for
:mod:`study.conformance`; where torchvision has the same network, ``from_torchvision`` turns a state
of that into one of ours.

Nothing here knows of ensembles. A method wraps a network by replacing its layers, so a network must
define its layers in the order in which they act, use ``nn.Linear`` and ``nn.Conv2d`` for what
has weights, ``nn.Dropout`` for dropout, call its last layer ``head``, and treat the examples of a
batch independently (but for batch normalisation).

Its class may say two things that make it faster. ``channels_last = True``: convolutions may lie in
that format, for which a forward pass must use ``flatten`` and not ``view``. ``stackable = True``:
the forward pass is made of the layers that :mod:`study.training.stack` knows, and of nothing else.
"""

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn

from study.backbones import _pretrained
from study.layers import fixed_heads
from study.layers.convolution import make_safe
from study.layers.dropout import Dropout
from study.layers.members import replace_modules
from study.plugins import load_plugin
from study.run_folder.paths import local_path
from study.spec import Strict


class BackboneParams(Strict):
    """What every network of the project can be configured by; one without these has a linear head.

    Attributes:
        head: ``linear`` and learned; ``equiangular``: fixed class vectors; ``rotated``: the same,
            turned at random for each member (see :mod:`study.layers.fixed_heads`).
        head_scale: Logits over cosines, τ, of the two fixed heads. At 16 the least cross-entropy of
            ten classes is 2e-7.
        weights: A file of weights to start from, in place of random ones: a state of this network
            or of torchvision's same one. The head keeps its own where the file's has other classes,
            or there is none.
        weights_sha256: Of that file; found where it is not given.
    """

    head: fixed_heads.Kind = "linear"
    head_scale: float = Field(16.0, gt=0)
    weights: str | None = None
    weights_sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _weights_are_known_by_content(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("weights"), str):
            if isinstance(data, dict) and data.get("weights_sha256") is not None:
                raise ValueError("weights_sha256 must stand beside weights; remove it")
            return data
        path = str(local_path(data["weights"]).absolute())
        sha256 = data.get("weights_sha256") or _pretrained.sha256_of(path)
        return data | {"weights": path, "weights_sha256": sha256}


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
    replace_modules(network, nn.Dropout, lambda dropout: Dropout(dropout.p))
    make_safe(network)
    if getattr(network, "channels_last", False):
        network.to(memory_format=torch.channels_last)
    if not isinstance(options, BackboneParams):
        return network
    if options.weights is not None:
        rename = getattr(module, "from_torchvision", None)
        _pretrained.load(network, options.weights, options.weights_sha256 or "", rename)
    fixed_heads.install(network, options.head, options.head_scale)
    return network


def parameters(options: dict[str, Any]) -> Strict:
    """Return the validated parameters of the network that ``options["name"]`` names."""
    params: Strict = load_plugin("study.backbones", options["name"]).Params(**options)
    return params
