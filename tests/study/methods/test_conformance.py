"""Every method of the project on every backbone."""

from pathlib import Path

import pytest

from study import conformance
from study.conformance import CHECKS, Subject, check_method
from study.errors import StudyError
from study.plugins import load_plugin, names

METHODS, BACKBONES = names("study.methods"), names("study.backbones")
EXAMPLES = [(m, p) for m in METHODS for p in load_plugin("study.methods", m).EXAMPLES]


def refused(method, params, backbone):
    try:
        Subject(method, params, backbone).make()
    except StudyError:
        return True
    return False


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("method", "params"), EXAMPLES, ids=str)
def test_method_on_backbone_keeps_the_contract_or_refuses(method, params, backbone):
    if not refused(method, params, backbone):
        check_method(method, params, backbone)


def test_the_readme_says_which_methods_refuse_which_backbones():
    whole = f"{len(CHECKS)}/{len(CHECKS)}"
    lines = [f"| | {' | '.join(BACKBONES)} |", f"| --- |{' --- |' * len(BACKBONES)}"]
    for method in METHODS:
        examples = load_plugin("study.methods", method).EXAMPLES
        cells = [
            "–" if all(refused(method, params, backbone) for params in examples) else whole
            for backbone in BACKBONES
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    readme = Path(__file__).parents[3] / "study" / "methods" / "README.md"
    assert "\n".join(lines) in readme.read_text()


def test_the_command_prints_a_line_for_each_method(capsys):
    assert conformance.main(["--method", "single"]) == 0
    out = capsys.readouterr().out
    assert f"| single | {len(CHECKS)}/{len(CHECKS)} |" in out


def test_a_broken_contract_is_found(monkeypatch, capsys):
    def forward(self, x):
        return self.network(x)

    monkeypatch.setattr("study.methods.single.Ensemble.forward", forward)
    assert conformance.main(["--method", "single"]) == 1
    assert "single on mlp: logits: {}: logits and labels differ" in capsys.readouterr().out


def test_a_method_that_raises_is_a_finding(monkeypatch, capsys):
    def forward(self, x):
        return self.network(x).view(3, 3)

    monkeypatch.setattr("study.methods.single.Ensemble.forward", forward)
    assert conformance.main(["--method", "single"]) == 1
    assert "single on cnn: logits: {}: RuntimeError: shape '[3, 3]'" in capsys.readouterr().out


def test_a_method_without_examples_is_told_so(monkeypatch, capsys):
    monkeypatch.delattr("study.methods.single.EXAMPLES")
    assert conformance.main(["--method", "single"]) == 2
    assert "must have EXAMPLES to be checked on" in capsys.readouterr().err


def test_an_unknown_method_is_an_error(capsys):
    assert conformance.main(["--method", "singel"]) == 2
    assert "did you mean 'single'?" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_is_only_named_can_be_trained(method):
    """The plainest file of a method names it and says nothing of its parameters."""
    wide = {"width": 16}  # LoRA's rank of 8 needs as much.
    accepted = next(b for b in ("mlp", "vit", "resnet18") if not refused(method, {}, b))
    Subject(method, {}, accepted, wide).trained()
