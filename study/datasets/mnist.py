"""MNIST (LeCun et al. 1998): 70,000 handwritten digits, 28x28 grey.

Out of distribution: the test images of Fashion-MNIST.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from study.datasets import CommonOptions, Dataset
from study.datasets import _torchvision as torchvision


class Options(CommonOptions):
    """Options of MNIST."""

    name: Literal["mnist"] = "mnist"
    val_size: int = Field(5000, ge=1, description="training images held out for tuning")
    ood: Literal["fashion_mnist", "none"] = "fashion_mnist"


def load(options: Options, root: Path | None) -> Dataset:
    """Return MNIST from ``root`` in torchvision's layout, downloaded if it is not there.

    Raises:
        StudyError: When files are missing or damaged, or the sizes do not fit.
    """
    return torchvision.load_with_ood(options, options.ood, root)
