"""Studies of known truth, from YAML to verdict: what must escape does, and nothing else.

The methods are those of ``tests/planted``, as a user's own would be: known by a dotted name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
import torch

from study import methods
from study.backbones import mlp
from study.conformance import check_method
from study.run_folder.store import RunFolder
from study.stages.plan import read
from tests.planted.mixture import EXAMPLES
from tests.running import finish, start

FOLDER = Path(__file__).parent / "planted"
METHOD = "tests.planted.mixture"


def built(**params):
    network = lambda: mlp.Network(mlp.Params(width=8, depth=1), (1, 1, 40), 10)  # noqa: E731
    return methods.build(METHOD, params, network, seed=3).eval()


@pytest.fixture
def images():
    return torch.randn(64, 1, 1, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("params", EXAMPLES)
def test_the_planted_method_conforms(params):
    check_method(METHOD, params, "mlp")


def test_members_are_made_of_networks_as_they_are_said_to_be(images):
    with torch.no_grad():
        deep = methods.deep_ensemble.Ensemble.forward(built(networks=8), images).softmax(-1)

        def members(**params):
            return built(**params)(images).exp()

        assert torch.allclose(members(networks=4), deep[:4])
        assert torch.allclose(members(networks=2), deep[[0, 1, 0, 1]])
        assert torch.allclose(members(networks=1), deep[[0, 0, 0, 0]])
        assert torch.allclose(members(networks=8), (deep[:4] + deep[4:]) / 2)
        assert torch.allclose(
            members(networks=4, made_of="mean"), deep[:4].mean(0).expand(4, -1, -1)
        )
        opposed = members(networks=1, made_of="opposed")
        assert torch.allclose(opposed.mean(0), deep[0], atol=1e-6)
        assert (opposed[0] - opposed[1]).abs().amax(-1).min() > 0.01


@dataclass(frozen=True)
class Truth:
    """Recovery by endpoint of n networks, (1 - 1/n) / (1 - 1/4), and how it must be judged."""

    name: str
    recovery: tuple[float, float, float]
    verdict: str
    label: str | None = None


TRUTHS = [
    Truth("full", (1.0, 1.0, 1.0), "escapes"),
    Truth("half", (2 / 3, 2 / 3, 2 / 3), "escapes"),
    Truth("none", (0.0, 0.0, 0.0), "tracks"),
    Truth("dear", (7 / 6, 7 / 6, 1 / 2), "escapes"),
    Truth("better", (1.0, 1.0, 0.0), "inconclusive", "better but not diverse"),
    Truth("diverse", (0.0, 0.0, 0.0), "inconclusive", "diverse but not better"),
]


def verdict_of(folder, space, *more):
    out = folder / "run"
    (out.parent / "analysis").mkdir()
    code, printed = finish(start(out, *more, space=FOLDER / space), timeout=1800)
    assert code == 0, printed
    return out, json.loads((out / "verdict.json").read_text())


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory):
    return verdict_of(tmp_path_factory.mktemp("mixtures"), "mixtures.yaml")[1]


def arm_of(verdict, name):
    # One that is better with the tuned single network's values has these, and says so.
    return next(a for a in verdict["arms"] if (a["name"] or "").partition(",")[0] == name)


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
def test_an_effect_of_known_size_is_judged_as_it_is(mixtures, truth):
    arm = arm_of(mixtures, truth.name)
    assert (arm["verdict"], arm["label"]) == (truth.verdict, truth.label)
    assert arm["own"]["verdict"] == arm["by_tuned"] == truth.verdict
    for key, recovery in zip(mixtures["protocol"]["endpoints"], truth.recovery, strict=True):
        if truth.name == "diverse" and key == "gain":
            assert arm["endpoints"][key]["low"] > 0.25  # How much was moved follows no formula.
        else:
            assert arm["endpoints"][key]["recovery"] == pytest.approx(recovery, abs=0.3)


@pytest.mark.slow
def test_only_what_is_no_dearer_than_a_deep_ensemble_counts(mixtures):
    arms = mixtures["arms"]
    dearer = {(a["name"] or "").partition(",")[0]: a["price"]["dearer"] for a in arms}
    assert {"parameters", "stored_bytes", "infer_flops"} <= set(dearer["dear"])
    assert not any(dearer[name] for name in ("full", "half", "none", "diverse"))
    assert mixtures["verdict"] == "some configuration escapes"
    assert mixtures["counts"]["escapes"] - mixtures["counts"]["dear"] == 2
    assert all(control["ok"] for control in mixtures["controls"].values())


@pytest.mark.slow
def test_of_thirty_single_networks_none_escapes(tmp_path):
    """Though their search finds better hyperparameters than the single network's own."""
    poor = str(FOLDER / "poor_single.yaml")
    out, verdict = verdict_of(tmp_path, "null.yaml", "--space", poor)
    assert all(gate["open"] for gate in verdict["gates"])
    assert verdict["counts"]["candidates"] == 30
    assert verdict["counts"]["escapes"] == 0
    assert verdict["verdict"] == "inconclusive"
    plan = read(RunFolder(out))
    assert plan.tried[0].source.startswith("values of ")  # It has what its candidates have.
    assert plan.tried[-1].mean - plan.tried[0].mean > 3 * plan.tried[-1].se
    for key in ("cll", "shift_nll"):
        own = [
            arm["endpoints"][key]["recovery"]
            for arm in verdict["arms"]
            if arm["role"] == "candidate"
        ]
        assert fmean(own) == pytest.approx(0.0, abs=0.25)
