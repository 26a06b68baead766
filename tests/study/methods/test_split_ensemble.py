"""Split-Ensemble against the formulas it stands for."""

import pytest
import torch
from torch.nn import functional as F

from study.conformance import CLASSES, Subject, inputs
from study.diagnostics.cost import flops
from study.errors import StudyError
from study.layers.members import stages_of
from study.methods.split_ensemble import Parallel, confusion_groups, targets

ODD = torch.tensor([False, True, False, True])


def test_targets_by_hand():
    wanted, mine = targets(torch.tensor([3, 0, 1]), ODD, 2)
    assert mine.tolist() == [True, False, True]
    # None of mine, class 1, class 3: of class 0 only that it is one of the C.
    assert wanted.tolist() == [[0, 0, 1], [0.5, 0.25, 0.25], [0, 1, 0]]


def test_labels_are_smoothed_within_the_group_alone():
    wanted, _ = targets(torch.tensor([3, 0]), ODD, 2, label_smoothing=0.3)
    torch.testing.assert_close(wanted, torch.tensor([[0.1, 0.1, 0.8], [0.5, 0.25, 0.25]]))


def test_confused_classes_come_together():
    confusion = torch.eye(6) * 10
    for one, other in [(0, 4), (1, 5), (2, 3)]:
        confusion[one, other] = confusion[other, one] = 3
    assert sorted(confusion_groups(confusion, 3)) == [[0, 4], [1, 5], [2, 3]]
    assert sorted(map(len, confusion_groups(torch.rand(10, 10), 3))) == [3, 3, 4]


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_the_assembled_prediction_is_the_groups_claim(loss):
    method = Subject("split_ensemble", {"groups": 2, "loss": loss}, "mlp").trained().eval()
    x = inputs()
    assembled = method(x)[0].exp()
    assert sorted(c for group in method.groups for c in group) == list(range(CLASSES))
    for group, own in zip(method.groups, method._sub_logits(x), strict=True):
        p = own.softmax(1) if loss == "ce" else own.sigmoid()
        expected = p[:, 1:] if loss == "ce" else p[:, 1:] * (1 - p[:, :1])
        torch.testing.assert_close(assembled[:, group], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_the_loss_by_hand(loss, smoothing):
    params = {"groups": 2, "loss": loss, "ood_weight": 3.0}
    method = Subject("split_ensemble", params, "mlp").trained().eval()
    y = torch.arange(8) % CLASSES
    logits, labels = method.training_forward(inputs(), y)
    expected = []
    for group, own in zip(method.groups, method._sub_logits(inputs()), strict=True):
        is_own = torch.tensor([c in group for c in range(CLASSES)])
        wanted, mine = targets(y, is_own, len(group), smoothing)
        each = (
            F.cross_entropy(own, wanted, reduction="none")
            if loss == "ce"
            else F.binary_cross_entropy_with_logits(own, wanted, reduction="none").sum(1)
        )
        w = torch.where(mine, 1.0, 3.0 * len(group) / (CLASSES - len(group)))
        expected.append((w * each).sum() / w.sum())
    loss = method.loss(logits, labels, smoothing)
    torch.testing.assert_close(loss, torch.stack(expected).mean())


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "resnet18", "wide_resnet"])
def test_images_pass_the_trunk_once(backbone):
    subject = Subject("split_ensemble", {"groups": 2, "shared": 1.0}, backbone)
    whole = Subject("split_ensemble", {"groups": 2, "shared": 0.0}, backbone).trained()
    assert sum(isinstance(m, Parallel) for m in subject.trained().modules()) == 1
    assert sum(isinstance(m, Parallel) for m in whole.modules()) == len(stages_of(subject.plain()))
    device = torch.device("cpu")
    shared = flops(subject.make(), inputs().shape[1:], device, 8).infer_flops
    plain = flops(Subject("single", {}, backbone).make(), inputs().shape[1:], device, 8).infer_flops
    assert shared < 1.2 * plain


def test_more_groups_than_pairs_of_classes_are_refused():
    with pytest.raises(StudyError, match=r"params\.groups must be at most 2.* but is 3"):
        Subject("split_ensemble", {"groups": 3}, "mlp").make()
