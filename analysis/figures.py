"""The report's figures: the rows each one draws, the claim it makes, what its intervals cover.

Claims are computed from the same rows as the marks, so that a title cannot outlive its data.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl
from scipy import stats

from analysis import charts, exploration_figures, search
from analysis.costs import costs as arm_costs
from analysis.costs import multiples, with_front
from analysis.detection import MANY, areas_figure, roc_figure, scores_figure
from analysis.evidence import evidence_figure
from analysis.geometry import landscape_figure, trajectory_figure
from analysis.growth import growth_figure
from analysis.scene import Figure, Scene, over_seeds
from analysis.tables import number

LEAST_IN_BIN = 20
"""A bin with fewer predictions, over all seeds, is noise (said in ``reading.html.j2``)."""


def draw(scene: Scene) -> list[Figure]:
    """Return every figure that the data can fill, in the order of the page."""
    confirmed: list[Callable[[Scene], Figure | None]] = [
        _forest, _diversity, _collapsed, growth_figure, _severity, _reliability,
        scores_figure, roc_figure, areas_figure, _members,
        trajectory_figure, landscape_figure, evidence_figure, _cost,
    ]  # fmt: skip
    ready = len(scene.recovery) > 0
    drawn = [figure(scene) for figure in confirmed if ready]
    drawn += [search.history_figure(scene), *exploration_figures.draw(scene)]
    found = [figure for figure in drawn if figure is not None]
    narrow = Counter(figure.section for figure in found if not figure.wide)
    # A narrow figure without a neighbour takes the whole width.
    return [replace(figure, wide=figure.wide or narrow[figure.section] == 1) for figure in found]


def _forest(scene: Scene) -> Figure:
    rows = scene.judged().join(scene.recovery, on="arm", maintain_order="left")
    seeds = scene.seeds(rows["arm"].unique().to_list())
    return Figure(
        "recovery",
        "Recovery",
        scene.tally,
        f"{seeds} replicates per arm. Intervals ({scene.levels[0]} thick, {scene.levels[1]} thin) "
        "cover training seeds (initialisation, order, augmentation) with the data fixed, not the "
        "choice of test images.",
        charts.forest(rows, scene.margin, scene.methods, scene.levels),
    )


def _diversity(scene: Scene) -> Figure | None:
    if scene.primary is None:
        return None
    spread = over_seeds(scene.measures.replicates, ["arm"], "disagreement")
    rows = (
        scene.judged()
        .join(scene.recovery.filter(pl.col("endpoint") == scene.primary), on="arm")
        .join(spread.select("arm", disagreement="mean"), on="arm", maintain_order="left")
    )
    anchors = (
        scene.arms.filter(pl.col("role").is_in(["single", "deep_ensemble"]))
        .join(spread.select("arm", disagreement="mean"), on="arm", how="left")
        .with_columns(
            pl.col("disagreement").fill_null(0.0),
            estimate=pl.when(pl.col("role") == "single").then(0.0).otherwise(1.0),
        )
    )
    rows = rows.drop_nulls(["disagreement", "estimate"])
    if rows.is_empty():
        return None
    rho = None
    if len(rows) >= 4 and rows["disagreement"].n_unique() > 1 and rows["estimate"].n_unique() > 1:
        rho = float(stats.spearmanr(rows["disagreement"], rows["estimate"]).statistic)
    claim = f"{len(rows)} configurations are too few to say whether disagreement pays"
    if rho is not None:
        how = (
            "goes with more" if rho > 0.3 else "goes with less" if rho < -0.3 else "does not order"
        )
        claim = f"More disagreement {how} recovery (rank correlation {number(rho)})"
    kept = ["arm", "tag", "label", "method", "disagreement", "estimate", "low", "high"]
    return Figure(
        "diversity",
        "Recovery",
        claim,
        f"{len(rows)} configurations, mean over seeds; whiskers are {scene.levels[0]} intervals. "
        "The correlation is descriptive.",
        charts.diversity(
            pl.concat([rows, anchors], how="diagonal_relaxed").select(kept),
            scene.margin,
            scene.methods,
            scene.axis(),
            scene.levels[0],
        ),
        wide=False,
    )


def _collapsed(scene: Scene) -> Figure | None:
    frames = []
    for panel, full, lone in (
        ("Test", "nll", "collapsed_nll"),
        ("Under shift", "shift_nll", "collapsed_shift_nll"),
    ):
        per_arm = over_seeds(scene.measures.replicates, ["arm"], full)
        alone = over_seeds(scene.measures.replicates, ["arm"], lone)
        if alone.is_empty():
            continue
        pair = scene.judged().join(alone.select("arm", other="mean"), on="arm")
        anchor = scene.arms.filter(pl.col("arm").is_in(["single", _ensemble(scene)]))
        for kind, arms, values in (
            ("full", pair.drop("other"), per_arm),
            ("collapsed", pair.drop("other"), alone),
            ("anchor", anchor.with_columns(label=pl.lit(None, pl.String)), per_arm),
        ):
            frames.append(
                arms.join(values, on="arm", maintain_order="left").with_columns(
                    panel=pl.lit(panel), kind=pl.lit(kind), nll="mean"
                )
            )
        frames[-2] = frames[-2].join(per_arm.select("arm", other="mean"), on="arm")
    if not frames:
        return None
    rows = pl.concat(frames, how="diagonal_relaxed").with_columns(
        kind=pl.when(pl.col("kind") != "anchor")
        .then("kind")
        .when(pl.col("role") == "single")
        .then(pl.lit("single"))
        .otherwise(pl.lit("deep ensemble"))
    )
    kept = ["arm", "label", "method", "panel", "kind", "nll", "low", "high", "other"]
    first = rows.filter(pl.col("panel") == rows["panel"][0])
    loss = first.filter(pl.col("kind") == "collapsed").with_columns(
        loss=pl.col("nll") - pl.col("other")
    )
    worst = loss.sort("loss", descending=True).row(0, named=True)
    return Figure(
        "collapsed",
        "Recovery",
        f"Averaging the members into one network costs {worst['tag']} "
        f"{worst['loss']:.3f} nats on test, the most of {len(loss)}"
        if worst["loss"] > 0
        else "No ensemble loses when its members are averaged into one network",
        "Mean over seeds; dashed lines are 95 % t-intervals over seeds.",
        charts.collapsed(rows.select(kept), scene.methods),
        wide=rows["arm"].n_unique() > MANY,
    )


def _under_shift(scene: Scene, metrics: Sequence[str]) -> pl.DataFrame:
    """Return metrics less the single model's, and as they are, under ``<metric>_itself``.

    Columns: arm, metric, severity, value, low, high.
    """
    per_seed = (
        scene.measures.severities.drop_nulls("severity")
        .group_by("arm", "replicate", "severity")
        .agg(pl.col(metrics).mean())
        .unpivot(on=metrics, index=["arm", "replicate", "severity"], variable_name="metric")
        .sort("arm", "metric", "severity", "replicate")
    )
    keys = ["arm", "metric", "severity"]
    known = over_seeds(per_seed, keys, "value")
    single = known.filter(pl.col("arm") == "single").select(*keys[1:], at="mean", s="half")
    gap = known.join(single, on=keys[1:]).select(
        *keys,
        half=(pl.col("half") ** 2 + pl.col("s") ** 2).sqrt(),
        value=pl.col("mean") - pl.col("at"),
    )
    itself = known.select(*keys, "half", value="mean").with_columns(pl.col("metric") + "_itself")
    return pl.concat([gap, itself]).with_columns(
        low=pl.col("value") - pl.col("half"), high=pl.col("value") + pl.col("half")
    )


def _severity(scene: Scene) -> Figure | None:
    metrics = {"nll": "NLL", "accuracy": "Accuracy", "ece": "ECE"}
    values = _under_shift(scene, list(metrics))
    if values.is_empty():
        return None
    panels = []
    for arm in scene.judged().head(8).iter_rows(named=True):
        shown = {arm["arm"]: arm["method"], arm["reference"]: "deep_ensemble", "single": "single"}
        for key, method in shown.items():
            own = values.filter(pl.col("arm") == key)
            if key == "single":  # Its difference from itself is 0 without doubt.
                sure = ~pl.col("metric").str.ends_with("_itself")
                own = own.with_columns(pl.when(~sure).then(pl.col("low", "high")))
            who = {"method": pl.lit(method), "anchor": pl.lit(key != arm["arm"])}
            panels.append(own.with_columns(panel=pl.lit(arm["label"]), **who))
    kept = ["arm", "method", "panel", "metric", "severity", "value", "low", "high", "anchor"]
    choices = {key: f"{name} − single" for key, name in metrics.items()}
    choices |= {f"{key}_itself": name for key, name in metrics.items()}
    order = {key: number for number, key in enumerate(choices)}
    rows = pl.concat(panels).select(kept)
    rows = rows.sort(pl.col("metric").replace_strict(order), maintain_order=True)
    top = max(rows["severity"].to_list())
    hardest = rows.filter((pl.col("metric") == "nll") & (pl.col("severity") == top))
    lead = scene.lead()
    ours = hardest.filter((pl.col("arm") == lead["arm"]) & ~pl.col("anchor"))["value"]
    deep = (pl.col("arm") == lead["reference"]) & (pl.col("panel") == lead["label"])
    theirs = hardest.filter(deep)["value"]
    claim = "How the gap to the single model grows with the severity of the shift"
    if len(ours) and len(theirs):
        claim = (
            f"At severity {top}, {lead['tag']} is {_by(ours.item())} than the "
            f"single model in NLL; the deep ensemble is {_by(theirs.item())}"
        )
    return Figure(
        "severity",
        "Shift",
        claim,
        f"{scene.seeds(rows['arm'].unique().to_list())} replicates per arm; bands are 95 % "
        "intervals over seeds, for a difference those of both arms joined in quadrature.",
        charts.severity(rows, scene.methods, "nll"),
        choices=tuple(choices.items()),
    )


def _by(difference: float) -> str:
    return f"{abs(difference):.3f} nats {'better' if difference < 0 else 'worse'}"


def _reliability(scene: Scene) -> Figure | None:
    bins = scene.measures.reliability.filter(pl.col("count") > 0)
    if bins.is_empty():
        return None
    band = over_seeds(bins, ["arm", "bin"], "accuracy")
    weight = pl.col("count")
    pooled = bins.group_by("arm", "bin").agg(
        confidence=(pl.col("confidence") * weight).sum() / weight.sum(),
        accuracy=(pl.col("accuracy") * weight).sum() / weight.sum(),
        count=weight.sum(),
    )
    pooled = pooled.with_columns(share=pl.col("count") / pl.col("count").sum().over("arm"))
    ece = over_seeds(scene.measures.replicates, ["arm"], "ece").select("arm", ece="mean")
    anchors = scene.arms.filter(pl.col("arm").is_in([_ensemble(scene), "single"]))
    shown = pl.concat([anchors.sort("role", descending=True), scene.judged().head(4)])
    rows = (
        shown.join(ece, on="arm", maintain_order="left")
        .with_columns(error=pl.col("ece").map_elements("{:.3f}".format, pl.String))
        .with_columns(panel=pl.format("{}\nECE {}", "label", "error"))
        .join(pooled.filter(pl.col("count") >= LEAST_IN_BIN), on="arm")
        .join(band.select("arm", "bin", "low", "high"), on=["arm", "bin"], how="left")
    )
    order = {arm: n for n, arm in enumerate(shown["arm"])}
    rows = rows.sort(pl.col("arm").replace_strict(order), "bin").with_columns(
        pl.col("low", "high").clip(0, 1)
    )
    by_arm = dict(ece.iter_rows())
    three = [(row["tag"], by_arm.get(row["arm"])) for row in shown.head(3).iter_rows(named=True)]
    kept = ["arm", "method", "panel", "bin", "confidence", "accuracy", "low", "high", "share"]
    return Figure(
        "reliability",
        "Calibration",
        "Calibration error: " + ", ".join(f"{tag} {value:.3f}" for tag, value in three if value),
        f"{scene.seeds(shown['arm'].to_list())} replicates per arm, 15 bins of equal width on "
        "the test set; bands are 95 % t-intervals over seeds.",
        charts.reliability(rows.select(kept), scene.methods),
    )


def _members(scene: Scene) -> Figure | None:
    pairs = scene.measures.pairs
    anchors = scene.arms.filter(pl.col("role") == "deep_ensemble")
    shown = pl.concat([anchors, scene.judged()]).filter(
        pl.col("arm").is_in(pairs["arm"].unique().to_list())
    )[:12]
    if shown.is_empty():
        return None
    diagonal = (
        shown.select("arm", i=pl.int_ranges(0, pl.col("members").cast(pl.Int64)), j=None)
        .explode("i")
        .with_columns(j="i", disagreement=pl.lit(None, pl.Float64))
    )
    cells = pl.concat([pairs.select(diagonal.columns), diagonal], how="vertical_relaxed")
    mean = pairs.group_by("arm").agg(mean=pl.col("disagreement").mean())
    rows = (
        shown.join(mean, on="arm", maintain_order="left")
        .with_columns(panel=pl.format("{}\nmean {} %", "label", (pl.col("mean") * 100).round(1)))
        .join(cells, on="arm", maintain_order="left_right")
    )
    by_arm = dict(mean.iter_rows())
    lead = scene.lead()
    ours, theirs = by_arm.get(lead["arm"]), by_arm.get(lead["reference"])
    claim = "How often two members predict a different class"
    if ours is not None and theirs is not None:
        claim = (
            f"Two members of {lead['tag']} disagree on {ours:.1%} of the test set, two of the deep "
            f"ensemble on {theirs:.1%}"
        )
    return Figure(
        "members",
        "Members",
        claim,
        f"Mean over {scene.seeds(shown['arm'].to_list())} replicates per arm, test set; the "
        "title gives the mean over pairs.",
        charts.members(rows.select("arm", "panel", "i", "j", "disagreement")),
    )


def _cost(scene: Scene) -> Figure | None:
    if scene.primary is None:
        return None
    kinds = {
        "parameters": "Parameters",
        "stored_bytes": "Stored bytes",
        "train_flops": "Training FLOPs",
        "infer_flops": "Inference FLOPs",
    }
    multiples = costs(scene).unpivot(
        on=list(kinds), index="arm", variable_name="kind", value_name="cost"
    )
    recovery = scene.recovery.filter(pl.col("endpoint") == scene.primary).drop("panel")
    anchors = scene.arms.filter(pl.col("role").is_in(["single", "deep_ensemble"])).with_columns(
        estimate=pl.when(pl.col("role") == "single").then(0.0).otherwise(1.0)
    )
    rows = (
        pl.concat([scene.judged().join(recovery, on="arm"), anchors], how="diagonal_relaxed")
        .join(multiples, on="arm")
        .drop_nulls(["cost", "estimate"])
        .with_columns(panel=pl.col("kind").replace_strict(kinds))
        .pipe(with_front)
    )
    order = {name: n for n, name in enumerate(kinds)}
    rows = rows.sort(pl.col("kind").replace_strict(order), maintain_order=True)
    if rows.is_empty():
        return None
    lead = scene.lead()
    price = {r["kind"]: r["cost"] for r in rows.filter(pl.col("arm") == lead["arm"]).to_dicts()}
    estimate = scene.estimate(lead["arm"])
    claim = "Recovery against cost"
    if estimate is not None and {"stored_bytes", "infer_flops"} <= price.keys():
        claim = (
            f"{lead['tag']} recovers {estimate:.2f} of the gap for "
            f"{price['stored_bytes']:.2f}× the memory and {price['infer_flops']:.2f}× the "
            "inference FLOPs of the single model"
        )
    kept = ["arm", "tag", "label", "method", "panel", "cost", "estimate", "low", "high", "front"]
    return Figure(
        "cost",
        "Cost",
        claim,
        f"Cost is counted, not timed; whiskers are {scene.levels[0]} intervals over seeds.",
        charts.cost(rows.select(kept), scene.margin, scene.methods, scene.axis()),
    )


def costs(scene: Scene) -> pl.DataFrame:
    """Return arm and its parameters, bytes and FLOPs as multiples of the single model's."""
    return multiples(arm_costs(scene.trials, scene.measures))


def _ensemble(scene: Scene) -> str:
    """Return the arm of the deep ensemble that the first judged arm is measured against."""
    return str(scene.lead()["reference"])
