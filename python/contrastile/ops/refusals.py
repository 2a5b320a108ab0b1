"""What the registered ops do not do, in words of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from ..engine.first_order import no_tangent
from ..problem.spec import parse
from ..problem.sweep_spec import parse_sweep


def check_no_tangent(caller: str, tensors: Iterable[Tensor]) -> None:
    """No tensor is dual. An op's own pass has to look: without a rule torch drops tangents.

    It runs below autograd, which is where tangents are known: of level 0, torch nests none.
    """
    include, exclude = torch._C._dispatch_tls_local_include_set(), _without_autograd()
    with torch._C._ForceDispatchKeyGuard(include, exclude):
        if any(unpack_dual(tensor, level=0).tangent is not None for tensor in tensors):
            raise no_tangent(caller)


def _without_autograd() -> torch._C.DispatchKeySet:
    """What this thread excludes, but for the keys of autograd."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        excluded = excluded.remove(key)
    return excluded


def remember_caller(ctx: Any, inputs: Iterable[Any], output: Any) -> None:
    """Keep for the backward pass, which is an error, the function that the error names."""
    ctx.caller = _caller(inputs)


def no_second_derivative(ctx: Any, *upstream: Any) -> Any:
    """The backward pass of a backward pass."""
    raise RuntimeError(
        f"{ctx.caller}: double backward is not supported, a loss can be differentiated once; use "
        "the dense reference formula of the loss for second derivatives"
    )


def no_batch(info: Any, in_dims: Any, *args: Any) -> Any:
    """A batch of calls, of vmap."""
    raise RuntimeError(
        f"{_caller(args)}: vmap does not reach into its compiled code; take a loop over the batch"
    )


def _caller(args: Iterable[Any]) -> str:
    """The function that called an op with these arguments, a spec among them or none."""
    specs = [text for text in args if isinstance(text, str) and text.startswith("(")]
    if not specs:
        return "gather_dot"
    sweeps = specs[0].startswith("((")
    return parse_sweep(specs[0]).caller if sweeps else parse(specs[0]).caller
