"""One trial, from its specification to committed files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.trials.trial import run_trial

__all__ = ["run_trial"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: some modules of this folder are used where torch must not be."""
    if name == "run_trial":
        return import_module("study.trials.trial").run_trial
    raise AttributeError(f"module 'study.trials' has no attribute {name!r}")
