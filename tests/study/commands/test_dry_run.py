"""The dry run: shows the space, checks that every parameter is used, trains nothing."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from study.cluster.nodes import refuse_too_large
from study.cluster.runtime import Runtime
from study.commands.dry_run import dry_run, flops_per_trial
from study.datasets import Dataset, Shifted
from study.errors import StudyError
from study.run_folder.store import RunFolder
from study.search.points import sampled_points
from study.space.load import load_study
from study.stages import estimate

SMOKE = Path(__file__).parents[3] / "search_spaces" / "smoke.yaml"


def test_it_shows_the_space_and_estimates(smoke, tmp_path, capsys):
    assert dry_run(smoke, RunFolder(tmp_path / "run"), None) == 0
    out = capsys.readouterr().out
    assert "params.init_std" in out
    assert "sample 2" in out
    assert "nothing was trained" in " ".join(out.split())
    assert not (tmp_path / "run").exists()


def test_hours_of_a_gpu_are_estimated_where_the_study_asks_for_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    smoke = load_study([SMOKE], ["resources.gpus_per_trial=0.5", "resources.cpus_per_trial=500"])
    said = r"^resources: a trial needs 500 CPUs and 0\.5 GPUs of one node, but no node has them \("
    with pytest.raises(StudyError, match=said):
        dry_run(smoke, RunFolder(tmp_path / "run"), None)
    out = capsys.readouterr().out
    hours, flops = re.search(
        r"estimate: (\S+) hours of one H100 at most, for (\S+) FLOPs", out
    ).groups()
    assert float(hours) == 0.0
    # A network has 64*16 + 16*10 weights, and is trained on 4 batches of 25 in each of 2 epochs.
    trained = 2 * 100 * 2 * (2 * 64 * 16 + 3 * 16 * 10)
    assert trained * 50 < float(flops) < trained * 5000


def test_a_trial_that_fits_is_not_refused_nor_where_machines_are_not_known(tmp_path, monkeypatch):
    asked = ["resources.cpus_per_trial=500", "resources.gpus_per_trial=auto"]
    smoke, store = load_study([SMOKE], asked), RunFolder(tmp_path / "run")
    refuse_too_large(smoke, store, Runtime("http://head:8265"))  # Its machines are not known here.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 500, "GPU": 1}')
    refuse_too_large(smoke, store, Runtime(unchecked=True))


@pytest.mark.slow  # Counting the FLOPs of a ResNet-18 takes a CPU seconds.
def test_the_fast_study_fits_into_two_hours_of_an_h100():
    study = load_study([SMOKE.with_name("fast_cifar10.yaml")])
    options = study.dataset

    def images(count):
        return np.broadcast_to(np.zeros((1, 3, 32, 32), np.uint8), (count, 3, 32, 32))

    def split(count):
        return images(count), np.zeros(count, np.int64)

    def shifted(count):
        return Shifted(*split(count), *[np.zeros(count)] * 3)

    data = Dataset(
        *(split(50_000 - options["val_size"]), split(options["val_size"]), split(10_000)),
        *(shifted(5000), shifted(95 * options["shift_size"]), 10),
        {"svhn": images(options["ood_size"])},
    )
    flops = {
        space.method: flops_per_trial(space, next(iter(sampled_points(space, 1))), data)
        for space in study.spaces
        if space.method != "deep_ensemble"
    }
    # By hand: 3.33 GFLOPs a step and image, three times those of a prediction.
    assert flops["single"] == pytest.approx(3.329e9 * (10 * 44_544 + 79_500 / 3), rel=0.01)
    hours = estimate.gpu_hours(estimate.total(study, flops), "bfloat16")
    assert 1.5 < hours < 2
    assert study.protocol.anchors == "robust"
    assert study.protocol.seeds >= 5


SPACE = (
    "dataset: {name: digits}\nmethod: plugins.mine\n"
    "fixed: {backbone: {name: mlp, width: 8}, training: {epochs: 1}}\n"
    "search: {params: {volume: {float: [0.0, 1.0]}}, training: {lr: {float: [0.1, 0.2]}}}\n"
)
METHOD = (
    "from study.methods import single\nfrom study.spec import Strict\n"
    "class Params(Strict):\n    volume: float = 1.0\n"
    "class Ensemble(single.Ensemble):\n    "
)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a method outside the project and a space for it; return the space's file."""

    def write(body, name="mine"):
        file = tmp_path / "plugins" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(body)
        space = tmp_path / "mine.yaml"
        space.write_text(SPACE.replace("plugins.mine", f"plugins.{name}"))
        return space

    monkeypatch.syspath_prepend(tmp_path)
    for module in [m for m in sys.modules if m.partition(".")[0] == "plugins"]:
        monkeypatch.delitem(sys.modules, module)
    return write


