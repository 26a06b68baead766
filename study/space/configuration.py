"""From a point of a space to the complete, checked sections of a TrialSpec."""

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from study import regularisers
from study.errors import StudyError
from study.plugins import load_plugin, suggest
from study.space.domain import Point
from study.space.settings import MethodSpace, Model
from study.spec import Configuration, Regularisation, Strict, Training, canonical

ENTRY_KEYS: Final = ("name", "control")
"""Keys of an enqueued entry that are no parameters."""
SECTIONS: Final = ("params", "backbone", "training", "regulariser")


KINDS: Final = {
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
}
"""Words for the types of YAML, which pydantic calls by those of Python."""


def checked(model: type[Model], data: object, file: Path | str, prefix: str = "") -> Model:
    """Validate ``data``; a failure becomes one line naming file, key, rule and value."""
    try:
        return model.model_validate(data)
    except ValidationError as failure:
        error = failure.errors()[0]
        path = _path(error, data)
        key = ".".join(str(part) for part in (prefix, *path) if part != "")
        if error["type"] == "extra_forbidden":
            message = f"unknown key{suggest(str(error['loc'][-1]), _fields(model, error['loc']))}"
        elif error["type"] == "missing":
            message = "must be given"
        elif error["type"] == "value_error":
            message = error["msg"].removeprefix("Value error, ")
        elif error["type"] in KINDS:
            message = f"{KINDS[error['type']]}, but got {error['input']!r}"
        else:  # Of a value that may be of several types there is an error for each.
            rules = [e["msg"] for e in failure.errors() if _path(e, data) == path]
            one, *others = (f"{rule[0].lower()}{rule[1:]}" for rule in rules)
            others = [rule.removeprefix("input should be ") for rule in others]
            message = f"{' or '.join([one, *others])}, but got {error['input']!r}"
        where = f"{file}: {key}" if key else str(file)
        raise StudyError(f"{where}: {message}") from None


def _path(error: Any, data: Any) -> list[int | str]:
    """Return where in ``data`` an error is; pydantic also names the type that was tried there."""
    path: list[int | str] = []
    for part in error["loc"]:
        inside = range(len(data)) if isinstance(data, list | tuple) else data
        if isinstance(inside, dict | range) and part in inside:
            data = data[part]
            path.append(part)
        elif error["type"] == "missing":
            path.append(part)
    return path


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
