"""The one gate for tensors: plain memory on one device, or an error before anything is read.

Compiled code takes addresses and checks read values. Neither can be done with a tensor that only
stands for numbers (fake, traced, batched, sharded, sparse ...), and a graph that is recorded
around a call would hold this call's numbers for ever. Types alone decide here, so that all ranks
of a program decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .channels import Channel, Term
from .checks import InputError
from .pairs import Pairs

P = ParamSpec("P")
T = TypeVar("T")


def _keys(*names: str) -> int:
    """Keys of torch's dispatcher as the bits of one number."""
    bits = 0
    for name in names:
        bits |= torch._C.DispatchKeySet(torch._C._dispatch_key_parse(name)).raw_repr()
    return bits


# All that the dispatcher may meet on its way to the kernel of a plain tensor. What else it would
# stop at, in a torch to come too, means something that the memory alone does not tell.
PLAIN = _keys(
    *("CPU", "CUDA", "BackendSelect", "ADInplaceOrView", "Conjugate", "Negative"),
    *("AutogradCPU", "AutogradCUDA", "AutocastCPU", "AutocastCUDA"),
)
MODES_IN_PYTHON = _keys("Python", "PythonTLSSnapshot", "PythonDispatcher")
TRANSFORMS = _keys("FuncTorchDynamicLayerFrontMode")
BATCHED = _keys("Batched", "FuncTorchBatched")

_dispatch_keys = torch._C._dispatch_keys
_thread_keys = torch._C._dispatch_tls_local_include_set

PLAIN_TYPES = (Tensor, Parameter)
# What a subclass has for __torch_function__ that changes no function of torch.
UNCHANGED = (vars(Tensor)["__torch_function__"].__func__, torch._C._disabled_torch_function_impl)

LEAVE_OUT = "leave the loss out of it, as torch.compile does by itself"
NO_TRACE = (
    "cannot be traced or run on fake tensors (make_fx, torch.export, torch.jit.trace, "
    "torch.onnx.export, FakeTensorMode): its compiled code needs memory, and in a graph this "
    f"call's numbers would stay; {LEAVE_OUT}"
)


def check_storage(caller: str, arguments: Mapping[str, object]) -> None:
    """All tensors among ``arguments`` are plain memory on one device, and the call is not traced.

    What is no tensor has checks of its own.
    """
    if torch.compiler.is_dynamo_compiling():
        if torch.compiler.is_exporting():
            raise RuntimeError(f"{caller}: {NO_TRACE}")
        # No tensor is real here. Those of other types than torch's own are looked at outside.
        if any(isinstance(v, Tensor) and type(v) not in PLAIN_TYPES for v in arguments.values()):
            torch.compiler.disable(check_storage)(caller, arguments)
        return
    _check_thread(caller)
    first: tuple[str, torch.device] | None = None
    for name, tensor in _tensors(arguments):
        if not _is_plain(tensor):
            raise InputError(f"{caller}: {name} {_why_not(name, tensor)}")
        device = tensor.device
        if first is None:
            first = name, device
        elif device != first[1]:
            raise InputError(
                f"{caller}: {name} must be on {first[1]} as {first[0]} is, got {device}"
            )
    if first is not None:
        _check_made(caller, first[1])


