"""The primitives once more, dense: what the streamed ones are compared with, on all of S at once.

Nothing here comes from the package. A predicate is a bool matrix, a channel or term a dataclass
of plain tensors, and every gradient is autograd's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from helpers import Arguments, assert_results_close, floats, generator
from torch import Tensor

PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "SOFTPLUS": lambda x: -F.logsigmoid(-x),
    "RELU": F.relu,
    "IDENTITY": lambda x: x,
    "SQUARE": torch.square,
    "SIGMOID": torch.sigmoid,
}


@dataclass(frozen=True)
class DenseChannel:
    kept: Tensor
    factor: float = 1.0
    row_log_weight: Tensor | None = None
    col_log_weight: Tensor | None = None
    class_log_weights: Sequence[tuple[Tensor, float]] = field(default=())

    def reduce(self, scores: Tensor, dim: int) -> Tensor:
        exponent = self.factor * scores
        if self.row_log_weight is not None:
            exponent = exponent + self.row_log_weight[:, None]
        if self.col_log_weight is not None:
            exponent = exponent + self.col_log_weight
        for mask, weight in self.class_log_weights:
            exponent = exponent + weight * mask.to(exponent.dtype)
        exponent = exponent.masked_fill(~self.kept, -torch.inf)
        nothing = ~self.kept.any(dim)
        # One finite entry in an empty line keeps NaN out of the gradient.
        filled = torch.where(nothing.unsqueeze(dim), 0.0, exponent)
        return torch.where(nothing, -torch.inf, filled.logsumexp(dim))


@dataclass(frozen=True)
class DenseTerm:
    phi: str
    kept: Tensor
    factor: float = 1.0
    threshold: Tensor | None = None

    def reduce(self, scores: Tensor, dim: int) -> Tensor:
        argument = self.factor * scores
        if self.threshold is not None:
            argument = argument - self.threshold[:, None]
        return torch.where(self.kept, PHI[self.phi](argument), 0.0).sum(dim)


def score_matrix(
    query: Tensor,
    key: Tensor | None = None,
    scale: float | Tensor = 1.0,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
) -> Tensor:
    """S in full."""
    scores = query @ (query if key is None else key).T
    scores = scores * (scale[:, None] if isinstance(scale, Tensor) and scale.ndim else scale)
    scores = scores if row_bias is None else scores + row_bias[:, None]
    return scores if col_bias is None else scores + col_bias


def everything(arguments: Arguments) -> Tensor:
    """The predicate that keeps all pairs."""
    rows, key = len(arguments["query"]), arguments.get("key")
    return torch.ones(rows, rows if key is None else len(key), dtype=torch.bool)


def reduced(
    arguments: Arguments,
    reductions: Sequence[DenseChannel | DenseTerm],
    rows: bool = True,
    columns: bool = False,
) -> dict[str, Tensor]:
    """What a primitive returns, by name: ``rows 0``, ``columns 0``, ``rows 1`` ..."""
    scores = score_matrix(**arguments)
    sides = [("rows", 1)] * rows + [("columns", 0)] * columns
    return {
        f"{side} {i}": reduction.reduce(scores, dim)
        for i, reduction in enumerate(reductions)
        for side, dim in sides
    }


def named(stats: Any) -> dict[str, Tensor]:
    """The differentiable stats of a primitive, by name."""
    sides = {"rows": stats.rows, "columns": stats.columns}
    return {f"{side} {i}": v for side, values in sides.items() for i, v in enumerate(values)}


def evaluate_all(
    function: Callable[[Arguments], dict[str, Tensor]],
    arguments: Arguments,
    used: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Outputs, and the gradient of each leaf for a random upstream of each output (of ``used``)."""
    leaves = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in floats(arguments).items()
        if tensor.requires_grad
    }
    outputs = function({**arguments, **leaves})
    total = sum(
        weighted_sum(output, seed)
        for seed, name in enumerate(sorted(outputs))
        if (used is None or name in used) and (output := outputs[name]).requires_grad
    )
    gradients = torch.autograd.grad(
        total, tuple(leaves.values()), allow_unused=True, materialize_grads=True
    )
    results = {name: output.detach() for name, output in outputs.items()}
    return {**results, **dict(zip((f"d {name}" for name in leaves), gradients, strict=True))}


def weighted_sum(output: Tensor, seed: int) -> Tensor:
    """A scalar whose gradient is random; entries of -inf carry none."""
    weight = torch.randn(output.shape, generator=generator(100 + seed), dtype=torch.float64)
    finite = torch.where(torch.isneginf(output), 0.0, output)
    return (finite * weight.to(output.dtype)).sum()


def compare(
    ours: Callable[[Arguments], dict[str, Tensor]],
    dense: Callable[[Arguments], dict[str, Tensor]],
    arguments: Arguments,
    used: Sequence[str] | None = None,
    rtol: float = 1e-10,
) -> None:
    """Outputs and gradients agree; -inf stands in the same places."""
    got, expected = evaluate_all(ours, arguments, used), evaluate_all(dense, arguments, used)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.isneginf(got[name]), torch.isneginf(value)), name
        assert not value.isnan().any(), f"the dense {name} decides nothing"
    assert_results_close(
        {name: torch.where(torch.isneginf(v), 0.0, v) for name, v in got.items()},
        {name: torch.where(torch.isneginf(v), 0.0, v) for name, v in expected.items()},
        rtol=rtol,
    )


def inputs(
    rows: int = 23,
    cols: int | None = 31,
    size: int = 6,
    scale: str = "float",
    biases: Sequence[str] = (),
    seed: int = 0,
) -> Arguments:
    """fp64 arguments of a primitive, every float tensor a leaf; ``cols=None``: self mode."""
    rng = generator(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    scales: dict[str, float | Tensor] = {
        "float": 1.7,
        "0-d": torch.tensor(1.7, dtype=torch.float64, requires_grad=True),
        "one": torch.tensor([1.7], dtype=torch.float64, requires_grad=True),
        "per row": leaf(rows),
    }
    arguments: Arguments = {"query": leaf(rows, size), "key": None, "scale": scales[scale]}
    if cols is not None:
        arguments["key"] = leaf(cols, size)
    lengths = {"row_bias": rows, "col_bias": rows if cols is None else cols}
    return {**arguments, **{name: leaf(lengths[name]) for name in biases}}
