"""What a user should know before hours are spent: of the study and its data."""

from study.datasets import Dataset, inspect
from study.space.settings import Study
from study.thresholds import LEAST_SEEDS


def notes(study: Study, data: Dataset) -> list[str]:
    """Return a line on everything that is allowed, but odd."""
    asked = {"seeds": study.protocol.seeds, "single_seeds": study.protocol.single_seeds}
    few = [
        f"protocol.{key}={seeds}: no verdict is drawn from fewer than {LEAST_SEEDS} seeds"
        for key, seeds in asked.items()
        if seeds != "auto" and seeds < LEAST_SEEDS
    ]
    return [f"note: {line}" for line in [*few, *inspect(data)]]
