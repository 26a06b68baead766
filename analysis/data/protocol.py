"""What was declared before the test set was opened: endpoints, margin, level, arms.

Endpoints are objects, not strings: each knows which way is better and what it stands for. JSON
becomes a ``Plan`` here, and nothing downstream sees it again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError

from study.errors import StudyError
from study.parquet_format import MATCHED, Role
from study.run_folder.paths import AnyPath, StoreError
from study.thresholds import ALPHA, DELTA

GATE_LEVEL: Final = 0.025
"""The most that ``gate_level`` may be."""


def gate_level(alpha: float) -> float:
    """Return the one-sided level at which anchors must differ for an endpoint to be judged.

    That keeps the gap from 0 by two of its own standard errors or more, so that recoveries have
    bounded intervals, also at ``Protocol.level_wide``. How much single seeds deviate is no matter:
    with many of them a small gap is well known.
    """
    return min(GATE_LEVEL, alpha / 2)


SEVERAL: Final = ("candidate", "comparison", *MATCHED)


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


def _endpoints(keys: Any) -> tuple[Endpoint, ...]:
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    found = tuple(ENDPOINTS.get(key) for key in dict.fromkeys(keys)) if known else ()
    chosen = tuple(endpoint for endpoint in found if endpoint)
    if len(chosen) < len(found) or not any(e.kind == "performance" for e in chosen):
        raise ValueError(f"must be among {', '.join(ENDPOINTS)}, with one of performance")
    return chosen


Share = Annotated[float, Field(gt=0, lt=1)]


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

    delta: Share = DELTA
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = ALPHA
    endpoints: Annotated[tuple[Endpoint, ...], PlainValidator(_endpoints)] = tuple(
        ENDPOINTS[key] for key in ("cll", "shift_nll", "gain")
    )
    sensitivity: tuple[Share, ...] = (0.15, 0.25, 0.35)
    seeds: Annotated[int, Field(ge=0)] | None = None

    @property
    def level(self) -> float:
        """Level of the two-sided interval that agrees with one-sided tests at alpha."""
        return round(1 - 2 * self.alpha, 12)

    @property
    def gate_level(self) -> float:
        """One-sided level at which anchors must differ."""
        return gate_level(self.alpha)

    @property
    def level_wide(self) -> float:
        """Level of the two-sided interval whose test has level alpha."""
        return round(1 - self.alpha, 12)


@dataclass(frozen=True)
class Matched:
    """Configurations of the matched anchors, and what of the arm's training they cannot have."""

    single: str
    deep_ensemble: str
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedArm:
    """An arm of the plan: one configuration in one role.

    ``reason`` says why it was shortlisted and ``stratum`` from which part of the space; plans of
    earlier versions have neither. ``seeds`` are its replicates, where not as many as the
    protocol's; ``matched`` are the anchors with its own hyperparameters, None where it is held
    against the tuned ones alone.
    """

    role: Role
    method: str
    configuration: str
    name: str | None
    members: Annotated[int, Field(ge=1)]
    reason: str | None = None
    stratum: str | None = None
    seeds: Annotated[int, Field(ge=1)] | None = None
    matched: Matched | None = None


@dataclass(frozen=True)
class Tried:
    """How a configuration of the single network did on validation data: see ``study.stages``."""

    configuration: str
    source: str
    seeds: int
    mean: float | None
    se: float | None


@dataclass(frozen=True)
class Plan:
    """What was declared before the test set was opened, anchors and controls among the arms.

    Attributes:
        hash: Digest of what was declared; ``content_hash`` is of what the file holds now.
        tuning: Method -> its planned search ``trials``; None where that is not known.
        tried: What the single network was chosen from, the chosen one, then the best first; empty
            where its own search alone decided.
        note: What the study's file says to readers.
        revised: How often the study was declared anew.
        other_seeds: What the protocol declares, in words, where it is not ``protocol.seeds``.
        given: Whether it goes with predictions alone (see ``analysis.data.external``). Then
            ``source`` is the protocol's file, if any, and ``limits`` say what cannot be known or
            was left out.
    """

    study: str | None
    protocol: Protocol
    arms: tuple[PlannedArm, ...]
    hash: str
    content_hash: str
    declared: str | None = None
    tuning: Mapping[str, Mapping[str, int]] | None = None
    tried: tuple[Tried, ...] = ()
    note: str | None = None
    revised: int = 0
    other_seeds: str | None = None
    given: bool = False
    source: str | None = None
    limits: tuple[str, ...] = ()


PLAN: Final = TypeAdapter(Plan)


def plan_of(content: Mapping[str, Any], file: object = "plan.json") -> Plan:
    """Return the plan that a JSON object declares; ``file`` is what errors are about.

    Raises:
        StudyError: When a key is missing, of another type or out of its range.
    """
    try:
        protocol, seeds = content["protocol"], content["seeds"]
        own, given = protocol.get("seeds", "auto"), "source" in content
        content_hash = plan_hash(content)
        also = {
            "protocol": protocol | {"seeds": seeds},
            "hash": content_hash if given else content["hash"],
            "content_hash": content_hash,
            "revised": len(content.get("revisions") or ()),
            "other_seeds": None if own in ("auto", seeds) else str(own),
            "given": given,
        }
        # As JSON, in which a tuple is a list and an object is a dataclass, and no more is allowed.
        return PLAN.validate_json(json.dumps({**content, **also}), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])).removeprefix("protocol.")
        rule = first["msg"].replace("Input should", "must").removeprefix("Value error, ")
        said = f"{key} {rule}, but is {first['input']!r:.60}"
        if first["type"] == "missing":
            said = f"{key} must be there, but is missing"
    except KeyError as error:
        said = f"{error.args[0]} must be there, but is missing"
    except (AttributeError, TypeError, ValueError) as error:
        said = f"must hold the plan as the study writes it, but reading it ended with: {error}"
    raise StudyError(f"{file}: {said}; restore the file, or correct the protocol of the study")


def protocol_of(plan: Plan | None) -> Protocol:
    """Return the declared protocol, or the default one without a plan."""
    return Protocol() if plan is None else plan.protocol


def plan_hash(plan: Mapping[str, Any]) -> str:
    """Return the digest of what a plan declares: its study, protocol, arms, and seeds if left open.

    The first 16 hexadecimal digits of SHA-256 of the canonical JSON, as ``study`` writes it.
    """
    content = {key: plan[key] for key in ("study", "protocol", "arms")}
    if plan["protocol"].get("seeds") == "auto":
        content["seeds"] = plan["seeds"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_plan(file: AnyPath) -> Plan | None:
    """Return the checked plan in ``plan.json``, None where there is none.

    Raises:
        StudyError: When it is not as the study writes it.
    """
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except StoreError as error:
        raise StudyError(f"{file}: must be readable, but {error.strerror}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{file}: must be JSON, but {error}; restore the file") from None
    if not isinstance(plan, dict):
        raise StudyError(f"{file}: must be a JSON object, but is {plan!r:.40}; restore the file")
    found = plan_of(plan, file)
    keys = [(a.role, a.configuration if a.role in SEVERAL else "") for a in found.arms]
    twice = next((" ".join(key).strip() for key in keys if keys.count(key) > 1), None)
    if twice:
        raise StudyError(
            f"{file}: an arm must be declared once, but {twice} is there twice; restore the file"
        )
    return found
