"""The one gate for tensors: plain memory on one device, or what a trace has in place of it.

Compiled code takes addresses. Where there is none to take, because torch traces, transforms or
fakes what is computed, a registered op stands for it (ops/library.py). All other tensors that only
stand for numbers (batched, sharded, sparse ...) are refused. Types alone decide here, so that all
ranks of a program decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .channels import Channel, Term
from .checks import InputError
from .pairs import Pairs
from .plain import (
    PLAIN,
    PLAIN_TYPES,
    WATCHED,
    is_plain,
    is_traced,
    key_bits,
    keys,
    leaves_functions_alone,
    thread_bits,
)
from .sweep import Reduction

P = ParamSpec("P")
T = TypeVar("T")
Parts: TypeAlias = Iterable[tuple[str, object]]

MODES_IN_PYTHON = WATCHED | keys("PythonDispatcher")
TRANSFORMS = keys("FuncTorchDynamicLayerFrontMode")
BATCHED = keys("Batched", "FuncTorchBatched")
# Tensors that torch.func wraps to differentiate them, and those that functionalisation makes of
# tensors that are written to.
WRAPPED = keys("FuncTorchGradWrapper", "Functionalize")

# Most options are one of these.
NO_TENSORS = frozenset({type(None), bool, int, float, str})
RECORDS = (Channel, Term, Reduction)
PARTED = (tuple, list, *RECORDS)

LEAVE_OUT = "leave the loss out of it"


def check_storage(caller: str, arguments: Mapping[str, object]) -> None:
    """All tensors among ``arguments`` are plain memory on one device, or belong to a trace.

    What is no tensor has checks of its own.
    """
    if torch.compiler.is_dynamo_compiling():
        # torch.compile would take a missing derivative for zero.
        if _transforms():
            raise RuntimeError(
                f"{caller}: torch.func inside of compiled code does not reach into the engine; "
                "call it outside, or leave it uncompiled by torch.compiler.disable"
            )
        # No tensor is real here. Those of other types than torch's own are looked at outside.
        if any(isinstance(v, Tensor) and type(v) not in PLAIN_TYPES for v in arguments.values()):
            torch.compiler.disable(check_storage)(caller, arguments)
        return
    if thread_bits():
        _check_transforms(caller)
    first: torch.device | None = None
    for number, (_, tensor) in enumerate(_tensors(arguments.items(), _parts)):
        if not (_has_memory(tensor) or _is_of_trace(tensor)):
            name = _names(arguments)[number]
            raise InputError(f"{caller}: {name} {_why_not(name, tensor)}")
        device = tensor.device
        if first is None:
            first = device
        elif device != first:
            names = _names(arguments)
            raise InputError(
                f"{caller}: {names[number]} must be on {first} as {names[0]} is, got {device}"
            )
    if first is not None:
        _check_made(caller, first)


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
    """The gradients that a backward pass starts from are plain memory."""
    name = "the gradient of its result"
    for gradient in gradients:
        if gradient is None or _has_memory(gradient):
            continue
        if key_bits(gradient) & BATCHED:
            raise RuntimeError(
                f"{caller}: {name} is a batch of gradients (is_grads_batched=True, "
                "vectorize=True, or vmap around the backward pass); take them one by one"
            )
        raise InputError(f"{caller}: {name} {_why_not('it', gradient)}")
    if is_traced():
        raise RuntimeError(
            f"{caller}: its backward pass cannot be traced after a forward pass that was not; "
            "trace both, or neither"
        )
    for gradient in gradients:
        if gradient is not None:
            return _check_made(caller, gradient.device)


def _check_transforms(caller: str) -> None:
    """torch.func may take a gradient (grad, vjp, functionalize) of a loss, and nothing else."""
    if not thread_bits() & TRANSFORMS:
        return
    present = _transforms()
    for transform in ("Vmap", "Jvp"):
        if transform in present:
            raise RuntimeError(
                f"{caller}: {transform.lower()} of torch.func (and jacrev, jacfwd, hessian, "
                "linearize, which are made of it) does not reach into its compiled code; take "
                "grad or vjp, and loops"
            )


def _transforms() -> tuple[str, ...]:
    """The transforms of torch.func that this thread is in, as they are while a graph is made."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return tuple([layer.key().name for layer in stack])


# What torch.compiler.assume_constant_result does; that imports all of torch._dynamo.
_transforms._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check_made(caller: str, device: torch.device) -> None:
    """Under the modes of this thread tensors are made of plain memory."""
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        made = torch.empty(0, device=device)
        if not (_has_memory(made) or _is_of_trace(made)):
            raise RuntimeError(
                f"{caller}: under a mode of this thread torch.empty {_why_not('it', made)}; "
                f"{LEAVE_OUT}"
            )


