"""What one trial is: a frozen, content-addressed description, complete enough to run it again."""

import hashlib
import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from study.parquet_format import Role, Stage

Schedule = Literal["constant", "cosine", "step"]


class Strict(BaseModel):
    """Base of everything that users configure: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Training(Strict):
    """How one network is optimised.

    The learning rate is the peak; with ``warmup`` it rises linearly from zero over that share of
    all steps, then follows ``schedule`` (``step``: a tenth at one third and two thirds).
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of sgd")
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(128, ge=1, description="examples per step before any repetition")
    epochs: int = Field(75, ge=1)
    schedule: Schedule = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: Literal["none", "crop", "crop_flip"] = "none"
    precision: Literal["float32", "bfloat16"] = "float32"


class Regularisation(Strict):
    """Which diversity term joins the loss, how strongly, and over which share of steps it ramps."""

    name: str = "none"
    weight: float | None = Field(None, ge=0)
    ramp: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _weight_belongs_to_a_term(self) -> "Regularisation":
        if (self.name == "none") != (self.weight is None):
            raise ValueError(
                f"weight must be given exactly when a regulariser is, "
                f"but name={self.name} and weight={self.weight}"
            )
        return self


class Configuration(Strict):
    """What is studied: a method with everything that it is trained with.

    ``params``, ``backbone`` and ``dataset`` are complete: every default is filled in beforehand,
    so that the identity does not depend on the defaults of a later release.
    """

    method: str
    params: dict[str, Any]
    backbone: dict[str, Any]
    dataset: dict[str, Any]
    training: Training
    regulariser: Regularisation

    @property
    def configuration(self) -> str:
        """Identity (ten digits), whatever the seed, stage and role of a trial."""
        return digest(self.model_dump(include=SETTINGS), 10)

    @property
    def members(self) -> int:
        """Ensemble size, as far as the parameters have it."""
        return self.params.get("members", 1)

    def alone(self) -> "Configuration":
        """Return the configuration of a trial without its role, stage, replicate and seed."""
        return Configuration(**{name: getattr(self, name) for name in SETTINGS})

    def trial_of(self, role: Role, stage: Stage, replicate: int, seed: int) -> "TrialSpec":
        """Return one of its trials."""
        own = dict(self.alone())
        return TrialSpec(**own, role=role, stage=stage, replicate=replicate, seed=seed)


SETTINGS: Final = set(Configuration.model_fields)


class TrialSpec(Configuration):
    """One trial: a configuration, and what the trial is to the study. Serialised flat."""

    role: Role
    stage: Stage
    replicate: int = Field(ge=0)
    seed: int = Field(ge=0)

    @property
    def trial(self) -> str:
        """Identity: same content, same identity."""
        return digest(self.model_dump())

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces."""
        return canonical(self.model_dump())


class Execution(Strict):
    """What a trial's numbers depend on, up to rounding, besides its spec.

    Attributes:
        precision: Type of the stored logits; float32 is used where float16 would overflow.
        stack: Networks that are trained as one, at most; 1 for none, None for as many as repay.
        low_memory: Whether members are trained one after another, where they can be.
        deterministic: Whether only deterministic algorithms are used, which a GPU needs for the
            same numbers bit for bit.
    """

    precision: Literal["float16", "float32"] = "float16"
    stack: int | None = None
    low_memory: bool = False
    deterministic: bool = False

    @property
    def most(self) -> int | None:
        """Networks that are trained as one, at most."""
        return 1 if self.low_memory else self.stack


def canonical(value: object) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object, length: int = 16) -> str:
    """Return the first ``length`` hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def derive_seed(*parts: str | int) -> int:
    """Return a 63-bit seed that depends on every part, so that no two purposes share a stream."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
