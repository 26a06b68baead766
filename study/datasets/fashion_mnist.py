"""Fashion-MNIST (Xiao et al. 2017): 70,000 pictures of clothing, 28x28 grey.

Out of distribution: the test images of MNIST.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from study.datasets import CommonOptions, Dataset
from study.datasets import _torchvision as torchvision


class Options(CommonOptions):
    """Options of Fashion-MNIST."""

    name: Literal["fashion_mnist"] = "fashion_mnist"
    val_size: int = Field(5000, ge=1, description="training images held out for tuning")
    ood: Literal["mnist", "none"] = "mnist"


def load(options: Options, root: Path | None) -> Dataset:
    """Return Fashion-MNIST from ``root`` in torchvision's layout, downloaded if it is not there.

    Raises:
        StudyError: When files are missing or damaged, or the sizes do not fit.
    """
    return torchvision.load_with_ood(options, options.ood, root)
