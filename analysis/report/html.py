"""Pages of one file: template, style, script, data and Vega in one text."""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.figures.context import Figure
from analysis.figures.theme import COLOURS, LOOK

HERE: Final = Path(__file__).parent
TEMPLATES: Final = HERE / "templates"
STYLES: Final = (COLOURS, TEMPLATES / "report.css")
VEGA_LITE: Final = "6.4"
MAKE_VEGA: Final = """
import pathlib, sys, vl_convert
script = vl_convert.javascript_bundle(vl_version=sys.argv[1])
pathlib.Path(sys.argv[2]).write_text(script, encoding="utf-8")
"""


def render(template: str, page: Any, payload: Any) -> str:
    """Return a page; everything in ``page`` is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(
        page=page,
        css=Markup(_font() + "".join(file.read_text(encoding="utf-8") for file in STYLES)),
        app=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        bundle=Markup(vega().result()),
        payload=Markup(embed(payload)),
    )


@cache
def _font() -> str:
    """Return the style that carries the page's own letters (Inter, SIL Open Font License)."""
    data = base64.b64encode((TEMPLATES / "inter" / "inter.woff2").read_bytes()).decode()
    return (
        '@font-face { font-family: "Inter"; font-weight: 100 900; '
        f'src: url("data:font/woff2;base64,{data}") format("woff2"); }}\n'
    )


@cache
def vega() -> Future[str]:
    """Begin to make the script that draws charts, which takes seconds in which others can work."""
    return ThreadPoolExecutor(1).submit(_vega)


def _vega() -> str:
    """Return the script, made in a process of its own, as its maker keeps Python's lock."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vega.js"
        command = [sys.executable, "-P", "-c", MAKE_VEGA, VEGA_LITE, str(file)]
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # No process can be started here.
            # The stub asks for a snippet, which the function does not.
            return vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
        return file.read_text(encoding="utf-8")


def payload(drawn: Sequence[Figure], methods: dict[str, list[str]]) -> dict[str, Any]:
    """Return what the page's script draws: specs without their look, and the data sets once.

    Args:
        drawn: The figures.
        methods: Method -> its arms, which the page's key highlights.
    """
    specs: dict[str, Any] = {}
    datasets: dict[str, list[dict[str, Any]]] = {}
    for figure in drawn:
        spec = figure.spec()
        for unused in ("config", "$schema"):
            spec.pop(unused, None)
        own = spec.pop("datasets")
        datasets |= own
        rows = max(own.values(), key=len)
        panels = len({row.get("panel") for row in rows})
        specs[figure.key] = {
            "title": figure.claim,
            "legend": "   ".join(figure.legend),
            "spec": spec,
            "uses": list(own),
            "panels": panels,
            "choices": dict(figure.choices) or None,
        }
    packed = {name: pack(rows) for name, rows in datasets.items()}
    return {"figures": specs, "datasets": packed, "look": LOOK, "methods": methods}


def pack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows by column, as report.js unpacks them: what repeats itself stands there once.

    A column is the list of its values, ``[distinct values, number of each row's]``, or, where it
    has one value, that alone in a list; under ``""`` stands the number of rows.
    """
    packed: dict[str, Any] = {"": len(rows)}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        numbers = any(isinstance(v, float | int) and not isinstance(v, bool) for v in values)
        known = {value: n for n, value in enumerate(dict.fromkeys(values))}
        if len(known) == 1:
            packed[name] = [values[0]] if len(rows) > 1 else values
        elif numbers:
            packed[name] = values
        else:
            packed[name] = [list(known), [known[value] for value in values]]
    return packed


def embed(value: Any) -> str:
    """Return JSON that is safe inside a script element; NaN fails here, not on the page."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")
