"""What is judged and how: ``plan.json``, written before the test set is opened."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from study.parquet_format import Role
from study.run_folder.store import RunFolder
from study.space.configuration import checked
from study.space.settings import Protocol, Study
from study.spec import Configuration, Strict, digest

Reason = Literal[
    "anchor", "matched", "contender", "control", "enqueued", "validation", "comparison"
]


class Tried(Strict, extra="ignore"):
    """How a configuration did on validation data, over fresh seeds.

    Attributes:
        configuration: Its identity.
        source: Where its values are from.
        seeds: Complete runs that count: see ``study.stages.anchor.validation_losses``.
        mean: Validation loss, nats (calibrated NLL where that is an endpoint and anchors are
            contended, else NLL); None with fewer than two runs.
        se: Its standard error over seeds.
        shift_nll: Mean NLL on shifted validation data, of what may be the tuned single network;
            None of the others.
    """

    configuration: str
    source: str
    seeds: int
    mean: float | None
    se: float | None
    shift_nll: float | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what plans without it do not have, so that these stay as they are."""
        fields: dict[str, Any] = dump(self)
        if self.shift_nll is None:
            fields.pop("shift_nll", None)
        return fields


class Matched(Strict, extra="ignore"):
    """The anchors with an arm's own backbone and hyperparameters, by their configurations.

    Attributes:
        single: The single network.
        deep_ensemble: Its Deep Ensemble.
        dropped: What of the arm's training a single network cannot have, for readers.
    """

    single: str
    deep_ensemble: str
    dropped: tuple[str, ...] = Field((), strict=False)


class Arm(Strict, extra="ignore"):
    """Replicates of one configuration in one role, and why they are judged.

    Attributes:
        spec: The configuration.
        role: What it is to the study.
        reason: Why it is there.
        name: For readers.
        stratum: Part of the space that it was shortlisted from.
        seeds: Replicates, where they are not as many as the plan says for all.
        matched: What it is held against besides the tuned anchors.
    """

    spec: Configuration
    role: Role
    reason: Reason
    name: str | None = None
    stratum: str | None = None
    seeds: int | None = None
    matched: Matched | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the arm with what follows from its configuration, for whoever judges.

        What it has not is left out, so that a plan from before there was any keeps its hash.
        """
        own = {"seeds": self.seeds, "matched": self.matched and self.matched.model_dump()}
        return {key: value for key, value in own.items() if value is not None} | {
            "configuration": self.spec.configuration,
            "role": self.role,
            "method": self.spec.method,
            "name": self.name,
            "members": self.spec.members,
            "reason": self.reason,
            "stratum": self.stratum,
            "spec": self.spec.model_dump(),
        }


class Revision(Strict, extra="ignore"):
    """An earlier declaration, word for word, whatever the release that wrote it."""

    hash: str
    declared: str
    protocol: dict[str, Any]
    arms: list[dict[str, Any]]
    revisions: "list[Revision]" = Field([], exclude=True)


class Plan(Strict, extra="ignore"):
    """What will be judged and how.

    Attributes:
        study: Its name.
        protocol: As the study asks for.
        arms: What is trained on fresh seeds.
        declared: When, in ISO 8601.
        seeds: Of each arm.
        seeds_because: The reason for their number.
        tuning: Search trials (``trials``) by method.
        tried: What the single network was chosen from, the chosen one, then the best first; empty
            where its own search alone decided.
        exchanged: Every arm with its own values, and with those of the single network; the better
            of each two is judged. What the method refuses was not run, and its ``source`` says why.
        note: What the study's file says to readers of the verdict.
        revisions: What was declared before in the same folder; if anything was, then this plan was
            chosen after the test set had been opened.
    """

    study: str
    protocol: Protocol
    arms: tuple[Arm, ...] = Field(strict=False)
    declared: str
    seeds: int
    seeds_because: str
    tuning: dict[str, dict[str, int]]
    tried: tuple[Tried, ...] = Field((), strict=False)
    exchanged: tuple[Tried, ...] = Field((), strict=False)
    note: str | None = None
    revisions: list[Revision] = []

    def seeds_of(self, arm: Arm) -> int:
        """Return how many replicates of an arm are trained."""
        return arm.seeds or self.seeds

    @property
    def content(self) -> dict[str, Any]:
        """What is declared; a number of seeds that was asked for is in the protocol already."""
        arms = [arm.to_json() for arm in self.arms]
        seeds = {"seeds": self.seeds} if self.protocol.seeds == "auto" else {}
        # Plans from before there was a choice keep their hash.
        old = {"anchors", "single_seeds"} if self.protocol.anchors == "tuned" else set()
        old |= {"exchange"} if self.protocol.exchange else set()
        protocol = self.protocol.model_dump(exclude=old)
        return {"study": self.study, "protocol": protocol, "arms": arms} | seeds

    @property
    def hash(self) -> str:
        """Identity of what is declared."""
        return digest(self.content)

    def to_json(self) -> dict[str, Any]:
        """Return what ``plan.json`` holds."""
        rest = self.model_dump(exclude={"study", "protocol", "arms"})
        return self.content | {"hash": self.hash} | rest


def read(store: RunFolder) -> Plan | None:
    """Return the plan of a run, None where none is declared yet."""
    content = store.read_json(store.plan)
    return None if content is None else checked(Plan, content, str(store.plan))


def declare(
    study: Study,
    arms: Iterable[Arm],
    tuning: Mapping[str, int],
    seeds: int,
    because: str,
    store: RunFolder,
    tried: Iterable[Tried] = (),
    exchanged: Iterable[Tried] = (),
) -> Plan:
    """Write down what will be judged and how, before any test prediction exists, and return it.

    A declaration that differs from an earlier one in the same folder is kept beside it, under
    ``revisions``: what it decides was chosen after the test set had been opened.
    """
    plan = Plan(
        study=study.name,
        protocol=study.protocol,
        arms=tuple(arms),
        declared=datetime.now(UTC).isoformat(timespec="seconds"),
        seeds=seeds,
        seeds_because=because,
        tuning={method: {"trials": trials} for method, trials in tuning.items()},
        tried=tuple(tried),
        exchanged=tuple(exchanged),
        note=study.note,
    )
    content = store.read_json(store.plan)
    if content is not None:
        earlier = checked(Revision, content, str(store.plan))
        if earlier.hash == plan.hash:
            return checked(Plan, content, str(store.plan))
        plan = plan.model_copy(update={"revisions": [*earlier.revisions, earlier]})
    store.write_json(store.plan, plan.to_json())
    return plan
