"""Which arms are confirmed: anchors, controls, shortlisted candidates, comparisons."""

from collections import Counter

from study.jobs import Rows
from study.parquet_format import TrialRow
from study.search.method_search import MethodSearch
from study.space.settings import Study
from study.spec import Configuration, TrialSpec
from study.stages.anchor import Anchored
from study.stages.matched_anchors import (
    as_deep_ensemble,
    single_seeds,
    with_contenders,
    with_matched,
)
from study.stages.plan import Arm, Reason
from study.stages.selection import shortlist


def search_rows(method: str, rows: Rows) -> list[TrialRow]:
    """Return the method's search rows, in an order that does not depend on when they ended."""
    found = (r for r in rows.values() if r.method == method and r.stage == "search")
    return sorted(found, key=lambda row: row.trial)


def is_candidate(study: Study, method: str) -> bool:
    """Tell whether a method is judged, not only compared with."""
    return any(space.method == method for space in study.candidates)


def spec_of(configuration: str, rows: Rows) -> TrialSpec:
    """Return the spec of the search trial; that of a later stage has another role."""
    searched = (r for r in rows.values() if r.stage == "search")
    row = next(r for r in searched if r.configuration == configuration)
    return TrialSpec.model_validate_json(row.spec)


def shortlisted(
    study: Study, searches: list[MethodSearch], best: dict[str, list[str]], rows: Rows
) -> list[Arm]:
    """Return what is judged: the candidates, then what they are compared with.

    Args:
        study: Its protocol says how many of each there are.
        searches: Of every tuned method.
        best: Configurations of each method, from best to worst (see :func:`ranked`).
        rows: Of the search.
    """
    own = [search for search in searches if is_candidate(study, search.space.method)]
    candidates = [
        arm for search in own for arm in _candidates(study, search, best[search.space.method], rows)
    ]
    return [*candidates, *_comparisons(study, best, rows)]


def choose_arms(
    study: Study, searches: list[MethodSearch], found: Anchored, seeds: int
) -> list[Arm]:
    """Return the arms of the plan: anchors, controls, what is judged, and its matched anchors.

    Args:
        study: Its protocol says what is held against what.
        searches: Of every tuned method; one may declare the negative control.
        found: What the anchor stage has chosen.
        seeds: Replicates of each.
    """
    single, judged = found.single, found.judged
    own = [search for search in searches if is_candidate(study, search.space.method)]
    negative = _negative_control(study, single, own)
    # The positive control is what a candidate would be if its members were networks of their own:
    # it has the size that most candidates have. A Deep Ensemble of one would control nothing.
    sizes = [arm.spec.members for arm in judged if arm.role == "candidate"]
    common = Counter([size for size in sizes if size > 1] or [4]).most_common(1)[0][0]
    # Every arm is held against as many of the anchor's networks as it has members itself, so the
    # anchor has as many as the largest.
    most = max(common, *(arm.spec.members for arm in (negative, *judged)))
    deep, fresh = as_deep_ensemble(single, most), as_deep_ensemble(single, common)
    matched: list[Arm] = []
    more = None
    if study.protocol.anchors != "tuned":
        more = single_seeds(study, len(judged), seeds)
        (held, *judged), matched = with_matched([negative, *judged], single, deep, seeds)
        if held.matched and held.matched.single != single.configuration:
            negative = held
        matched = with_contenders(matched, found.contenders, seeds)
    return [
        Arm(spec=single, role="single", reason="anchor", name="single", seeds=more),
        Arm(spec=deep, role="deep_ensemble", reason="anchor", name="deep ensemble"),
        Arm(spec=fresh, role="positive_control", reason="control", name="fresh deep ensemble"),
        negative,
        *judged,
        *matched,
    ]


def _candidates(study: Study, search: MethodSearch, ordered: list[str], rows: Rows) -> list[Arm]:
    """Return a method's candidates: what was enqueued by name, then the best of each stratum.

    The enqueued ones are confirmed whatever their rank, since they are what is asked about. Only
    those that exceed the method's own limit are not: they were never trained. A negative control
    has an arm of its own and would be judged twice.
    """
    protocol = study.protocol
    trained = (job for job in search.enqueued() if rows[job.spec.trial].status != "pruned")
    names = {job.spec.configuration: job.name for job in trained}
    controls = {job.spec.configuration for job in search.enqueued("negative")}
    ordered = [configuration for configuration in ordered if configuration not in controls]
    specs = {chosen: spec_of(chosen, rows).alone() for chosen in [*names, *ordered]}
    strata = {c: _stratum(specs[c], search.space.strata) for c in ordered}
    arms = []
    for c in shortlist(ordered, strata, list(names), protocol.shortlist, protocol.per_stratum):
        reason: Reason = "enqueued" if c in names else "validation"
        name, stratum = names.get(c), strata.get(c)
        arms.append(Arm(spec=specs[c], role="candidate", reason=reason, name=name, stratum=stratum))
    return arms


def _comparisons(study: Study, best: dict[str, list[str]], rows: Rows) -> list[Arm]:
    """Return the best configurations of each method that is there to compare with."""
    return [
        Arm(spec=spec_of(chosen, rows).alone(), role="comparison", reason="comparison")
        for space in study.others
        if space.method not in ("single", "deep_ensemble")
        for chosen in best[space.method][: study.protocol.comparisons]
    ]


def _negative_control(study: Study, single: Configuration, searches: list[MethodSearch]) -> Arm:
    """Return the control that must track a single model: the first that is declared as such.

    It is trained as the tuned single network is, so that nothing but its members' identity tells
    it from that; where none is declared, it is that network on fresh seeds. Where anchors may be
    contended, dropout is left out: each member draws masks of its own, by which even identical
    members train better. It is then held against the single network of just these values.
    """
    declared = [job for search in searches for job in search.enqueued("negative")]
    if not declared:
        return Arm(spec=single, role="negative_control", reason="control", name="fresh single")
    spec, name = declared[0].spec, declared[0].name
    masked = study.protocol.contended and single.backbone.get("dropout")
    backbone = single.backbone | ({"dropout": 0.0} if masked else {})
    own = single.model_copy(
        update={"method": spec.method, "params": spec.params, "backbone": backbone}
    )
    return Arm(spec=own, role="negative_control", reason="control", name=name)


def _stratum(spec: Configuration, keys: tuple[str, ...]) -> str:
    flat, parts = spec.model_dump(), (key.partition(".") for key in keys)
    return ", ".join(f"{name}={flat[section][name]}" for section, _, name in parts)
