"""The checks of user input. Each raises one error that names function, rule, values and remedy."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real
from typing import TypeGuard

import torch
from torch import Tensor
from torch.fx import Proxy

from .plain import may_be_read

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# The remedy for more than one vector a row.
SEVERAL = (
    "{name}.flatten(0, -2) makes a row of every vector, and of the rows of one item negatives of "
    "each other"
)


class InputError(ValueError):
    """An argument breaks a rule of the function it was given to."""


def shape(tensor: Tensor) -> str:
    """``(256, 512)``, as error messages print it."""
    return str(tuple(tensor.shape))


def check_tensor(caller: str, name: str, value: object) -> Tensor:
    """``value`` is a tensor."""
    if not isinstance(value, Tensor):
        got = type(value).__name__
        raise TypeError(f"{caller}: {name} must be a tensor, got {got}{conversion(name, value)}")
    return value


def conversion(name: str, value: object) -> str:
    """What makes a tensor of ``value``, as the end of a message; nothing if it holds no numbers."""
    if isinstance(value, Proxy):
        return "; torch.fx cannot trace a loss, leave it out of what is traced"
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return f"; use torch.stack({name}) or torch.cat({name})"
    if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
        return f"; use torch.as_tensor({name})"
    return ""


def check_embedding(caller: str, name: str, value: object, several: str = SEVERAL) -> Tensor:
    """``value`` is a matrix of embeddings: [rows, size], real floating point.

    ``several`` is what to do with more than one vector a row: flattened, they are another loss.
    """
    tensor = check_tensor(caller, name, value)
    if tensor.dim() != 2:
        remedy = ""
        if tensor.dim() == 1:
            remedy = f"; one vector is a row, {name}.unsqueeze(0)"
        elif tensor.dim() > 2:
            remedy = "; " + several.format(name=name, count=tensor.shape[1])
        raise InputError(
            f"{caller}: {name} must be [rows, embedding size], got {shape(tensor)}{remedy}"
        )
    if tensor.dtype not in FLOATS:
        raise InputError(
            f"{caller}: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}"
        )
    return tensor


def check_same_size(caller: str, **embeddings: Tensor) -> None:
    """Both embedding sets have one embedding size."""
    (first, a), (second, b) = embeddings.items()
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{caller}: {first} and {second} need the same embedding size, "
            f"got {first} {shape(a)} and {second} {shape(b)}"
        )


def check_paired(caller: str, several: str = SEVERAL, **embeddings: Tensor) -> None:
    """Both are matrices of embeddings of one shape: row i of each belongs together."""
    (first, a), (second, b) = embeddings.items()
    check_embedding(caller, first, a, several)
    check_embedding(caller, second, b, several)
    if a.shape != b.shape:
        check_same_size(caller, **embeddings)
        raise InputError(
            f"{caller}: row i of {first} belongs to row i of {second}, so both need the same "
            f"number of rows, got {first} {shape(a)} and {second} {shape(b)}"
        )


def check_vector(caller: str, name: str, value: object, length: int) -> Tensor:
    """``value`` is a real floating-point vector of one entry a row (or column)."""
    tensor = _check_length(caller, name, value, length)
    if not tensor.is_floating_point():
        raise InputError(f"{caller}: {name} must be floating point, got {tensor.dtype}")
    return tensor


def check_integers(caller: str, name: str, value: object, length: int) -> Tensor:
    """``value`` is an integer (or bool) vector; returned as contiguous int64."""
    one_hot = f"; one number a row: of one-hot rows that is {name}.argmax(1)"
    tensor = _check_length(caller, name, value, length, one_hot)
    if tensor.is_floating_point() or tensor.is_complex():
        raise InputError(
            f"{caller}: {name} must be integers, got {tensor.dtype}; "
            "encode labels as int64, one number a class"
        )
    if tensor.dtype == torch.uint64:
        raise InputError(
            f"{caller}: {name} must fit int64, got {tensor.dtype}, whose largest numbers do not; "
            f"pass {name}.to(torch.int64) if none is that large"
        )
    return tensor.to(torch.int64).contiguous().resolve_neg()


def check_index(caller: str, name: str, value: object, length: int, bound: int) -> Tensor:
    """``value`` holds a column below ``bound`` for each row, or -1 for none.

    Where a trace is made its values are not known: on a CPU the registered ops look at them again.
    """
    index = check_integers(caller, name, value, length)
    if not may_be_read(index):
        return index
    low, high = (int(end) for end in index.aminmax()) if length else (0, -1)
    if low < -1 or high >= bound:
        raise InputError(
            f"{caller}: {name} must lie in [-1, {bound}), where -1 means none, "
            f"got values from {low} to {high}"
        )
    return index


def check_starts(caller: str, name: str, value: object, bound: int) -> Tensor:
    """``value`` holds where consecutive groups of ``bound`` columns start, and where the last ends.

    As of :func:`check_index`, values are looked at where they are known.
    """
    starts = check_tensor(caller, name, value)
    if starts.dim() != 1 or not len(starts):
        raise InputError(
            f"{caller}: {name} must be [groups + 1]: where each group starts, and where the last "
            f"ends; got {shape(starts)}"
        )
    starts = check_integers(caller, name, starts, len(starts))
    if not may_be_read(starts):
        return starts
    low, high = int(starts[0]), int(starts[-1])
    if low < 0 or high > bound or bool((starts.diff() < 0).any()):
        raise InputError(
            f"{caller}: {name} must rise from at least 0 to at most the {bound} columns, "
            f"got values from {int(starts.min())} to {int(starts.max())}"
        )
    return starts


def is_number(value: object) -> TypeGuard[float]:
    """A real number, numpy's too, but no truth value."""
    if type(value) is float or type(value) is int:
        return True
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(caller: str, name: str, value: object, low: float, high: float) -> float:
    """``value`` is a finite number in [low, high]."""
    if not is_number(value):
        raise TypeError(f"{caller}: {name} must be a number, got {type(value).__name__}")
    # By comparisons, which a trace can make of a number that it keeps as a symbol.
    if not -math.inf < value < math.inf:
        raise InputError(f"{caller}: {name} must be a finite number, got {value}")
    if not low <= value <= high:
        raise InputError(
            f"{caller}: {name} must be a finite number in [{low}, {high}], got {value}"
        )
    return float(value)


def check_switch(caller: str, name: str, value: object) -> None:
    """``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{caller}: {name} must be True or False, got {value!r}")


def check_choice(caller: str, name: str, value: object, choices: Collection[str]) -> None:
    """``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{caller}: {name} must be one of {', '.join(choices)}, got {value!r}")


def _check_length(
    caller: str, name: str, value: object, length: int, of_matrix: str = ""
) -> Tensor:
    tensor = check_tensor(caller, name, value)
    if tensor.shape == (length,):
        return tensor
    remedy = ""
    if tensor.shape in ((length, 1), (1, length)):
        remedy = f"; use {name}.flatten()"
    elif tensor.dim() == 2 and len(tensor) == length:
        remedy = of_matrix
    raise InputError(f"{caller}: {name} must have shape ({length},), got {shape(tensor)}{remedy}")
