"""Multilayer perceptron: hidden layers of equal width, or each half as wide as the one before."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from study.backbones import BackboneParams


class Params(BackboneParams):
    """``depth`` hidden layers of ``width`` units; ``taper`` halves from each to the next."""

    name: Literal["mlp"] = "mlp"
    width: int = Field(128, ge=1, description="units of the first hidden layer")
    depth: int = Field(2, ge=1, description="hidden layers")
    taper: bool = False
    dropout: float = Field(0.0, ge=0, lt=1, description="after every hidden layer")
    norm: Literal["none", "batch", "layer"] = "none"

    @model_validator(mode="after")
    def _last_layer_has_units(self) -> "Params":
        if self.hidden[-1] < 1:
            raise ValueError(
                f"width must be at least {2 ** (self.depth - 1)} to be halved {self.depth - 1} "
                f"times, but is {self.width}"
            )
        return self

    @property
    def hidden(self) -> list[int]:
        """Units of each hidden layer in turn."""
        return [self.width >> layer if self.taper else self.width for layer in range(self.depth)]


class Network(nn.Module):
    """From images (B, C, H, W) to logits (B, classes)."""

    stackable = True

    def __init__(self, params: Params, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        c, h, w = shape
        sizes = (c * h * w, *params.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), *_norm(params.norm, outputs), nn.ReLU()]
            if params.dropout:
                layers.append(nn.Dropout(params.dropout))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W)."""
        logits: Tensor = self.head(self.layers(x))
        return logits


def _norm(name: str, units: int) -> list[nn.Module]:
    if name == "none":
        return []
    return [nn.BatchNorm1d(units) if name == "batch" else nn.LayerNorm(units)]


EXAMPLE = {"width": 12, "depth": 2, "dropout": 0.1}
