"""Every kind of tensor that torch has beside plain memory, made from a plain tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.masked import masked_tensor
from torch.testing._internal.logging_tensor import LoggingTensor
from torch.testing._internal.two_tensor import TwoTensor


class Named(Tensor):
    """A subclass that inherits what torch's functions do."""


class Deaf(Tensor):
    """A subclass that torch's functions take for a tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Labelled(Tensor):
    """A subclass that has its own idea of torch's functions."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


class OwnParameter(torch.nn.Parameter):
    """A parameter with a class of its own."""


@dataclass(frozen=True)
class Wrapper:
    """How to wrap a tensor, what tensors can be wrapped, and a part of what a loss says to it."""

    name: str
    wrap: Callable[[Tensor], Tensor]
    says: str
    fits: Callable[[Tensor], bool] = lambda tensor: True


def is_fp32(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32


def escaped(transform: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Any]]) -> Any:
    """What is left of a tensor of torch.func after its transform."""

    def wrap(tensor: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(inner: Tensor) -> Tensor:
            kept.append(inner)
            return inner.sum()

        transform(keep)(tensor)
        return kept[0]

    return wrap


def masked(tensor: Tensor) -> Tensor:
    return masked_tensor(tensor.detach(), torch.ones_like(tensor, dtype=torch.bool))


def functional(tensor: Tensor) -> Tensor:
    with FunctionalTensorMode():
        return FunctionalTensor.to_functional(tensor.detach())


def lazy(tensor: Tensor) -> Tensor:
    return torch.nn.UninitializedParameter()


REFUSED = (
    Wrapper("sparse coo", Tensor.to_sparse, "must be a dense tensor, got torch.sparse_coo"),
    Wrapper(
        "sparse csr",
        Tensor.to_sparse_csr,
        "must be a dense tensor, got torch.sparse_csr",
        lambda tensor: tensor.dim() == 2,
    ),
    Wrapper(
        "mkldnn",
        Tensor.to_mkldnn,
        "must be a dense tensor, got torch._mkldnn",
        lambda tensor: is_fp32(tensor) and tensor.dim() == 2,
    ),
    Wrapper(
        "quantised",
        lambda tensor: torch.quantize_per_tensor(tensor.detach(), 0.1, 0, torch.qint8),
        "is quantised",
        is_fp32,
    ),
    Wrapper(
        "nested",
        lambda tensor: torch.nested.as_nested_tensor([tensor, tensor]),
        "is a nested tensor",
        lambda tensor: tensor.dim() > 0,
    ),
    Wrapper(
        "jagged",
        lambda tensor: torch.nested.as_nested_tensor([tensor, tensor], layout=torch.jagged),
        "is a nested tensor",
        lambda tensor: tensor.dim() > 0,
    ),
    Wrapper(
        "zeros",
        lambda tensor: torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype),
        "is a ZeroTensor",
    ),
    Wrapper("meta", lambda tensor: tensor.to("meta"), "meta"),
    Wrapper(
        "fake", lambda tensor: FakeTensorMode().from_tensor(tensor), "is a FakeTensor of a trace"
    ),
    Wrapper("functional", torch._to_functional_tensor, "is a Tensor of a trace"),
    Wrapper("functional in python", functional, "is a FunctionalTensor of a trace"),
    Wrapper(
        "collective",
        lambda tensor: AsyncCollectiveTensor(tensor.detach()),
        "is on its way from other ranks; pass",
    ),
    Wrapper("masked", masked, "is a MaskedTensor", Tensor.is_floating_point),
    Wrapper("logging", LoggingTensor, "is a LoggingTensor, whose numbers"),
    Wrapper("two", lambda tensor: TwoTensor(tensor, tensor), "is a TwoTensor, whose numbers"),
    Wrapper("labelled", lambda tensor: tensor.as_subclass(Labelled), "is a Labelled, which"),
    Wrapper("lazy", lazy, "is not initialised yet"),
    Wrapper("batched", escaped(torch.vmap), "is a batch of vmap", lambda tensor: tensor.dim() > 0),
    Wrapper(
        "of torch.func.grad",
        escaped(torch.func.grad),
        "is a Tensor of a trace",
        Tensor.is_floating_point,
    ),
)

TAKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "parameter": lambda tensor: torch.nn.Parameter(tensor, tensor.is_floating_point()),
    "own parameter": lambda tensor: OwnParameter(tensor, tensor.is_floating_point()),
    "buffer": torch.nn.Buffer,
    "named": lambda tensor: tensor.as_subclass(Named),
    "deaf": lambda tensor: tensor.as_subclass(Deaf),
    "copy on write": lambda tensor: torch._lazy_clone(tensor),
    "negated": lambda tensor: torch._neg_view(-tensor),
    "strided": lambda tensor: torch.stack([tensor, tensor], -1)[..., 0],
    "shared": lambda tensor: tensor.detach().clone().share_memory_(),
}
