"""The study as stages: search, rescore, anchor, pilot, confirm. Knows neither Ray nor Parquet.

A stage is a set of jobs that may run side by side; the next begins when all of it has ended. Which
jobs there are depends on the study and on earlier rows alone, so that an interrupted study goes
on where it was.
"""

from collections.abc import Iterator
from functools import partial

from study.jobs import Rows, Together
from study.run_folder.store import RunFolder
from study.search.method_search import MethodSearch
from study.search.storage import open_storage, optuna_name
from study.space.settings import Study
from study.stages.analysis_interface import Analysis
from study.stages.anchor import Anchored, anchored, validation_losses
from study.stages.arms import choose_arms, shortlisted, spec_of
from study.stages.confirm import confirm_jobs
from study.stages.hyperparameter_exchange import Refusal
from study.stages.pilot import Seen, pilot_jobs, seeds_declared, seeds_for
from study.stages.plan import declare
from study.stages.rescore import finalists, ranked, rescore_jobs
from study.stages.stage import FixedStage, ReplicatesPerJob, SearchStage, Stage, one_replicate


def stages(
    study: Study,
    store: RunFolder,
    rows: Rows,
    replicates_per_job: ReplicatesPerJob = one_replicate,
    analysis: Analysis | None = None,
    together: Together | None = None,
    refusal: Refusal = lambda spec: None,
) -> Iterator[Stage]:
    """Yield the study's stages; each sees in ``rows`` what the earlier ones have left there.

    Args:
        study: What to do.
        store: Where Optuna's journal and the plan lie.
        rows: Every committed row by trial; the caller adds to it as trials end.
        replicates_per_job: How many replicates of a trial's configuration make up a job.
        analysis: What knows the tests and their power, for ``protocol.seeds=auto``.
        together: Which search trials make up a job; None for each its own.
        refusal: Why a method refuses a spec, where that is known before the training.
    """
    storage = open_storage(study, store)
    searches = {
        space.method: MethodSearch(
            study, space, storage, rows, optuna_name(study, store, space.method), together
        )
        for space in study.spaces
        if space.method != "deep_ensemble"
    }
    yield SearchStage(list(searches.values()), rows)
    chosen = {method: finalists(study, method, rows) for method in searches}
    rescore = [job for method in searches for job in rescore_jobs(study, chosen[method], rows)]
    yield FixedStage("rescore", rescore, rows, replicates_per_job)
    best = {method: ranked(study, method, chosen[method], rows) for method in searches}
    own = [spec_of(configuration, rows).alone() for configuration in best["single"]]
    judged = shortlisted(study, list(searches.values()), best, rows)
    found = Anchored(own[0], judged)
    if study.protocol.anchors != "tuned":
        losses = partial(validation_losses, study, rows, store, analysis)
        fixed = partial(FixedStage, "anchor", rows=rows, replicates_per_job=replicates_per_job)
        found = yield from anchored(study, own, judged, rows, losses, fixed, refusal)
    arms_of = partial(choose_arms, study, list(searches.values()), found)
    seeds, because = study.protocol.seeds, "as asked for"
    if seeds == "auto":
        arms = arms_of(study.budget.pilot_seeds)
        pilot = pilot_jobs(study, arms)
        yield FixedStage("pilot", pilot, rows, replicates_per_job)
        assert analysis is not None, "protocol.seeds=auto needs the tests' power"
        trials = {job.spec.trial for job in pilot}
        seeds, because = seeds_declared(study, arms_of, store) or seeds_for(
            study, arms, Seen.of(study, arms, trials, rows, store, analysis), analysis
        )
    tuning = {method: search.total for method, search in searches.items()}
    arms = arms_of(seeds)
    plan = declare(study, arms, tuning, seeds, because, store, found.tried, found.exchanged)
    yield FixedStage("confirm", confirm_jobs(study, plan), rows, replicates_per_job)
