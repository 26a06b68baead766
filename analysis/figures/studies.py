"""Several studies at a glance: the best configuration of each, and the others behind it."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from analysis.figures.context import Figure
from analysis.figures.ruler import LINE, ROW, least_of, legend, ruler_chart, ruler_frame, why_of
from analysis.verdict.schema import Verdict
from analysis.verdict.wording import names, winner


def studies_figure(verdicts: Mapping[str, Verdict]) -> Figure | None:
    """Return a row for each study with its best configuration, None where nothing was judged.

    Args:
        verdicts: Name of the study -> verdict.
    """
    rows = _rows(verdicts)
    if rows["estimate"].drop_nulls().is_empty():
        return None
    escaped = [name for name, verdict in verdicts.items() if winner(verdict)]
    margin = max(verdict.protocol.delta for verdict in verdicts.values())
    levels = {f"{100 * verdict.protocol.level:g} %" for verdict in verdicts.values()}
    covers = {verdict.covers for verdict in verdicts.values()}
    return Figure(
        "studies",
        "Verdict",
        f"In {len(escaped)} of {len(verdicts)} studies a configuration escapes"
        + (f": {', '.join(escaped)}" if escaped else ""),
        "Each study's best configuration in its weakest measure; small points are its other "
        "configurations. The best of several looks better than it is; the verdict of its study "
        "corrects for that.",
        ruler_chart(rows, margin, ""),
        legend=legend(margin, "/".join(levels), " or ".join(sorted(covers))),
    )


def _rows(verdicts: Mapping[str, Verdict]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for place, (study, verdict) in enumerate(verdicts.items()):
        called = names(verdict.arms)
        best, own = winner(verdict), [a for a in verdict.arms if a.role == "candidate" and a.least]
        own.sort(key=lambda arm: arm is not best)  # The others stay as they are: by their least.
        at = ROW * (place + LINE)
        for number, arm in enumerate(own):
            label = f"{study} · {called[arm.arm]}"
            row = {"arm": study, "label": label, "tag": study, "_row": at}
            row |= {"verdict": arm.verdict if verdict.stands else "inconclusive"}
            row |= {"name": None if number else label, "why": why_of(arm)}
            least = least_of(arm, verdict.protocol.labels)
            point = dict.fromkeys(("low", "high"), least["estimate"])  # Null would be unbounded.
            rows.append(row | (least | point if number else least))
        if not own:
            label = f"{study} · nothing judged yet"
            rows.append({"arm": study, "label": label, "tag": study, "_row": at, "name": label})
    return ruler_frame(rows)
