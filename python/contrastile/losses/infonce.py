"""InfoNCE in one direction: each query against its key and all others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.rules import softmax_loss
from ..ops import gather_dot
from ..parallel import Columns, Peers
from ..problem import Channel, Equal, Index, InputError, Not, Pairs
from ..problem.checks import (
    SEVERAL,
    check_embedding,
    check_index,
    check_integers,
    check_same_size,
    shape,
)
from .ids import Groups, all_dot_sums, class_dot_sums
from .memory import Memory, Past, merged, past_of
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, widen
from .own_negatives import OwnNegatives, check_own_negatives
from .rows import (
    Stats,
    finish,
    make_stats,
    reduce_rows,
    shift_of,
    smoothing_term,
    wants_valid,
    with_margin,
)

NAME = "info_nce"
PATCHES = (
    f"{SEVERAL}; query_ids= and key_ids= leave those out, multi_positive_nce makes them positives"
)


@loss_function
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    positives: Tensor | None = None,
    negatives: Tensor | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    memory: Memory | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""InfoNCE (N-pair loss, multiple negatives ranking): softmax cross-entropy of the positive.

    .. math:: L_i = \log\Big(e^{p_i} + \sum_{j \ne t(i)} e^{S_{ij}} + \sum_j e^{s\langle q_i,
              n_j\rangle}\Big) - p_i,\quad S_{ij} = s_i \langle q_i, k_j \rangle + b_j,\quad
              p_i = S_{i,t(i)} - s_i\,margin

    Computed as ``softplus(lse_negatives - p)``: right also where the positive wins by far.

    Args:
        query: [N, D], fp32, fp64, bf16 or fp16.
        key: [M, D].
        positives: t [N] int64, the key of each query, -1 for none; default: row i with key i.
        negatives: [K, D] further keys that are negatives of every query (a queue), or [N, K, D]:
            K of each query's own (hard negatives), whose N K scores are stored.
        query_ids: [N] integers, -1 for none; with ``key_ids`` [M]: a key with the query's id
            that is not its positive is no negative (duplicates, other captions).
        key_ids: see ``query_ids``.
        memory: keys [K, D] of past batches, or (keys, ids [K]) where there are ``query_ids``:
            negatives too, but for those of the query's id, and without a gradient. With a group
            all ranks have the same, which count once (``negatives`` [K, D] are those of all
            ranks).
        label_smoothing: e in [0, 1], spread over the included keys.
        margin: subtracted from the positive's dot product.
        options: see :class:`~contrastile.losses.options.Options`. ``temperature``/``logit_scale``
            may be one value a row, ``logit_bias`` one value a key of ``key``, [M]; one number
            cancels.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018;
    Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, 2016.

    >>> import torch
    >>> from contrastile import info_nce
    >>> x = torch.eye(4)
    >>> info_nce(x, x, temperature=0.5)
    tensor(0.3408)
    """
    opts = Options(NAME, **options)
    check_embedding(NAME, "query", query, PATCHES)
    check_embedding(NAME, "key", key, PATCHES)
    check_same_size(NAME, query=query, key=key)
    shared_negatives, own_negatives = _negatives(negatives, query)
    n, m = query.shape[0], key.shape[0]
    here = _positives(positives, n, m, query, key)
    ids = _ids(query_ids, key_ids, query, key)
    own_ids = None if ids is None else ("ids", ids[0])
    past = past_of(opts, memory, ["key"], own_ids, query)
    scale = opts.scale(n)
    key_bias = opts.bias(key, per_key=True)
    weights = opts.row_weights(n)
    columns = opts.peers.columns("key", key)
    further = negatives is not None or memory is not None
    bias, shared = _biases(opts, columns, key_bias, further)
    groups = None if ids is None else _groups(columns, *ids, query is key, opts.ignore_label)
    own = columns.place(here)
    own_key = key is query
    query = opts.embeddings(query)
    key = query if own_key else opts.embeddings(key)

    kept: Pairs = Not(own)
    if groups is not None:
        kept = kept & Not(Equal(groups.query, groups.key))
    plain = margin == 0.0 and label_smoothing == 0.0 and not further
    row_loss = None
    if plain:
        row_loss = opts.row_loss("softmax", weights, some_without=positives is not None)
    stats = columns.log_sum_exp(
        query,
        key,
        scale=scale,
        col_bias=bias,
        channels=[Channel(kept)],
        positives=own,
        ranks=opts.return_stats,
        row_loss=row_loss,
        **opts.engine,
    )
    if shared_negatives is not None:
        columns_of_negatives = opts.peers.columns("negatives", shared_negatives)
        shared_negatives = opts.embeddings(shared_negatives)
        more = columns_of_negatives.log_sum_exp(
            query,
            shared_negatives,
            scale=scale,
            channels=[Channel()],
            ranks=opts.return_stats,
            row_thresholds=stats.scores_of_positives.detach(),
            **opts.engine,
        )
        stats = merged(stats, more)
    hard = None if own_negatives is None else OwnNegatives.of(opts, query, own_negatives)
    if hard is not None:
        stats = merged(stats, hard.log_sum_exp(opts, scale, stats.scores_of_positives))
    for side in past:
        raw = stats.scores_of_positives
        stats = merged(stats, side.log_sum_exp(opts, query, scale, [side.others], raw))

    def valid() -> Tensor:
        return (own.columns >= 0) & ~torch.isneginf(stats.rows[0])

    def seen() -> Stats:
        (lse,), score = stats.rows, stats.scores_of_positives
        shift, has = shift_of(shared, lse), own.columns >= 0
        whole = torch.logaddexp(lse, with_margin(score, scale, margin))
        denominator = torch.where(has, whole, lse) + shift
        return make_stats(
            opts, denominator, torch.where(has, score + shift, 0.0), stats.row_rank, valid()
        )

    if stats.loss is not None:
        return finish(opts, stats.loss, valid, seen, shared)
    score = stats.scores_of_positives
    positive = with_margin(score, scale, margin)
    losses = softmax_loss(stats.rows[0], positive)
    if label_smoothing:
        total, included = _included(
            opts.peers,
            columns,
            query,
            key,
            shared_negatives,
            here.columns,
            groups,
            scale,
            bias,
            past if hard is None else (*past, hard),
        )
        losses = losses + smoothing_term(positive, total - score, included, label_smoothing)
    tell = positives is not None or label_smoothing or wants_valid(opts)
    return reduce_rows(opts, losses, valid if tell else None, weights, seen, shared)


