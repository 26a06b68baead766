"""The format of ``verdict.json``, key by key.

``python -m analysis.verdict`` prints it as JSON Schema. p-values are one-sided; null stands where
something is undefined, never NaN.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

P = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[
    float | None, BeforeValidator(lambda v: v if v is not None and isfinite(v) else None)
]
"""Null where it is undefined or not finite."""
Kind = Literal["escapes", "tracks", "worse", "inconclusive"]
Role = Literal["candidate", "comparison", "positive_control", "negative_control"]
Against = Literal["tuned", "own", "contender"]
"""Which anchors an arm is held against: see ``analysis.verdict.arms``."""
Budget = Literal["train", "infer"]
AnchorRole = Literal["single", "deep_ensemble"]
Global = Literal["some configuration escapes", "all tested track a single model", "inconclusive"]
SOME_ESCAPES: Final = "some configuration escapes"
ALL_TRACK: Final = "all tested track a single model"
INCONCLUSIVE: Final = "inconclusive"
BOUNDS: Final = ("low", "high", "low_wide", "high_wide")
"""Ends of both intervals of an ``Effect``."""


class Record(BaseModel):
    """A JSON object in which every key is present and no other is; it never changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Tried(Record):
    """How a configuration of the single network did on validation data, over fresh seeds."""

    configuration: str
    source: str
    """Its own search, or whose values these are."""
    seeds: Count
    mean: Number
    """Validation loss, nats: calibrated NLL where ``study.stages.plan`` says so, else NLL."""
    se: Number


class Plan(Record):
    """What was declared before the test set was opened."""

    study: str | None
    declared: str | None
    """When."""
    tuning: Mapping[str, Mapping[str, int]] | None
    """Planned search trials by method."""
    note: str | None
    """What the study's file says to readers."""
    tried: tuple[Tried, ...]
    """What the single network was chosen from, the chosen one, then the best first; empty: its own
    search decided."""
    hash: str
    """Digest of study, protocol and arms as declared."""
    content_hash: str
    """Digest of what the file holds now."""


class Protocol(Record):
    """The numbers that decide."""

    delta: float
    """Margin in units of recovery."""
    alpha: float
    """One-sided level of every test."""
    endpoints: tuple[str, ...]
    """Keys in order: an arm must pass all of them."""
    labels: dict[str, str]
    kinds: dict[str, Literal["performance", "diversity"]]
    sensitivity: tuple[float, ...]
    """Other margins."""
    level: float
    """Level of the interval that decides: 1 - 2 alpha."""
    level_wide: float
    """Level of the wider interval: 1 - alpha."""
    gate_level: float
    """One-sided level at which the anchors must differ."""
    de_like: float
    """Recovery from which an arm counts as like a Deep Ensemble."""


class Seeds(Record):
    """Replicates per anchor and arm."""

    planned: Count | None
    fewest: Count
    most: Count

    @property
    def span(self) -> str:
        """Their number, or the least and the most, in words."""
        return f"{self.most}" if self.fewest == self.most else f"{self.fewest} to {self.most}"


class Counts(Record):
    """How many candidates came out how."""

    candidates: Count
    escapes: Count
    dear: Count
    """Of these, those that cost more than a Deep Ensemble of their size."""
    tracks: Count
    worse: Count
    inconclusive: Count
    labels: dict[str, Count]
    """Candidates by sub-label."""
    failed_runs: Count
    """Runs of the confirm stage that did not complete."""
    undeclared_runs: Count
    """Complete runs of arms that the plan does not declare."""


class Anchor(Record):
    """One end of the scale that all arms share: recovery 0 or 1."""

    arm: str
    role: AnchorRole
    members: Count
    seeds: Count
    failed: Count


class Gate(Record):
    """Whether an endpoint can be assessed between two anchors."""

    members: Count
    against: Against
    single: str
    """Arm of the single network."""
    endpoint: str
    open: bool
    """Whether arms are judged on it."""
    gap_shown: bool
    """Whether the runs that there are show a gap."""
    gap: Number
    """Mean loss of the single model less the Deep Ensemble's."""
    ratio: Number
    """Gap over pooled SD over seeds."""
    p: P | None
    """Against gap <= 0."""
    kind: str | None
    """Kind of what stands against it, as ``analysis.verdict.placements`` calls it."""
    reason: str | None
    """The same in words."""


