"""``enqueue: all``: every combination of a space's choices, as a factorial design asks for."""

from typing import Any

from study.errors import StudyError
from study.space.settings import MethodSpace


def every_entry(space: MethodSpace) -> tuple[dict[str, Any], ...]:
    """Return an entry of ``enqueue`` for each point of a space, named by its levels.

    The last searched key varies fastest; what has one choice alone is no part of the name.

    Raises:
        StudyError: When something is searched over a range.
    """
    points: list[dict[str, Any]] = [{}]
    for key, _, domain in space.conditional():
        if domain.choice is None:
            raise StudyError(
                f"{space.file}: enqueue: all needs choices alone, but {key} is searched from "
                f"{domain.bounds}; give the values under choice"
            )
        points = [
            point | level
            for point in points
            for level in (
                [{key: value} for value in domain.choice]
                if domain.active(space.fixed | point)
                else [{}]
            )
        ]
    varied = [key for key in space.search if len({repr(p[key]) for p in points if key in p}) > 1]
    return tuple({"name": _name(point, varied)} | point for point in points)


def _name(point: dict[str, Any], varied: list[str]) -> str:
    levels = ((key.rpartition(".")[2], point[key]) for key in varied if key in point)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in levels)
