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
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from analysis import comparison, drawer, export, pages, summarise, tables
from analysis.given import load_predictions
from analysis.judged import Judged, judged, judged_folder
from analysis.pages import write
from analysis.verdict import Verdict
from study.place import ObjectPlace, Place, place
from study.schema import StudyError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report and verdict, print the verdict; return the exit status."""
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
        "--predictions", type=Path, metavar="FOLDER", help="folder of <arm>/<seed>/test.parquet"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("analysis/report.html"),
        metavar="FILE",
        help="the page (default: analysis/report.html)",
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write figures and tables for a paper there"
    )
    given = parser.parse_args(arguments)
    try:
        if given.predictions:
            found = {"": judged(load_predictions(given.predictions))}
        elif len(given.runs) == 1:
            found = {"": judged_folder(place(given.runs[0]))}
        else:
            named = comparison.named([place(run) for run in given.runs])
            found = {name: judged_folder(at) for name, at in named.items()}
        lines = write_all(found, given.out, given.export)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place_of = f"{error.filename}: " if error.filename else ""
        print(f"error: {place_of}{error.strerror or error}; mend that", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept, and the same command goes on from there")
        return 130
    print("\n".join(lines))
    return 0


def write_all(found: dict[str, Judged], out: Path, export_to: Path | None) -> list[str]:
    """Write every page, verdict and export; return a line on each run.

    Args:
        found: Name -> run; one run has no name.
        out: The page: of the run, or of the comparison.
        export_to: Folder for the export, or None.

    Raises:
        StudyError: When a file cannot be written.
    """
    now = datetime.now(UTC)
    if len(found) == 1:
        (own,) = found.values()
        write_report(own, out, now)
        if export_to:
            export.write_paper(own, export_to)
        return [own.verdict.sentence]
    links = comparison.links(found, out)
    for name, own in found.items():
        write_report(own, out.parent / links[name], now)
        if export_to:
            export.write_paper(own, export_to / Path(links[name]).stem.removeprefix(f"{out.stem}_"))
    write(out, comparison.page(found, links, now))
    if export_to:
        titles = {method: t for own in found.values() for method, t in own.scene.titles.items()}
        export.write_figures(comparison.drawn(found), titles, export_to)
    return [f"{name}: {own.verdict.sentence}" for name, own in found.items()]


def report(folder: Place, out: Path, now: datetime | None = None) -> Verdict:
    """Judge the run in ``folder``, write the page and ``verdict.json``, return the verdict.

    Args:
        folder: Run folder.
        out: The page.
        now: Time to print on it; all else depends on the run alone.

    Raises:
        StudyError: When the folder is no run, breaks the format, or a file cannot be written.
    """
    own = judged_folder(folder)
    write_report(own, out, now or datetime.now(UTC))
    return own.verdict


def write_report(own: Judged, out: Path, now: datetime) -> None:
    """Write page and ``verdict.json`` of a run.

    That of predictions alone, or of a folder that cannot be written, lies beside the page.

    Raises:
        StudyError: When a file cannot be written.
    """
    scene, arms = own.scene, own.scene.arms
    methods = {m: arms.filter(arms["method"] == m)["arm"].to_list() for m in scene.methods}
    page = summarise.page(scene, own.run, own.verdict, own.drawn, now)
    payload = pages.payload(own.drawn, methods)
    payload |= {
        "measured": drawer.names(own.verdict),
        "arms": drawer.details(scene, own.run, own.verdict),
        "protocol": own.verdict.protocol.model_dump(),
        "provenance": dict(tables.provenance(own.run, own.verdict, now)),
    }
    html = pages.render("report.html.j2", page, payload)
    write(out, html)
    verdict = json.dumps(own.verdict.model_dump(), indent=1, allow_nan=False) + "\n"
    folder = own.run.folder
    if isinstance(folder, ObjectPlace):
        try:
            (folder / "verdict.json").within(0).write_bytes(verdict.encode())
        except OSError:
            write(out.parent / "verdict.json", verdict)
        return
    beside = own.run.given or not os.access(folder, os.W_OK)
    write((out.parent if beside else folder) / "verdict.json", verdict)


if __name__ == "__main__":
    sys.exit(main())
