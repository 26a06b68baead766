"""Generations: the same search whatever the order of ends, interruptions and workers."""

import contextlib
import random
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection

from study.errors import StudyError
from study.jobs import Job
from study.run_folder.store import RunFolder
from study.search.method_search import OBJECTIVES, MethodSearch
from study.search.storage import open_storage
from study.space.domain import Domain
from study.space.load import load_study
from study.space.settings import MethodSpace
from tests.study.conftest import some_row


@pytest.fixture
def study(smoke):
    budget = smoke.budget.model_copy(update={"trials": 30, "generation": 6})
    return smoke.model_copy(update={"budget": budget})


class Any:
    """Every trial's row is there."""

    def __contains__(self, trial):
        return True


ANY = Any()


def opened(study, folder, known=None, together=None):
    store = RunFolder(folder)
    store.create()
    every = study.space("batch_ensemble")
    known = ANY if known is None else known
    return MethodSearch(study, every, open_storage(study, store), known, together=together)


def row_of(job):
    """A made-up but repeatable result of a job."""
    value = random.Random(job.spec.configuration)
    status = "diverged" if value.random() < 0.1 else "complete"
    return some_row(
        trial=job.spec.trial, status=status, **{name: value.random() for name in OBJECTIVES}
    )


def finish(search, order, row_of=row_of):
    """Run the search to its end, ending jobs in a random order, two at a time."""
    running, seen = [], []
    while search.remaining:
        while len(running) < 4 and (job := search.next()) is not None:
            running.append(job)
            seen.append(job.spec.trial)
        order.shuffle(running)
        search.tell(row_of(running.pop()))
    return seen


def test_the_order_of_ends_does_not_matter(study, tmp_path):
    first = finish(opened(study, tmp_path / "a"), random.Random(1))
    second = finish(opened(study, tmp_path / "b"), random.Random(2))
    assert len(first) == 30
    assert set(first) == set(second)


@pytest.mark.parametrize("stop", [0, 3, 7, 17])
def test_an_interruption_does_not_matter(study, tmp_path, stop):
    whole = finish(opened(study, tmp_path / "a"), random.Random(1))
    search = opened(study, tmp_path / "b")
    told = []
    for _ in range(stop):
        job = search.next()
        search.tell(row_of(job))
        told.append(job.spec.trial)
    search.next()  # handed out, never told: the driver died
    rest = finish(opened(study, tmp_path / "b"), random.Random(3))
    assert sorted([*told, *rest]) == sorted(whole)


@pytest.mark.parametrize("kept", [1, 14, 20])
def test_an_interruption_between_two_proposals_does_not_matter(study, tmp_path, monkeypatch, kept):
    whole = finish(opened(study, tmp_path / "a"), random.Random(1))
    search = opened(study, tmp_path / "b")
    told = []

    def die_after(trial):
        if len(search.optuna.get_trials(deepcopy=False)) == kept:
            raise KeyboardInterrupt
        type(search.optuna).add_trial(search.optuna, trial)

    monkeypatch.setattr(search.optuna, "add_trial", die_after)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            job = search.next()
            search.tell(row_of(job))
            told.append(job.spec.trial)
    assert len(told) < len(whole)
    rest = finish(opened(study, tmp_path / "b"), random.Random(3))
    assert sorted([*told, *rest]) == sorted(whole)


def test_all_trials_are_read_once_or_twice_a_generation_not_for_each_trial(
    study, tmp_path, monkeypatch
):
    search = opened(study, tmp_path)
    reads = []

    def counted(*args, **options):
        reads.append(options)
        return type(search.optuna).get_trials(search.optuna, *args, **options)

    monkeypatch.setattr(search.optuna, "get_trials", counted)
    assert len(finish(search, random.Random(1))) == 30
    assert len(reads) == 2 * 30 / study.budget.generation


def by_start(spec):
    return spec.params["init"], 3


def test_what_is_alike_in_a_generation_makes_up_a_job(study, tmp_path):
    search = opened(study, tmp_path / "a", together=by_start)
    seen = []
    while (job := search.next()) is not None or search.remaining:
        if job is None:
            continue
        assert len(job.specs) <= (1 if job.name else 3)
        assert len({spec.params["init"] for spec in job.specs}) == 1
        seen.append({spec.trial for spec in job.specs})
        for spec in job.specs:
            search.tell(row_of(Job(spec)))
    assert max(map(len, seen)) > 1
    assert set().union(*seen) == set(finish(opened(study, tmp_path / "b"), random.Random(1)))


def test_an_interruption_changes_no_stack(study, tmp_path):
    search = opened(study, tmp_path, together=by_start)
    jobs = [search.next() for _ in range(4)]
    first = next(job for job in jobs if job.beside)
    row = row_of(Job(first.beside[0]))
    search.tell(row)
    again = opened(study, tmp_path, {row.trial}, by_start)
    rest = [again.next() for _ in range(4)]
    assert rest == jobs
    again.tell(row)  # Run again beside the others, or only read.
    assert again.remaining == study.budget.trials - 1


