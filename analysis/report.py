"""The report: ``python -m analysis.report --runs FOLDER --out report.html``.

Reads Parquet and ``plan.json`` alone; writes one page that needs no network, and ``verdict.json``
into the run folder. Prints the verdict. With ``--predictions FOLDER`` it judges any ensembles, laid
out as ``<arm>/<seed>/test.parquet``; ``verdict.json`` then stands beside the page, as nothing is
ever written among what was given.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import charts, figures, summarise
from analysis.fairness import fairness
from analysis.given import load_predictions
from analysis.hypotheses import judge
from analysis.load import Run, load
from analysis.measure import measure
from analysis.scene import Figure, Scene
from analysis.secondary import secondary
from study.schema import StudyError

HERE: Final = Path(__file__).parent
VEGA_LITE: Final = "6.4"
NOTHING_YET: Final = "Inconclusive: nothing has been confirmed yet."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report and verdict, print the verdict; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--runs", type=Path, help="folder that a study wrote")
    source.add_argument("--predictions", type=Path, help="folder of <arm>/<seed>/test.parquet")
    parser.add_argument("--out", type=Path, default=Path("analysis/report.html"), help="the page")
    given = parser.parse_args(arguments)
    try:
        if given.predictions:
            verdict = write_report(load_predictions(given.predictions), given.out)
        else:
            verdict = report(given.runs, given.out)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(verdict["sentence"])
    return 0


def report(folder: Path, out: Path, now: datetime | None = None) -> dict[str, Any]:
    """Judge the run in ``folder``, write the page and ``verdict.json``, return the verdict.

    Args:
        folder: Run folder.
        out: The page.
        now: Time to print on it; all else depends on the run alone.

    Raises:
        StudyError: When the folder is no run, breaks the format, or a file cannot be written.
    """
    return write_report(load(folder), out, now)


def write_report(run: Run, out: Path, now: datetime | None = None) -> dict[str, Any]:
    """Judge a run; write page and ``verdict.json`` (of predictions alone: beside the page).

    Raises:
        StudyError: When a file breaks the format or cannot be written.
    """
    measures = measure(run, workers=os.cpu_count() or 1)
    verdict: dict[str, Any] = finite(judge(measures, run.plan))
    if run.given and run.plan:
        verdict["reasons"] += run.plan["limits"]
        verdict["plan"] = verdict["plan"] if run.plan["source"] else None
    if "confirm" not in run.trials["stage"]:
        verdict["sentence"] = NOTHING_YET
    verdict["fairness"] = finite(fairness(run, measures))
    verdict["measures"] = finite(secondary(measures))
    scene = summarise.scene(run, measures, verdict)
    drawn = figures.draw(scene)
    page = summarise.page(scene, run, verdict, drawn, now or datetime.now(UTC))
    write(out, render(page, drawn, scene))
    place = out.parent if run.given else run.folder
    write(place / "verdict.json", json.dumps(verdict, indent=1, allow_nan=False) + "\n")
    return verdict


def render(page: dict[str, Any], drawn: Sequence[Figure], scene: Scene) -> str:
    """Return the page: template, style, script, data and Vega in one text."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        page=page,
        css=Markup((HERE / "report.css").read_text()),
        app=Markup((HERE / "report.js").read_text()),
        bundle=Markup(_vega()),
        payload=Markup(embed(payload(drawn, scene))),
    )


@cache
def _vega() -> str:
    return str(vl_convert.javascript_bundle(vl_version=VEGA_LITE))  # type: ignore[call-arg]


def payload(drawn: Sequence[Figure], scene: Scene) -> dict[str, Any]:
    """Return what the page's script draws: specs without their look, and the data sets once."""
    specs: dict[str, Any] = {}
    datasets: dict[str, list[dict[str, Any]]] = {}
    for figure in drawn:
        spec = figure.chart.to_dict()
        for unused in ("config", "$schema"):
            spec.pop(unused, None)
        own = spec.pop("datasets")
        datasets |= own
        rows = max(own.values(), key=len)
        panels = len({row.get("panel") for row in rows})
        specs[figure.key] = {
            "title": figure.claim,
            "spec": spec,
            "uses": list(own),
            "panels": panels,
        }
    arms = scene.arms
    return {
        "figures": specs,
        "datasets": datasets,
        "shapes": charts.SHAPES,
        "methods": {
            method: arms.filter(arms["method"] == method)["arm"].to_list()
            for method in scene.methods
        },
    }


def embed(value: Any) -> str:
    """Return JSON that is safe inside a script element; NaN fails here, not on the page."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")


def finite(value: Any) -> Any:
    """Return the value with every NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(file: Path, text: str) -> None:
    """Write a text file and the folders above it.

    Raises:
        StudyError: When that is not possible.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(
            f"{file}: must be writable, but {error.strerror or error}; choose another place"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
