"""How many trials share a GPU, from the memory that one takes."""

import contextlib
import math

import torch

from study.datasets import Dataset
from study.errors import StudyError
from study.search.points import SAMPLES, enqueued_points, sampled_points
from study.space.configuration import configuration
from study.space.settings import Study
from study.training.batches import Splits, default_device
from study.training.fit import DivergenceError
from study.trials.rehearsal import one_step


def share(need: float, total: float, spare: float = 0.1) -> float:
    """Return the share of a GPU for trials that need so many of its bytes; some are kept free.

    Raises:
        StudyError: When one does not fit.
    """
    fit = math.floor((1 - spare) * total / need)
    if fit < 1:
        raise StudyError(
            f"resources.gpus_per_trial=auto: a trial needs {need / 1e9:.1f} GB, but a GPU has "
            f"{total / 1e9:.1f}; lower training.batch_size, or set resources.low_memory"
        )
    return 1 / fit


def gpu_memory(study: Study, data: Dataset) -> tuple[float, float]:
    """Return bytes that a trial takes of this GPU, which it must have to itself, and those it has.

    The most that a training step or a prediction takes of a few configurations of each method,
    enqueued ones first, beside the training images, which a trial keeps there.

    Raises:
        StudyError: When there is no GPU.
    """
    if not torch.cuda.is_available():
        raise StudyError("resources.gpus_per_trial=auto: needs a GPU, but torch sees none; set 0")
    images, _ = Splits(data, default_device()).train
    for space in study.spaces:
        if space.method != "deep_ensemble":
            for point in [*enqueued_points(space), *sampled_points(space, SAMPLES)]:
                training = configuration(space, point).training
                if training.augment != "none":
                    images.pad()
                with contextlib.suppress(DivergenceError):
                    one_step(space, point, data, training.batch_size, predicts=True)
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return float(torch.cuda.max_memory_reserved() + beside), float(total)
