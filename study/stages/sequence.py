"""The study as stages: search, rescore, anchor, pilot, confirm. Knows neither Ray nor Parquet.

A stage is a set of jobs that may run side by side; the next begins when all of it has ended. Which
jobs there are depends on the study and on earlier rows alone, so that an interrupted study goes
on where it was.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial

from study.jobs import Job, Rows, Together
from study.run_folder.store import RunFolder
from study.search.method_search import MethodSearch
from study.search.storage import open_storage, optuna_name
from study.space.settings import Study
from study.spec import Configuration, derive_seed
from study.stages.analysis_interface import Analysis
from study.stages.anchors import (
    Candidate,
    Losses,
    Refusal,
    anchor_jobs,
    candidates_for_single,
    contenders,
    exchange_jobs,
    exchanged,
    refusals,
    tried,
    validation_losses,
)
from study.stages.arms import choose_arms, is_candidate, ranked, search_rows, shortlisted, spec_of
from study.stages.pilot import Seen, pilot_jobs, seeds_declared, seeds_for
from study.stages.plan import Arm, Plan, Tried, declare
from study.stages.selection import rank
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
    finalists = {method: _finalists(study, method, rows) for method in searches}
    rescore = [job for method in searches for job in _rescore_jobs(study, finalists[method], rows)]
    yield FixedStage("rescore", rescore, rows, replicates_per_job)
    best = {method: ranked(study, method, finalists[method], rows) for method in searches}
    own = [spec_of(configuration, rows).alone() for configuration in best["single"]]
    judged = shortlisted(study, list(searches.values()), best, rows)
    found = Anchored(own[0], judged)
    if study.protocol.anchors != "tuned":
        losses = partial(validation_losses, study, rows, store, analysis)
        fixed = partial(FixedStage, "anchor", rows=rows, replicates_per_job=replicates_per_job)
        found = yield from _anchored(study, own, judged, rows, losses, fixed, refusal)
    arms_of = partial(
        choose_arms, study, list(searches.values()), found.single, found.contenders, found.judged
    )
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


@dataclass(frozen=True)
class Anchored:
    """What the stage ``anchor`` comes to.

    Attributes:
        single: The tuned single network.
        judged: Candidates and comparisons, each with the better values.
        contenders: Single networks that may be better than the tuned one.
        tried: How all single networks did, the best first.
        exchanged: How each arm did with its own values and with the single network's.
    """

    single: Configuration
    judged: list[Arm]
    contenders: list[Configuration] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    exchanged: list[Tried] = field(default_factory=list)


def _anchored(
    study: Study,
    own: list[Configuration],
    shortlist: list[Arm],
    rows: Rows,
    losses: Callable[[], Losses],
    fixed: Callable[[list[Job]], Stage],
    refusal: Refusal,
) -> Generator[Stage, None, Anchored]:
    """Yield the stages in which the single network is chosen; return what they come to.

    Where it may be contended, values that an arm has only since it was tried with the single
    network's are tried as a single network in turn. That ends: each round needs a single network
    better than all before.

    Args:
        study: Its protocol and spaces.
        own: Configurations of the single network from best to worst.
        shortlist: Candidates and comparisons.
        rows: All rows.
        losses: Returns the validation loss of what has been run.
        fixed: Makes a stage of jobs.
        refusal: Why a method refuses a spec.
    """
    contended = study.protocol.anchors == "contended"
    candidates, more = list[Candidate](), candidates_for_single(own, shortlist)
    while True:
        candidates += more
        yield fixed(anchor_jobs(study, more))
        choice = tried(candidates, rows, losses())
        specs = {one.spec.configuration: one.spec for one in candidates}
        single = specs[choice[0].configuration]
        close = [specs[c] for c in contenders(choice)] if contended else []
        if not study.protocol.exchange:
            return Anchored(single, shortlist, close, choice)
        refused = refusals(study, shortlist, single, refusal)
        yield fixed(exchange_jobs(study, shortlist, single, refused))
        judged, exchanges = exchanged(study, shortlist, single, rows, losses(), refused)
        known = candidates_for_single(own, judged)
        more = [one for one in known if one.spec.configuration not in specs]
        if not (contended and more):
            return Anchored(single, judged, close, choice, exchanges)


def _finalists(study: Study, method: str, rows: Rows) -> list[str]:
    return rank(search_rows(method, rows), is_candidate(study, method))[: study.budget.rescore]


def _rescore_jobs(study: Study, finalists: list[str], rows: Rows) -> list[Job]:
    jobs = []
    for configuration in finalists:
        spec = spec_of(configuration, rows)
        for replicate in range(1, study.budget.rescore_seeds + 1):
            seed = derive_seed(study.seed, "rescore", configuration, replicate)
            jobs.append(Job(spec.trial_of(spec.role, "rescore", replicate, seed)))
    return jobs


def confirm_jobs(study: Study, plan: Plan) -> list[Job]:
    """Return every arm's replicates on fresh seeds, replicate by replicate, long ones first."""
    arms = sorted(
        plan.arms, key=lambda arm: (arm.spec.method != "deep_ensemble", -arm.spec.members)
    )
    jobs = []
    for replicate in range(max(map(plan.seeds_of, arms), default=0)):
        for arm in arms:
            if replicate >= plan.seeds_of(arm):
                continue
            seed = derive_seed(study.seed, "confirm", arm.role, arm.spec.configuration, replicate)
            jobs.append(Job(arm.spec.trial_of(arm.role, "confirm", replicate, seed), arm.name))
    return jobs
