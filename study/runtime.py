"""Where and how trials are run, which changes none of them."""

from collections.abc import Collection
from dataclasses import dataclass


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


def is_dashboard(address: str | None) -> bool:
    """Tell whether an address is one to which jobs are sent."""
    return address is not None and address.startswith(("http://", "https://"))
