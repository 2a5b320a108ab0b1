"""Matryoshka: a loss of several prefixes of the embeddings, from one pass over the scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..parallel import Alone, Processes, together
from ..problem import InputError
from ..problem.checks import check_number
from ..problem.integers import check_integer_sequence, check_sequence
from ..problem.storage import check_storage
from .module import Loss
from .options import LossOutput
from .prefixes import NotShared, shared_sweep

NAME = "matryoshka"
# What is not trained is not cut.
WHOLE = ("guide", "teacher")


class Prefixes(NamedTuple):
    """Embeddings of so many features, and the features and the weight of each prefix."""

    size: int
    dims: tuple[int, ...]
    weights: tuple[float, ...]


def matryoshka(
    loss: Callable[..., LossOutput],
    *embeddings: Tensor,
    dims: Sequence[int],
    dim_weights: Sequence[float] | None = None,
    **options: Any,
) -> LossOutput:
    r"""A loss of several prefixes of the embeddings, each made of unit length.

    .. math:: L = \sum_k w_k\, loss\Big(\frac{x_{:m_k}}{|x_{:m_k}|}, \frac{y_{:m_k}}{|y_{:m_k}|},
              \dots\Big)

    so that embeddings can be cut to ``m_k`` features afterwards. On a CPU the dot products of all
    prefixes come from one accumulation along the features (times: docs/performance.md). Computed
    prefix by prefix are passes of a loss beside the one over its own scores (queues, further
    negatives, class sums), losses that are sweeps themselves (``gist_loss``, say), all losses with
    a ``group`` or ``offload``, and all on a GPU, whose kernels keep scores out of memory.

    Args:
        loss: a loss of this package, such as ``clip_loss``.
        embeddings: what it takes by position; embeddings [N, D], labels as they are.
        dims: :math:`m_1 < m_2 < \dots \le D`.
        dim_weights: :math:`w_k`, one for each of ``dims``; default 1.
        options: those of the loss; ``normalize`` says nothing more. Embeddings among them
            (``negatives``, ``memory``) are cut likewise, those of a guide or a teacher are not.

    Returns:
        what the loss returns, the weighted sum; with ``return_stats`` (loss, stats of each prefix).

    Raises:
        InputError: dims or weights that do not fit, or what the loss raises (a ValueError).
        TypeError: ``loss`` is not one of this package; dims or weights are of a wrong type.

    Source: Kusupati et al., Matryoshka Representation Learning, 2022.

    >>> import torch
    >>> from contrastile import clip_loss, matryoshka
    >>> x, y = torch.eye(4, 8) + 0.1, torch.eye(4, 8) + 0.2
    >>> matryoshka(clip_loss, x, y, dims=(4, 8), temperature=0.5)
    tensor(1.1140)
    """
    prefixes = _agreed(loss, embeddings, dims, dim_weights, options)
    calls = [_prefix(loss, embeddings, options, prefixes.size, dim) for dim in prefixes.dims]
    if _is_shared(embeddings, options):
        whole = partial(_call, loss, embeddings, {**options, "normalize": False})
        try:
            found = shared_sweep(loss.__name__, whole, calls, prefixes.dims)
        except NotShared:
            found = [call(None) for call in calls]
    else:
        found = [call(options.get("group")) for call in calls]
    if not options.get("return_stats", False):
        return sum(own * weight for own, weight in zip(found, prefixes.weights, strict=True))
    total = sum(own * weight for (own, _), weight in zip(found, prefixes.weights, strict=True))
    return total, [stats for _, stats in found]


class Matryoshka(nn.Module):
    """Module twin of :func:`matryoshka`, around the module of any loss.

    Args:
        loss: a module of this package, such as ``ClipLoss(temperature=0.07)``; its options hold.
        dims: as in :func:`matryoshka`.
        dim_weights: as in :func:`matryoshka`.

    Raises:
        InputError: a weight that is no finite number.
        TypeError: ``loss`` is not a loss module of this package; dims or weights are of a wrong
            type.

    >>> import torch
    >>> from contrastile import ClipLoss, Matryoshka
    >>> loss = Matryoshka(ClipLoss(temperature=0.5), dims=(4, 8))
    >>> loss(torch.eye(4, 8), torch.eye(4, 8))
    tensor(0.6815)
    """

    def __init__(
        self, loss: nn.Module, dims: Sequence[int], dim_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not isinstance(loss, Loss):
            got = type(loss).__name__
            raise TypeError(
                f"Matryoshka: loss must be a loss module, such as ClipLoss(temperature=0.07), "
                f"got {got}"
            )
        self.loss = loss
        self.dims = check_integer_sequence("Matryoshka", "dims", dims)
        self.dim_weights = None
        if dim_weights is not None:
            self.dim_weights = _check_weights("Matryoshka", dim_weights)

    def forward(self, *embeddings: Tensor, **overrides: Any) -> LossOutput:
        """The loss of these tensors, with the module's options and these on top."""
        options = self.loss.options(overrides)
        function = type(self.loss).function
        return matryoshka(
            function, *embeddings, dims=self.dims, dim_weights=self.dim_weights, **options
        )

    def extra_repr(self) -> str:
        """The prefixes."""
        return f"dims={self.dims}, dim_weights={self.dim_weights}"


