"""From a point of a space to the complete, checked sections of a TrialSpec."""

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from study import regularisers
from study.errors import StudyError
from study.plugins import load_plugin, suggest
from study.space.domain import Point
from study.space.study import MethodSpace, Model
from study.spec import Configuration, Regularisation, Strict, Training, canonical

ENTRY_KEYS: Final = ("name", "control")
"""Keys of an enqueued entry that are no parameters."""
SECTIONS: Final = ("params", "backbone", "training", "regulariser")


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
