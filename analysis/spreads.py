"""The spread over seeds that a run shows, for planning the next one."""

from collections import Counter

from analysis.cases import Study, count, study_of
from analysis.load import load
from analysis.measure import measure
from analysis.power import Spread
from study.place import Place
from study.schema import StudyError


def study_in(folder: Place) -> Study:
    """Return what a run folder gives to judge.

    Raises:
        StudyError: When the folder cannot be read or nothing was confirmed.
    """
    run = load(folder)
    if "confirm" not in run.trials["stage"]:
        raise StudyError(
            f"{folder}: a plan needs runs of the confirm stage, but there are none; let the study "
            "reach it, or give --sd-single and --sd-ensemble"
        )
    return study_of(measure(run), run.plan)


def spreads_of(study: Study) -> dict[str, Spread]:
    """Return the spread of every measured endpoint, by its label.

    An arm's deviation is the root of the candidates' mean variance (without candidates, that of
    the single model); the Deep Ensemble is the one that most candidates are placed beside.

    Raises:
        StudyError: When an anchor has fewer than two runs, or the anchors are in the wrong order.
    """
    own = [arm for arm in study.arms if arm.role == "candidate"]
    pools = sorted(name for name in study.counts if name.startswith("deep_ensemble-"))
    sizes = Counter(arm.reference for arm in own) or Counter(pools)
    deep = max(sorted(sizes), key=lambda name: sizes[name], default="deep_ensemble")
    for anchor in ("single", deep):
        if count(study, anchor) < 2:
            raise StudyError(
                f"a spread needs at least 2 confirmed runs of {anchor}, but there are "
                f"{count(study, anchor)}; let the study go on, or give --sd-single and "
                "--sd-ensemble"
            )
    spreads = {}
    for endpoint in study.protocol.endpoints:
        single, ensemble = (study.summaries.get((a, endpoint.key)) for a in ("single", deep))
        if single is None or ensemble is None:
            continue
        gap = single.mean - ensemble.mean
        if gap <= 0:
            raise StudyError(
                f"the Deep Ensemble must be better than the single model, but its {endpoint.label} "
                f"is {'worse by ' + format(-gap, '.3g') if gap else 'the same'}; without a gap no "
                "number of seeds suffices"
            )
        found = (study.summaries.get((arm.arm, endpoint.key)) for arm in own)
        variances = [arm.variance for arm in found if arm] or [single.variance]
        spreads[endpoint.label] = Spread(
            single.variance**0.5,
            (sum(variances) / len(variances)) ** 0.5,
            ensemble.variance**0.5,
            gap,
            endpoint.kind == "performance",
        )
    return spreads
