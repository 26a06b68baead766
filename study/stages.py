"""The study as stages: search, rescore, pilot, confirm. Knows neither Ray nor Parquet.

A stage is a set of jobs that may run side by side; the next begins when all of it has ended. Which
jobs there are depends on the study and on earlier rows alone, so that an interrupted study goes
on where it was.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest

from study import schema
from study.pilot import pilot_jobs, seeds_for
from study.plan import Arm, Plan, Reason, declare
from study.schema import StudyError, TrialRow
from study.search import Ahead, Job, MethodSearch, open_storage, optuna_name
from study.selection import order, shortlist
from study.space import Study
from study.spec import Configuration, TrialSpec, derive_seed
from study.store import Store

Rows = dict[str, TrialRow]
Together = Callable[[TrialSpec], int]


def one_by_one(spec: TrialSpec) -> int:
    """Return how many replicates of ``spec`` make up a job: one."""
    return 1


class Fixed:
    """A stage whose trials are known beforehand; jobs all of which have rows are not handed out.

    Args:
        name: Of the stage.
        jobs: One trial each.
        rows: Those that are there.
        together: How many replicates of a trial's configuration make up a job. Which do does not
            depend on ``rows``, so that an interruption changes no number.
    """

    def __init__(
        self, name: schema.Stage, jobs: list[Job], rows: Rows, together: Together = one_by_one
    ) -> None:
        self.name, self.total = name, len(jobs)
        self.open = {job.spec.trial for job in jobs if job.spec.trial not in rows}
        self.queue = deque(
            job for job in _joined(jobs, together) if any(s.trial in self.open for s in job.specs)
        )

    @property
    def remaining(self) -> int:
        """How many trials have not ended."""
        return len(self.open)

    def next(self) -> Job | None:
        """Return the next job in order."""
        return self.queue.popleft() if self.queue else None

    def end(self, row: TrialRow) -> None:
        """Take the row of a job that has ended."""
        self.open.discard(row.trial)

    def ahead(self) -> Iterator[Ahead]:
        """Yield the jobs in order."""
        yield from (Ahead(job.spec.method, job) for job in self.queue)


class Search:
    """The search of every tuned method, in turns, so that no slot waits for a generation to end."""

    name: schema.Stage = "search"

    def __init__(self, searches: list[MethodSearch], rows: Rows) -> None:
        self.searches, self.rows = searches, rows
        self.total = sum(search.total for search in searches)
        self.owner: dict[str, MethodSearch] = {}

    @property
    def remaining(self) -> int:
        """How many trials have not ended."""
        return sum(search.remaining for search in self.searches)

    def next(self) -> Job | None:
        """Return a job of the method that is furthest behind and has one ready."""
        for search in list(self.searches):
            while (job := search.next()) is not None:
                if job.spec.trial in self.rows:
                    search.tell(self.rows[job.spec.trial])
                    continue
                self.searches.remove(search)
                self.searches.append(search)
                self.owner[job.spec.trial] = search
                return job
        return None

    def end(self, row: TrialRow) -> None:
        """Tell Optuna."""
        self.owner.pop(row.trial).tell(row)

    def ahead(self) -> Iterator[Ahead]:
        """Yield a job of each method in turn."""
        for turn in zip_longest(*(search.ahead() for search in self.searches)):
            yield from (ahead for ahead in turn if ahead is not None)


Stage = Search | Fixed


def _joined(jobs: list[Job], together: Together) -> list[Job]:
    """Return the jobs with replicates of one arm joined, in the order of the first of each."""
    found: dict[tuple[str, str, int], list[Job]] = {}
    count: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        arm = (job.spec.role, job.spec.configuration)
        found.setdefault((*arm, count[arm] // together(job.spec)), []).append(job)
        count[arm] += 1
    return [
        replace(first, beside=tuple(job.spec for job in others))
        for first, *others in found.values()
    ]


def stages(
    study: Study, store: Store, rows: Rows, together: Together = one_by_one
) -> Iterator[Stage]:
    """Yield the study's stages; each sees in ``rows`` what the earlier ones have left there.

    Args:
        study: What to do.
        store: Where Optuna's journal and the plan lie.
        rows: Every committed row by trial; the caller adds to it as trials end.
        together: How many replicates of a trial's configuration make up a job.
    """
    storage = open_storage(study, store)
    searches = {
        space.method: MethodSearch(
            study, space, storage, rows, optuna_name(study, store, space.method)
        )
        for space in study.spaces
        if space.method != "deep_ensemble"
    }
    yield Search(list(searches.values()), rows)
    finalists = {method: _finalists(study, method, rows) for method in searches}
    rescore = [job for method in searches for job in _rescore_jobs(study, finalists[method], rows)]
    yield Fixed("rescore", rescore, rows, together)
    arms = choose_arms(study, list(searches.values()), finalists, rows)
    seeds, because = study.protocol.seeds, "as asked for"
    if seeds == "auto":
        pilot = pilot_jobs(study, arms)
        yield Fixed("pilot", pilot, rows, together)
        seeds, because = seeds_for(study, [rows[job.spec.trial] for job in pilot])
    tuning = {method: search.total for method, search in searches.items()}
    plan = declare(study, arms, tuning, seeds, because, store)
    yield Fixed("confirm", confirm_jobs(study, plan), rows, together)


def _rows_of(method: str, rows: Rows) -> list[TrialRow]:
    """Return the method's search rows, in an order that does not depend on when they ended."""
    found = (r for r in rows.values() if r.method == method and r.stage == "search")
    return sorted(found, key=lambda row: row.trial)


