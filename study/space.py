"""What a study is: its search spaces, budget and protocol, and one point of a space as a spec."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from study import regularisers
from study.plugins import load_plugin, suggest
from study.schema import StudyError
from study.spec import Configuration, Execution, Regularisation, Strict, Training, canonical

Model = TypeVar("Model", bound=Strict)
Point = dict[str, Any]
"""Values by flat key, as ``params.init_std``."""

ENTRY_KEYS: Final = ("name", "control")
"""Keys of an enqueued entry that are no parameters."""
SECTIONS: Final = ("params", "backbone", "training", "regulariser")


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
            raise ValueError(f"must be a mapping with float, int or choice, but is {data!r}")
        data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
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


class Budget(Strict):
    """How much is searched, the same for each tuned method."""

    trials: int = Field(60, ge=1, description="search trials of each tuned method")
    generation: int = Field(15, ge=1, description="trials proposed at once from the earlier ones")
    rescore: int = Field(20, ge=1, description="best configurations run again")
    rescore_seeds: int = Field(2, ge=0, description="on so many more search seeds")
    pilot_seeds: int = Field(10, ge=2, description="runs of each anchor for protocol.seeds=auto")


Endpoint = Literal["cll", "nll", "shift_nll", "gain"]


class Protocol(Strict):
    """How the confirm stage judges; declared before the test set is opened."""

    seeds: Annotated[int, Field(ge=2, le=10_000)] | Literal["auto"] = Field(
        "auto", description="fresh seeds per arm; auto: as many as the pilot's spread asks for"
    )
    shortlist: int = Field(8, ge=1, le=64, description="candidates of each method at most")
    per_stratum: int = Field(2, ge=1)
    comparisons: int = Field(1, ge=1, description="confirmed configurations per comparison method")
    delta: float = Field(0.25, gt=0, lt=1, description="margin in units of recovery")
    alpha: float = Field(0.05, gt=0, lt=0.5)
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


class Resources(Strict):
    """What one trial takes; null: as many trials at once, or replicates as one, as is best."""

    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        0.0, description="a share, or auto: as many trials on a GPU as its memory holds"
    )
    concurrency: int | None = Field(None, ge=1)
    stack: int | None = Field(None, ge=1, description="replicates trained as one, at most")
    low_memory: bool = Field(False, description="members one after another, where they can be")
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose worker died")
    trial_hours: float = Field(
        24, gt=0, le=8760, description="after which a trial is taken to hang"
    )
    failed_share: float = Field(0.5, gt=0, le=1, description="of failed trials that ends the run")


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


class Study(Strict):
    """A whole study: the first file's settings and every method's space."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)
    seed: int = Field(0, ge=0)
    dataset: dict[str, Any]
    budget: Budget = Budget()
    protocol: Protocol = Protocol()
    resources: Resources = Resources()
    precision: Literal["float16", "float32"] = "float16"
    storage: str | None = Field(None, description="database of the search instead of a journal")
    candidates: tuple[MethodSpace, ...]
    others: tuple[MethodSpace, ...] = ()

    @property
    def spaces(self) -> tuple[MethodSpace, ...]:
        """Every method's space, candidates first."""
        return self.candidates + self.others

    @property
    def execution(self) -> Execution:
        """How each trial is trained and stored."""
        resources = self.resources
        return Execution(
            precision=self.precision, stack=resources.stack, low_memory=resources.low_memory
        )

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


def checked(model: type[Model], data: object, file: Path | str, prefix: str = "") -> Model:
    """Validate ``data``; a failure becomes one line naming file, key, rule and value."""
    try:
        return model.model_validate(data)
    except ValidationError as failure:
        error = failure.errors()[0]
        key = ".".join(str(part) for part in (prefix, *error["loc"]) if part != "")
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = f"unknown key{suggest(str(error['loc'][-1]), _fields(model, error['loc']))}"
        elif error["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}, but got {error['input']!r}"
        where = f"{file}: {key}" if key else str(file)
        raise StudyError(f"{where}: {message}") from None


def _fields(model: type[Strict], path: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are known where ``path`` ends."""
    for part in path[:-1]:
        inner = model.model_fields[str(part)].annotation if part in model.model_fields else None
        if isinstance(inner, type) and issubclass(inner, Strict):
            model = inner
    known = (field.alias or key for key, field in model.model_fields.items())
    return [key for key in known if key not in ("candidates", "others")]


def models(method: str, backbone: str) -> dict[str, type[Strict]]:
    """Return the pydantic model of each section of a configuration."""
    return {
        "params": load_plugin("study.methods", method).Params,
        "backbone": load_plugin("study.backbones", backbone).Params,
        "training": Training,
        "regulariser": Regularisation,
    }


def configuration(
    space: MethodSpace, point: Point, dataset: dict[str, Any] | None = None
) -> Configuration:
    """Return the complete, checked configuration at ``point`` of ``space``.

    The study's ``dataset`` may be left out where nothing is run.

    Raises:
        StudyError: When the values do not go together.
    """
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in (space.fixed | point).items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    backbone = sections["backbone"].setdefault("name", "mlp")
    regularisers.find(sections["regulariser"].get("name", "none"))
    where = f"{space.file} at {canonical(point)}"
    own: dict[str, Any] = {
        section: checked(model, sections[section], where, section).model_dump()
        for section, model in models(space.method, backbone).items()
    }
    return Configuration(method=space.method, dataset=dataset or {}, **own)
