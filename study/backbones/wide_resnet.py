"""Wide residual network WRN-depth-widen (Zagoruyko and Komodakis 2016), pre-activation form."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from study.backbones import BackboneParams
from study.backbones._residual import conv, initialise, pool


class Params(BackboneParams):
    """WRN-28-10 is ``depth: 28, widen: 10``."""

    name: Literal["wide_resnet"] = "wide_resnet"
    depth: Literal[16, 28] = Field(28, description="convolutions: 6n + 4 for n blocks per group")
    widen: int = Field(10, ge=1, description="factor on the widths 16, 32 and 64 of the groups")
    dropout: float = Field(0.0, ge=0, lt=1, description="between the convolutions of every block")


class Network(nn.Module):
    """From images (B, C, H, W) to logits (B, classes)."""

    channels_last = True

    def __init__(self, params: Params, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        blocks = (params.depth - 4) // 6
        widths = [16, *(factor * params.widen for factor in (16, 32, 64))]
        self.conv = conv(shape[0], widths[0])
        self.groups = nn.Sequential(
            *(
                _group(widths[i], widths[i + 1], stride, blocks, params.dropout)
                for i, stride in enumerate((1, 2, 2))
            )
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.act = nn.ReLU()
        self.head = nn.Linear(widths[-1], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W)."""
        x = self.act(self.norm(self.groups(self.conv(x))))
        logits: Tensor = self.head(pool(x))
        return logits


class Block(nn.Module):
    """Norm, activation, convolution, twice; the first two come before the shortcut's projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.act1 = nn.ReLU()
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(outputs, outputs)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = conv(inputs, outputs, side=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, outputs, H / stride, W / stride)."""
        active = self.act1(self.norm1(x))
        branch = self.conv2(self.dropout(self.act2(self.norm2(self.conv1(active)))))
        out: Tensor = branch + (x if self.shortcut is None else self.shortcut(active))
        return out


def _group(inputs: int, outputs: int, stride: int, blocks: int, dropout: float) -> nn.Sequential:
    first = Block(inputs, outputs, stride, dropout)
    return nn.Sequential(first, *(Block(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))


EXAMPLE = {"depth": 16, "widen": 1, "dropout": 0.1}