def gated(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` behind :func:`check_storage`, but for a ``caller`` that has been there itself.

    What torch makes of plain memory is plain memory: asking again took 13 us a step of 600.
    """
    names = tuple(signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        if "caller" not in kwargs:
            check_storage(function.__name__, {**dict(zip(names, args, strict=False)), **kwargs})
        return function(*args, **kwargs)

    return checked


def check_gradients(caller: str, gradients: Iterable[Tensor | None]) -> None:
    """The gradients that a backward pass starts from are plain memory, and it is not traced."""
    name = "the gradient of its result"
    for gradient in gradients:
        if gradient is None or _is_plain(gradient):
            continue
        if _key_bits(gradient) & BATCHED:
            raise RuntimeError(
                f"{caller}: {name} is a batch of gradients (is_grads_batched=True, "
                "vectorize=True, or vmap around the backward pass); take them one by one"
            )
        raise InputError(f"{caller}: {name} {_why_not('it', gradient)}")
    _check_thread(caller)
    for gradient in gradients:
        if gradient is not None:
            return _check_made(caller, gradient.device)


def _check_thread(caller: str) -> None:
    """Nothing transforms or records what this thread computes."""
    keys = _thread_keys().raw_repr() & ~PLAIN
    if not keys:
        return
    if keys & TRANSFORMS:
        raise RuntimeError(
            f"{caller}: transforms of torch.func (grad, vjp, jvp, vmap, functionalize ...) do not "
            "reach into its compiled code; use .backward() or torch.autograd.grad, and loops"
        )
    # torch's own modes for tensors without values have a key; those that watch have none.
    modes = _get_current_dispatch_mode_stack() if keys & MODES_IN_PYTHON else []
    if keys & ~MODES_IN_PYTHON or any(getattr(m, "_mode_key", None) is not None for m in modes):
        raise RuntimeError(f"{caller}: {NO_TRACE}")


def _check_made(caller: str, device: torch.device) -> None:
    """Under the modes of this thread tensors are made of plain memory."""
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        made = torch.empty(0, device=device)
        if not _is_plain(made):
            raise RuntimeError(
                f"{caller}: under a mode of this thread torch.empty {_why_not('it', made)}; "
                f"{LEAVE_OUT}"
            )


def _tensors(arguments: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``arguments``, also in pairs, channels and terms, with its name."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Pairs):
            yield from ((inner, tensor) for inner, tensor, _ in value.extents())
        elif isinstance(value, (Channel, Term)):
            yield from _tensors(vars(value))
        elif isinstance(value, (tuple, list)):
            for item in value:
                yield from _tensors({name: item})


def _key_bits(tensor: Tensor) -> int:
    return _dispatch_keys(tensor).raw_repr()


def _is_plain(tensor: Tensor) -> bool:
    kind = type(tensor)
    return (
        (kind in PLAIN_TYPES or _leaves_functions_alone(kind))
        and not _dispatch_keys(tensor).raw_repr() & ~PLAIN
        and _bytes_needed(tensor) <= tensor.untyped_storage().nbytes()
    )


def _leaves_functions_alone(kind: type[Tensor]) -> bool:
    function = kind.__torch_function__
    return getattr(function, "__func__", function) in UNCHANGED


def _bytes_needed(tensor: Tensor) -> int:
    """How far into its storage a tensor reaches: beyond what is left of one that was resized?"""
    offset = tensor.storage_offset()
    if tensor.is_contiguous():
        # An empty tensor, which is contiguous, reaches nowhere, wherever torch says it starts.
        return int(tensor.nbytes and tensor.nbytes + offset * tensor.itemsize)
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = offset + sum((size - 1) * stride for size, stride in steps)
    return int(last + 1) * tensor.itemsize


def _named(*names: str) -> Callable[[Tensor], bool]:
    """Whether a tensor is of a class so called: importing it would take longer than all of ours."""
    return lambda tensor: any(base.__name__ in names for base in type(tensor).__mro__)


# The first that holds says what a tensor is, and what to pass instead.
REASONS: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (is_lazy, "is not initialised yet; run its module once before the loss"),
    (
        lambda tensor: (
            torch._C._functorch.is_functorch_wrapped_tensor(tensor)
            or bool(_key_bits(tensor) & BATCHED)
        ),
        "was made inside a transform of torch.func and means nothing outside; return it from there",
    ),
    (_named("FakeTensor"), "is a fake tensor, it has no values to compute with; " + LEAVE_OUT),
    (torch._is_functional_tensor, "belongs to a trace (functionalisation); " + LEAVE_OUT),
    (_named("FunctionalTensor"), "belongs to a trace (functionalisation); " + LEAVE_OUT),
    (
        _named("DTensor"),
        "is a DTensor, of which each rank has a part; pass {name}.full_tensor()",
    ),
    (
        _named("AsyncCollectiveTensor"),
        "is on its way from other ranks; pass {name}.wait()",
    ),
    (_named("MaskedTensor"), "is a MaskedTensor; pass its rows without a mask, {name}.get_data()"),
    (
        lambda tensor: tensor.is_nested,
        "is a nested tensor; pass its rows as one matrix, torch.cat({name}.unbind())",
    ),
    (
        lambda tensor: tensor.layout != torch.strided,
        "must be a dense tensor, got {tensor.layout}; use .to_dense()",
    ),
    (lambda tensor: tensor.is_quantized, "is quantised; use .dequantize()"),
    (torch._is_zerotensor, "is a ZeroTensor, zeros without memory; use .clone()"),
    (lambda tensor: tensor.is_meta, "is on the meta device, it has no values to compute with"),
    (
        lambda tensor: tensor.device.type not in ("cpu", "cuda"),
        "is on {tensor.device}, which no backend serves; move it to the CPU or to a GPU",
    ),
    (
        lambda tensor: bool(_key_bits(tensor) & MODES_IN_PYTHON),
        "is a {kind}, whose numbers only its own class knows; pass a plain torch.Tensor",
    ),
    (
        lambda tensor: not _leaves_functions_alone(type(tensor)),
        "is a {kind}, which changes what torch's functions do; pass "
        "{name}.as_subclass(torch.Tensor)",
    ),
    (
        lambda tensor: not _key_bits(tensor) & ~PLAIN,
        "has lost its memory: its storage was freed or resized",
    ),
)


def _why_not(name: str, tensor: Tensor) -> str:
    for holds, text in REASONS:
        if holds(tensor):
            return text.format(name=name, tensor=tensor, kind=type(tensor).__name__)
    return f"is no plain tensor: {_dispatch_keys(tensor)}"
