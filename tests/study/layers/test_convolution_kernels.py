"""No convolution of the project meets a faulty kernel of oneDNN."""

import contextlib
import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from study import backbones
from study.conformance import SHAPE, Subject, examples_of, inputs
from study.errors import StudyError
from study.layers.convolution import Convolution, conv2d, make_safe
from study.layers.members import replace_modules
from study.methods import build
from study.plugins import names

LAST = torch.channels_last
ROOT = Path(__file__).parents[3]
AVX2 = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
# Several threads have a process of their own, where they do not spin: they would make each other
# wait wherever tests share the cores.
PATIENT = {"OMP_WAIT_POLICY": "passive"}
THREADS = [1, 2] if PATIENT.items() <= os.environ.items() else [1]
without_avx2 = torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")
needs_avx2 = pytest.mark.skipif(without_avx2, reason="this CPU has no AVX2")

FAULT = """
import torch
torch.set_num_threads(2)
last = torch.channels_last
for seed in range(20):
    torch.manual_seed(seed)
    x, w = torch.randn(32, 4, 8, 8).to(memory_format=last), torch.randn(8, 4, 1, 1)
    gradients = []
    for torch.backends.mkldnn.enabled in (False, True):
        w = w.detach().to(memory_format=last).requires_grad_()
        torch.nn.functional.conv2d(x, w, stride=2).sin().sum().backward()
        gradients.append(w.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-2)
"""


@needs_avx2
def test_torch_has_the_fault():
    try:
        command = [sys.executable, "-c", FAULT]
        done = subprocess.run(command, env=AVX2, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return  # What it writes over may be what its threads wait for.
    assert done.returncode != 0, (
        f"torch {torch.__version__} has mended the gradient of strided 1x1 convolutions: remove "
        "study/layers/convolution.py once pyproject.toml asks for such a torch"
    )
    assert done.returncode < 0 or "not close" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "instructions",
    [pytest.param("DEFAULT", marks=pytest.mark.slow), pytest.param("AVX2", marks=needs_avx2)],
)
def test_the_gradients_are_right_with_other_threads_and_instructions(instructions):
    here = [__file__, "-k", "test_gradients", "-x", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *here],
        env=os.environ | PATIENT | {"ONEDNN_MAX_CPU_ISA": instructions},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.fixture
def threads(request):
    """Have torch use as many threads as the parameter says."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def worst(found, expected):
    """Return the largest error over the largest value."""
    errors = [(f - e).abs().max() for f, e in zip(found, expected, strict=True)]
    return float(max(errors) / max(e.abs().max() for e in expected))


def channels_last(x):
    """Return the same values with the strides of that format, of a single channel too."""
    last = x.permute(0, 2, 3, 1)
    return torch.empty(last.shape).copy_(last).permute(0, 3, 1, 2)


# Kernel, stride, padding, input channels of a group, side: what backbones have, methods' widths.
TABLE = [
    *((3, 1, 1, inputs, 8) for inputs in (1, 2, 3, 4, 7, 9, 16)),
    *((3, 2, 1, inputs, 8) for inputs in (1, 2, 3, 4, 7, 9, 16)),
    *((7, 2, 3, inputs, 16) for inputs in (1, 3, 9)),
    *((side, side, 0, inputs, 16) for side in (2, 4) for inputs in (1, 3, 9)),
    *((1, 1, 0, inputs, 8) for inputs in range(1, 18)),
]
STRIDED = [
    *((1, 2, 0, inputs, 8) for inputs in range(1, 18)),
    *((1, 2, 0, inputs, 128) for inputs in (1, 2, 8, 15)),
]
TABLE += STRIDED


def results(convolve, x, weight, stride, padding, groups):
    x, weight = (t.detach().requires_grad_() for t in (x, weight))
    y = convolve(x, weight, None, (stride, stride), (padding, padding), (1, 1), groups)
    direction = torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()
    return [y.detach(), *torch.autograd.grad(y, (x, weight), direction)]


@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize("form", [channels_last, torch.clone])
@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_of_every_shape_are_those_in_double_precision(groups, form, threads):
    torch.manual_seed(0)
    for kernel, stride, padding, channels, side in TABLE if threads == 1 else STRIDED:
        x = form(torch.randn(3, groups * channels, side, side))
        weight = form(torch.randn(2 * groups * channels, channels, kernel, kernel))
        options = stride, padding, groups
        found = results(conv2d, x, weight, *options)
        expected = results(F.conv2d, x.double(), weight.double(), *options)
        for f, e in zip(found, expected, strict=True):
            assert worst([f], [e]) < 1e-5, f"{tuple(x.shape)}, {tuple(weight.shape)}, {options}"


def poison():
    """Fill memory that torch gets next with what is not a number."""
    for size in (64, 256, 1024, 4096, 16384):
        _ = [torch.full((size,), float("nan")) for _ in range(8)]


# Kernel, stride, padding, dilation, side: taps that meet padding alone, and single outputs.
SMALL = [
    *((3, 1, 1, 1, side) for side in (1, 2, 3)),
    *((3, 2, 1, 1, side) for side in (1, 2, 3, 4)),
    *((7, 2, 3, 1, side) for side in (1, 2, 4, 5, 8)),
    *((5, 1, 2, 1, side) for side in (1, 2, 3)),
    *((3, 1, 2, 2, side) for side in (1, 2, 3)),
    (4, 4, 1, 1, 5),
    (2, 4, 0, 1, 2),
    (4, 4, 0, 1, 4),
]


def bfloat16_errors(kernel, stride, padding, dilation, side, cast):
    """Return the errors of the outputs and both gradients, over the largest value of each."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 16, side, side), torch.randn(16, 16, kernel, kernel)
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        x, weight = (channels_last(t.detach().bfloat16()) for t in (x, weight))
        if dtype == torch.float64 or not cast:
            x, weight = x.to(dtype), weight.to(dtype)
        else:
            x, weight = x.float(), weight.float()
        x.requires_grad_()
        weight.requires_grad_()
        poison()
        with torch.autocast("cpu", enabled=cast and dtype == torch.bfloat16):
            y = conv2d(x, weight, None, (stride,) * 2, (padding,) * 2, (dilation,) * 2, 1)
        assert y.dtype == dtype
        direction = torch.arange(y.numel()).view_as(y).cos().to(dtype)
        poison()
        results.append([y.detach(), *torch.autograd.grad(y, (x, weight), direction)])
    return [worst([f], [e]) for e, f in zip(*results, strict=True)]


