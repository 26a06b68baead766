"""The report: ``python -m analysis.report --runs FOLDER --out report.html``.

Reads Parquet, ``plan.json`` and ``study.json`` alone; writes one page that needs no network, and
``verdict.json`` into the run folder. Prints the verdict. The study may still be at work: the page
then says what is missing. With several folders the page sets the runs side by side, and each has
its own page beside it. With ``--predictions FOLDER`` it judges any ensembles, laid out as
``<arm>/<seed>/test.parquet``; ``verdict.json`` then stands beside the page, as nothing is ever
written among what was given.
``--export DIR`` writes figures (SVG, PDF) and tables (CSV, LaTeX, Markdown) for a paper.
"""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.data.external import load_predictions
from analysis.report import html, side_by_side
from analysis.report.write import write_all
from analysis.result import judge_folder, judge_run
from study.errors import StudyError, print_anything
from study.run_folder.paths import any_path, local_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report and verdict, print the verdict; return the exit status."""
    print_anything()
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--runs",
        nargs="+",
        action="extend",
        metavar="FOLDER",
        help="folder or address (s3://...) that a study wrote; several are set side by side",
    )
    source.add_argument(
        "--predictions", metavar="FOLDER", help="folder of <arm>/<seed>/test.parquet"
    )
    parser.add_argument(
        "--out",
        default="analysis/report.html",
        metavar="FILE",
        help="the page (default: analysis/report.html)",
    )
    parser.add_argument(
        "--export", metavar="DIR", help="write figures and tables for a paper there"
    )
    given = parser.parse_args(arguments)
    workers = os.cpu_count() or 1
    html.vega()  # Made meanwhile.
    try:
        out, export = _local("--out", given.out), given.export and _local("--export", given.export)
        if given.predictions:
            found = {"": judge_run(load_predictions(given.predictions), workers)}
        elif len(given.runs) == 1:
            found = {"": judge_folder(any_path(given.runs[0]), workers)}
        else:
            named = side_by_side.named([any_path(run) for run in given.runs])
            found = {name: judge_folder(at, workers) for name, at in named.items()}
        lines = write_all(found, out, export)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place_of = f"{error.filename}: " if error.filename else ""
        print(f"error: {place_of}{error.strerror or error}; fix that", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept, and the same command goes on from there")
        return 130
    print("\n".join(lines))
    return 0


def _local(option: str, given: str) -> Path:
    if "://" in given:
        raise StudyError(f"{option} {given}: must be a path of this machine; copy it from one")
    return local_path(given)


if __name__ == "__main__":
    gc.freeze()  # What was imported stays: the collector need not look through it again.
    sys.exit(main())
