"""Where every configuration stands between the single network (0) and the Deep Ensemble (1)."""

from collections.abc import Sequence
from typing import Final

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import F, Facets, Frame
from analysis.verdict.schema import BOUNDS
from analysis.verdict.wording import tally

MANY: Final = 40
"""Configurations up to which the main figure has high rows, with a dot for each seed."""


def recovery_figure(context: FigureContext) -> Figure:
    """Return the recovery of every configuration in every measure, with its seeds."""
    rows = _with_own(context)
    few = rows["arm"].n_unique() <= MANY
    if few:
        rows = pl.concat([rows, *_seeds(context)], how="diagonal_relaxed")
    else:
        rows = pl.concat([rows, _baselines(context)], how="diagonal_relaxed")
    first = context.arms["verdict"] == "reference"  # The baselines.
    arms = pl.concat([context.arms.filter(first), context.arms.filter(~first)])["arm"]
    rows = rows.sort(
        pl.col("panel").cast(pl.Enum(_panels(context))),
        pl.col("arm").cast(pl.Enum(arms)),
        maintain_order=True,
    )
    own = (rows["kind"] == "own").any()
    legend = ["\u25cf against the tuned baselines"]
    legend += ["\u25cb against baselines with its own hyperparameters"] * own
    legend += [f"\u25ac {context.levels[0]} interval, which decides", f"\u2500 {context.levels[1]}"]
    legend += ["\u00b7 one seed"] * few
    return Figure(
        "recovery",
        "Recovery",
        tally(context.verdict),
        f"{context.seeds(rows['arm'].unique().to_list())} seeds per configuration. Intervals cover "
        f"{context.verdict.covers}; training data are fixed.",
        recovery_chart(rows, context.margin, context.methods, context.levels),
        legend=tuple(legend),
    )


def _panels(context: FigureContext) -> list[str]:
    return list(context.verdict.protocol.labels.values())


def _with_own(context: FigureContext) -> Frame:
    """Return every judged arm in every measure: kind ``tuned`` or, where nothing can be measured,
    ``none``; and ``own`` where it has anchors of its own."""
    about = context.judged_all().select("arm", "label", "method")
    panels = pl.DataFrame({"panel": _panels(context)})
    held = [a.arm for a in context.verdict.arms if a.own and a.own.single != "single"]
    own = about.filter(pl.col("arm").is_in(held))
    lost = pl.col("estimate").is_null()
    frames = [
        arms.join(panels, how="cross")
        .join(recovery, on=["arm", "panel"], how="left", maintain_order="left")
        .with_columns(kind=pl.when(lost).then(pl.lit(none)).otherwise(pl.lit(kind)))
        for arms, recovery, kind, none in (
            (about, context.recovery, "tuned", "none"),
            (own, context.own, "own", "own none"),
        )
    ]
    return pl.concat(frames, how="diagonal_relaxed")


def _baselines(context: FigureContext) -> Frame:
    """Return both baselines in every measure."""
    panels = pl.DataFrame({"panel": _panels(context)})
    anchors = context.baselines().select("arm", "label", "method", "estimate")
    return anchors.join(panels, how="cross").with_columns(kind=pl.lit("baseline"))


def _seeds(context: FigureContext) -> list[Frame]:
    """Return the recovery of each seed, of kind ``seed`` or ``own seed``, and both baselines."""
    keys = list(context.verdict.protocol.endpoints)
    values = context.measures.replicates.select("arm", "replicate", *keys).unpivot(
        on=keys, index=["arm", "replicate"], variable_name="endpoint"
    )
    scale = ["arm", "endpoint", "panel", "single", "deep"]
    one = (pl.col("single") - pl.col("value")) / (pl.col("single") - pl.col("deep"))
    about = context.arms.select("arm", "label", "method")
    # The single network's own seeds are drawn on the scale of the first configuration.
    lead = context.judged().select(pl.col("reference").alias("arm"), key="arm")
    of_pools = lead.unique("arm", keep="first", maintain_order=True)
    of_single = of_pools.head(1).with_columns(arm=pl.lit("single"))
    shared = pl.concat([of_single, of_pools]).join(
        context.recovery.rename({"arm": "key"}), on="key", maintain_order="left"
    )
    found = [
        (context.recovery.select(scale), "seed"),
        (context.own.select(scale), "own seed"),
        (shared.select(scale), "seed"),
    ]
    return [
        _baselines(context),
        *(
            about.join(frame, on="arm", maintain_order="left")
            .join(values, on=["arm", "endpoint"], maintain_order="left")
            .drop_nulls("value")
            .select("arm", "label", "method", "panel", "replicate", estimate=one)
            .with_columns(kind=pl.lit(kind))
            for frame, kind in found
        ),
    ]


