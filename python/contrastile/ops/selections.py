"""What top_k and group_max share: the choice, its backend, and the node or the op that makes it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import profiler

from ..backends import choose_for_selection
from ..engine.picked import Picked
from ..engine.selections import Choice, Select, operands_of
from ..problem import Channel, Pairs, Problem, Scores
from ..problem.plain import is_traced
from ..problem.spec import Sizes
from . import library, selections_library


def select(
    caller: str,
    query: Tensor,
    key: Tensor | None,
    pairs: Pairs | None,
    backend: str,
    workspace: int | None,
    *,
    k: int = 1,
    starts: Tensor | None = None,
) -> Picked:
    """Columns of each row by their dot products, among checked pairs; see engine.selections."""
    # A default would be a symbol where torch.compile takes all numbers to change.
    scores = Scores.of(caller, query, key, 1.0)
    problem = Problem.of(
        caller, scores, [Channel(pairs)], Channel, backend=backend, workspace=workspace
    )
    spec, tensors = problem.lower()
    # Rows and columns of a symmetric S are picked from alike, but of each row.
    spec = spec._replace(triangle=False)
    sizes = Sizes.of(spec, tensors)
    chosen = choose_for_selection(spec, sizes)
    choice = Choice(spec.on(chosen.name, chosen.allows_tf32()), k, starts)
    if not torch.is_grad_enabled():
        # autograd.Function asks the tensors alone which gradients are wanted.
        tensors = [tensor.detach() for tensor in tensors]
    if is_traced() or library.is_watched(sizes):
        return Picked(*selections_library.select(choice, tensors))
    with profiler.record_function(f"contrastile::{caller}"):
        return Picked(*Select.apply(chosen, choice, tensors, *operands_of(spec, tensors)))
