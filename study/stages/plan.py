"""What is judged and how: ``plan.json``, written before the test set is opened."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from study.run_folder.store import RunFolder
from study.schema import Role
from study.space.configuration import checked
from study.space.study import Protocol, Study
from study.spec import Configuration, Strict, digest

Reason = Literal["anchor", "control", "enqueued", "validation", "comparison"]


class Arm(Strict, extra="ignore"):
    """Replicates of one configuration in one role, and why they are judged."""

    spec: Configuration
    role: Role
    reason: Reason
    name: str | None = None
    stratum: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the arm with what follows from its configuration, for whoever judges."""
        return {
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
    revisions: list[Revision] = []

    @property
    def content(self) -> dict[str, Any]:
        """What is declared; a number of seeds that was asked for is in the protocol already."""
        arms = [arm.to_json() for arm in self.arms]
        seeds = {"seeds": self.seeds} if self.protocol.seeds == "auto" else {}
        return {"study": self.study, "protocol": self.protocol.model_dump(), "arms": arms} | seeds

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
    )
    content = store.read_json(store.plan)
    if content is not None:
        earlier = checked(Revision, content, str(store.plan))
        if earlier.hash == plan.hash:
            return checked(Plan, content, str(store.plan))
        plan = plan.model_copy(update={"revisions": [*earlier.revisions, earlier]})
    store.write_json(store.plan, plan.to_json())
    return plan
