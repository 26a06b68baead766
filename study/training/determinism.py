"""The same numbers at every run: what torch and the libraries below it must be told for that.

On a GPU some of their kernels add up in whatever order threads arrive, and cuBLAS and cuDNN choose
kernels as they please; on a CPU, with one thread, numbers are the same anyway.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from study.errors import StudyError

CUBLAS: Final = "CUBLAS_WORKSPACE_CONFIG"
FIXED: Final = (":4096:8", ":16:8")
"""Values of it with which cuBLAS is deterministic."""


def fix_workspace() -> None:
    """Let cuBLAS be deterministic in this process, which must not have started CUDA yet."""
    if os.environ.get(CUBLAS) not in FIXED:
        os.environ[CUBLAS] = FIXED[0]


@contextmanager
def deterministic(required: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms alone within the block, if that is required.

    An operation that has none then raises a ``RuntimeError``.

    Raises:
        StudyError: When it is too late for that, as CUDA has started.
    """
    if not required:
        yield
        return
    import torch

    if torch.cuda.is_initialized() and os.environ.get(CUBLAS) not in FIXED:
        raise StudyError(
            f"resources.deterministic: {CUBLAS} must be {' or '.join(FIXED)} before CUDA starts, "
            f"but is {os.environ.get(CUBLAS, 'not set')}; set it before python starts"
        )
    fix_workspace()
    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark
    filled = memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        memory.fill_uninitialized_memory = False  # Which finds mistakes, and takes time.
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        memory.fill_uninitialized_memory = filled
