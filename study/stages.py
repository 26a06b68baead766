"""The study as stages: search, rescore, pilot, confirm. Knows neither Ray nor Parquet.

A stage is a set of jobs that may run side by side; the next begins when all of it has ended. Which
jobs there are depends on the study and on earlier rows alone, so that an interrupted study goes
on where it was.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, Protocol

from study import schema
from study.pilot import pilot_jobs, seeds_for
from study.schema import StudyError, TrialRow
from study.search import Ahead, Job, MethodSearch, open_storage, optuna_name
from study.selection import order, shortlist
from study.space import Study
from study.spec import TrialSpec, derive_seed, digest
from study.store import Store

Rows = dict[str, TrialRow]
Together = Callable[[TrialSpec], int]


class Stage(Protocol):
    """Jobs that may run side by side, of one trial or several each."""

    name: schema.Stage
    total: int

    @property
    def remaining(self) -> int:
        """How many trials have not ended."""

    def next(self) -> Job | None:
        """Return a job that is yet to be run, None when there is none at the moment."""

    def end(self, row: TrialRow) -> None:
        """Take the row of a job that has ended."""

    def ahead(self) -> Iterator[Ahead]:
        """Yield what is yet to be handed out, in about this order."""


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
    arms = _arms(study, searches, finalists, rows)
    seeds, why = study.protocol.seeds, "as asked for"
    if seeds == "auto":
        pilot = pilot_jobs(study, arms)
        yield Fixed("pilot", pilot, rows, together)
        seeds, why = seeds_for(study, [rows[job.spec.trial] for job in pilot])
    tuning = {method: {"trials": search.total} for method, search in searches.items()}
    plan = declare(study, arms, tuning, (seeds, why), store)
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
            again = spec.model_copy(
                update={"stage": "rescore", "replicate": replicate, "seed": seed}
            )
            jobs.append(Job(again))
    return jobs


def declare(
    study: Study,
    arms: list[dict[str, Any]],
    tuning: dict[str, Any],
    seeds: tuple[int, str],
    store: Store,
) -> dict[str, Any]:
    """Write down what will be judged and how, before any test prediction exists, and return it.

    A declaration that differs from an earlier one in the same folder is kept beside it, under
    ``revisions``: what it decides was chosen after the test set had been opened.
    """
    protocol = study.protocol.model_dump()
    content: dict[str, Any] = {"study": study.name, "protocol": protocol, "arms": arms}
    if protocol["seeds"] == "auto":
        content["seeds"] = seeds[0]
    plan = content | {
        "hash": digest(content),
        "declared": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": seeds[0],
        "seeds_because": seeds[1],
        "tuning": tuning,
        "revisions": [],
    }
    earlier = store.read_json(store.plan)
    if earlier is not None:
        if earlier["hash"] == plan["hash"]:
            return earlier  # type: ignore[no-any-return]
        kept = {key: earlier[key] for key in ("hash", "declared", "protocol", "arms")}
        plan["revisions"] = [*earlier["revisions"], kept]
    store.write_json(store.plan, plan)
    return plan


def _arms(
    study: Study, searches: dict[str, MethodSearch], finalists: dict[str, list[str]], rows: Rows
) -> list[dict[str, Any]]:
    best = {
        method: order(_judged(study, rows, chosen), _is_candidate(study, method))
        for method, chosen in finalists.items()
    }
    for method, ordered in best.items():
        if not ordered:
            raise StudyError(_none_complete(method, _rows_of(method, rows)))
    single = _spec_of(best["single"][0], rows)
    arms, negative = [], None
    for space in study.candidates:
        search = searches[space.method]
        known = [
            (name, spec)
            for name, control, spec in search.enqueued()
            if control is None and rows[spec.trial].status != "pruned"
        ]
        labels = {spec.configuration: name for name, spec in known}
        controls = [(n, s) for n, c, s in search.enqueued() if c == "negative"]
        negative = negative or (controls[0] if controls else None)
        excluded = {spec.configuration for _, spec in controls}
        ordered = [c for c in best[space.method] if c not in excluded]
        strata = {c: _stratum(_spec_of(c, rows), space.strata) for c in ordered}
        for configuration in shortlist(
            ordered, strata, list(labels), study.protocol.shortlist, study.protocol.per_stratum
        ):
            spec = _spec_of(configuration, rows)
            name = labels.get(configuration)
            reason = "enqueued" if name else "validation"
            arms.append(_arm(spec, "candidate", reason, name, strata.get(configuration)))
    for space in study.others:
        if space.method not in ("single", "deep_ensemble"):
            for configuration in best[space.method][: study.protocol.comparisons]:
                arms.append(_arm(_spec_of(configuration, rows), "comparison", "comparison"))
    sizes = Counter(arm["members"] for arm in arms if arm["role"] == "candidate") or Counter([4])
    size = sizes.most_common(1)[0][0]
    control = _negative_arm(single, negative)
    pool = max(arm["members"] for arm in [*arms, control, {"members": size}])
    return [
        _arm(single, "single", "anchor", "single"),
        _arm(_deep_ensemble(single, pool), "deep_ensemble", "anchor", "deep ensemble"),
        _arm(_deep_ensemble(single, size), "positive_control", "control", "fresh deep ensemble"),
        control,
        *arms,
    ]


def _none_complete(method: str, rows: list[TrialRow]) -> str:
    reasons = Counter(f"{row.status}: {row.reason}" for row in rows)
    worst = reasons.most_common(1)[0][0]
    return (
        f"{method}: none of the {len(rows)} search trials is complete (most often {worst}); "
        "mend the method or its space and choose another --out"
    )


def _judged(study: Study, rows: Rows, finalists: list[str]) -> list[TrialRow]:
    """Return the finalists' rows on fresh search seeds: the one that chose them was a lucky one."""
    stage = "rescore" if study.budget.rescore_seeds else "search"
    found = (r for r in rows.values() if r.stage == stage and r.configuration in finalists)
    return sorted(found, key=lambda row: row.trial)


