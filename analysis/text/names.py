"""What methods are called where people read them."""

from typing import Final

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
