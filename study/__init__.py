"""Everything that trains: search spaces, methods, data, trials and the study that runs them.

In a notebook or a script::

    import study

    asked = study.Study.from_yaml("search_spaces/be.yaml")
    data = study.datasets.load(asked.dataset)
    point = {"params.init": "ones", "training.lr": 0.1}
    configuration = asked.configuration("batch_ensemble", point)
    spec = configuration.trial_of("candidate", "search", replicate=0, seed=0)
    row = study.trials.run_trial(spec, data, "runs/mine")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from study import datasets, methods, trials
    from study.space.settings import Study

__all__ = ["Study", "datasets", "methods", "trials"]

MODULES: Final = ("datasets", "methods", "trials")


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that ``import study`` alone takes no time."""
    if name == "Study":
        return import_module("study.space.settings").Study
    if name in MODULES:
        return import_module(f"study.{name}")
    raise AttributeError(f"module 'study' has no attribute {name!r}")
