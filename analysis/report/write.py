"""Writes the report of one run or of several, ``verdict.json`` and the export."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from analysis.data.files import write
from analysis.report import arm_details, html, page, paper_figures, side_by_side, tables, trial_list
from analysis.result import Result
from analysis.verdict.terminal_summary import terminal_summary
from study.run_folder.paths import ObjectPath


def write_all(found: dict[str, Result], out: Path, export_to: Path | None) -> list[str]:
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
            paper_figures.write_paper(own, export_to)
        return terminal_summary(own.verdict, "confirm" in own.run.trials["stage"], own.run.given)
    links = side_by_side.links(found, out)
    for name, own in found.items():
        write_report(own, out.parent / links[name], now)
        if export_to:
            paper_figures.write_paper(
                own, export_to / Path(links[name]).stem.removeprefix(f"{out.stem}_")
            )
    write(out, side_by_side.comparison_page(found, links, now))
    if export_to:
        paper_figures.write_figures(side_by_side.drawn(found), export_to)
    return [f"{name}: {own.verdict.sentence}" for name, own in found.items()]


def write_report(own: Result, out: Path, now: datetime) -> None:
    """Write page and ``verdict.json`` of a run.

    That of predictions alone, or of a folder that cannot be written, lies beside the page.

    Raises:
        StudyError: When a file cannot be written.
    """
    context, arms = own.context, own.context.arms
    methods = {m: arms.filter(arms["method"] == m)["arm"].to_list() for m in context.methods}
    content = page.content(context, own.run, own.verdict, own.drawn, now)
    payload = html.payload(own.drawn, methods)
    payload |= {
        "measured": arm_details.names(own.verdict),
        "trials": None if own.run.given else trial_list.trial_list(context),
        "arms": arm_details.details(context, own.run, own.verdict),
        "protocol": own.verdict.protocol.model_dump(),
        "provenance": dict(tables.provenance(own.run, own.verdict, now)),
    }
    write(out, html.render("report.html.j2", content, payload))
    verdict = json.dumps(own.verdict.model_dump(), indent=1, allow_nan=False) + "\n"
    folder = own.run.folder
    if isinstance(folder, ObjectPath):
        try:
            (folder / "verdict.json").within(0).write_bytes(verdict.encode())
        except OSError:
            write(out.parent / "verdict.json", verdict)
        return
    beside = own.run.given or not os.access(folder, os.W_OK)
    write((out.parent if beside else folder) / "verdict.json", verdict)
