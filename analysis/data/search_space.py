"""The search space as it was declared in ``study.json``: ranges, choices, and when they apply."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from study.errors import StudyError
from study.run_folder.paths import AnyPath

BINS: Final = 10
"""Slots of a range; one of fewer whole numbers has a slot for each."""
NOT_SEARCHED: Final = frozenset({"role", "stage", "replicate", "seed", "method"})


@dataclass(frozen=True)
class Domain:
    """The values that a searched parameter may take under a condition.

    Attributes:
        choices: For a choice; empty for a range.
        bounds: Of a range, both included.
        log: Whether the range is walked in its logarithm.
        whole: Whether the range holds whole numbers alone.
        when: Key -> values of other parameters under which this is the domain.
    """

    choices: tuple[Any, ...]
    bounds: tuple[float, float]
    log: bool
    whole: bool
    when: Mapping[str, tuple[Any, ...]]

    @property
    def slots(self) -> int:
        """Number of equal parts: choices, whole numbers, or tenths of the range."""
        if self.choices:
            return len(self.choices)
        return min(BINS, round(self.bounds[1] - self.bounds[0]) + 1) if self.whole else BINS

    @property
    def stepped(self) -> bool:
        """Whether each slot is one value."""
        few = self.whole and self.bounds[1] - self.bounds[0] < BINS
        return bool(self.choices) or few

    def position(self, value: Any) -> float:
        """Return where a value lies, 0 to 1; of a choice or few whole numbers, its slot's middle.

        Raises:
            ValueError: When it lies outside.
        """
        if self.choices:
            alike = [n for n, c in enumerate(self.choices) if c == value]
            if not alike:
                raise ValueError(f"{value!r} is none of {self.choices}")
            return (alike[0] + 0.5) / len(self.choices)
        low, high = self.bounds
        if not low <= value <= high:
            raise ValueError(f"{value!r} is not within {self.bounds}")
        if self.stepped:
            return (value - low + 0.5) / self.slots
        scale = math.log if self.log else float
        return (scale(value) - scale(low)) / (scale(high) - scale(low))

    def slot(self, value: Any) -> int:
        """Return the number of the slot that a value lies in, from 0."""
        return min(int(self.position(value) * self.slots), self.slots - 1)

    def at(self, position: float) -> float:
        """Return the number of a range at a position between 0 and 1."""
        low, high = self.bounds
        if self.log:
            return math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
        return low + position * (high - low)


@dataclass(frozen=True)
class Space:
    """What was searched of one method: its fixed values, and the domains of each parameter."""

    method: str
    candidate: bool
    fixed: Mapping[str, Any]
    search: Mapping[str, tuple[Domain, ...]]

    def active(self, spec: Mapping[str, Any]) -> dict[str, tuple[Domain, Any]]:
        """Return the domain and value of every parameter that was searched in a trial's spec.

        Conditions are asked in the order of the file, as the search asked them: what is inactive
        has no value, whatever default the spec was filled with.
        """
        point = dict(self.fixed)
        found = {}
        for key, domains in self.search.items():
            section, _, name = key.partition(".")
            for domain in domains:
                if all(point.get(k) in values for k, values in domain.when.items()):
                    point[key] = spec[section][name]
                    found[key] = domain, point[key]
        return found


def study_of(folder: AnyPath) -> dict[str, Any] | None:
    """Return what ``study.json`` holds, None without it.

    Raises:
        StudyError: When it is no JSON object.
    """
    file = folder / "study.json"
    try:
        study = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _unlike(file, error) from None
    if not isinstance(study, dict):
        raise _unlike(file, TypeError(f"{study!r:.40} is no object"))
    return study


def command_of(folder: AnyPath) -> str | None:
    """Return the command that was given last, None where it is not known."""
    command = (study_of(folder) or {}).get("command")
    return command if isinstance(command, str) else None


def _unlike(file: AnyPath, error: Exception) -> StudyError:
    return StudyError(
        f"{file}: must hold the study as study.run writes it, but reading it ended with "
        f"{type(error).__name__}: {error}; restore the file"
    )


def spaces(folder: AnyPath) -> list[Space]:
    """Return the spaces that were searched, candidates first; none without ``study.json``.

    Raises:
        StudyError: When the file is not as the study writes it.
    """
    study = study_of(folder)
    if study is None:
        return []
    try:
        return [
            Space(
                method=own["method"],
                candidate=part == "candidates",
                fixed=own["fixed"],
                search={key: tuple(map(_domain, each)) for key, each in own["search"].items()},
            )
            for part in ("candidates", "others")
            for own in study[part]
            if own["search"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unlike(folder / "study.json", error) from None


def _domain(given: Mapping[str, Any]) -> Domain:
    low, high = given["float"] or given["int"] or (0, 0)
    return Domain(
        choices=tuple(given["choice"] or ()),
        bounds=(low, high),
        log=given["log"],
        whole=given["int"] is not None,
        when={key: tuple(values) for key, values in given["when"].items()},
    )


def flatten(spec: str) -> dict[str, Any]:
    """Return the leaves of a spec's JSON by dotted key, without what tells replicates apart."""

    def walk(value: Any, at: str) -> Iterable[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{at}.{key}" if at else key)
        else:
            yield at.removeprefix("params.").removeprefix("training."), value

    return dict(walk({k: v for k, v in json.loads(spec).items() if k not in NOT_SEARCHED}, ""))