def _tensors(parts: Parts, parts_of: Callable[[str, Any], Parts]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``parts``, also in pairs, sequences and records, with its name."""
    for name, value in parts:
        if type(value) in NO_TENSORS:
            continue
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Pairs):
            # What is no tensor there is refused later, by its own check.
            yield from ((n, t) for n, t, *_ in value.extents() if isinstance(t, Tensor))
        elif isinstance(value, PARTED):
            yield from _tensors(parts_of(name, value), parts_of)


def _parts(name: str, value: Any) -> Parts:
    """Those of a sequence or a record, all by its name: to make others takes time."""
    return [
        (name, part) for part in (vars(value).values() if isinstance(value, RECORDS) else value)
    ]


def _named_parts(name: str, value: Any) -> Parts:
    """The same by their own names: ``planes[1]``, ``planes[1].row``."""
    if isinstance(value, RECORDS):
        return [(f"{name}.{field}", part) for field, part in vars(value).items()]
    fields = getattr(value, "_fields", None)
    if fields is not None:
        return [(f"{name}.{field}", part) for field, part in zip(fields, value, strict=True)]
    return [(f"{name}[{i}]", part) for i, part in enumerate(value)]


def _names(arguments: Mapping[str, object]) -> list[str]:
    """The names of all tensors, for the message about one of them."""
    return [name for name, _ in _tensors(arguments.items(), _named_parts)]


def _has_memory(tensor: Tensor) -> bool:
    return is_plain(tensor) and _bytes_needed(tensor) <= tensor.untyped_storage().nbytes()


def _is_of_trace(tensor: Tensor) -> bool:
    """Whether ``tensor`` stands, in a trace or a transform, for one that will have memory."""
    if not is_traced():
        return False
    if tensor.is_meta or key_bits(tensor) & BATCHED or tensor.layout != torch.strided:
        return False
    return bool(key_bits(tensor) & WRAPPED) or any(name(tensor) for name in TRACE_TYPES)


def _bytes_needed(tensor: Tensor) -> int:
    """How far into its storage a tensor reaches: beyond what is left of one that was resized?"""
    offset = tensor.storage_offset()
    if offset == 0 and tensor.is_contiguous():
        return int(tensor.nbytes)
    if tensor.is_contiguous():
        # An empty tensor, which is contiguous, reaches nowhere, wherever torch says it starts.
        return int(tensor.nbytes and tensor.nbytes + offset * tensor.itemsize)
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = offset + sum((size - 1) * stride for size, stride in steps)
    return int(last + 1) * tensor.itemsize


def _named(*names: str) -> Callable[[Tensor], bool]:
    """Whether a tensor is of a class so called. By name: to import some of the classes would take
    longer than to import this package.
    """
    return lambda tensor: any(base.__name__ in names for base in type(tensor).__mro__)


TRACE_TYPES = (_named("FakeTensor"), _named("FunctionalTensor"), torch._is_functional_tensor)

# The first that holds says what a tensor is, and what to pass instead.
REASONS: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (is_lazy, "is not initialised yet; run its module once before the loss"),
    (
        lambda tensor: bool(key_bits(tensor) & BATCHED),
        "is a batch of vmap, which does not reach into compiled code; take a loop",
    ),
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
        lambda tensor: (
            any(name(tensor) for name in TRACE_TYPES) or bool(key_bits(tensor) & WRAPPED)
        ),
        "is a {kind} of a trace or transform that is not going on; call the loss inside of it",
    ),
    (
        lambda tensor: bool(key_bits(tensor) & MODES_IN_PYTHON),
        "is a {kind}, whose numbers only its own class knows; pass a plain torch.Tensor",
    ),
    (
        lambda tensor: not leaves_functions_alone(type(tensor)),
        "is a {kind}, which changes what torch's functions do; pass "
        "{name}.as_subclass(torch.Tensor)",
    ),
    (
        lambda tensor: not key_bits(tensor) & ~PLAIN,
        "has lost its memory: its storage was freed or resized",
    ),
)


def _why_not(name: str, tensor: Tensor) -> str:
    for holds, text in REASONS:
        if holds(tensor):
            return text.format(name=name, tensor=tensor, kind=type(tensor).__name__)
    return f"is no plain tensor: {torch._C._dispatch_keys(tensor)}"
