"""What a study is: its search spaces, budget and protocol."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from study.errors import StudyError
from study.space.domain import Domain, Point
from study.spec import Configuration, Execution, Strict
from study.thresholds import ALPHA, DELTA

Model = TypeVar("Model", bound=Strict)


class Budget(Strict):
    """How much is searched, the same for each tuned method."""

    trials: int = Field(60, ge=1, description="search trials of each tuned method")
    generation: int = Field(15, ge=1, description="trials proposed at once from the earlier ones")
    rescore: int = Field(20, ge=1, description="best configurations run again")
    rescore_seeds: int = Field(2, ge=0, description="on so many more search seeds")
    anchor_seeds: int = Field(
        10, ge=5, description="fresh seeds on which each candidate for the single network is tried"
    )
    pilot_seeds: int = Field(10, ge=2, description="runs of each anchor for protocol.seeds=auto")


Endpoint = Literal["cll", "nll", "shift_nll", "gain"]


class Protocol(Strict):
    """How the confirm stage judges; declared before the test set is opened."""

    seeds: Annotated[int, Field(ge=2, le=10_000)] | Literal["auto"] = Field(
        "auto", description="fresh seeds per arm; auto: as many as the pilot's spread asks for"
    )
    anchors: Literal["robust", "contended", "matched", "tuned"] = Field(
        "robust",
        description="what a configuration is held against: the tuned single network and its Deep "
        "Ensemble; with matched also those with its own backbone and hyperparameters; with "
        "contended also every single network that validation cannot tell from the tuned one, which "
        "is then chosen by calibrated NLL; with robust the tuned one is, of those that validation "
        "cannot tell apart, the best under validation shift, and has no run at chance level",
    )
    exchange: bool = Field(
        True,
        description="whether every configuration is also tried with the tuned single network's "
        "backbone and hyperparameters, and keeps the better; false where a design fixes them",
    )
    single_seeds: Annotated[int, Field(ge=2, le=10_000)] | Literal["auto"] = Field(
        "auto",
        description="fresh seeds of the tuned single network, which every arm shares; auto: seeds "
        "times the square root of the number of arms (with anchors: tuned just as many as seeds)",
    )
    shortlist: int = Field(8, ge=1, le=64, description="candidates of each method at most")
    per_stratum: int = Field(2, ge=1)
    comparisons: int = Field(1, ge=1, description="confirmed configurations per comparison method")
    delta: float = Field(DELTA, gt=0, lt=1, description="margin in units of recovery")
    alpha: float = Field(ALPHA, gt=0, lt=0.5)
    endpoints: list[Endpoint] = Field(["cll", "shift_nll", "gain"], min_length=1)
    sensitivity: list[float] = Field([0.15, 0.25, 0.35], min_length=1)

    @model_validator(mode="after")
    def _can_be_judged(self) -> "Protocol":
        if len(set(self.endpoints)) < len(self.endpoints) or set(self.endpoints) == {"gain"}:
            raise ValueError(
                "endpoints must differ and hold one of performance (cll, nll, shift_nll), "
                f"but are {self.endpoints}"
            )
        if not all(0 < delta < 1 for delta in self.sensitivity):
            raise ValueError(f"sensitivity must lie between 0 and 1, but is {self.sensitivity}")
        return self

    @property
    def contended(self) -> bool:
        """Whether other single networks may be held against an arm than the tuned one."""
        return self.anchors in ("robust", "contended")


class Resources(Strict):
    """What one trial takes; null: as many trials at once, or as one, as is best."""

    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        0.0, description="a share, or auto: as many trials on a GPU as its memory holds"
    )
    concurrency: int | None = Field(None, ge=1)
    stack: int | None = Field(None, ge=1, description="trials trained as one, at most")
    low_memory: bool = Field(False, description="members one after another, where they can be")
    deterministic: bool = Field(
        False, description="the same numbers bit for bit on the same kind of GPU, by slower kernels"
    )
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose worker died")
    trial_hours: float = Field(
        24, gt=0, le=8760, description="after which a trial is taken to hang"
    )
    failed_share: float = Field(0.5, gt=0, le=1, description="of failed trials that ends the run")

    @field_validator("gpus_per_trial")
    @classmethod
    def _whole_above_one(cls, given: float | str) -> float | str:
        if isinstance(given, float) and given > 1 and not given.is_integer():
            raise ValueError(f"must be whole above 1, as Ray asks, but is {given:g}; round it")
        return given


class MethodSpace(Strict):
    """The search space of one method, as read from one file."""

    file: str = Field(exclude=True)
    method: str
    fixed: dict[str, Any] = {}
    search: dict[str, tuple[Domain, ...]] = {}
    enqueue: tuple[dict[str, Any], ...] = ()
    strata: tuple[str, ...] = ()

    def conditional(self) -> Iterator[tuple[str, str, Domain]]:
        """Yield (key, unique name, domain) for each alternative of each searched parameter."""
        for key, alternatives in self.search.items():
            for number, domain in enumerate(alternatives):
                yield key, key if len(alternatives) == 1 else f"{key}[{number}]", domain

    def values(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield (key, values): what is fixed, every choice, and both ends of every range."""
        yield from ((key, (value,)) for key, value in self.fixed.items())
        for key, _, domain in self.conditional():
            yield key, tuple(domain.choice or domain.bounds or ())

    def values_of(self, key: str) -> list[Any]:
        """Return the values of one key; none where it is neither fixed nor searched."""
        return [value for own, values in self.values() if own == key for value in values]


