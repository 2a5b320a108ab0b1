"""The softmax over documents of late interaction, from tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import profiler

from ..backends import choose_for_selection
from ..engine.max_sim import Interaction, MaxSim, Outcome
from ..problem import Channel, Problem, Scores
from ..problem.plain import is_traced, known_number
from ..problem.spec import Sizes
from . import library, max_sim_library


def max_sim(
    query: Tensor,
    counts: Tensor | None,
    key: Tensor,
    starts: Tensor,
    scale: float | Tensor,
    *,
    first: int = 0,
    backend: str = "auto",
    workspace: int | None = None,
    caller: str,
) -> Outcome:
    r"""Log-sum-exps and positives of :math:`S_{ij} = scale_i \sum_a \max_b \langle q_{ia}, k_{jb}
    \rangle`, of checked tensors; see :class:`~contrastile.engine.max_sim.Interaction`.

    In fp64, differentiable once in query, key and scale.
    """
    tokens = query.flatten(0, 1)
    problem = Problem.of(
        caller,
        # A default would be a symbol where torch.compile takes all numbers to change.
        Scores.of(caller, tokens, key, 1.0),
        [Channel()],
        Channel,
        backend=backend,
        workspace=workspace,
    )
    spec, flat = problem.lower()
    sizes = Sizes.of(spec, flat)
    chosen = choose_for_selection(spec, sizes)
    spec = spec.on(chosen.name, chosen.allows_tf32())
    known = scale if isinstance(scale, Tensor) else known_number(scale, query.device)
    wide = torch.as_tensor(known, dtype=torch.float64, device=query.device)
    wide = wide.reshape(()) if wide.shape == (1,) else wide
    if not torch.is_grad_enabled():
        # autograd.Function asks the tensors alone which gradients are wanted.
        query, key, wide = (tensor.detach() for tensor in (query, key, wide))
    of = Interaction(spec, query, counts, key, starts, wide, first)
    if is_traced() or library.is_watched(sizes):
        return Outcome(*max_sim_library.max_sim(of))
    with profiler.record_function(f"contrastile::{caller}"):
        return Outcome(*MaxSim.apply(chosen, of, query, key, wide))
