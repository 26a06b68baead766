"""Finding methods, backbones and image sets by the name of their file, or by a dotted name."""

import difflib
import importlib
import pkgutil
from types import ModuleType

from study.schema import StudyError


def names(package: str) -> list[str]:
    """Return the names of the public modules in ``package``: one file, one key in YAML."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


def load_plugin(package: str, name: str) -> ModuleType:
    """Import ``package.name``, or ``name`` itself when it is dotted (code outside the project).

    Raises:
        StudyError: When there is no such module; with the nearest known name.
    """
    kind = package.rsplit(".", 1)[-1].removesuffix("s")
    if "." not in name and name not in names(package):
        raise StudyError(f"{kind} {name!r} does not exist{suggest(name, names(package))}")
    target = name if "." in name else f"{package}.{name}"
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is None or not (target == error.name or target.startswith(f"{error.name}.")):
            raise
        raise StudyError(
            f"{kind} {name!r}: no module {error.name!r} can be imported; "
            "install it or put its folder on PYTHONPATH"
        ) from None


def suggest(name: str, known: list[str]) -> str:
    """Return ``; did you mean …?`` or the list of what is known."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
