"""The page's look, light, for figures that are drawn without a browser.

Colours are read from ``report.css``; the configuration is that of ``look()`` in ``report.js``.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from analysis.charts import SHAPES

FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"


@cache
def colours() -> dict[str, str]:
    """Return the variables of the style's first block, which is the light one, by name."""
    style = (Path(__file__).parent / "report.css").read_text()
    block = style.partition(":root {")[2].partition("}")[0]
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", block))


def config(label_limit: float, header_limit: float) -> dict[str, Any]:
    """Return a configuration of Vega-Lite.

    Args:
        label_limit: Longest label of an axis, px.
        header_limit: Longest title of a panel, px.
    """
    known = colours()
    ink, soft, grid = known["ink"], known["soft"], known["grid"]
    text = {"labelColor": soft, "titleColor": soft, "labelFontSize": 11.5, "titleFontSize": 12}
    hues, ramp = known["hues"].split(), known["ramp"].split()
    return {
        "background": known["card"],
        "font": FONT,
        "view": {"stroke": None},
        "facet": {"spacing": {"row": 22, "column": 20}},
        "axis": {
            **text,
            "titleFontWeight": 500,
            "gridColor": grid,
            "domain": False,
            "tickColor": grid,
            "tickSize": 4,
            "labelPadding": 5,
            "titlePadding": 9,
            "labelLimit": label_limit,
        },
        "axisX": {
            "domain": True,
            "domainColor": grid,
            "labelOverlap": True,
            "labelSeparation": 2,
        },
        "header": {
            "labelColor": ink,
            "labelFontSize": 12,
            "labelFontWeight": 600,
            "labelAnchor": "start",
            "labelPadding": 7,
            "labelLimit": header_limit,
        },
        "legend": {**text, "titleFontWeight": 500},
        "title": {"color": ink, "fontSize": 12, "fontWeight": 600, "anchor": "start"},
        "range": {
            "category": [ink, known["single"], *hues * 3],
            "symbol": [*SHAPES] * 3,
            "ramp": ramp,
            "heatmap": ramp,
        },
        "text": {"color": ink, "fontSize": 11.5},
        "style": {
            "band": {"color": known["band"], "opacity": 0.42},
            "ref": {"color": known["ref"], "strokeDash": [4, 3], "size": 1},
            "single": {"color": known["single"], "size": 2},
            "ensemble": {"color": ink, "size": 2},
            "ribbon": {"opacity": 0.17, "strokeOpacity": 0},
            "inside": {"color": known["accent"], "fillOpacity": 0.3, "strokeOpacity": 0},
            "outside": {"color": known["open"], "strokeWidth": 1.8},
            "halo": {
                "stroke": known["card"],
                "strokeWidth": 4,
                "strokeJoin": "round",
                "color": known["card"],
                "fontSize": 11,
            },
            "hollow": {"fill": known["card"], "strokeWidth": 2},
            "quiet": {"color": soft, "fontSize": 11},
            "bar": {"color": known["accent"], "opacity": 0.55},
            "whisker": {"color": ink, "size": 1.5},
        },
    }
