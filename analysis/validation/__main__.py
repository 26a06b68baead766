"""Does the procedure hold its promise? ``python -m analysis.validation [--runs FOLDER]``.

Draws thousands of studies of known truth, judges each by the project's own cases, gates, tests and
rules, and compares the shares of wrong verdicts with the declared level, and those of right ones
with what was planned. Ends with status 1 where a wrong verdict is too frequent.
"""

import argparse
import sys
from collections.abc import Sequence

from analysis.data.files import write
from analysis.validation.table import as_json, as_markdown, validate
from study.errors import StudyError
from study.run_folder.paths import any_path, local_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table, write it; return the exit status."""
    given = parser().parse_args(arguments)
    try:
        if given.replications is not None and given.replications < 2:
            raise StudyError(
                f"--replications must be at least 2, but is {given.replications}; give more"
            )
        runs = any_path(given.runs) if given.runs else None
        table = validate(runs, given.replications, given.seed, given.quick, given.workers)
        print(as_markdown(table))
        for file in given.out:
            text = as_json(table) if file.suffix == ".json" else as_markdown(table)
            write(file, text + "\n")
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if table.fails else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m analysis.validation", description=__doc__)
    found.add_argument("--runs", help="run folder (or s3://...) whose members plant effects")
    found.add_argument("--quick", action="store_true", help="a few cells, some seconds")
    found.add_argument("--replications", type=int, help="studies per row (fewer for costly ones)")
    found.add_argument("--seed", type=int, default=0, help="of all random numbers")
    found.add_argument("--workers", type=int, default=2, help="processes")
    found.add_argument(
        "--out", type=local_path, action="append", default=[], help="table: FILE.md or FILE.json"
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
