"""ResNet-18 (He et al. 2016a) in its form for small images.

Deviation from the paper, usual since: the stem is one 3x3 convolution at stride 1 without pooling.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from study.backbones._residual import conv, initialise, pool
from study.spec import Strict


class Params(Strict):
    """``width`` is the width of the first of four groups; each next one is twice as wide."""

    name: Literal["resnet18"] = "resnet18"
    width: int = Field(64, ge=1, description="channels of the first group")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the head")


class Network(nn.Module):
    """From images (B, C, H, W) to logits (B, classes)."""

    def __init__(self, params: Params, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        width = params.width
        self.conv = conv(shape[0], width)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
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
        x = self.groups(self.act(self.norm(self.conv(x))))
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
