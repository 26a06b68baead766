"""Small convolutional network of LeNet's size (LeCun et al. 1998), with batch normalisation."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from study.backbones import BackboneParams
from study.errors import StudyError


class Params(BackboneParams):
    """One 3x3 convolution and halving of the sides per entry of ``channels``, a hidden layer.

    On one row the convolutions are 1x3, and that side is left.
    """

    name: Literal["cnn"] = "cnn"
    channels: list[int] = Field([16, 32], min_length=1, description="of each convolution in turn")
    hidden: int = Field(64, ge=1, description="units of the layer before the head")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the head")

    @field_validator("channels")
    @classmethod
    def _channels_are_positive(cls, channels: list[int]) -> list[int]:
        if min(channels) < 1:
            raise ValueError(f"channels must all be at least 1, but are {channels}")
        return channels


class Network(nn.Module):
    """From images (B, C, H, W) to logits (B, classes).

    Raises:
        StudyError: When there are more convolutions than the sides can be halved.
    """

    channels_last = True

    def __init__(self, params: Params, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        c, h, w = shape
        flat = h == 1
        halvings, most = len(params.channels), (w if flat else min(h, w)).bit_length() - 1
        if halvings > most:
            raise StudyError(
                f"backbone cnn: channels must have at most {most} entries for {h}x{w} images, "
                f"but has {halvings}; shorten it"
            )
        features = params.channels[-1] * (1 if flat else h >> halvings) * (w >> halvings)
        self.stages = nn.Sequential(
            *(_stage(inputs, outputs, flat) for inputs, outputs in pairwise([c, *params.channels]))
        )
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(features, params.hidden)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(params.dropout)
        self.head = nn.Linear(params.hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W)."""
        x = self.act(self.hidden(self.flatten(self.stages(x))))
        logits: Tensor = self.head(self.dropout(x))
        return logits


def _stage(inputs: int, outputs: int, flat: bool) -> nn.Sequential:
    kernel, padding, pool = ((1, 3), (0, 1), (1, 2)) if flat else ((3, 3), (1, 1), (2, 2))
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(pool),
    )


EXAMPLE = {"channels": [4, 6], "dropout": 0.1}
