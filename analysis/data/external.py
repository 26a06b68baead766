"""Predictions of any origin as a run: ``DIR/<arm>/<seed>/test.parquet``, and no study needed.

What only a study knows (costs, specs, versions, when and how it was trained) is null, never 0.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from analysis.data import coerce
from analysis.data.files import open_parquet, read_parquet
from analysis.data.predictions import LONE, refuse_nulls
from analysis.data.protocol import Plan, Protocol, plan_of
from analysis.data.roles import ANCHORS, CONTROLS, SPLITS
from analysis.data.run import Run
from study import parquet_format
from study.errors import StudyError
from study.run_folder.paths import local_path

PROTOCOLS: Final = ("protocol.json", "protocol.yaml", "protocol.yml")
DECLARED: Final = ("delta", "alpha", "endpoints", "sensitivity", "seeds")
MOST_MEMBERS: Final = 1000
LAYOUT: Final = "lay it out as <arm>/<seed>/test.parquet"

Arms = Mapping[str, Mapping[int, Path]]


def load_predictions(folder: str | Path) -> Run:
    """Read which arms and seeds there are in a folder of predictions, and its protocol.

    Arms ``single`` and ``deep_ensemble`` must be there: the anchors. The latter may be a pool of
    more members than the others have: its first m are the Deep Ensemble of size m. Arms
    ``positive_control`` and ``negative_control`` may be there; any other is a candidate.

    Raises:
        StudyError: When the layout, or the protocol's file, is not as it must be.
    """
    if "://" in str(folder):
        raise StudyError(f"{folder}: must be a folder of this machine; copy it here first")
    folder = local_path(folder).resolve()
    if not folder.is_dir():
        raise StudyError(f"{folder}: must be a folder, but is not; {LAYOUT}")
    if not str(folder).isprintable():
        raise StudyError(f"{str(folder)!a}: a path must be printable, but is not; rename it")
    arms = {here.name: _seeds(here) for here in _folders(folder)}
    missing = [anchor for anchor in ANCHORS if anchor not in arms]
    if missing:
        raise StudyError(
            f"{folder}: must hold the arms single and deep_ensemble, between which all others are "
            f"placed, but {missing[0]} is not there; add {missing[0]}/<seed>/test.parquet"
        )
    splits = _splits(arms)
    members = {arm: _members(arm, seeds) for arm, seeds in arms.items()}
    plan = _plan(folder, members, "shift" in splits)
    return Run(folder, _trials(arms, members), plan, given=True)


def _folders(here: Path) -> list[Path]:
    """Return the folders in a folder, in which no Parquet file may lie loose.

    What a system hides there (``.ipynb_checkpoints``) is left aside if it holds no Parquet file.
    """
    try:
        inside = sorted(
            path
            for path in here.iterdir()
            if not path.name.startswith(".") or any(path.rglob("*.parquet"))
        )
    except OSError as error:
        raise StudyError(f"{here}: must be readable, but {error.strerror}; {LAYOUT}") from None
    for path in inside:
        if path.suffix == ".parquet" and not path.is_dir():
            raise StudyError(f"{path}: must lie in a folder of its arm and seed; {LAYOUT}")
    return [path for path in inside if path.is_dir()]


def _seeds(here: Path) -> dict[int, Path]:
    """Return the folders of an arm's seeds, in the order of the seeds."""
    if not here.name.isprintable() or here.name.startswith("deep_ensemble-"):
        raise StudyError(
            f"{here.parent}: an arm's name must be printable and not begin with deep_ensemble-, "
            f"but one is {here.name!a}; rename its folder"
        )
    found: dict[int, Path] = {}
    for path in _folders(here):
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", path.name):
            raise StudyError(
                f"{here}: a folder must be named by its seed, an integer, but one is "
                f"{path.name!a}; {LAYOUT}"
            )
        twin = found.setdefault(int(path.name), path)
        if twin != path:
            raise StudyError(
                f"{path}: a seed must be there once, but {twin.name} is the same; rename one"
            )
    if not found:
        raise StudyError(f"{here}: must hold a folder per seed, but holds none; {LAYOUT}")
    return dict(sorted(found.items()))


def _splits(arms: Arms) -> list[str]:
    """Return the splits that are there; each must be for all arms and seeds or for none."""
    places = [place for seeds in arms.values() for place in seeds.values()]
    known = {prefix + split for split in (*SPLITS, "val") for prefix in ("", *LONE)}
    for place in places:
        unknown = [p.name for p in sorted(place.glob("*.parquet")) if p.stem not in known]
        if unknown:
            raise StudyError(
                f"{place}: files must be test.parquet, shift.parquet and ood.parquet, but one is "
                f"{unknown[0]!a}; rename it, or take it away"
            )
    found = []
    for split in SPLITS:
        files = [place / f"{split}.parquet" for place in places]
        missing = [file for file in files if not file.exists()]
        if missing and (split == "test" or len(missing) < len(files)):
            others = "" if split == "test" else ", as others have it"
            raise StudyError(
                f"{missing[0]}: must exist{others}, but does not; "
                "write it for every seed of every arm"
            )
        found += [] if missing else [split]
    return found


