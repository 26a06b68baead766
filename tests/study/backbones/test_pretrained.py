"""Weights that the user has: torchvision's and our own, and what is refused."""

import math
import pickle

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.models import resnet18

from study import backbones
from study.backbones import parameters
from study.errors import StudyError
from study.methods import build

SHAPE, CLASSES = (3, 32, 32), 5
RESNET = {"name": "resnet18", "stem": "large"}


def network(options, classes=CLASSES, shape=SHAPE):
    return backbones.build(parameters(options), shape, classes)


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    peer = resnet18(num_classes=CLASSES)
    for name, tensor in peer.state_dict().items():  # Norms start as 0 and 1, which hides mistakes.
        if tensor.is_floating_point():
            tensor.copy_(tensor + 0.1 * torch.rand_like(tensor) if "bn" in name else tensor)
    return peer.eval()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(theirs.state_dict(), path)
    return str(path)


@pytest.mark.peer
def test_torchvisions_resnet18_gives_torchvisions_logits_and_gradients(theirs, file):
    ours = network(RESNET | {"weights": file}).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))
    for model in (ours, theirs):
        model.zero_grad()
        model(x).square().mean().backward()
    own, other = ([p.grad for p in model.parameters()] for model in (ours, theirs))
    torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_a_head_of_other_classes_keeps_its_own_start(theirs, file):
    torch.manual_seed(1)
    plain = network(RESNET, classes=7)
    torch.manual_seed(1)
    ours = network(RESNET | {"weights": file}, classes=7)
    assert torch.equal(ours.head.weight, plain.head.weight)
    assert torch.equal(ours.conv.weight, theirs.conv1.weight)


def test_a_head_that_is_fixed_replaces_the_files(file):
    ours = network(RESNET | {"weights": file, "head": "equiangular"})
    assert not isinstance(ours.head, nn.Linear)


@pytest.mark.parametrize("method", ["sve", "lora_ensemble"])
def test_without_a_warm_start_members_begin_at_the_files_weights(method, tmp_path):
    torch.manual_seed(2)
    base = network({"name": "mlp", "width": 16})
    torch.save(base.state_dict(), tmp_path / "mine.pt")
    options = {"name": "mlp", "width": 16, "weights": str(tmp_path / "mine.pt")}
    params = {"warm_start": 0.0} | ({"init_std": 1e-6} if method == "sve" else {})
    ensemble = build(method, params, lambda: network(options), 0).eval()
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(ensemble(x), base.eval()(x).expand(4, -1, -1), rtol=1e-3, atol=1e-4)


def test_a_method_that_would_lose_the_weights_refuses_them(tmp_path):
    torch.save(network({"name": "mlp", "width": 16}).state_dict(), tmp_path / "mine.pt")
    options = {"name": "mlp", "width": 16, "weights": str(tmp_path / "mine.pt")}
    with pytest.raises(StudyError, match=r"backbone\.weights must not be given"):
        build("packed_ensembles", {}, lambda: network(options), 0)


def test_the_spec_knows_the_weights_by_their_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": torch.zeros(1)}, "w.pt")
    first = parameters({"name": "mlp", "weights": "w.pt"})
    assert first.weights == str(tmp_path / "w.pt")
    assert parameters(first.model_dump()) == first
    torch.save({"x": torch.ones(1)}, "w.pt")
    assert parameters({"name": "mlp", "weights": "w.pt"}) != first
    with pytest.raises(StudyError, match=r"must have the SHA-256 .* that the study began"):
        backbones.build(first, SHAPE, CLASSES)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValidationError, match=r"weights must be a file, but .*none\.pt: No such"):
        parameters({"name": "mlp", "weights": str(tmp_path / "none.pt")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"y": torch.zeros(1)}, "must have the tensors of the backbone, but "),
        ({"y": "text"}, "cannot be read as that .* more than named tensors"),
        ({1: torch.zeros(1)}, "more than named tensors"),
        ({"y": torch.full((1,), math.nan)}, "not all values are finite"),
        ([torch.zeros(1)], "cannot be read as that"),
    ],
)
def test_another_content_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(StudyError, match=message):
        network({"name": "mlp", "weights": str(tmp_path / "w.pt")})


def test_another_shape_is_refused_by_name(file):
    with pytest.raises(StudyError, match=r"conv.weight must be of shape \[64, 3, 3, 3\], but is"):
        network(RESNET | {"weights": file, "stem": "small"})