def test_known_configurations_go_first_with_their_names(study, tmp_path):
    search = opened(study, tmp_path)
    names = [search.next().name for _ in range(3)]
    assert names == ["random signs", "identical members", None]
    for control, name, init in (
        (None, "random signs", "sign"),
        ("negative", "identical members", "ones"),
    ):
        (job,) = search.enqueued(control)
        assert (job.name, job.spec.params["init"]) == (name, init)


def test_ranges_are_searched_as_they_are_declared(study, tmp_path):
    search = opened(study, tmp_path)
    finish(search, random.Random(1))
    found = {k: v for t in search.optuna.get_trials() for k, v in t.distributions.items()}
    assert found == {
        "params.members": CategoricalDistribution((2, 3)),
        "params.fast_lr_multiplier": CategoricalDistribution((1.0, 0.0)),
        "params.init": CategoricalDistribution(("normal", "sign", "ones")),
        "params.init_std": FloatDistribution(0.1, 1.0, log=True),
        "params.negative_share": FloatDistribution(0.1, 0.5),
        "training.lr": FloatDistribution(0.05, 0.3, log=True),
    }


def test_no_two_proposals_are_the_same(study, tmp_path):
    search, points = opened(study, tmp_path), set()
    while search.remaining:
        job = search.next()
        points.add(job.spec.configuration)
        search.tell(row_of(job))
    assert len(points) == 30


@pytest.mark.parametrize("better", ["val_nll", "val_shift_nll", "val_gain"])
def test_less_loss_and_more_gain_are_better(study, tmp_path, better):
    search = opened(study, tmp_path)
    for value in (0.0, 1.0):
        same = dict.fromkeys(("val_nll", "val_shift_nll", "val_gain"), 0.5)
        search.tell(replace(row_of(search.next()), status="complete", **(same | {better: value})))
    (best,) = search.optuna.best_trials
    assert best.number == (1 if better == "val_gain" else 0)


def test_more_trials_top_the_search_up(study, tmp_path):
    first = finish(opened(study, tmp_path), random.Random(1))
    more = study.model_copy(update={"budget": study.budget.model_copy(update={"trials": 36})})
    second = finish(opened(more, tmp_path), random.Random(1))
    assert len(second) == 6
    assert not set(first) & set(second)
    assert finish(opened(more, tmp_path), random.Random(1)) == []


def test_another_seed_searches_elsewhere(study, tmp_path):
    first = finish(opened(study, tmp_path / "a"), random.Random(1))
    other = study.model_copy(update={"seed": 1})
    assert not set(first) & set(finish(opened(other, tmp_path / "b"), random.Random(1)))


def test_inactive_parameters_are_null(study, tmp_path):
    search = opened(study, tmp_path)
    for _ in range(6):
        params = search.next().spec.params
        assert (params["init_std"] is None) == (params["init"] != "normal")
        assert (params["negative_share"] is None) == (params["init"] != "sign")


def test_alternatives_of_one_key_are_one_parameter(tmp_path):
    from pathlib import Path

    study = load_study([Path(__file__).parents[3] / "search_spaces" / "be.yaml"])
    search = opened(study, tmp_path)
    params = [search.next().spec.params for _ in range(15)]
    assert {p["init"] for p in params if p["rank"] != 1} == {"normal"}
    assert len({p["init"] for p in params if p["rank"] == 1}) > 2
    for p in params:
        assert not (p["init"].startswith("tabm") and p["adapt"] == "s")


def test_a_failed_trial_is_tried_again_by_the_next_start(study, tmp_path):
    search = opened(study, tmp_path)
    job = search.next()
    search.tell(replace(row_of(job), status="failed"))
    rest = finish(search, random.Random(1))
    assert len(rest) == 29
    assert job.spec.trial not in rest
    again = opened(study, tmp_path).next()
    assert again.spec == job.spec
    assert again.name == job.name


def test_a_finished_trial_whose_row_has_gone_is_run_again(study, tmp_path):
    every = finish(opened(study, tmp_path), random.Random(1))
    again = opened(study, tmp_path, known=set(every[1:]))
    assert again.remaining == 1
    job = again.next()
    assert job.spec.trial == every[0]
    again.tell(row_of(job))
    assert again.remaining == 0


@pytest.mark.parametrize("damage", ["{", "\x00", "junk"])
def test_a_damaged_journal_is_one_line(study, tmp_path, damage):
    opened(study, tmp_path)
    journal = RunFolder(tmp_path).journal
    journal.write_text(journal.read_text() + damage + "\n")
    with pytest.raises(StudyError, match=r"optuna\.journal: must be Optuna's whole journal"):
        opened(study, tmp_path)