class Study(Strict):
    """A whole study: the first file's settings and every method's space."""

    name: str
    seed: int = Field(0, ge=0)
    dataset: dict[str, Any]
    budget: Budget = Budget()
    protocol: Protocol = Protocol()
    resources: Resources = Resources()
    precision: Literal["float16", "float32"] = "float16"
    note: str | None = Field(
        None, description="what a reader of the verdict must know, as where values were chosen"
    )
    storage: str | None = Field(None, description="database of the search instead of a journal")
    candidates: tuple[MethodSpace, ...]
    others: tuple[MethodSpace, ...] = ()

    @classmethod
    def from_yaml(cls, *files: str | Path, overrides: Sequence[str] = ()) -> "Study":
        """Read a study as ``python -m study.run --space`` does.

        Args:
            files: YAML files: the first gives the settings, each a candidate method.
            overrides: ``key=value`` texts that replace keys of the first file.

        Raises:
            StudyError: Naming file, key, rule, value and remedy.
        """
        from study.space.load import load_study  # Which needs this class.

        return load_study([Path(file) for file in files], list(overrides))

    def configuration(self, method: str, point: Point | None = None) -> Configuration:
        """Return the complete configuration of a method at a point of its space.

        Args:
            method: One of the study's methods.
            point: Values by key, as ``{"training.lr": 0.1}``; added to what the space fixes.

        Raises:
            StudyError: When there is no such method, or the values do not go together.
        """
        from study.space.configuration import configuration  # Which needs this class.

        known = [space.method for space in self.spaces]
        if method not in known:
            raise StudyError(f"method must be one of {', '.join(known)}, but is {method!r}")
        return configuration(self.space(method), point or {}, self.dataset)

    @property
    def spaces(self) -> tuple[MethodSpace, ...]:
        """Every method's space, candidates first."""
        return self.candidates + self.others

    @property
    def execution(self) -> Execution:
        """How each trial is trained and stored."""
        own = self.resources.model_dump(include=set(Execution.model_fields))
        return Execution(precision=self.precision, **own)

    def space(self, method: str) -> MethodSpace:
        """Return the space of ``method``."""
        return next(s for s in self.spaces if s.method == method)

    @model_validator(mode="after")
    def _every_known_configuration_is_tried(self) -> "Study":
        most = max((len(space.enqueue) for space in self.spaces), default=0)
        if self.budget.trials < most:
            raise ValueError(
                f"budget.trials must be at least the {most} enqueued configurations, "
                f"but is {self.budget.trials}"
            )
        return self

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise ValueError(
                "must be letters, digits, _, . and -, at most 64 and first a letter or digit, but "
                f"is {name!r}; give name another value (where it is not given, it is the file's)"
            )
        return name

    @field_validator("storage")
    @classmethod
    def _keeps_no_secret(cls, storage: str | None) -> str | None:
        if storage is not None and "://" not in storage:
            raise ValueError(
                f"must be a database as postgresql+psycopg://USER@HOST/NAME, but is {storage!r}"
            )
        url = urlsplit(storage or "")
        if url.password is not None or "password" in parse_qs(url.query):
            raise ValueError(
                "must not hold a password, as it is kept in study.json; "
                "give that in PGPASSWORD or ~/.pgpass"
            )
        return storage

    @model_validator(mode="after")
    def _methods_differ(self) -> "Study":
        found = [space.method for space in self.spaces]
        twice = sorted({m for m in found if found.count(m) > 1})
        if twice:
            raise ValueError(f"a method may have one space, but {', '.join(twice)} has several")
        return self
