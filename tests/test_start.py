"""Launches without the binder: only where it would choose the kernel that it chose before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contrastile.backends.triton import operands
from contrastile.backends.triton.launch import INTERPRETED
from contrastile.backends.triton.start import Start
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class Kernel:
    """Takes the place of one of Triton's: tells whether the binder saw a launch."""

    arg_names = ("x", "vectors", "count", "SIZE", "EVEN")

    def __init__(self) -> None:
        self.bound: list[dict[str, Any]] = []
        self.launched: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., Compiled]:
        def bind(*arguments: Any, **constants: Any) -> Compiled:
            self.bound.append(constants)
            return Compiled(self)

        return bind


class Compiled:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: self.kernel.launched.append((grid, *arguments))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def started(kernel: Kernel) -> Start:
    # Not in the order of the kernel's arguments.
    return Start(kernel, {"num_warps": 8}, EVEN=True, SIZE=16)


def memory() -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
    x, y, z = (torch.zeros(64) for _ in "xyz")
    return x, ((y, z),)


def test_the_second_launch_takes_the_kernel_of_the_first(kernel: Kernel) -> None:
    start, (x, vectors) = started(kernel), memory()
    for _ in range(3):
        start(7, x, vectors, 3)
    assert kernel.bound == [{"EVEN": True, "SIZE": 16, "num_warps": 8}]
    assert kernel.launched == [((7, 1, 1), x, vectors, 3, 16, True)] * 2


@pytest.mark.parametrize("place", ["argument", "in a tuple"])
def test_a_pointer_that_is_not_aligned_goes_by_the_binder(kernel: Kernel, place: str) -> None:
    start, (x, vectors) = started(kernel), memory()
    off = torch.zeros(64)[1:]
    other = (off, vectors) if place == "argument" else (x, ((x, off),))
    start(1, *other, 3)
    start(1, x, vectors, 3)
    start(1, *other, 3)
    start(1, x, vectors, 3)
    assert len(kernel.bound) == 3 and len(kernel.launched) == 1
    assert kernel.launched[0][1] is x


def test_descriptors_are_checked_once_and_made_for_each_tensor() -> None:
    launch = INTERPRETED
    assert launch.descriptors
    tensors = [torch.zeros(32, 24) for _ in range(2)]
    found = [operands.matrix(tensor, launch, 16, 8) for tensor in tensors]
    for tensor, own in zip(tensors, found, strict=True):
        assert isinstance(own, TensorDescriptor) and own.base is tensor
        assert vars(own) == vars(TensorDescriptor.from_tensor(tensor, [16, 8]))
    with pytest.raises(AssertionError, match="strides"):
        operands.matrix(torch.zeros(32, 23), launch, 16, 8)
