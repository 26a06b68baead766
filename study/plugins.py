"""Finding methods, backbones and image sets by the name of their file, or by a dotted name."""

import difflib
import importlib
import pkgutil
import re
from types import ModuleType

from study.errors import StudyError


def names(package: str) -> list[str]:
    """Return the names of the public modules in ``package``: one file, one key in YAML."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


PARTS = {
    "study.methods": ("Params", "Ensemble"),
    "study.backbones": ("Params", "Network"),
    "study.datasets": ("Options", "load"),
}
"""What a module of each kind must define."""


def load_plugin(package: str, name: str) -> ModuleType:
    """Import ``package.name``, or ``name`` itself when it is dotted (code outside the project).

    Raises:
        StudyError: When there is no such module, with the nearest known name; when it cannot be
            imported or lacks what its kind must define.
    """
    kind = package.rsplit(".", 1)[-1].removesuffix("s")
    own = names(package)
    if name not in own and not re.fullmatch(r"\w+(\.\w+)+", name):
        raise StudyError(f"{kind} {name!r} does not exist{suggest(name, own)}")
    try:
        module = importlib.import_module(f"{package}.{name}" if name in own else name)
    except ModuleNotFoundError as error:
        raise StudyError(
            f"{kind} {name!r}: no module {error.name!r} can be imported; "
            "install it or put its folder on PYTHONPATH"
        ) from None
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise StudyError(f"{kind} {name!r} cannot be imported ({why}); fix it") from error
    for part in PARTS[package]:
        if not hasattr(module, part):
            rule = f"a {kind} defines {' and '.join(PARTS[package])}"
            raise StudyError(f"{kind} {name!r} has no {part}; {rule}")
    return module


def suggest(name: str, known: list[str]) -> str:
    """Return ``; did you mean …?`` or the list of what is known."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
