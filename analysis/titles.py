"""What methods and arms are called where people read them."""

from collections.abc import Iterable
from typing import Any, Final

Json = dict[str, Any]

TITLES: Final = {
    "batch_ensemble": "BatchEnsemble",
    "batchensemble": "BatchEnsemble",
    "deep_ensemble": "Deep ensemble",
    "single": "Single model",
    "mc_dropout": "MC dropout",
    "lora_ensemble": "LoRA-Ensemble",
    "rank_k": "Rank-k ensemble",
    "e3": "E³",
    "film_ensemble": "FiLM-Ensemble",
    "mimo": "MIMO",
    "packed_ensembles": "Packed-Ensembles",
    "rank1_bnn": "Rank-1 BNN",
    "split_ensemble": "Split-Ensemble",
    "sve": "SVE",
    "swag": "SWAG",
}
"""Names that the key alone does not give; any other key is shown with its underscores as spaces."""


def title(method: str) -> str:
    """Return a method's readable name; of a dotted name, the last part."""
    dotted = all(part.isidentifier() for part in method.split("."))
    key = method.rpartition(".")[2] if dotted else method
    words = key.replace("_", " ")
    return TITLES.get(key, words[:1].upper() + words[1:])


def several(arms: Iterable[Json]) -> bool:
    """Tell whether candidates of several methods are judged, so that each is called by its own."""
    return len({arm["method"] for arm in arms if arm["role"] == "candidate"}) > 1


def name(arm: Json, whose: bool) -> str:
    """Return what to call an arm; ``whose``: with its method before a name of its own."""
    if arm["name"] is None:
        return f"{title(arm['method'])} {arm['configuration'][:6]}"
    whose = whose and arm["name"] != arm["method"]  # Predictions without a study have no methods.
    return f"{title(arm['method'])}: {arm['name']}" if whose else str(arm["name"])