def test_nothing_in_the_file_is_executed(tmp_path):
    class Touch:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    (tmp_path / "w.pt").write_bytes(pickle.dumps({"x": Touch()}))
    with pytest.raises(StudyError, match="cannot be read as that"):
        network({"name": "mlp", "weights": str(tmp_path / "w.pt")})
    assert not (tmp_path / "touched").exists()


def wrapped(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def cast(dtype):
    return lambda state: {name: tensor.to(dtype) for name, tensor in state.items()}


MLP = {"name": "mlp", "width": 16}
READ = {
    "DataParallel's names": (wrapped("module."), 0),
    "torch.compile's names": (wrapped("_orig_mod."), 0),
    "both": (wrapped("_orig_mod.module."), 0),
    "both the other way round": (wrapped("module._orig_mod."), 0),
    "Lightning's names": (wrapped("model."), 0),
    "an average's, as of SWA": (
        lambda state: wrapped("module.")(state) | {"n_averaged": torch.tensor(3)},
        0,
    ),
    "parameters": (lambda state: {k: nn.Parameter(t) for k, t in state.items()}, 0),
    "double": (cast(torch.float64), 0),
    "half": (cast(torch.float16), 1e-3),
    "bfloat16": (cast(torch.bfloat16), 1e-2),
}


@pytest.mark.parametrize("case", READ, ids="weights | {}".format)
def test_the_same_weights_in_another_form(case, tmp_path):
    change, tolerance = READ[case]
    base = network(MLP)
    torch.save(change(base.state_dict()), tmp_path / "w.pt")
    ours = network(MLP | {"weights": str(tmp_path / "w.pt")})
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(ours(x), base(x), rtol=tolerance, atol=tolerance)


def test_without_a_head_the_network_keeps_its_own(tmp_path):
    base = network(MLP)
    body = {k: t for k, t in base.state_dict().items() if not k.startswith("head.")}
    torch.save(body, tmp_path / "w.pt")
    torch.manual_seed(1)
    plain = network(MLP)
    torch.manual_seed(1)
    ours = network(MLP | {"weights": str(tmp_path / "w.pt")}).state_dict()
    expected = body | {k: t for k, t in plain.state_dict().items() if k.startswith("head.")}
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


UNFIT = {
    "a checkpoint of Lightning": (lambda s: {"state_dict": s, "epoch": 3}, "than named tensors: state_dict, epoch"),
    "a network": (lambda s: nn.Linear(2, 2), "or holds objects that are no tensors"),
    "arrays of numpy": (lambda s: {k: t.numpy() for k, t in s.items()}, "objects that are no tensors"),
    "integers": (cast(torch.int64), "weight must be of type torch.float32, but is torch.int64"),
    "complex numbers": (cast(torch.complex64), "must be of type torch.float32, but is torch.complex64"),
    "sparse": (lambda s: {k: t.to_sparse() for k, t in s.items()}, "cannot be read as that"),
    "without values": (lambda s: {k: t.to("meta") for k, t in s.items()}, "cannot be read as that"),
    "transposed": (lambda s: {k: t.T.contiguous() if t.ndim == 2 else t for k, t in s.items()}, "must be of shape"),
    "nothing": (lambda s: {}, "must have the tensors of the backbone, but head.bias is only in the backbone"),
    "another name of the head": (lambda s: {k.replace("head", "fc"): t for k, t in s.items()}, "fc.bias is only in the file"),
    "Git LFS's pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is Git LFS's pointer to the file; fetch it"),
    "a page that says 404": (b"<!doctype html>", "it is of another format, or holds objects"),
    "safetensors": (b"\x08" + bytes(7) + b"{}      ", "it is of another format, or holds objects"),
    "nothing at all": (b"", "cannot be read as that"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT, ids="weights | {}".format)
def test_what_is_no_state_of_the_network_is_one_line(case, tmp_path):
    content, message = UNFIT[case]
    if isinstance(content, bytes):
        (tmp_path / "w.pt").write_bytes(content)
    else:
        torch.save(content(network(MLP).state_dict()), tmp_path / "w.pt")
    with pytest.raises(StudyError, match=message) as caught:
        network(MLP | {"weights": str(tmp_path / "w.pt")})
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


def test_weights_in_the_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(network(MLP).state_dict(), tmp_path / "w.pt")
    assert parameters(MLP | {"weights": "~/w.pt"}).weights == str(tmp_path / "w.pt")