def _deep_ensemble(single: TrialSpec, members: int) -> TrialSpec:
    return single.model_copy(update={"method": "deep_ensemble", "params": {"members": members}})


def _negative_arm(single: TrialSpec, control: tuple[str, TrialSpec] | None) -> dict[str, Any]:
    """Return the control that must track: as declared, trained as the tuned single is."""
    if control is None:
        return _arm(single, "negative_control", "control", "fresh single")
    name, spec = control
    update = {"method": spec.method, "params": spec.params}
    return _arm(single.model_copy(update=update), "negative_control", "control", name)


def _arm(
    spec: TrialSpec,
    role: schema.Role,
    reason: str,
    name: str | None = None,
    stratum: str | None = None,
) -> dict[str, Any]:
    return {
        "configuration": spec.configuration,
        "role": role,
        "method": spec.method,
        "name": name,
        "members": spec.members,
        "reason": reason,
        "stratum": stratum,
        "spec": spec.model_dump(exclude={"role", "stage", "replicate", "seed"}),
    }


def _stratum(spec: TrialSpec, keys: tuple[str, ...]) -> str:
    flat = spec.model_dump()
    values = []
    for key in keys:
        section, _, name = key.partition(".")
        values.append(f"{name}={flat[section][name]}")
    return ", ".join(values)


def confirm_jobs(study: Study, plan: dict[str, Any]) -> list[Job]:
    """Return every arm's replicates on fresh seeds, replicate by replicate, long ones first."""
    arms = sorted(plan["arms"], key=lambda arm: (arm["method"] != "deep_ensemble", -arm["members"]))
    jobs = []
    for replicate in range(plan["seeds"]):
        for arm in arms:
            parts = ("confirm", arm["role"], arm["configuration"], replicate)
            spec = {
                **arm["spec"],
                "role": arm["role"],
                "stage": "confirm",
                "replicate": replicate,
                "seed": derive_seed(study.seed, *parts),
            }
            jobs.append(Job(TrialSpec.model_validate(spec), arm["name"]))
    return jobs
