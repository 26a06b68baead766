"""Every arm with the tuned single network's hyperparameters, where these beat its own.

A method with many parameters may miss what the single network's search found; an arm that is
trained worse than the anchor would fail for that alone.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from study.jobs import Job, Rows
from study.space.settings import Study
from study.spec import Configuration, Training, TrialSpec
from study.stages.plan import Arm, Tried
from study.stages.single_network import Losses, anchor_job, anchor_rows, merit, outcome

WITH_SINGLES: Final = "with the single network's values"
EXCHANGED: Final = 5
"""Fresh seeds on which an arm is tried with its own values, and with the single network's."""

Refusal = Callable[[TrialSpec], str | None]
"""Why a method refuses a spec, as far as that is known before the training; None: it does not."""


def with_values_of(study: Study, arm: Arm, single: Configuration) -> Arm:
    """Return the arm with the backbone and hyperparameters of the tuned single network.

    What the arm's method has a range of its own for, as the dropout of MC Dropout, stays; so does,
    where anchors may be contended, what its space fixes.
    """
    contended = study.protocol.contended
    own = study.space(arm.spec.method)
    theirs = study.space("single")
    values = {}
    for section in ("backbone", "training"):
        mine: dict[str, Any] = dict(getattr(arm.spec, section))
        given: dict[str, Any] = dict(getattr(single, section))
        kept = {
            name
            for name, key in ((name, f"{section}.{name}") for name in mine)
            if own.search.get(key) != theirs.search.get(key)
            or own.fixed.get(key) != theirs.fixed.get(key)
            or (contended and own.fixed.get(key, given.get(name)) != given.get(name))
        }
        values[section] = given | {name: mine[name] for name in kept}
    spec = arm.spec.model_copy(
        update={"backbone": values["backbone"], "training": Training(**values["training"])}
    )
    name = arm.name and f"{arm.name}, trained as the single network"
    return arm if spec == arm.spec else arm.model_copy(update={"spec": spec, "name": name})


def refusals(
    study: Study, arms: Iterable[Arm], single: Configuration, refusal: Refusal
) -> dict[str, str]:
    """Return why an arm's method refuses the single network's values, by configuration with these.

    A wider network, for instance, may exceed a budget of bytes. Such arms keep their own values.
    """
    moved = (with_values_of(study, arm, single) for arm in arms)
    found = {
        arm.spec.configuration: refusal(arm.spec.trial_of(arm.role, "anchor", 0, 0))
        for arm in moved
    }
    return {configuration: why for configuration, why in found.items() if why is not None}


def exchange_jobs(
    study: Study,
    arms: Iterable[Arm],
    single: Configuration,
    refused: Collection[str] = (),
) -> list[Job]:
    """Return the runs of every arm with its own values and with the single network's.

    Args:
        study: Its spaces and seed.
        arms: What is on the shortlist.
        single: The tuned single network.
        refused: Configurations that are not to be run, nor what they would be compared with.
    """
    pairs = ((arm, with_values_of(study, arm, single)) for arm in arms)
    specs = {
        one.spec.configuration: (one.spec, one.role)
        for arm, other in pairs
        if arm != other and other.spec.configuration not in refused
        for one in (arm, other)
    }
    return [
        anchor_job(study, spec, role, replicate)
        for spec, role in specs.values()
        for replicate in range(EXCHANGED)
    ]


def exchanged(
    study: Study,
    arms: Iterable[Arm],
    single: Configuration,
    rows: Rows,
    losses: Losses,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Arm], list[Tried]]:
    """Return the arms with the better values, and how all did on validation data.

    Values with which a run failed are not the better ones; those that ``refused`` gives a reason
    for are named with it, without a run. Arms that differed in their values alone become one.
    """
    chosen: dict[str, Arm] = {}
    seen: list[Tried] = []
    for arm in arms:
        other = with_values_of(study, arm, single)
        called = arm.name or f"{arm.spec.method} {arm.spec.configuration[:6]}"
        if (why := refused.get(other.spec.configuration)) is not None:
            source = f"{called} {WITH_SINGLES}: not run, as the method refuses them ({why})"
            seen.append(outcome(other.spec, source, (), losses))
            chosen.setdefault(arm.spec.configuration, arm)
            continue
        own, moved = (
            outcome(one.spec, source, anchor_rows(one.spec, rows), losses)
            for one, source in ((arm, called), (other, f"{called} {WITH_SINGLES}"))
        )
        seen += [own, moved] if other != arm else []
        one = other if merit(moved)[:2] < merit(own)[:2] else arm
        chosen.setdefault(one.spec.configuration, one)
    return list(chosen.values()), seen