def test_a_parameter_that_nothing_uses_is_found(plugin, tmp_path):
    space = plugin(METHOD + "pass\n", "deaf")
    with pytest.raises(StudyError, match=r"params\.volume: searched, but no sampled configuration"):
        dry_run(load_study([space]), RunFolder(tmp_path / "run"), None)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("raises", METHOD + "def forward(self, x): raise KeyError('x')\n", "fails with KeyError: 'x'"),
        ("flat", METHOD + "def forward(self, x): return super().forward(x)[0]\n", "logits must be .members, batch, classes. = .1, 2, 10., but are .2, 10."),
        ("syntax", "def\n", "cannot be imported .SyntaxError"),
        ("empty", "", "'plugins.empty' has no Params; a method defines Params and Ensemble"),
    ],
)  # fmt: skip
def test_a_method_with_a_fault_is_one_line(plugin, tmp_path, name, body, message):
    space = plugin(body, name)
    with pytest.raises(StudyError, match=message) as caught:
        dry_run(load_study([space]), RunFolder(tmp_path / "run"), None)
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


LIMITED = METHOD + (
    "def excess(self): return self.over\n"
    "    def __init__(self, params, make_network, seed):\n"
    "        super().__init__(params, make_network, seed)\n"
    "        self.over = params.volume - {limit}\n"
    "    def training_forward(self, x, y_B):\n"
    "        assert self.over <= 0\n"
    "        return super().training_forward(x, y_B)\n"
)


def test_what_exceeds_a_limit_is_not_trained(plugin, tmp_path, capsys):
    space = plugin(LIMITED.replace("{limit}", "0.5"), "limited")
    assert dry_run(load_study([space]), RunFolder(tmp_path / "run"), None) == 0
    samples = [line for line in capsys.readouterr().out.splitlines() if "params.volume" in line]
    assert any(float(line.split('volume":')[1].split(",")[0]) > 0.5 for line in samples[1:4])


def test_a_space_beyond_its_limit_is_one_line(plugin, tmp_path):
    space = plugin(LIMITED.replace("{limit}", "-1"), "beyond")
    with pytest.raises(StudyError, match=r"mine\.yaml: .* all 64 sampled .* exceed the method's"):
        dry_run(load_study([space]), RunFolder(tmp_path / "run"), None)


@pytest.mark.parametrize(
    ("method", "params", "training", "message"),
    [
        ("snapshot_ensemble", "members: 4", "epochs: 2", "epochs must be at least the 4 that"),
        ("swag", "members: 2, collect: 0.5", "epochs: 2", "epochs must be at least the 3 that"),
        ("lora_ensemble", "members: 2, rank: 4", "epochs: 1", "epochs must be at least the 2 that"),
        ("masksembles", "members: 8, batch: split", "batch_size: 4", "at least one example per"),
        ("packed_ensembles", "members: 4, alpha: 0.1", "epochs: 2", "alpha must be at least 0.5"),
        ("lora_ensemble", "members: 2, rank: 64", "epochs: 2", "rank must be at most 8"),
    ],
)
def test_what_would_fail_in_every_trial_is_refused(tmp_path, method, params, training, message):
    file = tmp_path / "space.yaml"
    file.write_text(
        f"dataset: {{name: digits, train_size: 60, val_size: 60, shift_size: 20}}\nmethod: {method}\n"
        f"fixed: {{params: {{{params}}}, backbone: {{name: mlp, width: 8}}, training: {{{training}}}}}\n"
        "search: {training: {lr: {float: [0.01, 0.1]}}}\n"
    )
    with pytest.raises(StudyError, match=f"space.yaml: {method} at .*{message}"):
        dry_run(load_study([file]), RunFolder(tmp_path / "run"), None)


def test_a_condition_that_never_holds_is_refused(tmp_path):
    file = tmp_path / "space.yaml"
    text = (
        "method: batch_ensemble\nsearch:\n  params:\n    init: {choice: [ones, sign]}\n"
        "    negative_share: {float: [0.1, 0.5], when: {params.init: WORD}}\n"
    )
    file.write_text(text.replace("WORD", "sgn"))
    with pytest.raises(StudyError, match="init must be one of what is searched, but is 'sgn'"):
        load_study([file])
    file.write_text(text.replace("WORD", "sign"))
    load_study([file])


def test_divergence_everywhere_is_called_that(tmp_path, plugin):
    nan = "def forward(self, x):\n        self.params.volume\n        return super().forward(x) * float('nan')\n"
    make = "def __init__(self, params, make_network, seed):\n        super().__init__(params, make_network, seed)\n        self.params = params\n    "
    file = plugin(METHOD + make + nan, "nan")
    with pytest.raises(StudyError, match="sampled configurations diverge"):
        dry_run(load_study([file]), RunFolder(tmp_path / "run"), None)
