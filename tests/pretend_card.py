"""A graphics card that is none: tensors count as CUDA tensors, and mixing devices raises.

The CPU computes everything, so that values are real and whatever depends on them runs as it would.
What is said to be on the card is marked in its storage. A tensor's device is what the mark says, and
an operation on tensors of both kinds raises where it would on a GPU: by torch's rule that a CPU
tensor of no dimension may join element-wise operations, and CPU indices may index.

Not pretended: random numbers of a GPU, its rounding, streams, and how much memory there is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from study.trials import new_row
from study.trials.trial import KEPT

CUDA: Final = torch.device("cuda", 0)
ATEN: Final = torch.ops.aten
ACROSS: Final = {ATEN.copy_.default, ATEN._to_copy.default, ATEN.set_.source_Tensor}
"""Operations that may take tensors of both devices."""
INDEXING: Final = {
    *(ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default),
    *(ATEN._index_put_impl_.default, ATEN._unsafe_index.Tensor),
}
"""Operations on the card that take indices of the CPU."""
READERS: Final = {Tensor.numpy, Tensor.__array__}
CPU_GENERATOR: Final = torch.Generator
CPU_AUTOCAST: Final = torch.autocast
IS_AUTOCAST_ENABLED: Final = torch.is_autocast_enabled
GET_AUTOCAST_DTYPE: Final = torch.get_autocast_dtype


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of both devices."""


def is_on_card(tensor: Tensor) -> bool:
    """Tell whether a tensor counts as one of the card."""
    with torch._C.DisableTorchFunction():
        if tensor.device.type == "meta":
            return False
        return getattr(tensor.untyped_storage(), "is_on_card", False)


def _mark(result: Any, on_card: bool = True) -> Any:
    for tensor in _tensors(result):
        with torch._C.DisableTorchFunction():
            if tensor.device.type != "meta":
                tensor.untyped_storage().is_on_card = on_card
    return result


def _tensors(tree: Any) -> list[Tensor]:
    """Return the tensors of nested arguments; torch's own walk took a fifth of a test's time."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for inner in tree for tensor in _tensors(inner)]


class _Calls(TorchFunctionMode):
    """What Python says to torch: it hears of the card, and may ask for it."""

    def __init__(self, operations: "_Operations") -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return CUDA if is_on_card(args[0]) else func(*args)
        if func == Tensor.is_cuda.__get__:
            return is_on_card(args[0])
        if func in READERS and is_on_card(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.pin_memory and not is_on_card(args[0]):
            return args[0].clone()
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._moved(func, args, kwargs)
        if func is Tensor.backward:
            with self.operations.within(is_on_card(args[0]) or None), self:
                names = ("gradient", "retain_graph", "create_graph")
                named = dict(zip(names, args[1:], strict=False)) | kwargs
                named["grad_tensors"] = named.pop("gradient", None)
                return torch.autograd.backward(args[0], **named)
        if func is Tensor.__deepcopy__:
            return _mark(func(*args, **kwargs), is_on_card(args[0]))
        return self._called(func, args, kwargs)

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = _tensors((args, kwargs))
        wanted, some = None, any(map(is_on_card, given))
        if (device := kwargs.get("device")) is not None:
            kind = torch.device(device).type
            if kind == "meta":
                return func(*args, **kwargs)
            wanted, kwargs["device"] = kind == "cuda", torch.device("cpu")
        elif func is Tensor.new_tensor:
            wanted = is_on_card(args[0])
        _check_generator(kwargs.get("generator"), some if wanted is None else wanted)
        with self.operations.within(wanted, some):
            result = func(*args, **kwargs)
        if wanted is not None:
            if func is torch.as_tensor:
                result = result.clone()  # A move never shares memory.
            _mark(result, wanted)
        return result

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        before = is_on_card(tensor)
        after, dtype = {Tensor.cuda: True, Tensor.cpu: False}.get(func, before), kwargs.get("dtype")
        for value in (
            [*rest, kwargs.get("device"), kwargs.get("other")] if func is Tensor.to else ()
        ):
            if isinstance(value, Tensor):
                after, dtype = is_on_card(value), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, str | torch.device):
                after = torch.device(value).type == "cuda"
        options = {"memory_format": kwargs.get("memory_format", torch.preserve_format)}
        copy = after != before or kwargs.get("copy", False)
        with self.operations.within(after):
            result = tensor.to(dtype or tensor.dtype, copy=copy, **options)
        return _mark(result, after)


class _Operations(TorchDispatchMode):
    """What torch computes, in backward passes too: each operation on one device alone.

    Attributes:
        wanted: Whether the call at work asks for the card, or None where it does not say.
        some: Whether the call at work was given a tensor of the card.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wanted: bool | None = None
        self.some = False

    @contextmanager
    def within(self, wanted: bool | None, some: bool = False) -> Iterator[None]:
        """Note what a call asks for, as long as it runs."""
        before = self.wanted, self.some
        self.wanted, self.some = wanted, some or bool(wanted)
        try:
            yield
        finally:
            self.wanted, self.some = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [t for t in _tensors((args, kwargs)) if t.device.type != "meta"]
        marks = [is_on_card(tensor) for tensor in given]
        if any(marks) and not all(marks):
            _refuse_mixture(func, args, given, marks)
        result = func(*args, **kwargs)
        if func is ATEN.copy_.default:
            return result
        on_card = any(marks) or (not given and self.some)
        if self.wanted is not None and _makes(func):
            on_card = self.wanted
        if on_card:
            _mark(result)
        return result


