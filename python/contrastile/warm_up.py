"""Compiling before the first step what a loss will launch on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .losses.inputs import names_ids, taken_by_position
from .problem import InputError
from .problem.advice import unadvised

# Rows on a CPU, where nothing is compiled: the extension and torch's libraries are loaded.
CPU_ROWS = 32


def warm_up(
    loss: Callable[..., Any],
    n: int,
    d: int,
    dtype: torch.dtype = torch.float32,
    *,
    device: torch.device | str | None = None,
    **options: Any,
) -> None:
    """Compile what training steps of a loss will launch, so that none of them has to wait.

    A GPU's kernels are compiled when a loss first meets a kind of problem; Triton keeps them on
    disk, for later processes too. It takes a few seconds, and again for the first batch that no
    tile of the kernels divides, which is usually the last of an epoch. This computes both, forward
    and backward: a batch of ``n`` and one of ``n - 1``, of random numbers. Nobody's ``.grad`` and
    no state of a random generator changes. On a CPU nothing is compiled: a few rows are computed.

    Batches far smaller than ``n`` may launch other kernels; call it for their size too.

    Args:
        loss: a loss, a module of one, or a function of your own that calls one. What it takes by
            position is made here: integers for names that end in ``ids`` or ``labels``, unit
            vectors [n, d] for all others.
        n: rows of a batch.
        d: size of the embeddings.
        dtype: of the embeddings.
        device: of the embeddings; by default the current GPU, or the CPU where there is none.
        options: of the loss, as in training: they decide what is launched. Tensors of ``n`` rows
            are cut where a batch is smaller.

    Raises:
        InputError: ``n`` or ``d`` is not a positive integer, or the loss refuses an option.

    >>> import torch
    >>> from contrastile import clip_loss, warm_up
    >>> logit_scale = torch.nn.Parameter(torch.tensor(14.3))
    >>> warm_up(clip_loss, 4096, 512, torch.bfloat16, logit_scale=logit_scale)
    """
    for name, value in (("n", n), ("d", d)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"warm_up: {name} must be a positive integer, got {value!r}")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    # A module of a loss takes what its function does.
    names = taken_by_position(getattr(type(loss), "function", loss))
    with torch.inference_mode(False), torch.enable_grad(), unadvised():
        for rows in _batches(n, place):
            own = {
                name: value[:rows] if _has_rows(value, n) else value
                for name, value in options.items()
            }
            _step(loss(*_inputs(names, rows, d, dtype, place), **own))


def _batches(n: int, device: torch.device) -> list[int]:
    """Sizes that between them launch all kernels: tiles divide at most one of two neighbours."""
    if device.type == "cpu":
        return [min(n, CPU_ROWS)]
    return [n, n - 1] if n > 1 else [n]


def _inputs(
    names: tuple[str, ...], rows: int, d: int, dtype: torch.dtype, device: torch.device
) -> Iterator[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    for name in names:
        if names_ids(name):
            yield torch.arange(rows, device=device) // 2
        else:
            vectors = torch.randn(rows, d, generator=generator, device=device)
            yield normalize(vectors, dim=1).to(dtype).requires_grad_()


def _has_rows(value: object, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == n


def _step(output: Any) -> None:
    """The gradients of all that took part, left to nobody."""
    loss = output[0] if isinstance(output, tuple) else output
    torch.autograd.grad(loss.sum(), list(_leaves(loss.grad_fn)))


def _leaves(node: Any) -> Iterator[Tensor]:
    """What backward() would leave gradients in."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += [after for after, _ in node.next_functions]
