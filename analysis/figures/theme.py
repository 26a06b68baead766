"""The look of every chart, on the page and, light, where figures are drawn without a browser.

Colours are read from ``report/templates/colours.css``.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from analysis.text.names import title

COLOURS: Final = Path(__file__).parents[1] / "report" / "templates" / "colours.css"
FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"
ENTRY: Final = 150
"""Room for an entry of a legend, px."""
SHAPES = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "cross",
    "triangle-left",
)
"""Shapes of the methods in order; the page's key draws the same ones.

One more than the page has hues, so that no two of forty methods have both in common.
"""


@cache
def colours() -> dict[str, str]:
    """Return the variables of the style's first block, which is the light one, by name."""
    block = COLOURS.read_text(encoding="utf-8").partition(":root {")[2].partition("}")[0]
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", block))


TEXT: Final = {
    "labelColor": "--soft",
    "titleColor": "--soft",
    "labelFontSize": 11.5,
    "titleFontSize": 12,
}
LOOK: Final[dict[str, Any]] = {
    "view": {"stroke": None},
    "facet": {"spacing": {"row": 22, "column": 20}},
    "axis": {
        **TEXT,
        "titleFontWeight": 500,
        "gridColor": "--grid",
        "domain": False,
        "tickColor": "--grid",
        "tickSize": 4,
        "labelPadding": 5,
        "titlePadding": 9,
    },
    "axisX": {
        "domain": True,
        "domainColor": "--grid",
        "labelOverlap": True,
        "labelSeparation": 2,
    },
    "header": {
        "labelColor": "--ink",
        "labelFontSize": 12,
        "labelFontWeight": 600,
        "labelAnchor": "start",
        "labelPadding": 7,
    },
    "legend": {**TEXT, "titleFontWeight": 500},
    "title": {"color": "--ink", "fontSize": 12, "fontWeight": 600, "anchor": "start"},
    "range": {
        "category": ["--ink", "--single", "--hues", "--hues", "--hues"],
        "ordinal": ["--good", "--even", "--bad", "--open"],
        "symbol": [*SHAPES] * 3,
        "ramp": ["--ramp"],
        "heatmap": ["--ramp"],
    },
    "text": {"color": "--ink", "fontSize": 11.5},
    "style": {
        "band": {"color": "--band", "opacity": 0.42},
        "ref": {"color": "--ref", "strokeDash": [4, 3], "size": 1},
        "single": {"color": "--single", "size": 2},
        "ensemble": {"color": "--ink", "size": 2},
        "ribbon": {"opacity": 0.17, "strokeOpacity": 0},
        "inside": {"color": "--accent", "fillOpacity": 0.3, "strokeOpacity": 0},
        "outside": {"color": "--open", "strokeWidth": 1.8},
        "seed": {"fillOpacity": 0.5},
        "halo": {"color": "--card", "stroke": "--card", "strokeWidth": 4},
        "hollow": {"fill": "--card", "strokeWidth": 2},
        "names": {"labelColor": "--ink"},
        "quiet": {"color": "--soft", "fontSize": 11},
    },
}
"""The configuration of every chart; a text that begins with ``--`` is a colour of the style, or
several. The page puts in its own (report.js), light or dark."""


def config(label_limit: float, header_limit: float) -> dict[str, Any]:
    """Return the configuration in the light colours, without a browser.

    Args:
        label_limit: Longest label of an axis, px.
        header_limit: Longest title of a panel, px.
    """
    found: dict[str, Any] = _coloured(LOOK, colours())
    found |= {"background": colours()["card"], "font": FONT}
    found["axis"]["labelLimit"] = label_limit
    found["header"]["labelLimit"] = header_limit
    return found


def _coloured(value: Any, known: dict[str, str]) -> Any:
    """Return the value with every name of a colour replaced."""
    if isinstance(value, dict):
        return {key: _coloured(inner, known) for key, inner in value.items()}
    if isinstance(value, list):
        parts = [_coloured(inner, known) for inner in value]
        return [one for p in parts for one in (p.split() if isinstance(p, str) else [p])]
    named = isinstance(value, str) and value.startswith("--")
    return known[value.removeprefix("--")] if named else value


def add_legend(spec: dict[str, Any], room: float) -> None:
    """Give the methods' colours and shapes a legend, of those methods that are drawn."""
    channels = [
        encoding[channel]
        for encoding in encodings_of(spec)
        for channel in ("color", "shape")
        if isinstance(encoding.get(channel), dict) and encoding[channel].get("field") == "method"
    ]
    if not channels:
        return
    seen = {row.get("method") for rows in spec["datasets"].values() for row in rows}
    used = [method for method in channels[0]["scale"]["domain"] if method in seen]
    names = json.dumps({method: title(method) for method in used})
    legend = {
        "title": None,
        "orient": "bottom",
        "direction": "horizontal",
        "columns": max(1, int(room / ENTRY)),
        "values": used,
        "labelExpr": f"{names}[datum.label]",
        "labelLimit": ENTRY - 30,
        "symbolOpacity": 1,
        "symbolSize": 70,
    }
    for channel in channels:
        channel["legend"] = legend


def encodings_of(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every encoding of a spec."""
    if isinstance(value, dict):
        if isinstance(value.get("encoding"), dict):
            yield value["encoding"]
        for key in ("layer", "spec", "hconcat", "vconcat", "concat"):
            yield from encodings_of(value.get(key))
    elif isinstance(value, list):
        for inner in value:
            yield from encodings_of(inner)