class Interval(Record):
    """An interval of recovery; null where it is unbounded."""

    low: Number
    high: Number


class Effect(Record):
    """One arm on one endpoint; ``low`` and ``high`` are the interval that decides (Fieller)."""

    recovery: Number
    """(single - arm) / (single - Deep Ensemble): 0 is the single model, 1 the Deep Ensemble."""
    low: Number
    high: Number
    low_wide: Number
    high_wide: Number
    p_escape: P
    """Against R <= delta."""
    p_track: P
    """Against |R| >= delta; for diversity against R >= delta."""
    p_worse: P
    """Against R >= -delta."""
    mean: float
    """Over seeds, in the endpoint's own unit; so are the next two."""
    single: float
    deep_ensemble: float
    sd: float
    """Over seeds."""
    detectable: Number
    """Least recovery found with power ``detectable_effect.power`` on this endpoint alone."""
    by_examples: Number
    """Share of the variance at the margin that more seeds would not lessen, as it is the test
    examples'; null: not known, and the effect is about these examples."""


class Needed(Record):
    """Seeds of an arm that would do, given the spread that was seen; null where no number would.

    Its anchors have theirs in the proportions of the study. The arm must be shown to escape between
    the tuned anchors, its own and each contender's; to track, between the first two.
    """

    power: P
    recovery: float
    """That an escape is to be found at, on every endpoint."""
    escape: Count | None
    """With Holm's strictest step."""
    track: Count | None
    """At recovery 0."""
    escape_on_these: Count | None
    """Where the claim is about these test examples alone."""
    track_on_these: Count | None


class Equivalent(Record):
    """Deep Ensemble equivalent on calibrated NLL (Ashukha et al. 2020), over seeds."""

    members: Number
    """Members of a Deep Ensemble that is as good; 1: no better than one; null: than the largest."""
    low: Number
    high: Number
    largest: Count
    """Largest size that was measured."""


class Tests(Record):
    """Tests of one arm, on one endpoint or on all together; keys as in ``Effect``."""

    p_escape: P
    p_track: P
    p_worse: P


class ByPermutation(Record):
    """What the permutation of labels says."""

    verdict: Kind
    endpoints: dict[str, Tests]
    agrees: bool
    """With the primary test, before Holm."""


class ByInterval(Record):
    """What a bootstrap's intervals say."""

    verdict: Kind
    endpoints: dict[str, Interval]
    agrees: bool


class Robustness(Record):
    """The same question about one arm on these test examples, asked in other ways."""

    primary: Kind
    """By the tests that decide, on these examples and before Holm."""
    permutation: ByPermutation | None
    """Null with so few seeds that no permutation can reach the level."""
    bca: ByInterval

    @property
    def answers(self) -> dict[str, ByPermutation | ByInterval]:
        """What each method that could be used says, by its key."""
        methods = {"permutation": self.permutation, "bca": self.bca}
        return {name: answer for name, answer in methods.items() if answer is not None}


class Own(Record):
    """An arm between anchors that are trained with its own backbone and hyperparameters."""

    single: str
    """Arm of the single network; ``single`` where its values are the tuned ones."""
    deep_ensemble: str
    """Arm of the Deep Ensemble."""
    dropped: tuple[str, ...]
    """What of the arm's training a single network cannot have."""
    verdict: Kind
    """Between these anchors alone, before Holm."""
    endpoints: dict[str, Effect]


class Contender(Record):
    """An arm beside a single network that validation could not tell from the tuned one."""

    single: str
    """Its arm; the Deep Ensemble is the tuned one."""
    source: str | None
    """Whose values it has; null: the plan does not say."""
    verdict: Kind
    """Between these anchors alone, before Holm."""
    endpoints: dict[str, Effect]