@cache
def _makes(func: Any) -> bool:
    """Tell whether an operation takes the device of what it makes."""
    return any(argument.name == "device" for argument in func._schema.arguments)


def _refuse_mixture(
    func: Any, args: tuple[Any, ...], given: list[Tensor], marks: list[bool]
) -> None:
    """Raise unless a GPU would take these tensors together."""
    if func in ACROSS or (func in INDEXING and is_on_card(args[0])):
        return
    here = [tensor for tensor, mark in zip(given, marks, strict=True) if not mark]
    scalars = all(tensor.dim() == 0 for tensor in here)
    writes_here = func._schema.is_mutable and not marks[0]
    if scalars and not writes_here and _takes_scalars(func):
        return
    pairs = zip(given, marks, strict=True)
    shapes = ", ".join(f"{'cuda' if mark else 'cpu'} {tuple(t.shape)}" for t, mark in pairs)
    raise MixedDevicesError(f"{func}: tensors must be on one device, but are {shapes}")


def _takes_scalars(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags or func._schema.name.startswith("aten::_fused_")


def _check_generator(generator: Any, on_card: bool) -> None:
    if generator is not None and getattr(generator, "is_on_card", False) != on_card:
        want, have = ("cuda", "cpu") if on_card else ("cpu", "cuda")
        raise MixedDevicesError(f"Expected a '{want}' generator device but found '{have}'")


class _Generator(CPU_GENERATOR):
    """A generator of the card, or of the CPU."""

    is_on_card = False

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        made = super().__new__(cls, "cpu")
        made.is_on_card = torch.device(device).type == "cuda"
        return made

    @property
    def device(self) -> torch.device:
        return CUDA if self.is_on_card else torch.device("cpu")


class _Autocast(CPU_AUTOCAST):
    """Autocast of the card's type is that of what computes."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _no_stream(optimizer: Any) -> None:
    pass


def _state(device: Any = None) -> Tensor:
    return torch.get_rng_state()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "a card that is none",
    "synchronize": lambda device=None: None,
    "max_memory_allocated": lambda device=None: 1,
    "reset_peak_memory_stats": lambda device=None: None,
    "get_rng_state": _state,
    "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
}


@contextmanager
def without_onednn() -> Iterator[None]:
    """Have torch's own kernels compute."""
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


@contextmanager
def pretend_card() -> Iterator[None]:
    """Have torch believe, in this process, that there is a card."""
    with ExitStack() as stack:
        for name, function in FUNCTIONS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        of_cpu = {
            "is_autocast_enabled": IS_AUTOCAST_ENABLED,
            "get_autocast_dtype": GET_AUTOCAST_DTYPE,
        }
        for name, function in of_cpu.items():
            asked = lambda kind="cuda", own=function: own("cpu" if kind == "cuda" else kind)  # noqa: E731
            stack.enter_context(mock.patch.object(torch, name, asked))
        check = "_accelerator_graph_capture_health_check"  # Of a stream, of which there are none.
        stack.enter_context(mock.patch.object(torch.optim.Optimizer, check, _no_stream))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        # What avoids faulty kernels of oneDNN for CPUs does not do so for a card.
        stack.enter_context(without_onednn())
        for forget in (new_row.device_name.cache_clear, KEPT.clear):
            forget()
            stack.callback(forget)
        operations = _Operations()
        stack.enter_context(operations)
        stack.enter_context(_Calls(operations))
        yield
