"""The format of ``verdict.json``, key by key.

``python -m analysis.verdict`` prints it as JSON Schema. p-values are one-sided; null stands where
something is undefined, never NaN.
"""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

P = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Kind = Literal["escapes", "tracks", "worse", "inconclusive"]
Global = Literal["some configuration escapes", "all tested track a single model", "inconclusive"]


class Record(BaseModel):
    """A JSON object in which every key is present and no other is."""

    model_config = ConfigDict(
        extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Plan(Record):
    """What was declared before the test set was opened."""

    study: str | None
    declared: str | None
    """When."""
    tuning: dict[str, dict[str, int]] | None
    """Planned search trials by method."""
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
    endpoints: list[str]
    """Keys in order: an arm must pass all of them."""
    labels: dict[str, str]
    kinds: dict[str, Literal["performance", "diversity"]]
    sensitivity: list[float]
    """Other margins."""
    level: float
    """Level of the interval that decides: 1 - 2 alpha."""
    level_wide: float
    """Level of the wider interval: 1 - alpha."""
    gate_level: float
    """One-sided level at which the anchors must differ."""
    gate_ratio: float
    """Least gap between the anchors, in SDs over seeds."""
    de_like: float
    """Recovery from which an arm counts as like a Deep Ensemble."""


class Seeds(Record):
    """Replicates per anchor and arm."""

    planned: Count | None
    fewest: Count
    most: Count


class Counts(Record):
    """How many candidates came out how."""

    candidates: Count
    escapes: Count
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
    """One end of the scale: recovery 0 or 1."""

    arm: str
    role: Literal["single", "deep_ensemble"]
    members: Count
    seeds: Count
    failed: Count


class Gate(Record):
    """Whether an endpoint can be assessed at one ensemble size."""

    members: Count
    endpoint: str
    open: bool
    """Whether arms are judged on it."""
    gap_shown: bool
    """Whether the runs that there are show a gap."""
    gap: float | None
    """Mean loss of the single model less the Deep Ensemble's."""
    ratio: float | None
    """Gap over pooled SD over seeds."""
    p: P | None
    """Against gap <= 0."""
    reason: str | None
    """Why it is closed."""


class Interval(Record):
    """An interval of recovery; null where it is unbounded."""

    low: float | None
    high: float | None


class Effect(Interval):
    """One arm on one endpoint; ``low`` and ``high`` are the interval that decides (Fieller)."""

    recovery: float | None
    """(single - arm) / (single - Deep Ensemble): 0 is the single model, 1 the Deep Ensemble."""
    low_wide: float | None
    high_wide: float | None
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
    detectable: float | None
    """Least recovery found with power ``detectable_effect.power``, for this arm alone."""


class Needed(Record):
    """Seeds per arm that would do, given the spread that was seen; null: too many to say."""

    power: P
    recovery: float
    """That an escape is to be found at, on every endpoint."""
    escape: Count | None
    """With Holm's strictest step."""
    track: Count | None
    """At recovery 0."""


class Equivalent(Record):
    """Deep Ensemble equivalent on calibrated NLL (Ashukha et al. 2020), over seeds."""

    members: float | None
    """Members of a Deep Ensemble that is as good; 1: no better than one; null: than the largest."""
    low: float | None
    high: float | None
    largest: Count
    """Largest size that was measured."""


class Tests(Record):
    """Permutation tests of one arm on one endpoint; keys as in ``Effect``."""

    p_escape: P
    p_track: P
    p_worse: P


class ByPermutation(Record):
    """What the permutation of labels says."""

    verdict: Kind
    agrees: bool
    """With the primary test, before Holm."""
    endpoints: dict[str, Tests]


class ByInterval(Record):
    """What a bootstrap's intervals say."""

    verdict: Kind
    agrees: bool
    endpoints: dict[str, Interval]


class Robustness(Record):
    """The same question about one arm, asked in other ways; null: could not be asked."""

    permutation: ByPermutation | None
    """Null with so few seeds that no permutation can reach the level."""
    bca: ByInterval
    """Over seeds."""
    crossed: ByInterval | None
    """Over seeds and examples."""


class Arm(Record):
    """One configuration in one role."""

    arm: str
    role: Literal["candidate", "comparison", "positive_control", "negative_control"]
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
    alone: Kind
    """Before Holm's correction."""
    label: str | None
    """Sub-label of an inconclusive verdict."""
    detail: str | None
    p_escape: P
    """The largest over endpoints; so are the next two, ``p_worse`` over those of performance."""
    p_track: P
    p_worse: P
    p_holm: P | None
    """``p_escape``, adjusted within candidates or comparisons; null for controls."""
    de_like: bool
    """Escapes, and every interval lies above ``protocol.de_like``."""
    weakest: str | None
    """Endpoint of the least recovery."""
    endpoints: dict[str, Effect]
    """Those whose gap is shown."""
    needed: Needed | None
    """Null where the arm cannot be assessed."""
    equivalent: Equivalent | None
    robustness: Robustness | None


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
    escapes: list[str]
    tracks: list[str]


class Agreement(Record):
    """How far the other ways of asking agree."""

    permutations: Count
    resamples: Count
    """Of each bootstrap."""
    seed: Count
    """Root of all draws."""
    disagreements: list[str]


class Amount(Record):
    """A cost, and how often it is the single model's."""

    value: float | None
    multiple: float | None


class Cost(Record):
    """What an arm cost; FLOPs are of matrix products and convolutions, for all members."""

    arm: str
    epochs: float | None
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
    differences: list[str]


class ComputeMatched(Record):
    """An arm beside the Deep Ensemble that its compute would buy; null with one seed."""

    arm: str
    kind: Literal["train", "infer"]
    members: float
    """Of equal compute."""
    compared: float
    """The same within 1 and the pool's size."""
    note: str | None
    """Why both differ."""
    cll: float | None
    deep_ensemble: float | None
    difference: float | None
    """Calibrated NLL, arm - Deep Ensemble: below 0 the arm is better."""
    low: float | None
    high: float | None
    """Welch's interval over seeds, at ``level``."""
    finding: Literal["better", "worse", "open"] | None


class Tuning(Record):
    """Search trials of a method."""

    method: str
    planned: Count | None
    done: Count
    complete: Count
    tuned: bool


class Fairness(Record):
    """The terms on which the arms were compared; none of it feeds the verdict."""

    costs: list[Cost]
    epoch_matched: list[EpochMatched]
    compute_matched: list[ComputeMatched]
    level: float
    tuning: list[Tuning]
    equal: bool | None
    """Whether tuning and anchors were on equal terms; null where no tuning is known."""
    notes: list[str]
    warnings: list[str]
    """Violations."""


class Detectable(Record):
    """The least recovery that the seeds at hand would have found."""

    power: P
    alpha: P
    """Bonferroni's bound on Holm's level."""
    endpoints: dict[str, float | None]
    """Median over the candidates."""
    worst: float | None


class Mean(Record):
    """One metric of one arm over seeds."""

    mean: float
    sd: float | None
    n: Count


class Verdict(Record):
    """What a study decided."""

    format: Literal[1]
    sentence: str
    """The verdict with its figures."""
    verdict: Global
    withheld: bool
    """A control misbehaved: nothing is claimed of any arm."""
    reasons: list[str]
    """Why it is inconclusive, or what limits it."""
    exploratory: bool
    exploratory_reasons: list[str]
    plan: Plan | None
    protocol: Protocol
    seeds: Seeds
    counts: Counts
    anchors: list[Anchor]
    gates: list[Gate]
    arms: list[Arm]
    """Candidates (largest weakest recovery first), comparisons, controls."""
    controls: Controls
    sensitivity: list[Margin]
    robustness: Agreement
    detectable_effect: Detectable
    fairness: Fairness | None
    measures: dict[str, dict[str, Mean]]
    """Arm -> metric (``analysis.columns``) -> what it was; descriptive, nothing here is tested."""
    """Added by the report to what is judged."""


if __name__ == "__main__":
    print(json.dumps(Verdict.model_json_schema(), indent=1))
