"""The anchor stage: chooses the single network, and each arm's hyperparameters against its.

One calls for the other: an arm may get hyperparameters that have not been tried as a single
network, and a better single network has some that no arm has been tried with.
"""

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from study.jobs import Job, Rows
from study.run_folder.store import RunFolder
from study.space.settings import Study
from study.spec import Configuration
from study.stages.analysis_interface import CALIBRATED, SHIFTED, Analysis
from study.stages.hyperparameter_exchange import Refusal, exchange_jobs, exchanged, refusals
from study.stages.plan import Arm, Tried
from study.stages.single_network import (
    Candidate,
    Losses,
    anchor_jobs,
    candidates_for_single,
    contenders,
    robust_first,
    tried,
)
from study.stages.stage import Stage


@dataclass(frozen=True)
class Anchored:
    """What the anchor stage has chosen.

    Attributes:
        single: The tuned single network.
        judged: Candidates and comparisons, each with the better hyperparameters.
        contenders: Single networks that may be better than the tuned one.
        tried: How all single networks did, the tuned one first, then the best.
        exchanged: How each arm did with its own values and with the single network's.
    """

    single: Configuration
    judged: list[Arm]
    contenders: list[Configuration] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    exchanged: list[Tried] = field(default_factory=list)


def validation_losses(
    study: Study, rows: Rows, store: RunFolder, analysis: Analysis | None
) -> Losses:
    """Return the loss on validation data by which anchors and values are chosen, in nats.

    It is what the verdict rests on: calibrated NLL where that is an endpoint, else NLL. By NLL an
    over-confident network would lose to a worse one, and be the better anchor all the same; that is
    how it was before anchors could be contended.

    A run whose calibrated NLL is no better than chance has failed, as one that diverged: with
    ``anchors: robust`` it is left out, where a single network has two better runs. Its loss may be
    any number, and a mean over such runs has an error by which validation could never tell that the
    network is worse.

    Args:
        study: Its endpoints.
        rows: All rows; those of the stage ``anchor`` count.
        store: Where the predictions lie.
        analysis: What knows calibrated NLL.
    """
    complete = [r for r in rows.values() if r.stage == "anchor" and r.status == "complete"]
    calibrated = CALIBRATED in study.protocol.endpoints and study.protocol.contended
    if calibrated and analysis is not None:
        losses = analysis.calibrated_nll(store, [row.trial for row in complete])
        if study.protocol.anchors != "robust" or not complete:
            return losses
        chance = analysis.chance_nll(store, complete[0].trial)
        better = {trial: loss for trial, loss in losses.items() if loss < chance}
        singles = Counter(
            row.configuration for row in complete if row.method == "single" and row.trial in better
        )
        return better if max(singles.values(), default=0) > 1 else losses
    return {row.trial: row.val_nll for row in complete if row.val_nll is not None}


def anchored(
    study: Study,
    own: list[Configuration],
    shortlist: list[Arm],
    rows: Rows,
    losses: Callable[[], Losses],
    fixed: Callable[[list[Job]], Stage],
    refusal: Refusal,
) -> Generator[Stage, None, Anchored]:
    """Yield the rounds of the anchor stage; return what was chosen.

    Where the single network may be contended, hyperparameters that an arm has only since it was
    tried with the single network's are tried as a single network in turn. That ends: each round
    needs values that no earlier round had, and all are combinations of finitely many.

    Args:
        study: Its protocol and spaces.
        own: Configurations of the single network from best to worst.
        shortlist: Candidates and comparisons.
        rows: All rows.
        losses: Returns the validation loss of what has been run.
        fixed: Makes a stage of jobs.
        refusal: Why a method refuses a spec.
    """
    contended = study.protocol.contended
    robust = study.protocol.anchors == "robust" and SHIFTED in study.protocol.endpoints
    candidates, more = list[Candidate](), candidates_for_single(own, shortlist)
    while True:
        candidates += more
        yield fixed(anchor_jobs(study, more))
        measured = losses()
        choice = tried(candidates, rows, measured)
        specs = {one.spec.configuration: one.spec for one in candidates}
        tied = [choice[0].configuration, *(contenders(choice) if contended else ())]
        if robust:
            choice = robust_first(choice, rows, measured)
        single = specs[choice[0].configuration]
        close = [specs[c] for c in tied if c != single.configuration]
        if not study.protocol.exchange:
            return Anchored(single, shortlist, close, choice)
        refused = refusals(study, shortlist, single, refusal)
        yield fixed(exchange_jobs(study, shortlist, single, refused))
        judged, exchanges = exchanged(study, shortlist, single, rows, losses(), refused)
        known = candidates_for_single(own, judged)
        more = [one for one in known if one.spec.configuration not in specs]
        if not (contended and more):
            return Anchored(single, judged, close, choice, exchanges)
