"""The profile of training steps: what an operation counts as, and a line for each side."""

import pytest
import torch

from benchmarks.step_profile import OTHER, Profile, kind_of


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::bmm", "products"),
        ("aten::addmm", "products"),
        ("aten::mkldnn_convolution", "products"),
        ("aten::convolution_backward", "products"),
        ("_FirstProductBackward", "products"),
        ("aten::native_batch_norm", "norms, loss"),
        ("aten::_log_softmax_backward_data", "norms, loss"),
        ("Optimizer.step#SGD.step", OTHER),
        ("aten::_fused_sgd_", OTHER),
        ("aten::sum", "element-wise"),
        ("aten::addcmul_", "element-wise"),
        ("aten::threshold_backward", "element-wise"),
        ("aten::view", OTHER),
        ("MulBackward0", OTHER),
    ],
)
def test_what_an_operation_counts_as(operation, kind):
    assert kind_of(operation) == kind


def test_a_product_is_seen_as_one(capsys):
    """And takes most of what the profiler sees; it would not beside other work, by the clock."""
    matrix = torch.randn(600, 600)
    setting = Profile(3, torch.device("cpu"))
    setting.compare("row", lambda: matrix @ matrix, {"a sum": lambda: matrix.sum()})
    ours, peer = (
        [*map(str.strip, line.split("|"))] for line in capsys.readouterr().out.split("\n")[:2]
    )
    assert ours[1:3] == ["row", "ours"]
    assert peer[2] == "a sum"
    step, products, *others = map(float, ours[3:-1])
    assert step > 0
    assert products > sum(others)
    assert float(peer[4]) == 0
