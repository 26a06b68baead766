"""What is used from a notebook: a study from YAML, one trial, a method around one's own network."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import study
from study import conformance, methods
from study.errors import StudyError
from study.run_folder.store import RunFolder
from study.space.load import load_study
from tests.running import SMOKE

SIGNS = {"members": 4, "init": "sign", "negative_share": 0.5}


class Network(nn.Module):
    """A stranger's network, of plain layers alone."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x):
        return self.head(self.features(x))


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(32, 1, 8, 8), torch.randint(10, (32,))


def test_the_package_hands_on_what_a_notebook_needs():
    assert study.Study is load_study([SMOKE]).__class__
    assert study.methods.build is methods.build
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        study.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        study.trials.nothing  # noqa: B018


def test_a_study_from_yaml_is_that_of_the_command():
    changed = ["budget.trials=5"]
    assert study.Study.from_yaml(str(SMOKE)) == load_study([SMOKE])
    assert study.Study.from_yaml(SMOKE, overrides=changed) == load_study([SMOKE], changed)


def test_a_configuration_is_complete_and_checked():
    smoke = study.Study.from_yaml(SMOKE)
    found = smoke.configuration("batch_ensemble", {"params.init": "ones", "training.lr": 0.1})
    assert (found.params["init"], found.params["members"]) == ("ones", 4)
    assert (found.training.lr, found.training.epochs) == (0.1, 2)
    assert found.dataset == smoke.dataset
    with pytest.raises(StudyError, match=r"params\.init"):
        smoke.configuration("batch_ensemble", {"params.init": "twos"})
    with pytest.raises(StudyError, match="must be one of batch_ensemble, single, mc_dropout"):
        smoke.configuration("swag")


def test_one_trial_runs_here_and_is_committed(tmp_path):
    smoke = study.Study.from_yaml(SMOKE)
    point = {"params.init": "ones", "training.lr": 0.1}
    spec = smoke.configuration("batch_ensemble", point).trial_of("candidate", "search", 0, seed=3)
    data, epochs = study.datasets.load(smoke.dataset), []
    row = study.trials.run_trial(spec, data, tmp_path / "run", name="mine", on_epoch=epochs.append)
    assert (row.status, row.name, row.trial, row.data) == (
        "complete", "mine", spec.trial, data.fingerprint
    )  # fmt: skip
    assert math.isfinite(row.val_nll)
    assert epochs == [1, 2]
    stored = RunFolder(tmp_path / "run").row(spec.trial)
    assert (stored.val_nll, stored.spec) == (row.val_nll, spec.to_json())
    assert study.trials.run_trial(spec, data, tmp_path / "run") == stored
    assert epochs == [1, 2]


@pytest.mark.parametrize("network", [Network, flat])
def test_a_network_of_ones_own_learns_in_a_loop_of_ones_own(network, batch):
    own, (x, y) = network(), batch
    ensemble = methods.build("batch_ensemble", SIGNS, make_network=lambda: own, seed=0)
    assert ensemble.network is own
    optimiser = torch.optim.Adam(ensemble.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        logits_MBC, y_MB = ensemble.training_forward(x, y)
        loss = ensemble.loss(logits_MBC, y_MB, label_smoothing=0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    logits_MBC = ensemble.eval()(x)
    assert logits_MBC.shape == (4, 32, 10)
    each = [F.cross_entropy(logits_BC, y).item() for logits_BC in logits_MBC]
    assert max(each) < losses[0]
    assert not torch.allclose(logits_MBC[0], logits_MBC[1])


@pytest.mark.parametrize("method", ["single", "packed_ensembles", "lora_ensemble", "masksembles"])
def test_other_methods_wrap_it_too(method, batch):
    params = conformance.examples_of(method)[0]
    ensemble = methods.build(method, params, make_network=Network, seed=0)
    assert ensemble(batch[0]).shape == (ensemble.members, 32, 10)


def test_each_network_of_a_deep_ensemble_must_be_new(batch):
    own = flat()
    with pytest.raises(StudyError, match="make_network must return a new network at every call"):
        methods.build("deep_ensemble", {"members": 2}, make_network=lambda: own, seed=0)
    copies = methods.build(
        "deep_ensemble", {"members": 2}, make_network=lambda: copy.deepcopy(own), seed=0
    )
    assert torch.equal(*copies(batch[0]))
    fresh = methods.build("deep_ensemble", {"members": 2}, make_network=flat, seed=0)
    assert not torch.allclose(*fresh(batch[0]))