def info_nce_reference(
    query: Tensor, key: Tensor, *, logit_scale: float | Tensor, positives: Tensor | None = None
) -> Tensor:
    """The formula with all of S in memory, mean over rows: what :func:`info_nce` must equal."""
    logits = logit_scale * query @ key.T
    if positives is None:
        positives = torch.arange(query.shape[0], device=query.device)
    return torch.nn.functional.cross_entropy(logits, positives)


class InfoNCE(Loss):
    """Module twin of :func:`~contrastile.functional.info_nce`; takes its options."""

    function = staticmethod(info_nce)


def _positives(positives: Tensor | None, n: int, m: int, query: Tensor, key: Tensor) -> Index:
    if positives is not None:
        return Index(check_index(NAME, "positives", positives, n, m))
    if m < n:
        raise InputError(
            f"{NAME}: without positives row i belongs to key i, so there must be at least as many "
            f"keys as queries, got query {shape(query)} and key {shape(key)}; pass positives="
        )
    return Index.diagonal(n, device=query.device)


def _negatives(negatives: Tensor | None, query: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Checked negatives: those of every query, and those of each query's own."""
    if negatives is None:
        return None, None
    if isinstance(negatives, Tensor) and negatives.dim() == 3:
        return None, check_own_negatives(NAME, "negatives", negatives, query)
    check_embedding(NAME, "negatives", negatives)
    check_same_size(NAME, query=query, negatives=negatives)
    return negatives, None


def _ids(
    query_ids: Tensor | None, key_ids: Tensor | None, query: Tensor, key: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Checked ids of both sides; one tensor where both are one set."""
    if query_ids is None and key_ids is None:
        return None
    if query_ids is None or key_ids is None:
        raise InputError(f"{NAME}: query_ids and key_ids go together, got only one of them")
    one_set = query is key and query_ids is key_ids
    query_ids = check_integers(NAME, "query_ids", query_ids, query.shape[0])
    if one_set:
        return query_ids, query_ids
    return query_ids, check_integers(NAME, "key_ids", key_ids, key.shape[0])


def _groups(
    columns: Columns, query_ids: Tensor, key_ids: Tensor, one_set: bool, ignore_label: int | None
) -> Groups:
    # Two sets may have one tensor of ids: item i of one is not item i of the other.
    if one_set and query_ids is key_ids:
        return Groups.among(columns, key_ids, ignore_label)
    return Groups.of(query_ids, columns.everywhere(key_ids), ignore_label)


def _biases(
    opts: Options, columns: Columns, bias: Tensor | None, negatives: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The bias of each key, less the number that all scores share; and that number, which cancels.

    Left in the scores it would round all of them in the same direction, and that does not average
    out over rows. Further negatives have no bias of their own: with them only a number that is
    added to all scores cancels, not the mean of the keys' biases.
    """
    given = opts.logit_bias
    if bias is None or not isinstance(given, Tensor) or given.dim() == 0:
        return None, bias
    if opts.peers.columns("logit_bias", given).total != columns.total:
        return None, bias
    # One a key, even where this rank has a single key, for which it looks like a number.
    bias = given
    if negatives:
        return bias, None
    wide = widen(bias)
    shared = opts.peers.total(wide.detach().sum()) / columns.total
    return wide - shared, shared.expand(wide.shape[0])


def _included(
    peers: Peers,
    columns: Columns,
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None,
    own: Tensor,
    groups: Groups | None,
    scale: float | Tensor,
    bias: Tensor | None,
    past: Sequence[Past | OwnNegatives],
) -> tuple[Tensor, Tensor]:
    """Sum of a row's included scores, its positive among them, and their number."""
    dots = all_dot_sums(peers, query, key)
    count = torch.full((query.shape[0],), columns.total, device=query.device)
    bias_sum = None if bias is None else peers.total(widen(bias).sum())
    if groups is not None:
        # The positive stays in even when it shares the id, as it should.
        place = (own + columns.own.start).clamp(min=0)
        shares = (groups.query == groups.key[place]) & (own >= 0)
        positive = torch.where(shares, _dot_with_positive(query, key, own), 0.0)
        dots = dots - class_dot_sums(columns, groups, query, key) + positive
        count = count - groups.counts() + shares
        if bias is not None and bias_sum is not None:
            wide = widen(bias)
            own_bias = torch.where(shares, wide[own.clamp(min=0)], 0.0)
            bias_sum = bias_sum - groups.sums(columns.everywhere(wide)) + own_bias
    total = dots * scale
    if bias_sum is not None:
        total = total + bias_sum
    if negatives is not None:
        total = total + all_dot_sums(peers, query, negatives) * scale
        count = count + peers.columns("negatives", negatives).total
    for side in past:
        more, number = side.included(query)
        total, count = total + more * scale, count + number
    return total, count


def _dot_with_positive(query: Tensor, key: Tensor, columns: Tensor) -> Tensor:
    return gather_dot(query, key, columns, caller=NAME)