def recovery_chart(
    rows: Frame, margin: float, methods: Sequence[str], levels: tuple[str, str]
) -> Facets:
    """Draw recovery per arm and endpoint: thick and thin (wider) interval, band of \u00b1margin.

    Args:
        rows: arm, label, method, panel, kind (``tuned``, ``own``, ``seed``, ``own seed``,
            ``baseline``, ``none``, ``own none``), estimate, low, high, low_wide, high_wide.
        margin: Half width of the band around the single network.
        methods: Domain of colour and shape.
        levels: What the two intervals cover, in words.
    """
    domain = encodings.frame(rows, margin, *BOUNDS)
    rows = encodings.positioned(rows, "estimate", *BOUNDS)
    rows = encodings.across(encodings.across(rows, domain, ""), domain, "_wide")
    many, own = rows["label"].n_unique(), (rows["kind"] == "own").any()
    step = (38 if own else 26) if many <= MANY + 4 else max(5, 1300 / many)
    lane = step / 8 if own else 3.0  # Between an interval and its seeds.
    base = alt.Chart().encode(
        y=encodings.arms(rows), color=encodings.colour(methods), opacity=encodings.dim()
    )
    tips = [("label", "Configuration", ""), ("panel", "Measure", ""), ("estimate", "Recovery", F)]
    for level, suffix in zip(levels, ("", "_wide"), strict=True):
        tips += [(f"low{suffix}", f"{level} from", F), (f"high{suffix}", f"{level} to", F)]
    x = encodings.recovery(alt.X, "_estimate", domain)
    size = max(16.0, min(70.0, step**2 / 3))
    layers: list[alt.Chart] = []
    for kind, dy in (("tuned", -2.5 * lane if own else -lane), ("own", lane)):
        if kind not in rows["kind"].to_list():
            continue
        mine = base.transform_filter(f"datum.kind=='{kind}'")
        layers.append(
            base.transform_filter(f"datum.kind=='{'own ' * (kind == 'own')}seed'")
            .mark_circle(style="seed", size=14, yOffset=dy + 1.6 * lane)
            .encode(x=x)
        )
        layers += [
            mine.mark_rule(size=thick, yOffset=dy).encode(
                x=encodings.recovery(alt.X, f"_low{level}", domain), x2=f"_high{level}:Q"
            )
            for thick, level in ((1.2, "_wide"), (min(4.0, step / 4), ""))
        ]
        layers += encodings.arrows(mine, domain, dy)
        layers.append(
            mine.mark_point(
                size=size,
                opacity=1,
                yOffset=dy,
                **({"style": "hollow"} if kind == "own" else {"filled": True}),
            ).encode(x=x, shape=encodings.shape(methods), tooltip=encodings.tips(tips))
        )
    chart = alt.layer(
        *encodings.guides(margin, alt.X, domain),
        *layers,
        base.transform_filter("datum.kind=='baseline'")
        .mark_tick(
            thickness=2.5, height=min(14.0, step * 0.6), yOffset=-2.5 * lane if own else -lane
        )
        .encode(x=x, tooltip=encodings.tips(tips[:3])),
        *(
            base.transform_filter(f"datum.kind=='{kind}'")
            .mark_text(style="quiet", text="not measurable", fontSize=min(11.0, step), dy=dy)
            .encode(x=encodings.recovery(alt.X, "_none", domain), tooltip=encodings.tips(tips[:2]))
            for kind, dy in (("none", -2.5 * lane if own else 0.0), ("own none", 1.5 * lane))
        ),
    )
    rows = rows.with_columns(_none=pl.when(pl.col("kind").str.ends_with("none")).then(0.5))
    return encodings.panels(chart, rows, columns=3, least=250, height=round(step * many))
