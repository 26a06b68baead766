"""What every method must do on every backbone, as a library and as a command.

``python -m study.conformance`` runs each method's ``EXAMPLES`` on each backbone and prints what
holds; ``--method my_package.my_method`` does so for one outside the project. In a test:

    from study.conformance import check_method
    check_method("my_package.my_method", {"members": 3}, "mlp")
"""

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from study import backbones
from study.errors import StudyError
from study.methods import Method, build
from study.plugins import load_plugin, names
from study.spec import Training

SHAPE: Final = (3, 16, 16)
CLASSES: Final = 5
BATCH: Final = 8


@dataclass(frozen=True)
class Subject:
    """One method in one configuration on one small backbone."""

    method: str
    params: dict[str, Any]
    backbone: str
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int = 0) -> Method:
        """Build the ensemble."""
        return build(self.method, self.params, self.plain, seed)

    def plain(self) -> nn.Module:
        """Build the small network itself."""
        small = load_plugin("study.backbones", self.backbone).EXAMPLE
        options = backbones.parameters({"name": self.backbone} | small | self.options).model_dump()
        return backbones.build(options, SHAPE, CLASSES)

    def trained(self) -> Method:
        """Build the ensemble and lead it through its phases, a step each."""
        ensemble = self.make()
        torch.manual_seed(5)
        _train(ensemble, _step)
        return ensemble


def inputs() -> Tensor:
    """Return the images that all checks use, (BATCH, *SHAPE)."""
    return torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(3))


def _step(part: Method) -> None:
    part.train()
    optimizer = torch.optim.SGD(part.param_groups(Training(lr=0.1, weight_decay=0.01)))
    logits, labels = part.training_forward(inputs(), torch.arange(BATCH) % CLASSES)
    assert logits.shape[:2] == labels.shape, "logits and labels differ in members or examples"
    part.loss(logits, labels, 0.0).backward()
    optimizer.step()


def _train(ensemble: Method, step: Callable[[Method], None]) -> None:
    """Lead an ensemble through its phases, a step each."""
    for part, _ in ensemble.independent_members():
        for phase in part.phases():
            phase.begin()
            step(part)
            phase.after_epoch()
            phase.end()


def check_logits(subject: Subject) -> None:
    """Logits are (M, B, C) and finite, and prediction leaves the random state alone."""
    x = inputs()
    for ensemble in (subject.make(), subject.trained()):
        ensemble.eval()
        state = torch.get_rng_state()
        logits = ensemble(x)
        assert logits.shape == (ensemble.members, len(x), CLASSES), f"logits {logits.shape}"
        assert bool(logits.isfinite().all()), "logits are not finite"
        assert torch.equal(torch.get_rng_state(), state), "prediction draws random numbers"
        assert torch.equal(ensemble(x), logits), "prediction is not repeatable"


def check_seed(subject: Subject) -> None:
    """The seed alone decides the initial weights; building leaves the random state alone."""
    x, state = inputs(), torch.get_rng_state()
    first, same, other = (subject.make(seed).eval() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state), "building draws from the global state"
    assert torch.equal(first(x), same(x)), "the same seed gives other weights"
    assert not torch.equal(first(x), other(x)), "another seed gives the same weights"


def check_training(subject: Subject) -> None:
    """In each phase the groups hold each trained parameter once; all get a gradient."""

    def step(part: Method) -> None:
        trained = {name: p for name, p in part.named_parameters() if p.requires_grad}
        before = {name: p.detach().clone() for name, p in trained.items()}
        groups = part.param_groups(Training(lr=0.1, weight_decay=0.01))
        grouped = sorted(id(p) for group in groups for p in group["params"])
        assert grouped == sorted(map(id, trained.values())), "groups are not what is trained"
        part.zero_grad()
        _step(part)
        for name, p in trained.items():
            assert p.grad is not None, f"{name} gets no gradient"
            assert bool(p.grad.isfinite().all()), f"{name} has a gradient that is not finite"
        moved = [n for n, p in trained.items() if not torch.equal(p, before[n])]
        assert moved, "nothing moves"

    torch.manual_seed(5)
    _train(subject.make(), step)


def check_phases(subject: Subject) -> None:
    """The shares of a part's phases sum to 1."""
    for part, _ in subject.make().independent_members():
        assert abs(sum(phase.share for phase in part.phases()) - 1) < 1e-9, "shares sum to 1"


def check_examples(subject: Subject) -> None:
    """In evaluation an example's logits do not depend on what else is in the batch."""
    x = inputs()
    for ensemble in (subject.make(), subject.trained()):
        ensemble.eval()
        torch.testing.assert_close(ensemble(x)[:, 2:5], ensemble(x[2:5]), rtol=1e-4, atol=1e-5)