class Price(Record):
    """What an arm costs, in units of the tuned Deep Ensemble of its size; null: not known."""

    parameters: Number
    stored_bytes: Number
    infer_flops: Number
    dearer: tuple[str, ...]
    """In what it costs more than that: then it does not count as an efficient ensemble."""


class Decomposition(Record):
    """How far an arm's NLL on test is below a single network's, in nats, and why.

    ``total = better_members + ensemble_gain`` exactly: the members' mean NLL may be below the
    single network's, and their average below their mean.
    """

    total: Number
    better_members: Number
    ensemble_gain: Number


class Arm(Record):
    """One configuration in one role."""

    arm: str
    role: Role
    method: str
    configuration: str
    name: str | None
    members: Count
    reference: str
    """Arm of the Deep Ensemble that it is measured against."""
    reason: str | None
    """Why it was shortlisted."""
    stratum: str | None
    seeds: Count
    failed: Count
    verdict: Kind
    by_tuned: Kind
    """Between the tuned anchors alone, before Holm's correction."""
    on_examples: bool | None
    """Of an escape on these test examples, after Holm: whether it holds for others, too; null: not
    known, or there is none."""
    label: str | None
    """Sub-label of an inconclusive verdict."""
    detail: str | None
    p_escape: P
    """The largest over endpoints and anchors; ``p_track`` over the tuned anchors and its own, and
    ``p_worse`` over performance between the tuned ones."""
    p_holm: P | None
    """``p_escape``, adjusted within candidates or comparisons; null for controls."""
    p_seeds: P | None
    """The same on these test examples."""
    p_track: P
    p_worse: P
    de_like: bool
    """Escapes, and every interval lies above ``protocol.de_like``, between all anchors."""
    endpoints: dict[str, Effect]
    """Those whose gap is shown, between the tuned anchors."""
    own: Own | None
    """Null where the plan declares no matched anchors."""
    contenders: tuple[Contender, ...]
    price: Price
    against: dict[Literal["tuned", "own"], Decomposition]
    """By the single network that it is compared with."""
    needed: Needed | None
    """Null where the arm cannot be assessed."""
    equivalent: Equivalent | None
    robustness: Robustness | None

    @property
    def between(self) -> list[tuple[Against, dict[str, Effect]]]:
        """Its effects between every pair of anchors, the tuned one first."""
        own: list[tuple[Against, dict[str, Effect]]] = []
        own += [("own", self.own.endpoints)] if self.own else []
        own += [("contender", one.endpoints) for one in self.contenders]
        return [("tuned", self.endpoints), *own]

    @property
    def least(self) -> tuple[Against, str, Effect] | None:
        """Its least recovery: against which anchors, on which endpoint, and the effect."""
        found = [
            (effect.recovery, against, key, effect)
            for against, effects in self.between
            for key, effect in effects.items()
            if effect.recovery is not None
        ]
        return min(found, key=lambda one: one[0])[1:] if found else None

    @property
    def telling(self) -> tuple[Against, str, Effect] | None:
        """The recovery that its verdict hangs on, as in ``least``.

        That is the least, but of what must lie near 0 (what tracks, and the negative control) the
        one farthest from there, between the tuned anchors.
        """
        if self.verdict != "tracks" and self.role != "negative_control":
            return self.least
        known = [(key, e) for key, e in self.endpoints.items() if e.recovery is not None]
        far = max(known, key=lambda one: abs(one[1].recovery or 0.0), default=None)
        return ("tuned", *far) if far else None


class Control(Record):
    """What a control had to do and did."""

    arm: str
    expected: Literal["escapes", "tracks"]
    verdict: Kind
    ok: bool
    """Nothing is withheld because of it."""
    line: str


class Controls(Record):
    """Null: it was not run."""

    positive: Control | None
    negative: Control | None


class Margin(Record):
    """The verdict at another margin."""

    delta: float
    verdict: Global
    escapes: tuple[str, ...]
    tracks: tuple[str, ...]


class Agreement(Record):
    """How far the other ways of asking agree."""

    permutations: Count
    resamples: Count
    """Of each bootstrap."""
    seed: Count
    """Root of all draws."""
    disagreements: tuple[str, ...]


