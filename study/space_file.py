"""From YAML to a checked study; errors name file, key, rule, value and remedy.

One file describes one method's search space and, as the first of a run, the study around it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from study.plugins import load_plugin, names, suggest
from study.schema import StudyError
from study.space import (
    ENTRY_KEYS,
    SECTIONS,
    Domain,
    MethodSpace,
    Study,
    checked,
    configuration,
    models,
)
from study.spec import Strict

STUDY_KEYS: Final = (
    *("name", "seed", "dataset", "budget", "protocol", "resources", "precision", "storage"),
)
METHOD_KEYS: Final = ("method", "fixed", "search", "enqueue", "strata")
TOP_KEYS: Final = (*STUDY_KEYS, *METHOD_KEYS, "compare", "include")
ANCHORS: Final = ("single", "deep_ensemble")


def load_study(files: list[Path], overrides: list[str] | None = None) -> Study:
    """Read the files of a run: the first gives the study's settings, each a candidate method.

    The single network, and through it the Deep Ensemble, is tuned over the first file's own
    ``backbone`` and ``training``, as is each method under ``compare`` but for keys of its own: so
    all have the same space where they share parameters.

    A method that has a file of its own needs no ``compare``: the file counts. The first file may
    be one of settings alone that lists other files, beside it, under ``include``: of these only the
    methods' spaces are read, and the first of them is the one over which the single is tuned.

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
    documents += _included(first, first_file)
    if "include" in first and "method" not in first:
        for key in ("fixed", "search", "enqueue", "strata", "compare"):
            if key in first:
                raise StudyError(
                    f"{first_file}: {key}: must stand in a method's own file, not beside include; "
                    "write it there"
                )
    of_methods = documents if "method" in first or len(documents) == 1 else documents[1:]
    spaces = [_method_space(file, document) for file, document in of_methods]
    for space in spaces:
        _check_anchor(space)
    candidates = [space for space in spaces if space.method not in ANCHORS]
    shared = {part: _shared(spaces[0], part) for part in ("fixed", "search")}
    own_single = [space for space in spaces if space.method == "single"]
    single = own_single or [_method_space(first_file, {"method": "single"} | shared)]
    given = {space.method for space in spaces}
    entries = _listed(first, "compare", first_file)
    compared = [_compared(first_file, entry, shared) for entry in entries]
    compared = [space for space in compared if space.method not in given]
    for file, document in documents[1:]:
        if document.get("dataset", first.get("dataset")) != first.get("dataset"):
            raise StudyError(f"{file}: dataset: must be that of {first_file} or left out")
    settings: dict[str, Any] = {key: first[key] for key in STUDY_KEYS if key in first}
    settings.setdefault("name", first_file.stem)
    settings["dataset"] = _complete_dataset(settings.get("dataset"), first_file)
    settings |= {"candidates": tuple(candidates), "others": (single[0], *compared)}
    return checked(Study, settings, first_file)


def _included(document: dict[str, Any], file: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the methods' spaces of the files under ``include``, without settings of a study."""
    found: list[tuple[Path, dict[str, Any]]] = []
    for name in _listed(document, "include", file):
        if not isinstance(name, str):
            raise StudyError(f"{file}: include: must list files, but one is {name!r}")
        try:
            other = _read(file.parent / name)
        except StudyError as error:
            raise StudyError(f"{file}: include: {error}") from None
        if "include" in other:
            raise StudyError(f"{file}: include: {name} must not include files itself; list those")
        found.append((file.parent / name, {k: v for k, v in other.items() if k in METHOD_KEYS}))
    return found


def _check_anchor(space: MethodSpace) -> None:
    """Refuse what would be ignored: the Deep Ensemble is that of the tuned single network."""
    if space.method == "deep_ensemble":
        for key in (*space.fixed, *space.search):
            if key.partition(".")[0] in ("params", "regulariser"):
                raise StudyError(
                    f"{space.file}: {key}: must not be given for deep_ensemble, whose members are "
                    "copies of the tuned single network, as many as a candidate has; remove it"
                )


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
    """Safe YAML as in its version 1.2: 1e-4 is a number, no is a word; no key stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a key that stands twice in it."""
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, "a key must be a word", key.start_mark
                    )
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":float", ":bool", ":int"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|nan))$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]{1,18}$"), list("-+0123456789")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.load(file.read_text(), Loader=_Loader)
        json.dumps(document, default=str)  # What refers to itself has no end.
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror}); check --space") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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


