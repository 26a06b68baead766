"""What was declared before the test set was opened: endpoints, margin, level, arms.

Endpoints are objects, not strings: each knows which way is better and what it stands for. JSON
becomes a ``Plan`` here, and nothing downstream sees it again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from study.schema import Role, StudyError

GATE_LEVEL: Final = 0.025
"""One-sided level at which the anchors must differ for an endpoint to be judged."""
GATE_RATIO: Final = 1.0
"""Least gap between the anchors, in pooled standard deviations over seeds."""


@dataclass(frozen=True)
class Endpoint:
    """A measure that a verdict rests on.

    Attributes:
        key: Column of ``Measures.replicates``.
        label: Readable name.
        kind: ``performance`` must match the single model to track it (both sides);
            ``diversity`` only must not rise above it, as no ensemble can have less than none.
        lower_is_better: Which way is better.
    """

    key: str
    label: str
    kind: Literal["performance", "diversity"]
    lower_is_better: bool = True

    @property
    def sign(self) -> int:
        """Factor that turns the measure into a loss."""
        return 1 if self.lower_is_better else -1


ENDPOINTS: Final[dict[str, Endpoint]] = {
    endpoint.key: endpoint
    for endpoint in (
        Endpoint("cll", "calibrated NLL", "performance"),
        Endpoint("nll", "NLL", "performance"),
        Endpoint("shift_nll", "shifted NLL", "performance"),
        Endpoint("gain", "ensemble gain", "diversity", lower_is_better=False),
        Endpoint("shift_gain", "shifted ensemble gain", "diversity", lower_is_better=False),
    )
}


@dataclass(frozen=True)
class Protocol:
    """Numbers that decide.

    Attributes:
        delta: Margin in units of recovery: half the width of "like a single model".
        alpha: One-sided level of every test.
        endpoints: All must pass (intersection-union), so none is corrected for the others.
        sensitivity: Other margins at which the verdicts are repeated.
        seeds: Replicates per arm that were declared, or None.
    """

    delta: float = 0.25
    alpha: float = 0.05
    endpoints: tuple[Endpoint, ...] = tuple(ENDPOINTS[k] for k in ("cll", "shift_nll", "gain"))
    sensitivity: tuple[float, ...] = (0.15, 0.25, 0.35)
    seeds: int | None = None

    @property
    def level(self) -> float:
        """Level of the two-sided interval that agrees with one-sided tests at alpha."""
        return round(1 - 2 * self.alpha, 12)

    @property
    def level_wide(self) -> float:
        """Level of the two-sided interval whose test has level alpha."""
        return round(1 - self.alpha, 12)


@dataclass(frozen=True)
class PlannedArm:
    """An arm of the plan: one configuration in one role.

    ``reason`` says why it was shortlisted and ``stratum`` from which part of the space; plans of
    earlier versions have neither.
    """

    role: Role
    method: str
    configuration: str
    name: str | None
    members: int
    reason: str | None = None
    stratum: str | None = None


@dataclass(frozen=True)
class Plan:
    """What was declared before the test set was opened.

    Attributes:
        study: Its name.
        protocol: The numbers that decide.
        arms: All that are confirmed, anchors and controls among them.
        hash: Digest of what was declared.
        content_hash: Digest of what the file holds now.
        declared: When.
        tuning: Method -> its planned search ``trials``; None where that is not known.
        revisions: How often the study was declared anew.
        other_seeds: What the protocol declares, in words, where it is not ``protocol.seeds``.
        given: Whether it goes with predictions alone (see ``analysis.given``).
        source: File of the protocol that lay beside these, None without one.
        limits: Lines on what cannot be known of them or was left out.
    """

    study: str | None
    protocol: Protocol
    arms: tuple[PlannedArm, ...]
    hash: str
    content_hash: str
    declared: str | None = None
    tuning: Mapping[str, Mapping[str, int]] | None = None
    revisions: int = 0
    other_seeds: str | None = None
    given: bool = False
    source: str | None = None
    limits: tuple[str, ...] = ()


def plan_of(content: Mapping[str, Any]) -> Plan:
    """Return the plan that a JSON object of checked shape declares (see ``analysis.load``).

    Raises:
        StudyError: When the protocol has an unknown endpoint or a number out of its range.
    """
    protocol = _protocol_of(content)
    tuning, content_hash = content.get("tuning"), plan_hash(content)
    seeds = content["protocol"].get("seeds", "auto")
    return Plan(
        study=_text(content["study"]),
        protocol=protocol,
        arms=tuple(map(_arm_of, content["arms"])),
        hash=str(content.get("hash", content_hash)),
        content_hash=content_hash,
        declared=_text(content.get("declared")),
        tuning=tuning and {method: _whole_numbers(own) for method, own in tuning.items()},
        revisions=len(content.get("revisions") or ()),
        other_seeds=None if seeds in ("auto", content["seeds"]) else str(seeds),
        given="source" in content,
        source=content.get("source"),
        limits=tuple(content.get("limits", ())),
    )


def _arm_of(declared: Mapping[str, Any]) -> PlannedArm:
    keys = ("role", "method", "configuration", "name", "members")
    also = {key: _text(declared.get(key)) for key in ("reason", "stratum")}
    return PlannedArm(**({key: declared[key] for key in keys} | also))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole_numbers(found: Mapping[str, Any]) -> dict[str, int]:
    return {key: value for key, value in found.items() if type(value) is int}


def protocol_of(plan: Plan | None) -> Protocol:
    """Return the declared protocol, or the default one without a plan."""
    return Protocol() if plan is None else plan.protocol


def _protocol_of(plan: Mapping[str, Any]) -> Protocol:
    declared, file = plan["protocol"], plan.get("source") or "plan.json"
    default = Protocol()
    delta = _between(file, "delta", declared.get("delta", default.delta), 0, 1)
    alpha = _between(file, "alpha", declared.get("alpha", default.alpha), 0, 0.5)
    others = _list(file, "sensitivity", declared.get("sensitivity", list(default.sensitivity)))
    keys = _list(file, "endpoints", declared.get("endpoints", [e.key for e in default.endpoints]))
    for key in keys:
        if key not in ENDPOINTS:
            raise StudyError(
                f"{file}: endpoints must be among {', '.join(ENDPOINTS)}, but one is {key!r}; "
                "correct the protocol of the study"
            )
    endpoints = tuple(ENDPOINTS[key] for key in dict.fromkeys(keys))
    if not any(endpoint.kind == "performance" for endpoint in endpoints):
        raise StudyError(
            f"{file}: endpoints must hold one of performance, but are {', '.join(keys)}; "
            "add cll or shift_nll to the protocol of the study"
        )
    sensitivity = tuple(_between(file, "sensitivity", value, 0, 1) for value in others)
    seeds = None if plan["seeds"] is None else int(plan["seeds"])
    return Protocol(delta, alpha, endpoints, sensitivity, seeds)


def _list(file: str, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
        raise StudyError(
            f"{file}: {name} must be a list of words or numbers, but is {value!r}; "
            "correct the protocol of the study"
        )
    return value


def _between(file: str, name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not low < value < high:
        raise StudyError(
            f"{file}: {name} must be above {low} and below {high}, but is {value!r}; "
            "correct the protocol of the study"
        )
    return float(value)


def plan_hash(plan: Mapping[str, Any]) -> str:
    """Return the digest of what a plan declares: its study, protocol, arms, and seeds if left open.

    The first 16 hexadecimal digits of SHA-256 of the canonical JSON, as ``study`` writes it.
    """
    content = {key: plan[key] for key in ("study", "protocol", "arms")}
    if plan["protocol"].get("seeds") == "auto":
        content["seeds"] = plan["seeds"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