BITS = ("params.bits_first", "params.bits_middle", "params.bits_last")
WIDE, TIGHT = 12, 7
"""Bits in all three layers: 38 % and 3 % of the space are within the limit."""


@pytest.fixture
def limited(smoke):
    """A study whose one method has a limit on its bits."""
    levels = {key: (Domain(choice=(2, 3, 4, 6, 8)),) for key in BITS}
    space = MethodSpace(
        file="limited.yaml",
        method="quantised_ensemble",
        fixed={"params.search": "given", "params.bits_step": 0},
        search=levels | {"training.lr": (Domain(float=(0.01, 0.3), log=True),)},
    )
    budget = smoke.budget.model_copy(update={"trials": 60, "generation": 10})
    return smoke.model_copy(update={"budget": budget, "candidates": (space,)})


def limited_row(job, limit=WIDE, over="pruned", known=True):
    """A result that is better the more bits there are, so that the optimum is at the limit."""
    bits = sum(job.spec.params[key.removeprefix("params.")] for key in BITS)
    excess = bits / limit - 1
    values = {"val_nll": -excess, "val_shift_nll": -excess, "val_gain": excess}
    if excess > 0:
        values = dict.fromkeys(values)
    status = over if excess > 0 else "complete"
    found = {"excess": excess if known else None, "status": status}
    return some_row(trial=job.spec.trial, **found, **values)


def opened_limited(study, folder):
    store = RunFolder(folder)
    store.create()
    space = study.space("quantised_ensemble")
    return MethodSearch(study, space, open_storage(study, store), ANY)


def infeasible(study, folder, seeds, **how):
    """Return the share of proposals beyond the limit: at first, at random, and of the rest."""
    first, rest = [], []
    for seed in range(seeds):
        own = study.model_copy(update={"seed": seed})
        search = opened_limited(own, folder / f"{how}{seed}")
        while search.remaining:
            row = limited_row(search.next(), **how)
            told = 60 - search.remaining
            (first if told < 10 else rest).append(row.status != "complete")
            search.tell(row)
    return sum(first) / len(first), sum(rest) / len(rest)


def test_the_search_avoids_what_exceeds_a_limit(limited, tmp_path):
    first, pruned = infeasible(limited, tmp_path, 3)
    _, diverged = infeasible(limited, tmp_path, 3, over="diverged")
    assert pruned < 0.8 * first
    assert pruned < 0.8 * diverged


@pytest.mark.slow
def test_by_how_much_the_limit_is_exceeded_leads_to_what_is_within(limited, tmp_path):
    first, known = infeasible(limited, tmp_path, 8, limit=TIGHT)
    _, unknown = infeasible(limited, tmp_path, 8, limit=TIGHT, known=False)
    assert first > 0.9
    assert known < 0.9 * first
    assert known < 0.95 * unknown


def test_what_exceeds_a_limit_is_a_pruned_trial_with_a_constraint(limited, tmp_path):
    search = opened_limited(limited, tmp_path)
    finish(search, random.Random(1), limited_row)
    trials = search.optuna.get_trials()
    assert len(trials) == 60
    for trial in trials:
        exceeds = trial.constraints["excess"] > 0
        assert (trial.state == optuna.trial.TrialState.PRUNED) == exceeds
    assert all(trial.constraints["excess"] <= 0 for trial in search.optuna.best_trials)


@pytest.mark.parametrize("stop", [5, 23])
def test_an_interruption_does_not_matter_where_there_is_a_limit(
    limited, tmp_path, monkeypatch, stop
):
    whole = finish(opened_limited(limited, tmp_path / "a"), random.Random(1), limited_row)
    search = opened_limited(limited, tmp_path / "b")
    told = []
    for _ in range(stop):
        job = search.next()
        search.tell(limited_row(job))
        told.append(job.spec.trial)

    def die(number, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(search.optuna, "tell", die)
    with pytest.raises(KeyboardInterrupt):  # after the constraint was written, before the result
        search.tell(limited_row(search.next()))
    rest = finish(opened_limited(limited, tmp_path / "b"), random.Random(3), limited_row)
    assert sorted([*told, *rest]) == sorted(whole)


def test_a_lock_of_the_folders_former_place_is_no_lock(smoke, tmp_path):
    """Optuna follows it to find out its age, fails, and tries again for ever."""
    store = RunFolder(tmp_path / "run")
    store.create()
    lock = store.journal.with_name("optuna.journal.lock")
    lock.symlink_to(tmp_path / "before" / "optuna.journal")
    storage = open_storage(smoke, store)
    storage.create_new_study([StudyDirection.MINIMIZE], "search")
    assert not lock.is_symlink()