def _complete_dataset(options: Any, file: Path) -> dict[str, Any]:
    options = {"name": "digits"} if options is None else options
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        raise StudyError(f"{file}: dataset: must be a mapping with a name, but is {options!r}")
    try:
        module = load_plugin("study.datasets", options["name"])
    except StudyError as error:
        raise StudyError(f"{file}: dataset.name: {error}") from None
    complete: dict[str, Any] = checked(module.Options, options, file, "dataset").model_dump()
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
    space = checked(
        MethodSpace,
        {
            "file": str(file),
            "method": name,
            "fixed": fixed,
            "search": {key: _domains(leaf, file, key) for key, leaf in searched.items()},
            "enqueue": tuple(_listed(document, "enqueue", file)),
            "strata": tuple(_listed(document, "strata", file)),
        },
        file,
    )
    _check_keys(space)
    _check_values(space)
    _check_enqueued(space)
    return space


def _listed(document: dict[str, Any], key: str, file: Path) -> list[Any]:
    value = document.get(key) or []
    if not isinstance(value, list):
        raise StudyError(f"{file}: {key}: must be a list, but is {value!r}")
    return value


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
    return tuple(checked(Domain, domain, file, f"search.{key}") for domain in alternatives)


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
                _check_condition(space, key, other, domain.when[other])
        seen.add(key)
    for key in space.strata:
        if key not in seen:
            raise StudyError(
                f"{space.file}: strata: must list keys that are fixed or searched, but one is "
                f"{key!r}{suggest(str(key), sorted(seen))}"
            )


def _check_condition(space: MethodSpace, key: str, other: str, values: tuple[Any, ...]) -> None:
    """Check that the searched parameter ``other`` can have the values of a condition."""
    for value in values:
        domains = space.search.get(other, ())
        if domains and not any(domain.contains(value) for domain in domains):
            raise StudyError(
                f"{space.file}: {key}: when: {other} must be one of what is searched, but is "
                f"{value!r}; mend it"
            )


def _check_values(space: MethodSpace) -> None:
    """Check each fixed value, each choice and both ends of each range by itself."""
    fields = {
        f"{section}.{name}": field
        for section, model in _all_models(space).items()
        if section != "backbone" or "backbone.name" not in space.search
        for name, field in model.model_fields.items()
    }
    for key, values in _values(space):
        if key not in fields:
            continue
        field = fields[key]
        kind: Any = field.annotation
        if field.metadata:
            kind = Annotated[kind, *field.metadata]
        adapter = TypeAdapter(kind, config=ConfigDict(strict=True))
        for value in values:
            try:
                adapter.validate_python(value)
            except ValidationError as failure:
                message = failure.errors()[0]["msg"]
                raise StudyError(
                    f"{space.file}: {key}: {message[0].lower()}{message[1:]}, but got {value!r}"
                ) from None


def _values(space: MethodSpace) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield from ((key, (value,)) for key, value in space.fixed.items())
    for key, _, domain in space.conditional():
        yield key, tuple(domain.choice or domain.bounds or ())


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
                raise StudyError(f"{where}: {key}: must lie in the search, but is {value!r}")
        _check_complete(space, entry, where)


def _check_complete(space: MethodSpace, entry: dict[str, Any], where: str) -> None:
    """Check that an entry gives exactly the parameters that are active in it."""
    values = {k: v for k, v in entry.items() if k not in ENTRY_KEYS and v is not None}
    known = space.fixed | values
    active = {key for key, _, domain in space.conditional() if domain.active(known)}
    for key in sorted(active ^ set(values)):
        rule = "must be given, as it is active" if key in active else "is inactive there; remove it"
        raise StudyError(f"{where}: {key}: {rule}")
    configuration(space, values)
