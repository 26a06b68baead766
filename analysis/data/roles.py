"""The roles of arms: anchors, controls, and what is judged."""

from typing import Final

from study.parquet_format import MATCHED

FAMILIES: Final = ("candidate", "comparison")

SPLITS: Final = ("test", "shift", "ood")
ANCHORS: Final = ("single", "deep_ensemble")
POOLS: Final = ("deep_ensemble", "matched_deep_ensemble")
"""Roles whose trials are pools of members, of which an arm of each size is made."""
CONTROLS: Final = ("positive_control", "negative_control")


def arm_key(role: str, configuration: str) -> str:
    """Return the key of an arm; a pool's is completed by the size of the Deep Ensemble."""
    if role in MATCHED:
        return f"{role}-{configuration}"
    return role if role in ANCHORS + CONTROLS else configuration


def ensemble_key(pool: str, members: int) -> str:
    """Return the key of the Deep Ensemble that the first members of a pool make."""
    return f"{pool}-{members}"
