"""Multilayer perceptron: equal hidden layers, or a list of their widths."""

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from study.spec import Strict


class Params(Strict):
    """Hidden layers: ``depth`` of them of ``width`` units, or exactly ``widths``."""

    name: Literal["mlp"] = "mlp"
    width: int | None = Field(128, ge=1, description="units of each hidden layer")
    depth: int | None = Field(2, ge=1, description="hidden layers")
    widths: list[int] | None = Field(None, description="units of each hidden layer in turn")
    dropout: float = Field(0.0, ge=0, lt=1, description="after every hidden layer")
    norm: Literal["none", "batch", "layer"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _widths_replace_width_and_depth(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("widths") is None:
            return given
        for key in ("width", "depth"):
            if given.get(key) is not None:
                raise ValueError(
                    f"{key} must be left out where widths is given, but is {given[key]}"
                )
        return {**given, "width": None, "depth": None}

    @model_validator(mode="after")
    def _hidden_layers_are_given(self) -> "Params":
        if self.widths is None and (self.width is None or self.depth is None):
            raise ValueError(
                f"width and depth must be numbers unless widths is given, "
                f"but width={self.width} and depth={self.depth}"
            )
        if self.widths is not None and min(self.widths, default=1) < 1:
            raise ValueError(f"widths must all be at least 1, but are {self.widths}")
        return self

    @property
    def hidden(self) -> list[int]:
        """Units of each hidden layer in turn."""
        if self.widths is not None:
            return self.widths
        return [self.width or 0] * (self.depth or 0)


class Network(nn.Module):
    """From images (B, C, H, W) to logits (B, classes)."""

    def __init__(self, params: Params, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        c, h, w = shape
        sizes = (c * h * w, *params.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), *_norm(params.norm, outputs), nn.ReLU()]
            layers.append(nn.Dropout(params.dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W)."""
        logits: Tensor = self.layers(x)
        return logits


def _norm(name: str, units: int) -> list[nn.Module]:
    if name == "none":
        return []
    return [nn.BatchNorm1d(units) if name == "batch" else nn.LayerNorm(units)]