def _members(arm: str, seeds: Mapping[int, Path]) -> int:
    """Return how many members each of an arm's ensembles has."""
    sizes = {}
    for place in seeds.values():
        file = place / "test.parquet"
        parquet = open_parquet(file, coerce.AGAIN)
        coerce.check_names(file, parquet.schema_arrow.names, "test")
        table = read_parquet(file, parquet, coerce.AGAIN, ["member"])
        column = table["member"]
        if not len(column):
            raise StudyError(f"{file}: must have rows, but is empty; {coerce.AGAIN}")
        refuse_nulls(file, table, ["member"], coerce.AGAIN)
        if pa.types.is_nested(column.type):
            raise StudyError(
                f"{file}: column member must be whole numbers, but is {column.type}; {coerce.AGAIN}"
            )
        sizes[file] = pc.count_distinct(column).as_py()
    first, size = next(iter(sizes.items()))
    other = next((file for file in sizes if sizes[file] != size), None)
    if other:
        raise StudyError(
            f"{other}: every seed of an arm must have as many members, but this one has "
            f"{sizes[other]} and {first} has {size}; give them the same number"
        )
    if arm == "single" and size != 1:
        raise StudyError(f"{first}: single must have 1 member, but has {size}; write one network")
    if size > MOST_MEMBERS:
        raise StudyError(
            f"{first}: members must be {MOST_MEMBERS} at most, but are {size}; "
            "are member and example in each other's place?"
        )
    return int(size)


def _role(arm: str) -> str:
    return arm if arm in ANCHORS + CONTROLS else "candidate"


def _trials(arms: Arms, members: Mapping[str, int]) -> pl.DataFrame:
    order = sorted({seed for seeds in arms.values() for seed in seeds})
    rows = [
        {
            "trial": f"{arm}/{place.name}",
            "configuration": arm,
            "name": arm if _role(arm) == "candidate" else None,
            "method": arm,
            "role": _role(arm),
            "stage": "confirm",
            "replicate": order.index(seed),
            "seed": seed,
            "members": members[arm],
            "status": "complete",
        }
        for arm, seeds in arms.items()
        for seed, place in seeds.items()
    ]
    empty = pl.from_arrow(parquet_format.TRIAL.empty_table())
    assert isinstance(empty, pl.DataFrame)
    return pl.DataFrame(rows, schema=empty.schema).sort("trial")


def _plan(folder: Path, members: Mapping[str, int], shift: bool) -> Plan:
    """Return what is to be judged and how."""
    source, protocol = _protocol(folder)
    limits = []
    if "endpoints" not in protocol and not shift:
        keys = [e.key for e in Protocol().endpoints if not e.key.startswith("shift_")]
        protocol = protocol | {"endpoints": keys}
        left_out = [e.label for e in Protocol().endpoints if e.key not in keys]
        limits.append(f"no shift.parquet was given, so {left_out[0]} is no endpoint")
    if source:
        limits.append(f"nothing proves that {source} was written before the test set was seen")
    arms = [
        {"configuration": arm, "role": _role(arm), "method": arm, "name": arm, "members": size}
        for arm, size in members.items()
    ]
    plan = {"study": folder.name, "protocol": protocol, "seeds": protocol.get("seeds")}
    plan |= {"arms": arms, "source": source, "limits": limits}
    return plan_of(plan, source or folder)


class _Loader(yaml.BaseLoader):
    """YAML of numbers, as in its version 1.2 (5e-2), and texts; no key stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping."""
        return _once([(str(key.value), self.construct_object(of, True)) for key, of in node.value])

    def construct_scalar(self, node: Any) -> Any:
        """Build a number, if a word that is not quoted is one, or a text."""
        for kind in (int, float) if node.style is None else ():
            with contextlib.suppress(ValueError):
                return kind(node.value)
        return super().construct_scalar(node)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping from pairs, refusing a key that stands twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} stands twice")
        found[key] = value
    return found


def _read(file: Path) -> Any:
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix == ".json":
        return json.loads(text, object_pairs_hook=_once)
    return yaml.load(text, Loader=_Loader)


def _protocol(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the name of the protocol's file and what it declares."""
    names = [name for name in PROTOCOLS if (folder / name).exists()]
    for path in sorted(folder.iterdir()):
        if path.stem.lower() == "protocol" and path.name not in PROTOCOLS:
            raise StudyError(
                f"{path}: must be called {' or '.join(PROTOCOLS)}; rename or remove it"
            )
    if not names:
        return None, {}
    file = folder / names[0]
    if len(names) > 1:
        raise StudyError(
            f"{file}: the protocol must be one file, but {names[1]} is there too; keep one"
        )
    try:
        declared = _read(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise StudyError(f"{file}: must be {file.suffix[1:]}, but {said}; fix it") from None
    if not isinstance(declared, dict) or not set(declared) <= set(DECLARED):
        found = (
            ", ".join(map(str, declared)) if isinstance(declared, dict) else declared or "nothing"
        )
        raise StudyError(
            f"{file}: the protocol may hold {', '.join(DECLARED)}, but holds {found!s:.80}; "
            "take out the rest"
        )
    seeds = declared.get("seeds")
    if seeds is not None and (type(seeds) is not int or seeds < 2):
        raise StudyError(f"{file}: seeds must be 2 or more, but are {seeds!r:.40}; correct it")
    return names[0], declared