class Amount(Record):
    """A cost, and how often it is the single model's."""

    value: Number
    multiple: Number


class Cost(Record):
    """What an arm cost; FLOPs are of matrix products and convolutions, for all members."""

    arm: str
    epochs: Number
    examples: int | None
    """For training, per epoch."""
    parameters: Amount
    stored_bytes: Amount
    train_flops: Amount
    """Forward and backward, per example."""
    infer_flops: Amount
    """Per example."""
    total_train_flops: Amount
    """``train_flops`` times epochs times examples."""
    train_seconds: Amount
    """Wall time."""


class EpochMatched(Record):
    """Whether an arm's members were trained on as much as the single model."""

    arm: str
    matched: bool
    differences: tuple[str, ...]


class ComputeMatched(Record):
    """An arm beside the Deep Ensemble that its compute would buy; null with one seed."""

    arm: str
    kind: Budget
    members: float
    """Of equal compute."""
    compared: float
    """The same within 1 and the pool's size."""
    note: str | None
    """Why both differ."""
    cll: Number = None
    deep_ensemble: Number = None
    difference: Number = None
    """Calibrated NLL, arm - Deep Ensemble: below 0 the arm is better."""
    low: Number = None
    high: Number = None
    """t-interval over seeds, at ``level``."""
    finding: Literal["better", "worse", "open"] | None = None


class Tuning(Record):
    """Search trials of a method."""

    method: str
    planned: Count | None
    done: Count
    complete: Count
    tuned: bool


class Fairness(Record):
    """The terms on which the arms were compared; none of it feeds the verdict."""

    costs: tuple[Cost, ...]
    epoch_matched: tuple[EpochMatched, ...]
    compute_matched: tuple[ComputeMatched, ...]
    level: float
    tuning: tuple[Tuning, ...]
    equal: bool | None
    """Whether tuning and anchors were on equal terms; null where no tuning is known."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    """Violations."""


class Detectable(Record):
    """The least recovery that the seeds at hand would have found in the median candidate."""

    power: P
    """That of finding it on every endpoint and between all anchors, if these were independent."""
    alpha: P
    """Bonferroni's bound on Holm's level."""
    endpoints: dict[str, Number]
    """Between the anchors that ask for most."""
    worst: Number


class Mean(Record):
    """One metric of one arm over seeds."""

    mean: float
    sd: Number
    n: Count


class Verdict(Record):
    """What a study decided."""

    format: Literal[4]
    sentence: str
    verdict: Global
    withheld: bool
    """A control misbehaved: nothing is claimed of any arm."""
    unfinished: bool
    """Runs that were declared are missing: a verdict would be a peek."""
    reasons: tuple[str, ...]
    """Why it is inconclusive, or what limits it."""
    exploratory: bool
    exploratory_reasons: tuple[str, ...]
    plan: Plan | None
    protocol: Protocol
    seeds: Seeds
    counts: Counts
    anchors: tuple[Anchor, ...]
    gates: tuple[Gate, ...]
    arms: tuple[Arm, ...]
    """Candidates (largest ``least`` recovery first), comparisons, controls."""
    controls: Controls
    robustness: Agreement
    sensitivity: tuple[Margin, ...]
    detectable_effect: Detectable
    fairness: Fairness | None = None
    """Added by the report to what is judged; so is ``measures``."""
    measures: dict[str, dict[str, Mean]] = {}
    """Arm -> metric (``analysis.measures.columns``) -> what it was; descriptive, nothing here is
    tested."""

    @property
    def stands(self) -> bool:
        """Whether anything is claimed of the arms: no run is missing, no control misbehaved."""
        return not (self.unfinished or self.withheld)

    @property
    def covers(self) -> str:
        """What would have to be drawn anew: the intervals cover it, and the tests allow for it."""
        effects = [effect for arm in self.arms for effect in arm.endpoints.values()]
        known = bool(effects) and all(effect.by_examples is not None for effect in effects)
        return f"training seeds{' and test examples' * known}"

    def by_arm(self) -> dict[str, Arm]:
        """Return the judged arms by key."""
        return {arm.arm: arm for arm in self.arms}
