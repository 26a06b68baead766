"""What a user should know before hours are spent: of the study and its data."""

from study.datasets import Dataset, inspect
from study.schema import LEAST_SEEDS
from study.space.study import Study


def notes(study: Study, data: Dataset) -> list[str]:
    """Return a line on everything that is allowed, but odd."""
    seeds, found = study.protocol.seeds, inspect(data)
    if seeds != "auto" and seeds < LEAST_SEEDS:
        found.insert(
            0, f"protocol.seeds={seeds}: no verdict is drawn from fewer than {LEAST_SEEDS} seeds"
        )
    return [f"note: {line}" for line in found]
