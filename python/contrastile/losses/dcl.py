"""Decoupled contrastive losses: the positive is not in the denominator."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, widen
from .rows import Stats, finish, reduce_rows
from .views import TwoViews


@loss_function
def dcl_loss(
    z0: Tensor,
    z1: Tensor,
    *,
    ids: Tensor | None = None,
    margin: float = 0.0,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""Decoupled contrastive loss: NT-Xent without the positive in its denominator.

    .. math:: L_i = \log\sum_{j \notin \{i, i'\}} e^{s \langle z_i, z_j \rangle}
                    - s \langle z_i, z_{i'} \rangle,\quad z = [z_0; z_1]

    Args:
        z0: [N, D], fp32, fp64, bf16 or fp16: the first views.
        z1: [N, D], the second views.
        ids: [N] integers, -1 for none; other items with an item's id are no negatives of it.
        margin: subtracted from the positive's dot product.
        options: see :class:`~contrastile.losses.options.Options`. The scale is one number, a
            ``logit_bias`` cancels, ``weights`` [N] hold for both views.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [2N] with ``reduction="none"`` (first, second views).

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Yeh et al., Decoupled Contrastive Learning, 2022.

    >>> import torch
    >>> from contrastile import dcl_loss
    >>> z = torch.eye(4)
    >>> dcl_loss(z, z, temperature=0.5)
    tensor(-0.2082)
    """
    opts = Options("dcl_loss", **options)
    return _decoupled(opts, TwoViews.of(opts, z0, z1, ids, margin), None)


@loss_function
def dclw_loss(
    z0: Tensor,
    z1: Tensor,
    *,
    ids: Tensor | None = None,
    sigma: float = 0.5,
    margin: float = 0.0,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""Decoupled contrastive loss with von Mises-Fisher weights on the positives.

    .. math:: L_i = \log\sum_{j \notin \{i, i'\}} e^{s \langle z_i, z_j \rangle}
                    - \omega_i\, s \langle z_i, z_{i'} \rangle,\quad
              \omega = 2 - N\, softmax(\langle z_0, z_1 \rangle / \sigma)

    The weights carry no gradient; a pair's weight holds for both of its rows.

    Args:
        z0: [N, D], fp32, fp64, bf16 or fp16: the first views.
        z1: [N, D], the second views.
        ids: [N] integers, -1 for none; other items with an item's id are no negatives of it.
        sigma: spread of the weights, positive.
        margin: subtracted from the positive's dot product.
        options: see :class:`~contrastile.losses.options.Options`. The scale is one number,
            a ``logit_bias`` is weighted like the positive, ``weights`` [N] hold for both views.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [2N] with ``reduction="none"`` (first, second views).

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Yeh et al., Decoupled Contrastive Learning, 2022.

    >>> import torch
    >>> from contrastile import dclw_loss
    >>> z = torch.eye(4)
    >>> dclw_loss(z, z, temperature=0.5)
    tensor(-0.2082)
    """
    opts = Options("dclw_loss", **options)
    views = TwoViews.of(opts, z0, z1, ids, margin)
    n = z0.shape[0]
    with torch.no_grad():
        first, second = widen(views.z[:n]), widen(views.z[n:])
        likeness = (first * second).sum(1) / sigma
        items = opts.peers.columns("z0", z0)
        share = items.everywhere(likeness).softmax(0)[items.own]
        omega = (2.0 - items.total * share).repeat(2)
    return _decoupled(opts, views, omega)


def _decoupled(opts: Options, views: TwoViews, omega: Tensor | None) -> LossOutput:
    """The loss with the weights of the positives, if they have any."""
    # A bias cancels, unless positives are weighted.
    weighted_bias = None if omega is None else views.bias
    row_loss = None
    if views.margin == 0.0 and weighted_bias is None:
        row_loss = opts.row_loss("decoupled", views.weights, omega=omega)
    scores = views.scores(row_loss)

    def seen() -> Stats:
        return scores.stats(scores.negatives)

    if scores.found.loss is not None:
        return finish(opts, scores.found.loss, scores.valid, seen, views.bias)
    positive = scores.positive if omega is None else omega * scores.positive
    losses = scores.negatives - positive
    cancelled = views.bias
    if omega is not None and weighted_bias is not None:
        losses = losses + (1.0 - omega) * weighted_bias.to(omega.dtype)
        cancelled = None
    return reduce_rows(opts, losses, scores.valid, views.weights, seen, cancelled)


def dcl_loss_reference(z0: Tensor, z1: Tensor, *, logit_scale: float | Tensor) -> Tensor:
    """The formula with all of S in memory, mean over rows: what :func:`dcl_loss` must equal."""
    negatives, positives = _dense(z0, z1, logit_scale)
    return (negatives - positives).mean()


def dclw_loss_reference(
    z0: Tensor, z1: Tensor, *, logit_scale: float | Tensor, sigma: float = 0.5
) -> Tensor:
    """The formula with all of S in memory, mean over rows: what :func:`dclw_loss` must equal."""
    negatives, positives = _dense(z0, z1, logit_scale)
    omega = 2 - len(z0) * ((z0 * z1).sum(1) / sigma).softmax(0).detach()
    return (negatives - omega.repeat(2) * positives).mean()


def _dense(z0: Tensor, z1: Tensor, logit_scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """For each row of both views, the log-sum-exp of its negatives and its positive's score."""
    z = torch.cat([z0, z1])
    logits = logit_scale * z @ z.T
    rows = torch.arange(len(z), device=z.device)
    partners = rows.roll(len(z0))
    kept_out = (rows == rows[:, None]) | (rows == partners[:, None])
    return logits.masked_fill(kept_out, -torch.inf).logsumexp(1), logits[rows, partners]


class DCL(Loss):
    """Module twin of :func:`~contrastile.functional.dcl_loss`; takes its options."""

    function = staticmethod(dcl_loss)


class DCLW(Loss):
    """Module twin of :func:`~contrastile.functional.dclw_loss`; takes its options."""

    function = staticmethod(dclw_loss)