def check_weights(subject: Subject) -> None:
    """Effective weights, perturbations, collapsed control and stored bytes agree with M.

    Looking at them, in training too, neither draws random numbers nor changes them.
    """
    for ensemble in (subject.make(), subject.trained().train()):
        state = torch.get_rng_state()
        twice = [list(ensemble.effective_weights()) for _ in range(2)]
        assert all(map(torch.equal, *twice)), "effective weights change when looked at"
        assert torch.equal(torch.get_rng_state(), state), "effective weights draw random numbers"
        for weights in ensemble.effective_weights():
            assert weights.shape[0] == ensemble.members, "effective weights of other members"
        perturbations = ensemble.perturbations()
        assert perturbations is None or len(perturbations) == ensemble.members
        collapsed = ensemble.collapsed()
        assert collapsed is None or collapsed.members == 1
    assert subject.trained().stored_bytes() > 0, "nothing is stored"


def check_member_networks(subject: Subject) -> None:
    """All members or none are copies of the plain backbone that map x to the member's logits."""
    x, keys = inputs(), subject.plain().state_dict().keys()
    for ensemble in (subject.make(), subject.trained()):
        ensemble.eval()
        logits, state = ensemble(x), torch.get_rng_state()
        networks = [ensemble.member_network(m) for m in range(ensemble.members)]
        assert torch.equal(torch.get_rng_state(), state), "copying draws random numbers"
        if networks[0] is None:
            assert networks == [None] * ensemble.members
            continue
        for network, expected in zip(networks, logits, strict=True):
            assert network is not None
            assert network.state_dict().keys() == keys, "a member is not the plain backbone"
            torch.testing.assert_close(network.eval()(x), expected, rtol=1e-4, atol=1e-5)
            for tensor in network.state_dict().values():
                tensor.zero_()
        assert torch.equal(ensemble(x), logits), "a member's copy shares memory with the ensemble"


def check_copies(subject: Subject) -> None:
    """A deep copy is an ensemble of its own: training it leaves the original alone."""
    ensemble, x = subject.make().eval(), inputs()
    before = ensemble(x)
    _train(copy.deepcopy(ensemble), _step)
    assert torch.equal(ensemble.eval()(x), before), "training a copy changed the original"


CHECKS: Final[dict[str, Callable[[Subject], None]]] = {
    "logits": check_logits,
    "seed": check_seed,
    "training": check_training,
    "phases": check_phases,
    "examples": check_examples,
    "weights": check_weights,
    "members": check_member_networks,
    "copies": check_copies,
}


def check_method(
    method: str, params: dict[str, Any], backbone: str, options: dict[str, Any] | None = None
) -> None:
    """Check the whole contract of a method on one backbone, small but for what ``options`` say.

    Raises:
        AssertionError: Where the contract is broken.
        StudyError: When the method cannot wrap the backbone.
    """
    for check in CHECKS.values():
        check(Subject(method, params, backbone, options or {}))


def examples_of(method: str) -> list[dict[str, Any]]:
    """Return the small configurations of a method.

    Raises:
        StudyError: When there is no such method, or it has none.
    """
    examples: list[dict[str, Any]] = getattr(load_plugin("study.methods", method), "EXAMPLES", [])
    if not examples:
        raise StudyError(
            f"method {method!r} must have EXAMPLES to be checked on, but has none; "
            "list a few small configurations, as [{'members': 2}]"
        )
    return examples


def findings(method: str, backbone: str) -> dict[str, str]:
    """Return, check by check, an empty text or what is wrong, over the method's examples.

    Raises:
        StudyError: When the method can wrap the backbone in none of them.
    """
    found, refusals = dict.fromkeys(CHECKS, ""), []
    examples = examples_of(method)
    for subject in (Subject(method, params, backbone) for params in examples):
        try:
            subject.trained()
        except StudyError as refusal:
            refusals.append(refusal)
            continue
        except Exception:
            pass  # The checks say in which of them it fails.
        for name, check in CHECKS.items():
            try:
                check(subject)
            except Exception as failure:
                kind = "" if isinstance(failure, AssertionError) else f"{type(failure).__name__}: "
                said = f"{subject.params}: {kind}{' '.join(str(failure).split())}"
                found[name] = found[name] or said
    if len(refusals) == len(examples):
        raise refusals[0]
    return found


def table(methods: list[str]) -> tuple[list[str], bool]:
    """Return the Markdown table of methods and backbones with its notes, and whether all holds."""
    columns, notes, good = names("study.backbones"), [], True
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for method in methods:
        cells = []
        for backbone in columns:
            try:
                failed = {k: why for k, why in findings(method, backbone).items() if why}
                cells.append(f"{len(CHECKS) - len(failed)}/{len(CHECKS)}")
                good = good and not failed
                notes += [f"{method} on {backbone}: {k}: {why}" for k, why in failed.items()]
            except StudyError as refusal:
                cells.append("–")
                notes.append(f"{method} on {backbone}: {refusal}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    checks = [
        f"* {name}: {' '.join((check.__doc__ or '').split())}" for name, check in CHECKS.items()
    ]
    return [*lines, "", "Checked:", "", *checks, *([""] if notes else []), *notes], good


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 when a contract is broken, 2 when there is nothing to check."""
    parser = argparse.ArgumentParser(prog="python -m study.conformance", description=__doc__)
    parser.add_argument("--method", action="append", help="dotted name; default: all of ours")
    methods = parser.parse_args(argv).method or names("study.methods")
    try:
        for method in methods:
            examples_of(method)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines, good = table(methods)
    print(*lines, sep="\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