@pytest.mark.parametrize("cast", [True, False], ids=["autocast", "bfloat16"])
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_bfloat16_is_right_on_small_images(shape, cast):
    assert all(error < 0.02 for error in bfloat16_errors(*shape, cast))  # False for NaN


@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_layer_pads_as_torch_does(padding, mode):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=padding, padding_mode=mode)
    x = torch.randn(2, 3, 5, 6)
    expected = layer(x)
    make_safe(layer)
    assert torch.equal(layer(x), expected)
    with torch.autocast("cpu"):
        found = layer(x[..., :3, :3])
    torch.testing.assert_close(found.float(), layer(x[..., :3, :3]), rtol=0, atol=0.05)


@pytest.mark.parametrize("stride", [(1, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize("kernel", [2, 3])
def test_other_strides_by_row_than_by_column(kernel, stride):
    torch.manual_seed(0)
    for channels in (1, 2):
        x = channels_last(torch.randn(4, channels, 9, 9))
        weight = channels_last(torch.randn(16, channels, kernel, kernel))
        found, expected = (
            conv2d(x.to(dtype), weight.to(dtype), None, stride, (0, 0), (1, 1), 1)
            for dtype in (torch.float32, torch.float64)
        )
        assert found.dtype == torch.float32
        assert worst([found], [expected]) < 1e-5


@pytest.mark.parametrize("side", [4, 8])
def test_a_network_in_bfloat16_has_gradients_near_those_in_float32(side):
    torch.manual_seed(0)
    network = backbones.build({"name": "resnet18", "width": 16}, (3, side, side), 4)
    network.to(memory_format=LAST)
    x, y = torch.randn(16, 3, side, side), torch.arange(16) % 4
    gradients = []
    for cast in (False, True):
        network.zero_grad()
        poison()
        with torch.autocast("cpu", enabled=cast):
            logits = network(x)
        F.cross_entropy(logits.float(), y).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert F.cosine_similarity(*gradients, dim=0) > 0.9


def network_gradients(method, params, width, dtype):
    """Return all gradients of a small ResNet without kinks, at which rounding would decide."""

    def smooth():
        network = Subject(method, params, "resnet18", {"width": width}).plain()
        replace_modules(network, nn.ReLU, lambda _: nn.SiLU())
        return network

    torch.manual_seed(0)
    images, labels = torch.randn(5, *SHAPE).to(dtype), torch.arange(5)
    ensemble = build(method, params, smooth, 0).to(dtype)
    gradients = []
    for part, _ in ensemble.independent_members():
        for phase in part.phases():
            phase.begin()
            logits, y_MB = part.eval().training_forward(images, labels)
            part.loss(logits, y_MB, 0.0).backward()
            phase.end()
        gradients += [p.grad for p in part.parameters() if p.grad is not None]
    return gradients


WRAPPED = [
    *(("single", width) for width in range(2, 8)),
    *(("batch_ensemble", width) for width in (2, 4, 7)),
    *((method, 3) for method in ("film_ensemble", "masksembles", "mimo", "rank1_bnn")),
    *((method, 4) for method in ("packed_ensembles", "quantised_ensemble")),
]


@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize(("method", "width"), WRAPPED)
def test_gradients_of_a_narrow_network_are_those_in_double_precision(method, width, threads):
    params = examples_of(method)[0]
    found, expected = (
        network_gradients(method, params, width, dtype) for dtype in (torch.float32, torch.float64)
    )
    assert worst(found, expected) < 1e-5


class Risky(TorchDispatchMode):
    """Collects the shapes of weights with which the faulty kernel would be chosen."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        y = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten.convolution.default:
            shape, stride, groups = args[1].shape, args[3], args[8]
            lies_last = y.stride(1) < y.stride(3)
            one_pixel = shape[2:] == (1, 1) and not any(args[4])
            if lies_last and one_pixel and groups == 1 and shape[1] < 16 and max(stride) > 1:
                self.weights.append(tuple(shape))
        return y


def accepted(method):
    """Return narrow networks that the method can wrap, in each of its configurations."""
    for params in examples_of(method):
        subject = Subject(method, params, "resnet18", {"width": 4})
        with contextlib.suppress(StudyError):
            subject.make()
            yield subject


@pytest.mark.parametrize("method", names("study.methods"))
def test_no_method_on_a_narrow_network_meets_the_kernel(method):
    subjects = list(accepted(method))
    assert subjects
    for subject in subjects:
        with Risky() as risky:
            ensemble = subject.trained().eval()
            ensemble(inputs())
            alone = ensemble.member_network(0)
            if alone is not None:
                alone.to(memory_format=LAST)(inputs())
        assert risky.weights == []


PLUGIN = """
from torch import nn
from study.spec import Strict

class Params(Strict):
    name: str = "narrow_network"

class Network(nn.Module):
    channels_last = True

    def __init__(self, params, shape, classes):
        super().__init__()
        self.first = nn.Conv2d(shape[0], 5, 1, stride=2)
        self.last = nn.Conv2d(5, 6, 1, stride=(1, 2), padding="valid", padding_mode="reflect")
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return self.head(self.last(self.first(x)).mean((2, 3)))
"""


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """Return a maker of a network of a user's, of torch's own layers."""
    (tmp_path / "narrow_networks").mkdir()
    (tmp_path / "narrow_networks" / "plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [m for m in sys.modules if m.startswith("narrow_networks")]:
        monkeypatch.delitem(sys.modules, module)
    return lambda: backbones.build({"name": "narrow_networks.plugin"}, SHAPE, 4)


@pytest.mark.parametrize("method", ["single", "batch_ensemble", "mimo", "packed_ensembles"])
def test_a_network_of_plain_layers_does_not_meet_the_kernel(narrow, method):
    with Risky() as risky:
        ensemble = build(method, examples_of(method)[0], narrow, 0)
        ensemble(inputs())
        ensemble.member_network(1 if ensemble.members > 1 else 0).to(memory_format=LAST)(inputs())
    assert risky.weights == []


def test_plain_layers_would_meet_it():
    with Risky() as risky:
        nn.Conv2d(3, 6, 1, stride=2).to(memory_format=LAST)(inputs())
    assert risky.weights == [(6, 3, 1, 1)]


def test_a_layer_that_is_made_safe_stays_the_same_layer():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 1, stride=2), nn.Conv2d(5, 5, 3))
    before, x = copy.deepcopy(network), inputs()
    make_safe(network)
    assert [type(layer) for layer in network] == [Convolution, Convolution]
    for twin in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.state_dict().keys() == before.state_dict().keys()
        assert torch.equal(twin(x), before(x))
        with Risky() as risky:
            twin.to(memory_format=LAST)(x)
        assert risky.weights == []


@pytest.mark.parametrize(
    ("form", "channels", "kernel", "options"),
    [
        (torch.clone, 4, 1, (2, 0, 1)),
        (channels_last, 16, 1, (2, 0, 1)),
        (channels_last, 4, 1, (1, 0, 1)),
        (channels_last, 4, 1, (2, 1, 1)),
        (channels_last, 4, 1, (2, 0, 2)),
        (channels_last, 4, 3, (2, 0, 1)),
    ],
)
def test_what_is_not_at_risk_is_left_to_torch(form, channels, kernel, options, monkeypatch):
    def unexpected(*_):
        raise AssertionError("takes the pixels beforehand")

    monkeypatch.setattr(F, "avg_pool2d", unexpected)
    stride, padding, groups = options
    x = form(torch.randn(2, channels * groups, 8, 8))
    weight = form(torch.randn(6, channels, kernel, kernel))
    conv2d(x, weight, None, (stride, stride), (padding, padding), (1, 1), groups)
