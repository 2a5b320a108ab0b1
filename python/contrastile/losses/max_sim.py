"""Late interaction: queries and documents of several vectors each."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..ops.max_sim import max_sim
from ..problem import InputError
from ..problem.checks import FLOATS, check_tensor, shape
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, wide_dtype
from .rows import Stats, make_stats, poison, reduce_rows, shift_of

NAME = "max_sim_info_nce"


@loss_function
def max_sim_info_nce(
    query_tokens: Tensor,
    document_tokens: Tensor,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""InfoNCE of late interaction (ColBERT): each query among the documents, by MaxSim.

    .. math:: L_i = \log\sum_j e^{S_{ij}} - S_{ii},\qquad
              S_{ij} = s \sum_a \max_b \langle q_{ia}, d_{jb} \rangle

    over the tokens a of query i and b of document j that their masks keep. Of equal dot products
    that of the first token counts; only those that count have gradients. Neither the dot products
    nor S are stored: the backward pass finds the largest once more, in strips of queries.

    Args:
        query_tokens: [N, A, D], fp32, fp64, bf16 or fp16.
        document_tokens: [M, B, D] with M >= N: document i belongs to query i, the others are
            negatives of all. Ranks of a group have as many documents as queries.
        query_mask: [N, A] bool, False for tokens that do not count; None: all do. A query without a
            token is an empty row.
        document_mask: [M, B] bool; tokens that are False are the maximum of no query. A document
            without a token is left out, and its query is an empty row.
        options: see :class:`~contrastile.losses.options.Options`. ``normalize`` is of each token, a
            scale may be one value a query, a ``logit_bias`` cancels. With a group the documents of
            all ranks are gathered, never sent round in a ring; there is no ``offload``.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Khattab & Zaharia, ColBERT: Efficient and Effective Passage Search via Contextualized
    Late Interaction over BERT, 2020.

    >>> import torch
    >>> from contrastile import max_sim_info_nce
    >>> tokens = torch.eye(4).view(2, 2, 4)
    >>> max_sim_info_nce(tokens, tokens, temperature=1.0)
    tensor(0.1269)
    >>> max_sim_info_nce(tokens, tokens, torch.tensor([[True, False]] * 2), temperature=1.0)
    tensor(0.3133)
    """
    opts = Options(NAME, **options)
    _check(opts, query_tokens, document_tokens)
    n, tokens, _ = query_tokens.shape
    counts = _mask("query_mask", query_mask, query_tokens)
    scale, weights = opts.scale(n), opts.row_weights(n)
    bias = opts.bias(document_tokens)
    own = _mask("document_mask", document_mask, document_tokens)
    columns = opts.peers.columns("document_tokens", document_tokens)
    query = _vectors(opts, query_tokens, counts)
    documents = columns.matrix_everywhere(_vectors(opts, document_tokens, own))
    there = None if own is None else columns.everywhere(own.to(torch.int64)) > 0
    key, starts = _one_after_the_other(documents, there)
    found = max_sim(query, counts, key, starts, scale, first=columns.own.start, **opts.engine)
    dtype = wide_dtype(query) if wide_dtype(key) == torch.float32 else torch.float64
    some = starts.diff() > 0

    def valid() -> Tensor:
        asked = some.new_full((n,), tokens > 0) if counts is None else counts.any(1)
        answered = some[columns.own.start : columns.own.start + n]
        return asked & answered & (some.sum() > 1)

    def seen() -> Stats:
        shift = shift_of(bias, found.lse)
        lse, positive = ((own + shift).to(dtype) for own in (found.lse, found.positive))
        return make_stats(opts, lse, positive, found.rank, valid())

    losses = poison(found.lse - found.positive, found.lse)
    if key.numel():
        # A document whose score is minus infinity would only be missing.
        low, high = torch.aminmax(key.detach())
        losses = poison(poison(losses, low), high)
    losses = losses.to(dtype)
    return reduce_rows(opts, losses, valid, weights, seen, bias)


def max_sim_info_nce_reference(
    query_tokens: Tensor, document_tokens: Tensor, *, logit_scale: float | Tensor
) -> Tensor:
    """The formula with all dot products in memory, mean over rows, without masks."""
    dots = torch.einsum("iad,jbd->ijab", query_tokens, document_tokens)
    logits = logit_scale * dots.amax(3).sum(2)
    target = torch.arange(len(query_tokens), device=logits.device)
    return torch.nn.functional.cross_entropy(logits, target)


class MaxSimInfoNCE(Loss):
    """Module twin of :func:`~contrastile.functional.max_sim_info_nce`; takes its options."""

    function = staticmethod(max_sim_info_nce)


def _check(opts: Options, query_tokens: Tensor, document_tokens: Tensor) -> None:
    """Three-dimensional, of one embedding size, with a document for each query."""
    if opts.offload is not None:
        raise InputError(f"{NAME}: there is no offload of documents; leave it out")
    given = {"query_tokens": query_tokens, "document_tokens": document_tokens}
    for name, value in given.items():
        check_tensor(NAME, name, value)
        if value.dim() != 3:
            remedy = f"; one vector an item is {name}.unsqueeze(1)" if value.dim() == 2 else ""
            raise InputError(
                f"{NAME}: {name} must be [items, tokens, embedding size], got {shape(value)}"
                f"{remedy}"
            )
        if value.dtype not in FLOATS:
            raise InputError(
                f"{NAME}: {name} must be float32, float64, float16 or bfloat16, got {value.dtype}"
            )
    if query_tokens.shape[2] != document_tokens.shape[2]:
        raise InputError(
            f"{NAME}: query_tokens and document_tokens need the same embedding size, got "
            f"query_tokens {shape(query_tokens)} and document_tokens {shape(document_tokens)}"
        )
    n, m = query_tokens.shape[0], document_tokens.shape[0]
    if m < n or (not opts.peers.alone and m != n):
        rule = "as many documents" if not opts.peers.alone else "at least as many documents"
        raise InputError(
            f"{NAME}: document i belongs to query i, so there must be {rule} as queries, got "
            f"query_tokens {shape(query_tokens)} and document_tokens {shape(document_tokens)}"
        )
    if opts.exchange == "ring" and not opts.peers.alone:
        raise InputError(f"{NAME}: exchange='ring' is not for documents, they are gathered")


def _mask(name: str, mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    if mask is None:
        return None
    check_tensor(NAME, name, mask)
    if mask.shape != tokens.shape[:2]:
        expected = tuple(tokens.shape[:2])
        raise InputError(f"{NAME}: {name} must have shape {expected}, got {shape(mask)}")
    if mask.dtype != torch.bool:
        raise InputError(f"{NAME}: {name} must be bool, got {mask.dtype}; use {name}.bool()")
    return mask


def _vectors(opts: Options, tokens: Tensor, counts: Tensor | None) -> Tensor:
    """Of unit length if asked for; zero where they do not count, whatever stands there."""
    if counts is not None:
        tokens = torch.where(counts.unsqueeze(2), tokens, 0.0)
    return opts.embeddings(tokens.flatten(0, 1)).view(tokens.shape)


def _one_after_the_other(documents: Tensor, there: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens of all documents, and where those of each begin; others come behind the last.

    The shapes do not depend on how many there are.
    """
    m, tokens, _ = documents.shape
    flat = documents.flatten(0, 1)
    if there is None:
        return flat, torch.arange(m + 1, device=flat.device) * tokens
    order = (~there).flatten().to(torch.uint8).argsort(stable=True)
    ends = there.sum(1).cumsum(0)
    return flat[order], torch.cat([ends.new_zeros(1), ends])
