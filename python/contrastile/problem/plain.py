"""What is known of a tensor by its type alone: whether it is plain memory, and may be read.

A tensor that only stands for numbers (fake, traced, wrapped by a transform) has none to read, and
compiled code must not get its address.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def keys(*names: str) -> int:
    """Keys of torch's dispatcher as the bits of one number."""
    bits = 0
    for name in names:
        bits |= torch._C.DispatchKeySet(torch._C._dispatch_key_parse(name)).raw_repr()
    return bits


# All that the dispatcher may meet on its way to the kernel of a plain tensor. Where it would stop
# at any other key, one that a later torch adds among them, the tensor is more than its memory.
PLAIN = keys(
    *("CPU", "CUDA", "BackendSelect", "ADInplaceOrView", "Conjugate", "Negative"),
    *("AutogradCPU", "AutogradCUDA", "AutocastCPU", "AutocastCUDA"),
)
# What a thread has while modes written in Python are active.
WATCHED = keys("Python", "PythonTLSSnapshot")

PLAIN_TYPES = (Tensor, Parameter)
# What a subclass has for __torch_function__ that changes no function of torch.
UNCHANGED = (vars(Tensor)["__torch_function__"].__func__, torch._C._disabled_torch_function_impl)

_dispatch_keys = torch._C._dispatch_keys
_thread_keys = torch._C._dispatch_tls_local_include_set


def key_bits(tensor: Tensor) -> int:
    """The keys of a tensor."""
    return int(_dispatch_keys(tensor).raw_repr())


def thread_bits() -> int:
    """The keys of this thread beside those of plain tensors."""
    return int(_thread_keys().raw_repr()) & ~PLAIN


def is_traced() -> bool:
    """Whether what this thread computes is recorded, transformed, or made without values.

    torch's own modes for that have a key; modes that only watch have none.
    """
    if torch.compiler.is_dynamo_compiling():
        return True
    bits = thread_bits()
    if not bits:
        return False
    if bits & ~WATCHED:
        return True
    modes = _get_current_dispatch_mode_stack()
    return any(getattr(mode, "_mode_key", None) is not None for mode in modes)


def leaves_functions_alone(kind: type[Tensor]) -> bool:
    """Whether torch's functions do for a tensor of this class what they do for others."""
    if kind in PLAIN_TYPES:
        return True
    function = kind.__torch_function__
    return getattr(function, "__func__", function) in UNCHANGED


def is_plain(tensor: Tensor) -> bool:
    """Whether all there is to a tensor is its memory."""
    return leaves_functions_alone(type(tensor)) and not _dispatch_keys(tensor).raw_repr() & ~PLAIN


def known_number(number: float, device: torch.device) -> float | Tensor:
    """``number``, or a tensor of it where a trace has only a symbol: torch.compile, of an argument
    that changes from call to call.
    """
    if not _may_be_symbol(number):
        return number
    # Not at the top, as it takes sympy.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    if has_static_value(number):
        return number
    # As a product, which torch compiles for all numbers; torch.full it would for each anew.
    return torch.ones((), dtype=torch.float64, device=device) * number


def settled_number(number: float) -> float:
    """``number``, in place of a trace's symbol for it: the graph is then of this number alone."""
    if not _may_be_symbol(number):
        return number
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return float(guard_scalar(number))


def _may_be_symbol(number: float) -> bool:
    # In compiled code a symbol says that it is a float.
    return torch.compiler.is_dynamo_compiling() or isinstance(
        number, (torch.SymFloat, torch.SymInt)
    )


def may_be_read(tensor: Tensor) -> bool:
    """Whether ``tensor`` has values, and no graph is made of what is computed from them."""
    return not is_traced() and is_plain(tensor)