def _finalists(study: Study, method: str, rows: Rows) -> list[str]:
    return order(_rows_of(method, rows), _is_candidate(study, method))[: study.budget.rescore]


def _is_candidate(study: Study, method: str) -> bool:
    return any(space.method == method for space in study.candidates)


def _spec_of(configuration: str, rows: Rows) -> TrialSpec:
    """Return the spec of the search trial; that of a later stage has another role."""
    searched = (r for r in rows.values() if r.stage == "search")
    row = next(r for r in searched if r.configuration == configuration)
    return TrialSpec.model_validate_json(row.spec)


def _rescore_jobs(study: Study, finalists: list[str], rows: Rows) -> list[Job]:
    jobs = []
    for configuration in finalists:
        spec = _spec_of(configuration, rows)
        for replicate in range(1, study.budget.rescore_seeds + 1):
            seed = derive_seed(study.seed, "rescore", configuration, replicate)
            jobs.append(Job(spec.trial_of(spec.role, "rescore", replicate, seed)))
    return jobs


def choose_arms(
    study: Study, searches: list[MethodSearch], finalists: dict[str, list[str]], rows: Rows
) -> list[Arm]:
    """Return the arms of the plan, in its order: anchors, controls, candidates, comparisons.

    Args:
        study: Its protocol says how many of each there are.
        searches: Of every tuned method.
        finalists: Configurations of each method that were run again.
        rows: Of the search, and of the runs again.

    Raises:
        StudyError: When no trial of a method is complete.
    """
    best = {method: _ranked(study, method, chosen, rows) for method, chosen in finalists.items()}
    single = _spec_of(best["single"][0], rows).alone()
    own = [search for search in searches if _is_candidate(study, search.space.method)]
    candidates = [
        arm for search in own for arm in _candidates(study, search, best[search.space.method], rows)
    ]
    negative = _negative_control(single, own)
    comparisons = _comparisons(study, best, rows)
    # The positive control is what a candidate would be if its members were networks of their own:
    # it has the size that most candidates have.
    sizes = Counter(arm.spec.members for arm in candidates) or Counter([4])
    common = sizes.most_common(1)[0][0]
    # Every arm is held against as many of the anchor's networks as it has members itself, so the
    # anchor has as many as the largest.
    most = max(common, *(arm.spec.members for arm in (negative, *candidates, *comparisons)))
    deep, fresh = _deep_ensemble(single, most), _deep_ensemble(single, common)
    return [
        Arm(spec=single, role="single", reason="anchor", name="single"),
        Arm(spec=deep, role="deep_ensemble", reason="anchor", name="deep ensemble"),
        Arm(spec=fresh, role="positive_control", reason="control", name="fresh deep ensemble"),
        negative,
        *candidates,
        *comparisons,
    ]


