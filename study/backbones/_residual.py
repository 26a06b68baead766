"""What the residual networks share."""

from torch import Tensor, nn


def conv(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the sides at stride 1, without bias (a norm follows)."""
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


def initialise(network: nn.Module) -> None:
    """Draw the convolutions from He's normal distribution over fan-out (He et al. 2015).

    Norms (1 and 0) and the head keep torch's own initial values.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def pool(x: Tensor) -> Tensor:
    """Average over the image: (B, C, H, W) -> (B, C)."""
    return x.mean(dim=(2, 3))
