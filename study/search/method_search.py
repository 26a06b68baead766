"""Optuna proposes, generation by generation; the search is the same on any number of workers.

A generation is proposed at once, from the results of the generations before it and seeds that
depend on (study seed, method, trial number) alone. So neither the order in which trials end nor an
interruption changes what is tried. Optuna's storage is the only state: a trial that it knows as
running is one to be run, under the same number with the same parameters.

A method's own limit (``Method.excess``) is a constraint. What exceeds it is pruned, not failed:
TPE leaves failed trials out of account, but ranks pruned ones that violate a constraint behind all
feasible trials, those that violate it most last.
"""

import math
import warnings
from collections import deque
from collections.abc import Collection, Iterator
from itertools import repeat
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from study.jobs import Job, PlannedJob, Together, joined
from study.parquet_format import Role, TrialRow
from study.search.points import enqueued_parameters, point_of, suggest
from study.space.configuration import ENTRY_KEYS, configuration
from study.space.settings import MethodSpace, Study
from study.spec import TrialSpec, derive_seed

OBJECTIVES: dict[str, Literal["minimize", "maximize"]] = {
    "val_nll": "minimize",
    "val_shift_nll": "minimize",
    "val_gain": "maximize",
}


class MethodSearch:
    """The search of one method: hands out jobs, takes rows.

    Args:
        study: What the method is part of.
        space: The method's space.
        storage: Optuna's.
        known: Trials whose rows are there.
        name: Of the search in the storage; by default that of the method.
        together: Which trials of a generation make up a job, whatever is there of it, so that an
            interruption changes no number; None for each its own. Named ones are not joined.
    """

    def __init__(
        self,
        study: Study,
        space: MethodSpace,
        storage: optuna.storages.BaseStorage,
        known: Collection[str] = (),
        name: str | None = None,
        together: Together | None = None,
    ) -> None:
        self.study, self.space, self.storage = study, space, storage
        self.together: Together = together or (lambda spec: (spec.trial, 1))
        self.objectives = dict(OBJECTIVES)
        if space.method == "single":
            del self.objectives["val_gain"]
        self.optuna = optuna.create_study(
            study_name=name or space.method,
            storage=storage,
            directions=list(self.objectives.values()),
            load_if_exists=True,
        )
        if self.optuna.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.optuna.set_metric_names(list(self.objectives))
        self.asked = len(self.optuna.get_trials(deepcopy=False))
        self.numbers: dict[str, int | None] = {}
        self.seen: set[str] = set()
        self.queue: deque[Job] = deque()
        if self.asked % study.budget.generation:
            self._propose()  # An interrupted proposal is completed before any of it is run.
        trials = self.optuna.get_trials(deepcopy=False)
        lost = [t for t in trials if t.state.is_finished() and self.spec(t).trial not in known]
        self._add([*_running(trials), *lost], trials)

    @property
    def total(self) -> int:
        """Trials of this method in the search stage."""
        return self.study.budget.trials if self.space.search else 1

    @property
    def remaining(self) -> int:
        """How many trials are yet to be proposed or told."""
        return len(self.numbers) + max(0, self.total - self.asked)

    def ahead(self) -> Iterator[PlannedJob]:
        """Yield the jobs that are proposed, then those that are yet to be."""
        yield from (PlannedJob(self.space.method, job) for job in self.queue)
        yield from repeat(PlannedJob(self.space.method), max(0, self.total - self.asked))

    def next(self) -> Job | None:
        """Return a job, None while the generation's other trials are still running."""
        if not self.queue and not self.numbers:
            self._propose()
        return self.queue.popleft() if self.queue else None

    def tell(self, row: TrialRow) -> None:
        """Take the row of one of this search's trials; one that failed stays open for a retry.

        Optuna is told once: a trial that it knows but whose row has gone is only run again.
        """
        values = [getattr(row, name) for name in self.objectives]
        number = self.numbers.pop(row.trial, None)  # None too if told before, and run beside one.
        if number is None or row.status == "failed":
            return
        if row.excess is not None:
            self._constrain(number, row.excess)
        if row.status == "complete" and all(v is not None and math.isfinite(v) for v in values):
            self.optuna.tell(number, values)
        elif row.status == "pruned":
            self.optuna.tell(number, state=TrialState.PRUNED)
        else:
            self.optuna.tell(number, state=TrialState.FAIL)

    def _constrain(self, number: int, excess: float) -> None:
        study_id = self.storage.get_study_id_from_name(self.optuna.study_name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        trial = Trial(self.optuna, trial_id)
        if not trial.constraints:  # It is there when a start before died between here and tell.
            trial.set_constraint("excess", excess)

    def _propose(self) -> None:
        """Propose the rest of the current generation, each trial in one write.

        The drawing is done on a copy, so that the storage never holds half a proposal.
        """
        asked, size = self.asked, self.study.budget.generation
        draft = optuna.create_study(directions=list(self.objectives.values()))
        draft.add_trials(self.optuna.get_trials(deepcopy=False))
        for entry in self.space.enqueue[asked:]:
            names = {key: value for key, value in entry.items() if key in ENTRY_KEYS}
            draft.enqueue_trial(enqueued_parameters(self.space, entry), user_attrs=names)
        for number in range(asked, min(self.total, (asked // size + 1) * size)):
            seed = derive_seed(self.study.seed, "sampler", self.space.method, number)
            draft.sampler = sampler(seed)
            trial = draft.ask()
            suggest(trial, self.space)
            self.optuna.add_trial(draft.get_trials(deepcopy=False)[trial.number])
            self.asked = number + 1
        every = self.optuna.get_trials(deepcopy=False)
        self._add(_running(every), every)

    def _add(self, trials: list[FrozenTrial], every: list[FrozenTrial]) -> None:
        """Queue the jobs that have any of the trials, each with the others of its stack."""
        new: set[str] = set()
        for trial in trials:
            spec = self.spec(trial)
            if spec.trial not in self.seen:
                new.add(spec.trial)
                self.numbers[spec.trial] = None if trial.state.is_finished() else trial.number
        self.seen |= new
        size = self.study.budget.generation
        generations = {trial.number // size for trial in trials}
        for generation in sorted(generations):
            jobs = joined(map(self._job, every[generation * size :][:size]), self._kind)
            self.queue += [j for j in jobs if any(spec.trial in new for spec in j.specs)]

    def _job(self, trial: FrozenTrial) -> Job:
        return Job(self.spec(trial), trial.user_attrs.get("name"))

    def _kind(self, job: Job) -> tuple[str, int]:
        return self.together(job.spec) if job.name is None else (job.spec.trial, 1)

    def spec(self, trial: FrozenTrial) -> TrialSpec:
        """Return what the Optuna trial stands for."""
        seed = derive_seed(self.study.seed, "search", self.space.method, trial.number)
        found = configuration(self.space, point_of(trial, self.space), self.study.dataset)
        role: Role = "single" if self.space.method == "single" else "candidate"
        return found.trial_of(role, "search", 0, seed)

    def enqueued(self, control: str | None = None) -> list[Job]:
        """Return the enqueued configurations by name: those of a kind of control, or all others."""
        trials = [t for t in self.optuna.get_trials(deepcopy=False) if "name" in t.user_attrs]
        own = (t for t in trials if t.user_attrs.get("control") == control)
        return [Job(self.spec(t), t.user_attrs["name"]) for t in own]


def _running(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.RUNNING]


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one proposal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed % 2**32, multivariate=True, group=True, constant_liar=True
        )
