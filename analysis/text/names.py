"""What methods and configurations are called where people read them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from analysis.text.numbers import plain

TITLES: Final = {
    "batch_ensemble": "BatchEnsemble",
    "batchensemble": "BatchEnsemble",
    "deep_ensemble": "Deep Ensemble",
    "single": "Single network",
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


SECTIONS: Final = ("params", "regulariser", "backbone", "training")
ALWAYS: Final = (("regulariser", "name"), ("params", "members"), ("params", "init"))
"""What names a configuration before anything else: its regulariser, its size, its start."""
PHRASES: Final = {
    ("init", "sign"): "signs",
    ("init", "tabm_sign"): "TabM signs",
    ("init", "tabm_normal"): "TabM normal",
    ("rank", "full"): "full rank",
    **{("name", short): short.upper() for short in ("adp", "dice", "hsic")},
}
"""Values that say enough by themselves."""


def apart(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what sets each configuration of a method apart from the others, in a few words.

    Regulariser, size and initialisation; then parameters of the method, of the backbone and of
    training, each only where those before it leave two configurations alike.

    Args:
        specs: Configurations of one method, each in its sections ``params``, ``regulariser`` and so
            on.
    """
    values = [dict(_leaves(spec)) for spec in specs]
    said = [", ".join(filter(None, (_phrase(k, own.get(k)) for k in ALWAYS))) for own in values]
    keys = dict.fromkeys(key for own in values for key in own if key not in ALWAYS)
    for key in sorted(keys, key=lambda key: (SECTIONS.index(key[0]), key != ("params", "rank"))):
        each = [_phrase(key, own.get(key)) for own in values]
        alike: dict[str, set[str]] = {}
        for name, phrase in zip(said, each, strict=True):
            alike.setdefault(name, set()).add(phrase)
        said = [
            f"{name}, {phrase}" if len(alike[name]) > 1 and phrase else name
            for name, phrase in zip(said, each, strict=True)
        ]
    return said


def _leaves(spec: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    for section in SECTIONS:
        for key, value in (spec.get(section) or {}).items():
            if value is not None and (section, key) != ("params", "name"):
                yield (section, key), value


def _phrase(key: tuple[str, str], value: Any) -> str:
    """Return a parameter and its value as a reader would say them, nothing for none."""
    name = key[1]
    if value is None or value == "none":
        return ""
    if isinstance(value, list):  # Such as the channels of a convolutional network.
        return f"{name.replace('_', ' ')} {'-'.join(map(str, value))}"
    if (name, value) in PHRASES:
        return PHRASES[name, value]
    text = plain(value).replace("_", " ") if isinstance(value, str) else plain(value)
    if key == ("params", "members"):
        return f"{text} members"
    if name in ("name", "init"):
        return f"{text} init" if name == "init" else text
    return f"{name.replace('_', ' ')} {text}"
