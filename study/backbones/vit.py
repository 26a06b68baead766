"""Small Vision Transformer (Dosovitskiy et al. 2021): pre-norm encoder on patches of the image.

Deviations from the paper: the head starts at torch's own random values instead of zeros, under
which all members of an ensemble would begin alike; biases start at exactly zero; there is no
dropout on the attention weights.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from study.backbones import BackboneParams
from study.errors import StudyError
from study.layers.transformer import Attention, FeedForward, Residual, token_norm


class Params(BackboneParams):
    """``depth`` blocks of self-attention and a perceptron on tokens of ``width`` features."""

    name: Literal["vit"] = "vit"
    width: int = Field(64, ge=1, description="features D of a token")
    depth: int = Field(4, ge=1, description="blocks")
    heads: int = Field(4, ge=1, description="of the attention; divide the width")
    patch: int = Field(4, ge=1, description="side of a patch in pixels; divides the image's sides")
    mlp_ratio: float = Field(2.0, gt=0, description="hidden units of a block over its width")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the embedding and in every branch")
    pool: Literal["class", "mean"] = Field("class", description="a class token, or all tokens")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "Params":
        if self.width % self.heads:
            raise ValueError(
                f"heads must divide the width {self.width}, but is {self.heads}; the nearest is "
                f"{_nearest_divisor(self.width, self.heads)}"
            )
        return self

    @property
    def hidden(self) -> int:
        """Units of each block's hidden layer, at least 1."""
        return max(1, round(self.width * self.mlp_ratio))


class Network(nn.Module):
    """From images (B, C, H, W) to logits (B, classes).

    Raises:
        StudyError: When the patch does not divide the sides of the image.
    """

    def __init__(self, params: Params, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        c, h, w = shape
        width, side = params.width, params.patch
        if h % side or w % side:
            raise StudyError(
                f"backbone vit: patch must divide the sides of {h}x{w} images, but is {side}; "
                f"the nearest is {_nearest_divisor(math.gcd(h, w), side)}"
            )
        tokens = (h // side) * (w // side)
        self.patches = nn.Conv2d(c, width, side, stride=side)
        self.class_token: nn.Parameter | None = None
        if params.pool == "class":
            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
            tokens += 1
        self.position = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.dropout = nn.Dropout(params.dropout)
        self.blocks = nn.Sequential(*(_block(params) for _ in range(params.depth)))
        self.norm = token_norm(width)
        self.head = nn.Linear(width, classes)
        _initialise(self.patches, self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W)."""
        x = self.patches(x).flatten(2).mT
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(self.blocks(self.dropout(x + self.position)))
        logits: Tensor = self.head(x.mean(1) if self.class_token is None else x[:, 0])
        return logits


def _block(params: Params) -> nn.Sequential:
    width, dropout = params.width, params.dropout
    return nn.Sequential(
        Residual(width, Attention(width, params.heads), dropout),
        Residual(width, FeedForward(width, params.hidden, dropout), dropout),
    )


def _initialise(patches: nn.Conv2d, blocks: nn.Module) -> None:
    """Draw the patch embedding from LeCun's normal law and the blocks from Glorot's uniform one."""
    linear = [module for module in blocks.modules() if isinstance(module, nn.Linear)]
    nn.init.trunc_normal_(patches.weight, std=math.sqrt(1 / patches.weight[0].numel()))
    for layer in linear:
        nn.init.xavier_uniform_(layer.weight)
    for bias in (patches.bias, *(layer.bias for layer in linear)):
        assert bias is not None
        nn.init.zeros_(bias)


def _nearest_divisor(of: int, value: int) -> int:
    divisors = [d for d in range(1, of + 1) if of % d == 0]
    return min(divisors, key=lambda d: abs(d - value))


_NAMES = {
    r"conv_proj\.": "patches.",
    r"encoder\.pos_embedding": "position",
    r"encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.",
    r"\.ln_1\.": ".0.norm.",
    r"\.self_attention\.out_proj\.": ".0.branch.out.",
    r"\.self_attention\.": ".0.branch.",
    r"\.ln_2\.": ".1.norm.",
    r"\.mlp\.(0|linear_1)\.": ".1.branch.fc1.",
    r"\.mlp\.(3|linear_2)\.": ".1.branch.fc2.",
    r"encoder\.ln\.": "norm.",
    r"heads\.head\.": "head.",
}


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a torchvision ``VisionTransformer`` under our names.

    Its joint projection is split into query, key and value. The network is the one with
    ``pool: class``, without a ``representation_size``.
    """
    ours: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        name = theirs
        for pattern, replacement in _NAMES.items():
            name = re.sub(pattern, replacement, name)
        prefix, joint, kind = name.rpartition("in_proj_")
        if joint:
            names = [f"{prefix}{part}.{kind}" for part in ("query", "key", "value")]
            ours |= dict(zip(names, tensor.chunk(3), strict=True))
        else:
            ours[name] = tensor
    return ours


EXAMPLE = {"width": 12, "depth": 2, "heads": 2, "patch": 8, "dropout": 0.1}
