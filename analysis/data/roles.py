"""The roles of arms: anchors, controls, and what is judged."""

from typing import Final

FAMILIES: Final = ("candidate", "comparison")

SPLITS: Final = ("test", "shift", "ood")
ANCHORS: Final = ("single", "deep_ensemble")
CONTROLS: Final = ("negative_control", "positive_control")


def arm_key(role: str, configuration: str) -> str:
    """Return the key of an arm; a Deep Ensemble's is completed by its size."""
    return role if role in ANCHORS + CONTROLS else configuration
