"""What runs in a Ray worker: a job's trials, one after another or as one stack.

The C library's allocator is told to keep what a training step frees: the next one needs it again.
By itself glibc gives large blocks back to the system, and each step then pays for fresh pages.
"""

import ctypes
import os
import re
import signal
import time
from typing import Any, Final

from ray import tune

from study.cluster.trackers import figures
from study.datasets import Dataset
from study.run_folder.store import RunFolder
from study.spec import Execution, TrialSpec
from study.training.determinism import fix_workspace
from study.trials.timeout import time_limit

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # Of malloc.h.
LARGEST: Final = (2**30, 2**25)
"""Bytes up to which a block is kept, and the most that older releases of glibc take."""


def trainable(config: dict[str, Any], data: Dataset) -> None:
    """Run a job in a worker; without specs, only pass the time."""
    if config["specs"] is None:
        time.sleep(config["nap"])
        tune.report({"status": "nap"})
        return
    if not config["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Newer releases of Ray leave them in sight.
    # Of what a trial starts, as a pool of processes, some may have to be ended by it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    execution = Execution(**config["execution"])
    if execution.deterministic:
        fix_workspace()  # Of cuBLAS, which looks when CUDA starts.
    import torch

    from study.trials.trial import run_trials

    keep_freed_memory()
    torch.set_num_threads(threads())
    specs = [TrialSpec.model_validate_json(spec) for spec in config["specs"]]
    store = RunFolder(config["out"])
    with time_limit(store.last_words_file(specs[0].trial), 3600 * config["hours"] * len(specs)):
        rows = run_trials(
            specs,
            data,
            store,
            fingerprint=config["fingerprint"],
            name=config["name"],
            execution=execution,
        )
    tune.report({"status": "ended"} | figures(rows))


def threads() -> int:
    """Return the threads that a trial may have: of a list for nested regions, the first.

    What OpenMP itself would leave aside, as a word, and more than any machine has, stand for one.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(asked)) if re.fullmatch("[0-9]{1,3}", asked) else 1


def keep_freed_memory() -> None:
    """Keep freed memory in this process; does nothing where the C library is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        any(mallopt(MMAP_THRESHOLD, largest) for largest in LARGEST)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
