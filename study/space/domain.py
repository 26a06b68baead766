"""The values that one searched parameter may take."""

from typing import Any

from pydantic import Field, model_validator

from study.spec import Strict

Point = dict[str, Any]
"""Values by flat key, as ``params.init_std``."""


class Domain(Strict):
    """The values that one searched parameter may take: a ``float``, ``int`` or ``choice`` range.

    ``when`` makes it conditional: {key: value or values}; otherwise the parameter is null.
    """

    real: tuple[float, float] | None = Field(None, alias="float")
    whole: tuple[int, int] | None = Field(None, alias="int")
    choice: tuple[str | int | float | bool | None, ...] | None = Field(None, min_length=1)
    log: bool = False
    when: dict[str, tuple[str | int | float | bool | None, ...]] = {}

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(
                f"must be a mapping with float, int or choice, but is {data!r}; write a range as "
                "{float: [low, high]}, and a single value under fixed"
            )
        data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        for kind in ("float", "int", "choice"):
            size = len(data[kind]) if isinstance(data.get(kind), tuple) else 0
            if kind in data and (size == 0 or (kind != "choice" and size != 2)):
                rule = "a list of values" if kind == "choice" else "[low, high]"
                raise ValueError(f"{kind} must be {rule}, but is {data[kind]!r}")
        if isinstance(data.get("when"), dict):
            data["when"] = {
                k: tuple(v) if isinstance(v, list) else (v,) for k, v in data["when"].items()
            }
        return data

    @model_validator(mode="after")
    def _is_a_range(self) -> "Domain":
        given = [k for k in ("real", "whole", "choice") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"must have exactly one of float, int, choice, but has {len(given)}")
        if self.bounds and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"must have low < high, but got {list(self.bounds)}")
        if self.log and (self.bounds is None or self.bounds[0] <= 0):
            raise ValueError(f"log needs a range above 0, but got {list(self.bounds or ())}")
        if len({isinstance(v, bool) for v in self.choice or () if v is not None}) > 1:
            raise ValueError(f"choice mixes true or false with others: {list(self.choice or ())}")
        if len(set(self.choice or ())) < len(self.choice or ()):
            raise ValueError(f"choice must have every value once, but is {list(self.choice or ())}")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lowest and highest value, both included; None for a choice."""
        return self.real or self.whole

    def contains(self, value: Any) -> bool:
        """Tell whether ``value`` lies in the domain."""
        if self.choice is not None:
            return any(value == v and type(value) is type(v) for v in self.choice)
        low, high = self.bounds or (0, 0)
        kinds = (int,) if self.whole else (int, float)
        return type(value) in kinds and low <= value <= high

    def active(self, point: Point) -> bool:
        """Tell whether the condition holds at ``point``."""
        return all(point.get(key) in values for key, values in self.when.items())
