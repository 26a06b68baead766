"""A training step on a GPU never lets the host wait: it copies nothing and asks for no value.

Counted on torch's ``meta`` device, whose tensors have shapes and no values. Whatever a step does in
Python and in autograd is done as on a GPU; what would make the host wait is noted on its way.
"""

from collections import Counter
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from study.conformance import SHAPE, Subject
from study.errors import StudyError
from study.methods import single
from study.plugins import load_plugin, names
from study.regularisers import REGULARISERS
from study.spec import Regularisation, Training
from study.training.batches import DeviceImages
from study.training.fit import WHOLE_STEP, AtATime, fit

META, CPU = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
ASKED = {aten._local_scalar_dense: 1, aten.equal: True, aten.is_nonzero: True}
"""What asks for a value, and the answer that it gets."""
COUNTED = (
    *(aten.nonzero, aten.masked_select, aten.bincount, aten.repeat_interleave, aten.histc),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive),
)
"""What has a shape that depends on values."""
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index)
BATCH = 4


class Waits(TorchDispatchMode):
    """Notes in a counter, by the operation, what would let the host wait."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kind = func.overloadpacket
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
        on_device = any(t.device == META for t in tensors)
        # A kernel is given a number on the CPU as it is.
        on_host = any(t.device == CPU and t.dim() for t in tensors)
        wanted = kwargs.get("device")
        if on_host and (on_device or (kind is aten._to_copy and wanted == META)):
            self.counts[f"{kind} to the device"] += 1
        if on_device and kind in ASKED:
            self.counts[str(kind)] += 1
            return ASKED[kind]
        if on_device and kind is aten._to_copy and wanted == CPU:
            self.counts[f"{kind} to the host"] += 1
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        masks = kind in INDEXED and any(i is not None and i.dtype == torch.bool for i in args[1])
        if on_device and (masks or kind in COUNTED):
            self.counts[str(kind)] += 1
            return args[0]
        if kind in (aten._fused_sgd_, aten._fused_adamw_):
            return None  # For which meta has no kernel.
        return func(*args, **kwargs)


class Made(TorchFunctionMode):
    """Notes what Python makes on the device from values of its own, which are copied there."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [v for v in tree_leaves(args) if isinstance(v, torch.Tensor)]
        makes = func in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
        places = args[1] if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) else ()
        listed = any(isinstance(p, list) for p in (places if type(places) is tuple else (places,)))
        if (makes and result.device == META) or (listed and given[0].device == META):
            self.counts[str(func)] += 1
        return result


@pytest.fixture(autouse=True)
def meta_has_fused_optimisers(monkeypatch):
    optimizer = import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])


def per_step(make, regularisation=None, at_a_time=WHOLE_STEP, **training):
    """Return what a step more in each epoch lets the host wait for."""
    found = []
    for steps in (1, 2):
        images = np.zeros((steps * BATCH, *SHAPE), np.uint8)
        pixels = DeviceImages(images, torch.zeros(SHAPE[0]), torch.ones(SHAPE[0]), META)
        labels = torch.zeros(len(images), dtype=torch.long, device=META)
        counts = Counter()
        with Made(counts), Waits(counts):
            for part, _ in make().to(META).independent_members()[:1]:
                epochs = sum(phase.at_least for phase in part.phases())
                how = Training(**{"batch_size": BATCH, "epochs": epochs, "lr": 0.1} | training)
                term = regularisation or Regularisation()
                fit(part, pixels, labels, how, term, seed=0, at_a_time=at_a_time)
        found.append(counts)
    assert found[0]  # A loss is asked for in each epoch.
    return found[1] - found[0]


class Waiting(single.Ensemble):
    """A network whose training step does something more."""

    def __init__(self, act):
        super().__init__(single.Params(), Subject("single", {}, "mlp").plain, 0)
        self.act = act

    def training_forward(self, x, y_B):
        self.act(x)
        return super().training_forward(x, y_B)


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.sum().item(),
        lambda x: x.sum() > 0 and 1,
        lambda x: x.sum((1, 2, 3)).tolist(),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x[[0, 1]],
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.tensor([1.0]).to(x.device),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.equal(x, x),
        lambda x: x.cpu(),
        lambda x: x.flatten().long().bincount(minlength=2),
    ],
)
def test_waiting_is_seen(act):
    assert sum(per_step(lambda: Waiting(act)).values()) == 1


def test_what_does_not_wait_is_not_seen():
    assert not per_step(lambda: Waiting(lambda x: x[1:, [0][0]].mul(2.0).clamp(min=0.1)))


EXAMPLES = [
    (name, number)
    for name in names("study.methods")
    for number in range(len(load_plugin("study.methods", name).EXAMPLES))
]
NORMED = {"mlp": {"norm": "batch"}}
TURNS = AtATime(accumulation_steps=2, sequential_members=True)
CROPS = {"augment": "crop_flip"}


def subject(name, number, backbone):
    params = load_plugin("study.methods", name).EXAMPLES[number]
    return Subject(name, params, backbone, NORMED.get(backbone, {})).make


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_no_method_waits(name, number):
    backbone = "vit" if (name, number) == ("lora_ensemble", 2) else "mlp"
    assert not per_step(subject(name, number, backbone), **CROPS)


@pytest.mark.parametrize("term", REGULARISERS)
def test_no_diversity_term_waits(term):
    params = {"members": 3, "init": "normal", "init_std": 0.5}
    make = Subject("batch_ensemble", params, "mlp").make
    assert not per_step(make, Regularisation(name=term, weight=0.1))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_neither_optimiser_nor_schedule_nor_pieces_wait(optimizer):
    how = {"optimizer": optimizer, "warmup": 0.2, "label_smoothing": 0.1, "weight_decay": 0.1}
    assert not per_step(Subject("batch_ensemble", {}, "mlp").make, at_a_time=TURNS, **how)


METHODS, BACKBONES = names("study.methods"), names("study.backbones")
PAIRS = {
    *((name, backbone, "none") for name in METHODS for backbone in BACKBONES),
    *((name, "cnn", term) for name in METHODS for term in REGULARISERS),
    *(("batch_ensemble", backbone, term) for backbone in BACKBONES for term in REGULARISERS),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone", "term"), sorted(PAIRS))
def test_nothing_waits_with_anything(name, backbone, term):
    if name == "mimo" and term != "none":
        pytest.skip("Refused by the values of the labels, which here are none.")
    weight = None if term == "none" else 0.1
    try:
        found = per_step(subject(name, 0, backbone), Regularisation(name=term, weight=weight))
    except StudyError as error:
        pytest.skip(str(error))  # They do not go together.
    assert not found
