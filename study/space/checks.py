"""Checks of a method's space: keys, conditions, values, enqueued configurations."""

from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from study.errors import StudyError
from study.plugins import load_plugin, names, suggest
from study.space.configuration import ENTRY_KEYS, SECTIONS, configuration, models
from study.space.settings import MethodSpace
from study.spec import Strict


def check_anchor(space: MethodSpace) -> None:
    """Refuse what would be ignored: the Deep Ensemble is that of the tuned single network."""
    if space.method == "deep_ensemble":
        for key in (*space.fixed, *space.search):
            if key.partition(".")[0] in ("params", "regulariser"):
                raise StudyError(
                    f"{space.file}: {key}: must not be given for deep_ensemble, whose members are "
                    "copies of the tuned single network, as many as a candidate has; remove it"
                )


def check_keys(space: MethodSpace) -> None:
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
                f"{value!r}; fix it"
            )


def check_values(space: MethodSpace) -> None:
    """Check each fixed value, each choice and both ends of each range by itself."""
    fields = {
        f"{section}.{name}": field
        for section, model in _all_models(space).items()
        if section != "backbone" or "backbone.name" not in space.search
        for name, field in model.model_fields.items()
    }
    for key, values in space.values():
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


def check_enqueued(space: MethodSpace) -> None:
    """Check that every enqueued entry has a name of its own and lies in the space."""
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
