"""From YAML to a checked study: what is fixed, what is searched, and how it is judged.

One file describes one method's search space and, as the first of a run, the study around it.
Errors name file, key, rule, value and remedy.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from study import regularisers
from study.plugins import load_plugin, names, suggest
from study.schema import StudyError
from study.spec import Json, Regularisation, Strict, Training, canonical

Point = dict[str, Json]
"""Values by flat key, as ``params.init_std``."""

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

    def contains(self, value: Json) -> bool:
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


Endpoint = Literal["cll", "nll", "shift_nll", "gain"]


class Protocol(Strict):
    """How the confirm stage judges; declared before the test set is opened."""

    seeds: int = Field(20, ge=2, le=10_000, description="fresh seeds per arm")
    shortlist: int = Field(8, ge=1, le=64, description="candidates of each method at most")
    per_stratum: int = Field(2, ge=1)
    comparisons: int = Field(1, ge=1, description="confirmed configurations per comparison method")
    delta: float = Field(0.25, gt=0, lt=1, description="margin in units of recovery")
    alpha: float = Field(0.05, gt=0, lt=0.5)
    endpoints: list[Endpoint] = Field(["cll", "shift_nll", "gain"], min_length=1)
    sensitivity: list[float] = [0.15, 0.25, 0.35]


class Resources(Strict):
    """What one trial takes; ``concurrency``: null for as many as fit."""

    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float = Field(0, ge=0)
    concurrency: int | None = Field(None, ge=1)
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose worker died")


class MethodSpace(Strict):
    """The search space of one method, as read from one file."""

    file: str = Field(exclude=True)
    method: str
    fixed: dict[str, Json] = {}
    search: dict[str, tuple[Domain, ...]] = {}
    enqueue: tuple[dict[str, Json], ...] = ()
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
    dataset: dict[str, Json]
    budget: Budget = Budget()
    protocol: Protocol = Protocol()
    resources: Resources = Resources()
    precision: Literal["float16", "float32"] = "float16"
    candidates: tuple[MethodSpace, ...]
    others: tuple[MethodSpace, ...] = ()

    @property
    def spaces(self) -> tuple[MethodSpace, ...]:
        """Every method's space, candidates first."""
        return self.candidates + self.others

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

    @model_validator(mode="after")
    def _methods_differ(self) -> "Study":
        found = [space.method for space in self.spaces]
        twice = sorted({m for m in found if found.count(m) > 1})
        if twice:
            raise ValueError(f"a method may have one space, but {', '.join(twice)} has several")
        return self


STUDY_KEYS: Final = ("name", "seed", "dataset", "budget", "protocol", "resources", "precision")
METHOD_KEYS: Final = ("method", "fixed", "search", "enqueue", "strata")
ENTRY_KEYS: Final = ("name", "control")
TOP_KEYS: Final = (*STUDY_KEYS, *METHOD_KEYS, "compare")
ANCHORS: Final = ("single", "deep_ensemble")


def load_study(files: list[Path], overrides: list[str] | None = None) -> Study:
    """Read the files of a run: the first gives the study's settings, each a candidate method.

    The single network, and through it the Deep Ensemble, is tuned over the first file's own
    ``backbone`` and ``training``, as is each method under ``compare`` but for keys of its own: so
    all have the same space where they share parameters.

    A method that has a file of its own needs no ``compare``: the file counts.

    Args:
        files: YAML files, in the order given.
        overrides: ``key=value`` texts that replace keys of the first file.

    Raises:
        StudyError: Naming file, key, rule, value and remedy.
    """
    documents = [(file, _read(file)) for file in files]
    first_file, first = documents[0]
    for override in overrides or []:
        _override(first, override, first_file)
    spaces = [_method_space(file, document) for file, document in documents]
    candidates = [space for space in spaces if space.method not in ANCHORS]
    shared = {part: _shared(spaces[0], part) for part in ("fixed", "search")}
    own_single = [space for space in spaces if space.method == "single"]
    single = own_single or [_method_space(first_file, {"method": "single"} | shared)]
    given = {space.method for space in spaces}
    compared = [_compared(first_file, entry, shared) for entry in first.get("compare") or []]
    compared = [space for space in compared if space.method not in given]
    for file, document in documents[1:]:
        if document.get("dataset", first.get("dataset")) != first.get("dataset"):
            raise StudyError(f"{file}: dataset: must be that of {first_file} or left out")
    settings: dict[str, Any] = {key: first[key] for key in STUDY_KEYS if key in first}
    settings.setdefault("name", first_file.stem)
    settings["dataset"] = _complete_dataset(settings.get("dataset"), first_file)
    settings |= {"candidates": tuple(candidates), "others": (single[0], *compared)}
    study: Study = _checked(Study, settings, first_file)
    return study


