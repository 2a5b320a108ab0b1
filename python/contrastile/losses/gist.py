"""GISTEmbed: a guide, a model that is not trained, says which pairs are no negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..ops.unit_length import unit_length
from ..problem import Index, InputError, Not, Pairs
from ..problem.checks import check_embedding, check_paired, check_same_size, shape
from .blocks import Side, block_stats, check_keys_stay, paired_dots, shift_of_rows, softmax_of
from .memory import merged
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, wide_dtype
from .rows import poison

NAME = "gist_loss"


@loss_function
def gist_loss(
    anchor: Tensor,
    positive: Tensor,
    guide_anchor: Tensor,
    guide_positive: Tensor,
    negatives: Tensor | None = None,
    guide_negatives: Tensor | None = None,
    *,
    margin: float = 0.0,
    margin_mode: str = "absolute",
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""GISTEmbed: softmax cross-entropy without the negatives that a guide finds too similar.

    .. math:: L_i = \log\Big(e^{S^{ap}_{ii}} + \sum_{j \ne i} m^{ap}_{ij} e^{S^{ap}_{ij}}
              + \sum_{j \ne i} m^{aa}_{ij} e^{S^{aa}_{ij}}
              + \sum_{j \ne i} m^{pp}_{ij} e^{S^{pp}_{ij}}
              + \sum_j m^{an}_{ij} e^{S^{an}_{ij}}\Big) - S^{ap}_{ii}

    with :math:`S^{xy}_{ij} = s_i \langle x_i, y_j \rangle`, and :math:`m^{xy}_{ij} = 0` where the
    guide's cosine of that pair exceeds the row's limit: its own cosine of anchor i and positive i,
    c, less the margin, :math:`c - margin` ("absolute") or :math:`c - margin\,|c|` ("relative").
    A row's positive stays whatever the guide says; an item is no negative of itself.

    Cosines at the limit to the last bit, such as those of copies of the positive with margin 0,
    fall on either side of it by rounding; a small margin leaves such copies out.

    Args:
        anchor: [N, D], fp32, fp64, bf16 or fp16.
        positive: [N, D]; row i belongs to row i of ``anchor``.
        guide_anchor: [N, G]: the guide's embeddings of the anchors, of any length and size. No
            embedding of the guide gets a gradient.
        guide_positive: [N, G], of the positives.
        negatives: [K, D], negatives of every anchor.
        guide_negatives: [K, G], the guide's embeddings of them.
        margin: how far below the positive's cosine a negative's must stay.
        margin_mode: "absolute" or "relative".
        contrast_anchors: whether other anchors are negatives.
        contrast_positives: whether a positive is to be apart from other positives.
        options: see :class:`~contrastile.losses.options.Options`. A scale per row multiplies row i
            of all blocks, a ``logit_bias`` cancels. Over a group keys are gathered.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Solatorio et al. 2024, GISTEmbed: Guided In-sample Selection of Training Negatives for
    Text Embedding Fine-tuning.

    >>> import torch
    >>> from contrastile import gist_loss
    >>> x = torch.eye(4)
    >>> gist_loss(x, x, x, x, temperature=0.5)
    tensor(0.7966)
    """
    opts = Options(NAME, **options)
    check_keys_stay(opts)
    check_paired(NAME, anchor=anchor, positive=positive)
    check_paired(NAME, guide_anchor=guide_anchor, guide_positive=guide_positive)
    _check_guided(guide_anchor=guide_anchor, anchor=anchor)
    n = anchor.shape[0]
    scale, bias, weights = opts.scale(n), opts.bias(positive), opts.row_weights(n)
    if negatives is not None and guide_negatives is not None:
        check_embedding(NAME, "negatives", negatives)
        check_embedding(NAME, "guide_negatives", guide_negatives)
        check_same_size(NAME, anchor=anchor, negatives=negatives)
        check_same_size(NAME, guide_anchor=guide_anchor, guide_negatives=guide_negatives)
        _check_guided(guide_negatives=guide_negatives, negatives=negatives)
    elif negatives is not None or guide_negatives is not None:
        raise InputError(f"{NAME}: negatives and guide_negatives go together, got one of them")

    def side(name: str, embeddings: Tensor, guide: Tensor) -> Side:
        columns = opts.peers.columns(name, embeddings)
        unit = unit_length(guide.detach().to(wide_dtype(anchor)), NAME)
        return Side.of(columns, opts.embeddings(embeddings), unit)

    anchors = side("anchor", anchor, guide_anchor)
    positives = side("positive", positive, guide_positive)
    limits = _limits(anchors, positives, margin, margin_mode)
    own = opts.peers.columns("positive", positive).place(Index.diagonal(n, device=anchor.device))
    shift = shift_of_rows(paired_dots(anchors.rows, positives.rows), scale)
    stats = block_stats(opts, anchors, positives, scale, shift, limits, Not(own), positives=own)
    others: list[tuple[Side, Side, Pairs | None]] = []
    if contrast_anchors:
        others.append((anchors, anchors, Not(own)))
    if contrast_positives:
        others.append((positives, positives, Not(own)))
    if negatives is not None and guide_negatives is not None:
        further = side("negatives", negatives, guide_negatives)
        others.append((anchors, further, None))
        limits = poison(limits, _sum_of_guide(further))
    raw = stats.scores_of_positives.detach()
    for rows, columns, kept in others:
        more = block_stats(opts, rows, columns, scale, shift, limits, kept, thresholds=raw)
        stats = merged(stats, more)
    return softmax_of(opts, stats, shift, limits, weights, bias)


def gist_loss_reference(
    anchor: Tensor,
    positive: Tensor,
    guide_anchor: Tensor,
    guide_positive: Tensor,
    *,
    logit_scale: float | Tensor,
) -> Tensor:
    """The formula with all scores in memory, mean over rows: what :func:`gist_loss` must equal."""
    guides = [torch.nn.functional.normalize(g, dim=1) for g in (guide_anchor, guide_positive)]
    own = torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
    limits = (guides[0] * guides[1]).sum(1, keepdim=True)
    blocks = []
    for rows, columns in ((0, 1), (0, 0), (1, 1)):
        logits = logit_scale * (anchor, positive)[rows] @ (anchor, positive)[columns].T
        out = guides[rows] @ guides[columns].T > limits
        out = out & ~own if rows != columns else out | own
        blocks.append(logits.masked_fill(out, -torch.inf))
    target = torch.arange(len(anchor), device=anchor.device)
    return torch.nn.functional.cross_entropy(torch.cat(blocks, 1), target)


class GISTEmbedLoss(Loss):
    """Module twin of :func:`~contrastile.functional.gist_loss`; takes its options."""

    function = staticmethod(gist_loss)


def _limits(anchors: Side, positives: Side, margin: float, margin_mode: str) -> Tensor:
    """What the guide's cosines of a row may be at most."""
    assert anchors.guide_rows is not None and positives.guide_rows is not None
    own = (anchors.guide_rows * positives.guide_rows).sum(1)
    return own - (own.abs() * margin if margin_mode == "relative" else margin)


def _sum_of_guide(side: Side) -> Tensor:
    """A number where all of the guide's embeddings are numbers."""
    assert side.guide_rows is not None
    return side.guide_rows.sum()


def _check_guided(**pair: Tensor) -> None:
    (guide_name, guide), (name, embeddings) = pair.items()
    if guide.shape[0] != embeddings.shape[0]:
        raise InputError(
            f"{NAME}: row i of {guide_name} is the guide's embedding of row i of {name}, so both "
            f"need the same number of rows, got {shape(guide)} and {shape(embeddings)}"
        )
