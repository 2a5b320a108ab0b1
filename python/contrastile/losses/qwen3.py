"""The loss of Qwen3-Embedding: all pairs of a batch in one denominator, but for near copies."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..problem import Equal, Index, Not, Pairs
from ..problem.checks import check_integers, check_paired
from .blocks import Side, block_stats, check_keys_stay, paired_dots, shift_of_rows, softmax_of
from .ids import SEVERAL_VECTORS, Groups
from .memory import merged
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function
from .own_negatives import OwnNegatives, check_own_negatives

NAME = "qwen3_loss"


@loss_function
def qwen3_loss(
    query: Tensor,
    document: Tensor,
    hard_negatives: Tensor | None = None,
    *,
    margin: float = 0.1,
    query_query: bool = True,
    document_document: bool = True,
    ids: Tensor | None = None,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""The loss of Qwen3-Embedding: InfoNCE over all pairs of a batch and hard negatives.

    .. math:: L_i = \log\Big(e^{s c_{ii}} + \sum_k m\, e^{s \langle q_i, h_{ik} \rangle}
              + \sum_{j \ne i} m\, e^{s \langle q_i, q_j \rangle}
              + \sum_{j \ne i} m\, e^{s \langle d_i, d_j \rangle}
              + \sum_{j \ne i} m\, e^{s c_{ij}}\Big) - s c_{ii},\quad
              c_{ij} = \langle q_i, d_j \rangle

    with m = 0 for a pair whose own dot product exceeds :math:`c_{ii} + margin`: a false negative
    most likely. The limit has no gradient. Dot products are cosines with ``normalize=True``.

    Args:
        query: [N, D], fp32, fp64, bf16 or fp16.
        document: [N, D]; row i belongs to row i of ``query``.
        hard_negatives: [N, K, D], those of each query's own.
        margin: how far above the positive's dot product a negative's may be.
        query_query: whether other queries are negatives.
        document_document: whether a document is to be apart from other documents.
        ids: [N] integers, -1 for none; items of one id (copies of a document) are no negatives of
            each other.
        options: see :class:`~contrastile.losses.options.Options`. A scale per row multiplies row i
            of all blocks, a ``logit_bias`` cancels. Over a group keys are gathered.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Zhang et al. 2025, Qwen3 Embedding: Advancing Text Embedding and Reranking Through
    Foundation Models.

    >>> import torch
    >>> from contrastile import qwen3_loss
    >>> x = torch.eye(4)
    >>> qwen3_loss(x, x, temperature=0.5)
    tensor(0.7966)
    """
    opts = Options(NAME, **options)
    check_keys_stay(opts)
    check_paired(NAME, SEVERAL_VECTORS, query=query, document=document)
    n = query.shape[0]
    if hard_negatives is not None:
        check_own_negatives(NAME, "hard_negatives", hard_negatives, query)
    scale, bias, weights = opts.scale(n), opts.bias(document), opts.row_weights(n)
    if ids is not None:
        ids = check_integers(NAME, "ids", ids, n)
    columns = opts.peers.columns("document", document)
    own = columns.place(Index.diagonal(n, device=query.device))
    kept: Pairs = Not(own)
    if ids is not None:
        groups = Groups.among(columns, ids, opts.ignore_label)
        kept = kept & Not(Equal(groups.query, groups.key))

    queries = Side.of(columns, opts.embeddings(query))
    documents = Side.of(columns, opts.embeddings(document))
    dots = paired_dots(queries.rows, documents.rows)
    limits, shift = dots + margin, shift_of_rows(dots, scale)
    stats = block_stats(opts, queries, documents, scale, shift, limits, kept, positives=own)
    raw = stats.scores_of_positives.detach()
    for side in [queries] * query_query + [documents] * document_document:
        more = block_stats(opts, side, side, scale, shift, limits, kept, thresholds=raw)
        stats = merged(stats, more)
    if hard_negatives is not None:
        hard = OwnNegatives.of(opts, queries.rows, hard_negatives)
        stats = merged(stats, hard.log_sum_exp(opts, scale, raw, shift, limits))
    return softmax_of(opts, stats, shift, limits, weights, bias)


def qwen3_loss_reference(
    query: Tensor, document: Tensor, *, logit_scale: float | Tensor, margin: float = 0.1
) -> Tensor:
    """The formula with all scores in memory, mean over rows: what :func:`qwen3_loss` must equal."""
    own = torch.eye(len(query), dtype=torch.bool, device=query.device)
    limits = (query * document).sum(1, keepdim=True).detach() + margin
    blocks = []
    for rows, columns in ((query, document), (query, query), (document, document)):
        dots = rows @ columns.T
        out = dots > limits
        out = out & ~own if rows is query and columns is document else out | own
        blocks.append((logit_scale * dots).masked_fill(out, -torch.inf))
    target = torch.arange(len(query), device=query.device)
    return torch.nn.functional.cross_entropy(torch.cat(blocks, 1), target)


class Qwen3Loss(Loss):
    """Module twin of :func:`~contrastile.functional.qwen3_loss`; takes its options."""

    function = staticmethod(qwen3_loss)
