"""YAML 1.2 from a file, and ``--set`` on top of it."""

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from study.errors import StudyError
from study.plugins import suggest
from study.space.configuration import SECTIONS

STUDY_KEYS: Final = (
    *("name", "note", "seed", "dataset", "budget", "protocol", "resources", "precision"),
    "storage",
)
METHOD_KEYS: Final = ("method", "fixed", "search", "enqueue", "strata")
TOP_KEYS: Final = (*STUDY_KEYS, *METHOD_KEYS, "compare", "include")


DIGITS: Final = 18
"""Of a whole number: more do not fit into 64 bits."""


def _refused(node: yaml.Node, why: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, why, node.start_mark)


class _Loader(yaml.SafeLoader):
    """Safe YAML as in its version 1.2: 1e-4 is a number, no is a word; no key stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a key that stands twice in it."""
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                if not isinstance(key, yaml.ScalarNode):
                    raise _refused(key, "a key must be a word")
                if key.value in seen:
                    raise _refused(key, f"key {key.value!r} stands twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


OF_1_1: Final = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("float", "bool", "int", "timestamp"))
"""Types that words have by other rules in version 1.1, which PyYAML follows, or not at all."""

_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in OF_1_1]
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
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")
)


def _whole(_: _Loader, node: yaml.ScalarNode) -> int:
    """Return a whole number; in version 1.1 one that begins with 0 is octal."""
    if len(node.value.lstrip("+-0")) > DIGITS:
        raise _refused(
            node,
            f"a whole number must have {DIGITS} digits at most, but one is {node.value:.40}; "
            "shorten it, or put quotes around a text",
        )
    return int(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _parsed(text: str) -> Any:
    value = yaml.load(text, Loader=_Loader)
    json.dumps(value, default=str)  # What refers to itself has no end.
    return value


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        StudyError: When it cannot be read, is no YAML, or has a key that is not known.
    """
    try:
        document = _parsed(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror}); check --space") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{file}: must be YAML in UTF-8, but {error}; save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StudyError(f"{file}: must be YAML, but {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise StudyError(f"{file}: must be a mapping with the key method, but is {document!r}")
    for key in document:
        if key not in TOP_KEYS:
            raise StudyError(f"{file}: {key}: unknown key{_meant(str(key))}")
    return document


def _meant(key: str) -> str:
    """Return what was probably meant by a key that is not known at the top."""
    if key.partition(".")[0] in SECTIONS:
        return f"; did you mean fixed.{key} or search.{key}?"
    return suggest(key, [*TOP_KEYS])


def set_key(document: dict[str, Any], override: str, file: Path) -> None:
    """Set a key of the document from ``key=value``, whose value is YAML.

    Without a value a key under ``search`` is taken away, so that it can be fixed.

    Raises:
        StudyError: When the key is not known, or the text is none of that form.
    """
    key, equals, text = override.partition("=")
    *path, last = (part.strip() for part in key.split("."))
    if not equals or not all((*path, last)):
        raise StudyError(f"--set {override}: must be key=value, as budget.trials=100")
    if (path or [last])[0] not in TOP_KEYS:
        raise StudyError(f"--set {override}: unknown key{_meant(key.strip())}")
    at = document
    for part in path:
        if at.get(part) is None:
            at[part] = {}
        at = at[part]
        if not isinstance(at, dict):
            raise StudyError(
                f"--set {override}: {part} in {file} is no mapping; name a key inside one"
            )
    try:
        at[last] = _parsed(text)
        if path[:1] == ["search"] and at[last] is None:
            del at[last]
    except yaml.constructor.ConstructorError as error:
        raise StudyError(f"--set {override:.200}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise StudyError(
            f"--set {override:.200}: the value must be YAML, but is {text!r:.200}; "
            "put quotes around a text"
        ) from None


def listed(document: dict[str, Any], key: str, file: Path) -> list[Any]:
    """Return the list under ``key``, empty where there is none."""
    value = document.get(key) or []
    if not isinstance(value, list):
        raise StudyError(f"{file}: {key}: must be a list, but is {value!r}")
    return value
