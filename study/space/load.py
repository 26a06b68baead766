"""From YAML to a checked study; errors name file, key, rule, value and remedy.

One file describes one method's search space and, as the first of a run, the study around it.
"""

from pathlib import Path
from typing import Any, Final

from study.errors import StudyError
from study.plugins import load_plugin, names, suggest
from study.run_folder.paths import local_path
from study.space.checks import check_anchor, check_enqueued, check_keys, check_values
from study.space.configuration import SECTIONS, checked
from study.space.domain import Domain
from study.space.factorial import every_entry
from study.space.settings import MethodSpace, Study
from study.space.yaml_file import METHOD_KEYS, STUDY_KEYS, listed, read_yaml, set_key

ANCHORS: Final = ("single", "deep_ensemble")
SPACES: Final = Path(__file__).parents[2] / "search_spaces"
"""The spaces that come with the project, installed beside its packages."""


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
    files = [find_space(local_path(file)) for file in files]
    documents = [(file, read_yaml(file)) for file in files]
    first_file, first = documents[0]
    for override in overrides or []:
        set_key(first, override, first_file)
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
        check_anchor(space)
    candidates = [space for space in spaces if space.method not in ANCHORS]
    shared = {part: _shared(spaces[0], part) for part in ("fixed", "search")}
    own_single = [space for space in spaces if space.method == "single"]
    single = own_single or [_method_space(first_file, {"method": "single"} | shared)]
    given = {space.method for space in spaces}
    entries = listed(first, "compare", first_file)
    compared = [_compared(first_file, entry, shared) for entry in entries]
    compared = [space for space in compared if space.method not in given]
    for file, document in documents[1:]:
        if document.get("dataset", first.get("dataset")) != first.get("dataset"):
            raise StudyError(f"{file}: dataset: must be that of {first_file} or left out")
    settings: dict[str, Any] = {key: first[key] for key in STUDY_KEYS if first.get(key) is not None}
    settings.setdefault("name", first_file.stem)
    settings["dataset"] = _complete_dataset(settings.get("dataset"), first_file)
    settings |= {"candidates": tuple(candidates), "others": (single[0], *compared)}
    return checked(Study, settings, first_file)


def find_space(file: Path) -> Path:
    """Return a file, or the space of that name that comes with the project (``be``)."""
    if file.suffix or len(file.parts) != 1 or file.is_file():
        return file
    known = sorted(SPACES.glob("*.yaml"))
    if (found := SPACES / f"{file}.yaml") not in known:
        raise StudyError(
            f"--space {file}: must be a file, or one of {', '.join(path.stem for path in known)}"
            f"{suggest(str(file), [path.stem for path in known])}"
        )
    return found


def _included(document: dict[str, Any], file: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the methods' spaces of the files under ``include``, without settings of a study."""
    found: list[tuple[Path, dict[str, Any]]] = []
    for name in listed(document, "include", file):
        if not isinstance(name, str):
            raise StudyError(f"{file}: include: must list files, but one is {name!r}")
        try:
            other = read_yaml(file.parent / local_path(name))
        except StudyError as error:
            raise StudyError(f"{file}: include: {error}") from None
        if "include" in other:
            raise StudyError(f"{file}: include: {name} must not include files itself; list those")
        found.append(
            (file.parent / local_path(name), {k: v for k, v in other.items() if k in METHOD_KEYS})
        )
    return found


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
            raise StudyError(
                f"{file}: {key}: is both fixed and searched; keep one (--set search.{key}= takes "
                "the range away)"
            )
    every = document.get("enqueue") == "all"
    space = checked(
        MethodSpace,
        {
            "file": str(file),
            "method": name,
            "fixed": fixed,
            "search": {key: _domains(leaf, file, key) for key, leaf in searched.items()},
            "enqueue": () if every else tuple(listed(document, "enqueue", file)),
            "strata": tuple(listed(document, "strata", file)),
        },
        file,
    )
    check_keys(space)
    check_values(space)
    if every:
        space = space.model_copy(update={"enqueue": every_entry(space)})
    check_enqueued(space)
    return space


def _is_domain(value: Any) -> bool:
    return not isinstance(value, dict) or bool({"float", "int", "choice"} & set(value))


def _flat(tree: Any, file: Path, where: str, leaf: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise StudyError(f"{file}: {where}: must be a mapping, but is {tree!r}")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in SECTIONS and value is None:  # All below it is commented out.
            continue
        if name in SECTIONS and not isinstance(value, dict):
            raise StudyError(f"{file}: {where}.{name}: must be a mapping, but is {value!r}")
        if where == "fixed" and prefix and isinstance(value, dict):
            raise StudyError(f"{file}: fixed.{name}: must be one value; put a range under search")
        flat |= {name: value} if leaf(value) else _flat(value, file, where, leaf, f"{name}.")
    return flat


def _domains(leaf: Any, file: Path, key: str) -> tuple[Domain, ...]:
    if isinstance(leaf, tuple):
        return leaf
    alternatives = leaf if isinstance(leaf, list) else [leaf]
    return tuple(checked(Domain, domain, file, f"search.{key}") for domain in alternatives)
