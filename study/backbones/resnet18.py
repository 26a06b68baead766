"""ResNet-18 (He et al. 2016a), by default in its form for small images.

Deviation from the paper, usual since: the stem for small images is one 3x3 convolution at stride 1
without pooling. ``stem: large`` is the paper's, a 7x7 convolution and pooling, both at stride 2.
"""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from study.backbones import BackboneParams
from study.backbones._residual import conv, initialise, pool


class Params(BackboneParams):
    """``width`` is the width of the first of four groups; each next one is twice as wide."""

    name: Literal["resnet18"] = "resnet18"
    width: int = Field(64, ge=1, description="channels of the first group")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the head")
    stem: Literal["small", "large"] = Field("small", description="for images of that size")


class Network(nn.Module):
    """From images (B, C, H, W) to logits (B, classes)."""

    channels_last = True

    def __init__(self, params: Params, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        width, large = params.width, params.stem == "large"
        self.conv = conv(shape[0], width, side=7, stride=2) if large else conv(shape[0], width)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.groups = nn.Sequential(
            _group(width, width, 1),
            _group(width, 2 * width, 2),
            _group(2 * width, 4 * width, 2),
            _group(4 * width, 8 * width, 2),
        )
        self.dropout = nn.Dropout(params.dropout)
        self.head = nn.Linear(8 * width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W)."""
        x = self.groups(self.pool(self.act(self.norm(self.conv(x)))))
        logits: Tensor = self.head(self.dropout(pool(x)))
        return logits


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = conv(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                conv(inputs, outputs, side=1, stride=stride), nn.BatchNorm2d(outputs)
            )
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, outputs, H / stride, W / stride)."""
        branch = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        out: Tensor = self.act2(branch + self.shortcut(x))
        return out


def _group(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1))


_NAMES = {
    r"layer(\d)\.": lambda found: f"groups.{int(found[1]) - 1}.",
    r"downsample\.": lambda _: "shortcut.",
    r"bn(\d)\.": lambda found: f"norm{found[1]}.",
    r"^(conv|norm)1\.": lambda found: f"{found[1]}.",
    r"^fc\.": lambda _: "head.",
}


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of torchvision's ``resnet18`` under our names; it has a ``large`` stem."""
    ours = {}
    for name, tensor in state.items():
        for pattern, replacement in _NAMES.items():
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor
    return ours


EXAMPLE = {"width": 4, "dropout": 0.1}
