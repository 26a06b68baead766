"""Where and how trials are run, which changes none of them; imported first, it keeps Ray quiet."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from study.errors import StudyError

QUIET: Final = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Older releases warn; the worker hides GPUs itself.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # JobQueueSearcher.most is the limit.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's snapshots are never read, and grow.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

os.environ.update(QUIET)  # Ray reads these when it is imported.


@dataclass(frozen=True)
class Runtime:
    """What the command line says of the machines.

    Attributes:
        address: Of a Ray cluster; None for a runtime of this process' own.
        verbose: Whether Ray and Optuna speak.
        log: Where jobs are logged as well.
        unchecked: Whether a cluster's nodes are not looked at.
    """

    address: str | None = None
    verbose: bool = False
    log: Collection[str] = ()
    unchecked: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no address, before anything is written."""
        host, _, port = (self.address or "auto").rpartition(":")
        there = "://" not in host and host and port.isdecimal()
        if not (there or self.address in (None, "auto") or is_dashboard(self.address)):
            raise StudyError(
                f"--address {self.address}: must be auto, HOST:PORT or http://HEAD:8265; give one "
                "of these"
            )


def is_dashboard(address: str | None) -> bool:
    """Tell whether an address is one to which jobs are sent."""
    return address is not None and address.startswith(("http://", "https://"))