def _shared(space: MethodSpace, part: str) -> dict[str, Any]:
    """Return the entries of ``fixed`` or ``search`` that say nothing of the method itself."""
    entries: dict[str, Any] = getattr(space, part)
    return {k: v for k, v in entries.items() if k.partition(".")[0] in ("backbone", "training")}


def _compared(file: Path, entry: Any, shared: dict[str, dict[str, Any]]) -> MethodSpace:
    """Return the space of a method under ``compare``: the shared one but for its own keys."""
    if isinstance(entry, str):
        entry = {"method": entry}
    if not isinstance(entry, dict) or not {"method"} <= set(entry) <= {"method", "fixed", "search"}:
        raise StudyError(f"{file}: compare: must have method, fixed, search, but is {entry!r}")
    own = _method_space(file, entry)
    named = {*own.fixed, *own.search}
    inherited = {part: {k: v for k, v in shared[part].items() if k not in named} for part in shared}
    merged = {part: inherited[part] | getattr(own, part) for part in inherited}
    return _method_space(file, {"method": own.method} | merged)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of YAML 1.2: 1e-4 is a number, no is a word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":float", ":bool"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|nan)$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.load(file.read_text(), Loader=_Loader)
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror}); check --space") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{file}: must be YAML, but {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise StudyError(f"{file}: must be a mapping with the key method, but is {document!r}")
    for key in document:
        if key not in TOP_KEYS:
            raise StudyError(f"{file}: {key}: unknown key{suggest(str(key), [*TOP_KEYS])}")
    return document


def _override(document: dict[str, Any], override: str, file: Path) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise StudyError(f"--set {override}: must be key=value, as budget.trials=100")
    *path, last = key.split(".")
    at = document
    for part in path:
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise StudyError(
                f"--set {override}: {part} in {file} is no mapping; name a key inside one"
            )
    if (path or [last])[0] not in TOP_KEYS:
        raise StudyError(f"--set {override}: unknown key{suggest(key, [*TOP_KEYS])}")
    try:
        at[last] = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise StudyError(f"--set {override}: the value must be YAML, but is {text!r}") from None


def _checked(model: Any, data: Any, file: Path | str, prefix: str = "") -> Any:
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
    return [key for key in model.model_fields if key not in ("candidates", "others")]


def _complete_dataset(options: Any, file: Path) -> dict[str, Json]:
    options = {"name": "digits"} if options is None else options
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        raise StudyError(f"{file}: dataset: must be a mapping with a name, but is {options!r}")
    try:
        module = load_plugin("study.datasets", options["name"])
    except StudyError as error:
        raise StudyError(f"{file}: dataset.name: {error}") from None
    complete: dict[str, Json] = _checked(module.Options, options, file, "dataset").model_dump()
    return complete


def _method_space(file: Path, document: dict[str, Any]) -> MethodSpace:
    name = document.get("method")
    if not isinstance(name, str):
        raise StudyError(
            f"{file}: method: must name a method, but is {name!r}; known: "
            f"{', '.join(names('study.methods'))}"
        )
    try:
        load_plugin("study.methods", name)
    except StudyError as error:
        raise StudyError(f"{file}: method: {error}") from None
    fixed = _flat(
        document.get("fixed") or {}, file, "fixed", leaf=lambda v: not isinstance(v, dict)
    )
    searched = _flat(document.get("search") or {}, file, "search", leaf=_is_domain)
    for key in searched:
        if key in fixed:
            raise StudyError(f"{file}: {key}: is both fixed and searched; keep one")
    space = _checked(
        MethodSpace,
        {
            "file": str(file),
            "method": name,
            "fixed": fixed,
            "search": {key: _domains(leaf, file, key) for key, leaf in searched.items()},
            "enqueue": tuple(document.get("enqueue") or ()),
            "strata": tuple(document.get("strata") or ()),
        },
        file,
    )
    _check_keys(space)
    _check_enqueued(space)
    return space  # type: ignore[no-any-return]


