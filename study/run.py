"""``python -m study.run``: from the YAML of a study to its verdict."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from study.runtime import Runtime, is_dashboard
from study.schema import StudyError, TrialRow
from study.store import Store

if TYPE_CHECKING:
    from study.space import Study

DATA_ROOT = "STUDY_DATA_ROOT"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, 2 for the user's mistakes, 130 when interrupted."""
    arguments = parser().parse_args(argv)
    argv = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "study.run", *argv])
    try:
        return _dispatch(arguments, command, argv)
    except KeyboardInterrupt:
        print(f"\nstopped; nothing that was finished is lost; to go on: {command}")
        return 130
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}; mend that and run the same command again: "
            "nothing that was finished is lost",
            file=sys.stderr,
        )
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    command = argparse.ArgumentParser(prog="python -m study.run", description=__doc__)
    add = command.add_argument
    add(
        "--space",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="search space; the first of several gives the study's settings",
    )
    add(
        "--out",
        metavar="DIR",
        help="run folder (default: runs/<study name>), s3://BUCKET/NAME or gs://BUCKET/NAME",
    )
    add(
        "--data-root",
        type=Path,
        metavar="DIR",
        default=os.environ.get(DATA_ROOT),
        help=f"folder with the image sets (default: the variable {DATA_ROOT})",
    )
    add(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster: auto on its head, http://HEAD:8265 from elsewhere (default: a local "
        "runtime of its own)",
    )
    add("--unchecked", action="store_true", help="do not look at the cluster's nodes first")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a key of the YAML")
    add("--mixed", action="store_true", help="go on with other package versions than before")
    add(
        "--log",
        action="append",
        default=[],
        choices=("tensorboard", "mlflow", "wandb"),
        help="also log every job there; may be repeated",
    )
    add("-v", "--verbose", action="store_true", help="let Ray and Optuna speak")
    mode = command.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    mode.add_argument("--status", action="store_true", help="say what is done and what is missing")
    mode.add_argument("--verify", action="store_true", help="compare every file with its checksum")
    mode.add_argument("--replay", metavar="TRIAL", help="run one trial again and compare")
    return command


def _dispatch(arguments: argparse.Namespace, command: str, argv: list[str]) -> int:
    from study.space_file import load_study

    study = load_study(arguments.space, arguments.set)
    looks = arguments.status or arguments.verify or arguments.replay or arguments.dry_run
    if is_dashboard(arguments.address) and not looks:
        from study.submit import submit

        return submit(arguments.address, argv, arguments.out, arguments.space)
    store = Store(arguments.out or f"runs/{study.name}")
    root = None if arguments.data_root is None else Path(arguments.data_root)
    if arguments.status:
        from study.status import status

        return status(study, store)
    if arguments.verify:
        from study.integrity import verify

        return verify(store)
    if arguments.replay:
        from study.replay import replay

        return replay(store, arguments.replay, root)
    if arguments.dry_run:
        from study.dry_run import dry_run

        return dry_run(study, store, root)
    runtime = Runtime(
        arguments.address, arguments.verbose, tuple(arguments.log), arguments.unchecked
    )
    return run(study, store, root, command=command, runtime=runtime, mixed=arguments.mixed)


def run(
    study: "Study",
    store: Store,
    root: Path | None,
    *,
    command: str,
    runtime: Runtime,
    mixed: bool = False,
) -> int:
    """Do what is missing of the study, then judge it."""
    from study import datasets
    from study.disk import refuse_full, shortage
    from study.integrity import sound_rows
    from study.loggers import refuse_missing
    from study.scheduler import schedule

    refuse_missing(runtime.log)
    store.create()
    with store.locked():
        refuse_full(store)
        check_same_study(study, store)
        found = sound_rows(store)
        rows = {t: row for t, row in found.items() if not _is_to_be_retried(store, row)}
        data = datasets.load(study.dataset, root)
        fingerprint = data.fingerprint
        check_same_data(rows, fingerprint)
        if not mixed:
            check_same_versions(rows)
        if (line := shortage(study, data, store)) is not None:
            print(line)
        asked = study.model_dump(mode="json", by_alias=True)
        earlier = store.read_json(store.study) or {}
        run_id = earlier.get("id") or uuid.uuid4().hex[:12]
        store.write_json(store.study, asked | {"command": command, "id": run_id})
        if not schedule(study, store, rows, data, fingerprint, runtime):
            raise KeyboardInterrupt
        return judge(store)


def check_same_study(study: "Study", store: Store) -> None:
    """Refuse a run folder of another study; more trials or seeds are no difference."""
    earlier = store.read_json(store.study)
    if earlier is None:
        return
    now = study.model_dump(mode="json", by_alias=True)
    free = ("budget", "protocol", "resources", "storage")
    for key in now:
        if key not in free and earlier.get(key) != now[key]:
            raise StudyError(
                f"--out {store.root}: the folder belongs to another study: "
                f"{_difference(key, earlier.get(key), now[key])}; choose another --out"
            )


def _difference(path: str, old: Any, new: Any) -> str:
    """Name the first place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _difference(f"{path}.{key}", old.get(key), new.get(key))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            if pair[0] != pair[1]:
                return _difference(f"{path}[{number}]", *pair)
    return f"{path} is {old!r} there and {new!r} here"


def check_same_data(rows: dict[str, TrialRow], fingerprint: str) -> None:
    """Refuse to mix trials of different data."""
    for row in rows.values():
        if row.data != fingerprint:
            raise StudyError(
                f"the data's fingerprint is {fingerprint}, but trial {row.trial} was run on "
                f"{row.data}; restore the data or choose another --out"
            )


DECIDING: Final = ("torch", "numpy", "optuna")
"""Packages whose version may change a trial's numbers or what is proposed."""


def check_same_versions(rows: dict[str, TrialRow]) -> None:
    """Refuse to mix trials of different versions of what decides their numbers."""
    from study.trial import versions

    now = json.loads(versions())
    for row in rows.values():
        then = json.loads(row.versions)
        other = [f"{p} {then.get(p)}, now {now[p]}" for p in DECIDING if then.get(p) != now[p]]
        if other:
            raise StudyError(
                f"trial {row.trial} was run with {'; '.join(other)}: restore that environment "
                "or choose another --out, or allow the mixture with --mixed (the report lists both)"
            )


def _is_to_be_retried(store: Store, row: TrialRow) -> bool:
    """Discard the trial and return True if it failed in an earlier run.

    Once the plan is declared, what it was chosen from stays as it is.
    """
    if row.status != "failed" or (row.stage != "confirm" and store.plan.exists()):
        return False
    store.discard(row.trial)
    return True


def judge(store: Store) -> int:
    """Write report and verdict in a process of their own and copy the report to analysis/."""
    command = [sys.executable, "-m", "analysis.report", "--runs", str(store.root)]
    with tempfile.TemporaryDirectory() as folder:
        page = store.report if isinstance(store.report, Path) else Path(folder) / "report.html"
        result = subprocess.run([*command, "--out", str(page)], check=False)
        if result.returncode == 0:
            if page != store.report:
                store.report.write_bytes(page.read_bytes())
            print(f"report: {store.report}")
            latest = Path("analysis/report.html")
            if os.access(latest.parent, os.W_OK):
                latest.write_bytes(page.read_bytes())
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