def _agreed(
    loss: object,
    embeddings: Sequence[Any],
    dims: Sequence[int],
    dim_weights: Sequence[float] | None,
    options: dict[str, Any],
) -> Prefixes:
    """The prefixes, of arguments that fit; with a group, on all ranks and the same there."""
    group = options.get("group")

    def check(peers: Processes) -> Prefixes:
        prefixes = _check(loss, embeddings, dims, dim_weights)
        peers.columns("embeddings", embeddings[0])
        return prefixes

    if group is None:
        return _check(loss, embeddings, dims, dim_weights)
    given = {
        "dims": dims,
        "dim_weights": dim_weights,
        "of": getattr(loss, "__name__", ""),
    }
    first = {"embeddings": embeddings[0]} if embeddings else {}
    return together(NAME, group, {**given, **first}, check)


def _is_shared(embeddings: Sequence[Any], options: dict[str, Any]) -> bool:
    """Whether one sweep takes less time than the losses of all prefixes.

    Planes are blocks in memory: on an H200 five prefixes of 1024 features are predicted to take 6
    times as long as one loss in a sweep, 2.2 times one by one.
    """
    alone = options.get("group") is None and options.get("offload") is None
    return alone and embeddings[0].device.type == "cpu"


def _call(
    loss: Callable[..., LossOutput],
    embeddings: Sequence[Any],
    options: dict[str, Any],
    peers: Alone | object | None,
) -> Any:
    return loss(*embeddings, **{**options, "group": peers})


def _prefix(
    loss: Callable[..., LossOutput],
    embeddings: Sequence[Any],
    options: dict[str, Any],
    size: int,
    dim: int,
) -> Callable[[Alone | object | None], Any]:
    """The loss of the first ``dim`` features, normalised."""
    made: list[tuple[Tensor, Tensor]] = []

    def cut(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(cut(part) for part in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
            return value
        if value.shape[-1] != size:
            return value
        # The same tensor twice stays the same tensor twice: a loss asks whether x is y. Not by id,
        # which torch.compile takes for a constant: it would compile for each batch anew.
        for whole, part in made:
            if whole is value:
                return part
        made.append((value, value[..., :dim]))
        return made[-1][1]

    own = {n: value if n.startswith(WHOLE) else cut(value) for n, value in options.items()}
    names = signature(loss).parameters
    cuts = [x if n.startswith(WHOLE) else cut(x) for n, x in zip(names, embeddings, strict=False)]
    return partial(_call, loss, cuts, {**own, "normalize": True})


def _check(
    loss: object,
    embeddings: Sequence[Any],
    dims: Sequence[int],
    dim_weights: Sequence[float] | None,
) -> Prefixes:
    """The prefixes, of arguments that fit."""
    if not callable(loss) or not hasattr(loss, "is_contrastile_loss"):
        raise TypeError(
            f"{NAME}: loss must be a loss function of this package, such as clip_loss, got {loss!r}"
        )
    check_storage(NAME, {f"embedding {i}": x for i, x in enumerate(embeddings)})
    first = embeddings[0] if embeddings else None
    if not isinstance(first, Tensor) or first.dim() < 2:
        raise InputError(f"{NAME}: the first argument of the loss must be embeddings [N, D]")
    size = first.shape[-1]
    sizes = check_integer_sequence(NAME, "dims", dims)
    growing = all(a < b for a, b in pairwise((0, *sizes)))
    if not sizes or not growing or sizes[-1] > size:
        raise InputError(
            f"{NAME}: dims must grow and lie between 1 and the {size} features, got {sizes}"
        )
    if dim_weights is None:
        return Prefixes(size, sizes, (1.0,) * len(sizes))
    weights = _check_weights(NAME, dim_weights)
    if len(weights) != len(sizes):
        raise InputError(
            f"{NAME}: dim_weights needs one number for each of dims, {len(sizes)}, "
            f"got {len(weights)}"
        )
    return Prefixes(size, sizes, weights)


def _check_weights(caller: str, dim_weights: object) -> tuple[float, ...]:
    """A sequence of finite numbers."""
    parts = enumerate(check_sequence(caller, "dim_weights", dim_weights, "numbers"))
    return tuple([check_number(caller, f"dim_weights[{i}]", w, -1e30, 1e30) for i, w in parts])