def _is_domain(value: Any) -> bool:
    return not isinstance(value, dict) or bool({"float", "int", "choice"} & set(value))


def _flat(tree: Any, file: Path, where: str, leaf: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise StudyError(f"{file}: {where}: must be a mapping, but is {tree!r}")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= {name: value} if leaf(value) else _flat(value, file, where, leaf, f"{name}.")
    return flat


def _domains(leaf: Any, file: Path, key: str) -> tuple[Domain, ...]:
    if isinstance(leaf, tuple):
        return leaf
    alternatives = leaf if isinstance(leaf, list) else [leaf]
    return tuple(_checked(Domain, domain, file, f"search.{key}") for domain in alternatives)


def models(method: str, backbone: str) -> dict[str, type[Strict]]:
    """Return the pydantic model of each section of a configuration."""
    return {
        "params": load_plugin("study.methods", method).Params,
        "backbone": load_plugin("study.backbones", backbone).Params,
        "training": Training,
        "regulariser": Regularisation,
    }


def _check_keys(space: MethodSpace) -> None:
    """Check that every key exists, where it stands, and that conditions refer to earlier keys."""
    if any(len(d) > 1 or d[0].when for k, d in space.search.items() if k == "backbone.name"):
        raise StudyError(f"{space.file}: backbone.name: must be fixed or a plain choice")
    known = {section: set(model.model_fields) for section, model in _all_models(space).items()}
    seen = set(space.fixed)
    for key in (*space.fixed, *space.search):
        section, _, name = key.partition(".")
        if section not in SECTIONS:
            raise StudyError(f"{space.file}: {key}: unknown section{suggest(section, [*SECTIONS])}")
        if name not in known[section]:
            raise StudyError(
                f"{space.file}: {key}: {_stranger(section, name, space, known[section])}"
            )
        for domain in space.search.get(key, ()):
            for other in domain.when:
                if other not in seen:
                    raise StudyError(
                        f"{space.file}: {key}: when: {other} must stand above it; "
                        f"known there: {', '.join(sorted(seen))}"
                    )
        seen.add(key)


def _all_models(space: MethodSpace) -> dict[str, type[Strict]]:
    searched = space.search.get("backbone.name")
    options = searched[0].choice if searched else (space.fixed.get("backbone.name", "mlp"),)
    try:
        return models(space.method, str((options or ("mlp",))[0]))
    except StudyError as error:
        raise StudyError(f"{space.file}: backbone.name: {error}") from None


def _stranger(section: str, name: str, space: MethodSpace, known: set[str]) -> str:
    """Say whose parameter an unknown one is, or which was meant."""
    if section == "params":
        for method in names("study.methods"):
            if name in load_plugin("study.methods", method).Params.model_fields:
                return f"{name} is a parameter of {method}, not of {space.method}; remove it"
    return f"unknown parameter{suggest(name, sorted(known))}"


def _check_enqueued(space: MethodSpace) -> None:
    names_seen: set[str] = set()
    for number, entry in enumerate(space.enqueue):
        where = f"{space.file}: enqueue[{number}]"
        name = entry.get("name")
        if not isinstance(name, str) or name in names_seen:
            raise StudyError(f"{where}: name: must be a text of its own, but is {name!r}")
        names_seen.add(name)
        if entry.get("control") not in (None, "negative"):
            raise StudyError(f"{where}: control: must be negative, but is {entry['control']!r}")
        for key, value in entry.items():
            if key in ENTRY_KEYS or value is None:
                continue
            if key not in space.search:
                raise StudyError(f"{where}: {key}: must be searched{suggest(key, [*space.search])}")
            if not any(domain.contains(value) for domain in space.search[key]):
                raise StudyError(
                    f"{where}: {key}: must lie in the searched range, but is {value!r}"
                )


def configuration(space: MethodSpace, point: Point) -> dict[str, Json]:
    """Return the complete, checked sections of a TrialSpec at ``point`` of ``space``.

    Raises:
        StudyError: When the values do not go together.
    """
    values = space.fixed | point
    sections: dict[str, dict[str, Json]] = {section: {} for section in SECTIONS}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    backbone = sections["backbone"].setdefault("name", "mlp")
    where = f"{space.file} at {canonical(point)}"
    regularisers.find(sections["regulariser"].get("name", "none"))
    return {
        section: _checked(model, sections[section], where, section).model_dump()
        for section, model in models(space.method, backbone).items()
    }
