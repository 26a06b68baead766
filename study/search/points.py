"""Points of a search space: suggested by Optuna, sampled at random, or enqueued."""

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from study.space.configuration import ENTRY_KEYS
from study.space.domain import Domain, Point
from study.space.settings import MethodSpace

SAMPLES = 3


def suggest(trial: Trial, space: MethodSpace) -> Point:
    """Draw every active parameter; inactive ones are absent (null in the spec)."""
    point: Point = {}
    for key, name, domain in space.conditional():
        if domain.active(space.fixed | point):
            point[key] = _draw(trial, name, domain)
    return point


def _draw(trial: Trial, name: str, domain: Domain) -> Any:
    if domain.choice is not None:
        return trial.suggest_categorical(name, domain.choice)
    if domain.whole is not None:
        return trial.suggest_int(name, *domain.whole, log=domain.log)
    assert domain.real is not None
    return trial.suggest_float(name, *domain.real, log=domain.log)


def point_of(trial: FrozenTrial, space: MethodSpace) -> Point:
    """Return the values by key of a trial that was asked."""
    by_name = {name: key for key, name, _ in space.conditional()}
    return {by_name[name]: value for name, value in trial.params.items()}


def enqueued_parameters(space: MethodSpace, entry: Point) -> Point:
    """Return an enqueued entry under Optuna's names of the active alternatives."""
    values = {k: v for k, v in entry.items() if k not in ENTRY_KEYS and v is not None}
    known = space.fixed | values
    return {
        name: values[key]
        for key, name, domain in space.conditional()
        if key in values and domain.active(known) and domain.contains(values[key])
    }


def enqueued_points(space: MethodSpace) -> Iterable[Point]:
    """Yield the points of the enqueued entries."""
    for entry in space.enqueue:
        yield {k: v for k, v in entry.items() if k not in ENTRY_KEYS and v is not None}


def sampled_points(space: MethodSpace, count: int) -> Iterable[Point]:
    """Yield ``count`` points drawn at random, the same ones each time."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        suggest(trial, space)
        yield point_of(study.trials[trial.number], space)