def _ranked(study: Study, method: str, finalists: list[str], rows: Rows) -> list[str]:
    """Return the finalists from best to worst, by their runs on fresh search seeds.

    The one run by which each became a finalist was a lucky one; by it the luckiest would win.
    """
    stage = "rescore" if study.budget.rescore_seeds else "search"
    found = (r for r in rows.values() if r.stage == stage and r.configuration in finalists)
    judged = sorted(found, key=lambda row: row.trial)
    ordered = order(judged, _is_candidate(study, method))
    if ordered:
        return ordered
    reasons = Counter(f"{row.status}: {row.reason}" for row in _rows_of(method, rows))
    raise StudyError(
        f"{method}: none of the {reasons.total()} search trials is complete (most often "
        f"{reasons.most_common(1)[0][0]}); mend the method or its space and choose another --out"
    )


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
    specs = {chosen: _spec_of(chosen, rows).alone() for chosen in [*names, *ordered]}
    strata = {c: _stratum(specs[c], search.space.strata) for c in ordered}
    arms = []
    for c in shortlist(ordered, strata, list(names), protocol.shortlist, protocol.per_stratum):
        reason: Reason = "enqueued" if c in names else "validation"
        said = {"name": names.get(c), "stratum": strata.get(c)}
        arms.append(Arm(spec=specs[c], role="candidate", reason=reason, **said))
    return arms


def _comparisons(study: Study, best: dict[str, list[str]], rows: Rows) -> list[Arm]:
    """Return the best configurations of each method that is there to compare with."""
    return [
        Arm(spec=_spec_of(chosen, rows).alone(), role="comparison", reason="comparison")
        for space in study.others
        if space.method not in ("single", "deep_ensemble")
        for chosen in best[space.method][: study.protocol.comparisons]
    ]


def _negative_control(single: Configuration, searches: list[MethodSearch]) -> Arm:
    """Return the control that must track a single model: the first that is declared as such.

    It is trained as the tuned single network is, so that nothing but its members' identity tells
    it from that; where none is declared, it is that network on fresh seeds.
    """
    declared = [job for search in searches for job in search.enqueued("negative")]
    if not declared:
        return Arm(spec=single, role="negative_control", reason="control", name="fresh single")
    spec, name = declared[0].spec, declared[0].name
    own = single.model_copy(update={"method": spec.method, "params": spec.params})
    return Arm(spec=own, role="negative_control", reason="control", name=name)


def _deep_ensemble(single: Configuration, members: int) -> Configuration:
    return single.model_copy(update={"method": "deep_ensemble", "params": {"members": members}})


def _stratum(spec: Configuration, keys: tuple[str, ...]) -> str:
    flat, parts = spec.model_dump(), (key.partition(".") for key in keys)
    return ", ".join(f"{name}={flat[section][name]}" for section, _, name in parts)


def confirm_jobs(study: Study, plan: Plan) -> list[Job]:
    """Return every arm's replicates on fresh seeds, replicate by replicate, long ones first."""
    arms = sorted(
        plan.arms, key=lambda arm: (arm.spec.method != "deep_ensemble", -arm.spec.members)
    )
    jobs = []
    for replicate in range(plan.seeds):
        for arm in arms:
            seed = derive_seed(study.seed, "confirm", arm.role, arm.spec.configuration, replicate)
            jobs.append(Job(arm.spec.trial_of(arm.role, "confirm", replicate, seed), arm.name))
    return jobs
