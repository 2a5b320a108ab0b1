"""NT-Xent: two views of each item, every other item of both views a negative."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.rules import softmax_loss
from .ids import all_dot_sums, class_dot_sums
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, widen
from .rows import Stats, finish, reduce_rows, smoothing_term, wants_valid
from .views import TwoViews

NAME = "nt_xent"


@loss_function
def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""NT-Xent, the loss of SimCLR, over one triangle of the 2N x 2N scores.

    .. math:: L_i = \log\sum_{j \ne i} e^{s \langle z_i, z_j \rangle} - s \langle z_i, z_{i'}
              \rangle,\quad z = [z_0; z_1],\ i' = \text{the other view of } i

    Args:
        z0: [N, D], fp32, fp64, bf16 or fp16: the first views.
        z1: [N, D], the second views.
        ids: [N] integers, -1 for none; other items with an item's id are no negatives of it.
        label_smoothing: e in [0, 1], spread over the included pairs.
        margin: subtracted from the positive's dot product.
        options: see :class:`~contrastile.losses.options.Options`. The scale is one number, a
            ``logit_bias`` cancels, ``weights`` [N] hold for both views.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [2N] with ``reduction="none"`` (first, second views).

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
    2020.

    >>> import torch
    >>> from contrastile import nt_xent
    >>> z = torch.eye(4)
    >>> nt_xent(z, z, temperature=0.5)
    tensor(0.5944)
    """
    opts = Options(NAME, **options)
    views = TwoViews.of(opts, z0, z1, ids, margin)
    plain = margin == 0.0 and label_smoothing == 0.0
    scores = views.scores(opts.row_loss("softmax", views.weights) if plain else None)

    def seen() -> Stats:
        return scores.stats(torch.logaddexp(scores.negatives, scores.positive))

    if scores.found.loss is not None:
        return finish(opts, scores.found.loss, scores.valid, seen, views.bias)
    positive = scores.positive
    losses = softmax_loss(scores.negatives, positive)
    if label_smoothing:
        total, included = _negative_sums(views, scores.raw_positive)
        losses = losses + smoothing_term(positive, total, included, label_smoothing)
    valid = scores.valid if wants_valid(opts) else None
    return reduce_rows(opts, losses, valid, views.weights, seen, views.bias)


def nt_xent_reference(z0: Tensor, z1: Tensor, *, logit_scale: float | Tensor) -> Tensor:
    """The formula with all of S in memory, mean over rows: what :func:`nt_xent` must equal."""
    z = torch.cat([z0, z1])
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (logit_scale * z @ z.T).masked_fill(own, -torch.inf)
    target = torch.arange(len(z), device=z.device).roll(len(z0))
    return torch.nn.functional.cross_entropy(logits, target)


class NTXent(Loss):
    """Module twin of :func:`~contrastile.functional.nt_xent`; takes its options."""

    function = staticmethod(nt_xent)


def _negative_sums(views: TwoViews, raw_positive: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of a row's negative scores, and the number of its included scores."""
    z = widen(views.z)
    peers, columns = views.opts.peers, views.columns
    count = torch.full((z.shape[0],), columns.total - 1, device=z.device)
    if views.groups is None:
        others = all_dot_sums(peers, z, z) - (z * z).sum(1)
        return others * views.scale - raw_positive, count
    # An id's own rows, self and other view among them, are no negatives.
    others = all_dot_sums(peers, z, z) - class_dot_sums(columns, views.groups, z, z)
    return others * views.scale, count - views.groups.counts() + 2
